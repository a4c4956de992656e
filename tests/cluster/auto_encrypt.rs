//! `auto_encrypt`: an agent that has nothing but the authority in `ca_file` is given a certificate by the servers, keeps it, renews it
//! and gets another when the servers have lost what they knew. Nobody gets anything else that way, and nobody is taken for a server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Federation, Node, Part, causeway, wait};
use causeway_certs::dial::Dialer;
use causeway_certs::link;
use causeway_certs::material::{Files, Material};
use causeway_certs::request::KeyRequest;
use causeway_certs::serve::{Limits, Tls, serve};
use causeway_certs::{Identity, Role};
use causeway_proto::door::Door;
use causeway_proto::kv::GetRequest;
use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::raft::VoteRequest;
use causeway_proto::raft::raft_client::RaftClient;
use causeway_proto::rejection::Reason;
use causeway_proto::signing::SignRequest;
use causeway_proto::signing::signing_client::SigningClient;
use causeway_proto::status::LeaderRequest;
use causeway_proto::status::status_client::StatusClient;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn prepare(name: &str, life: &str) -> Federation {
    let federation = Federation::prepare(name, 1, 2);
    federation.configure(|node| match node.part {
        Part::Agent => json!({
            "cert_file": "", "key_file": "",
            "auto_encrypt": {"tls": true, "dns_san": ["web.example.net"], "ip_san": ["10.9.8.7"]},
            "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc, "https": node.wan},
            "services": [{"name": "web", "port": 80}],
        }),
        _ => json!({"auto_encrypt": {"allow_tls": true, "certificate_ttl": life}}),
    });
    federation
}

fn ca(federation: &Federation) -> Files {
    Files { ca: vec![federation.dir.0.join("certs/consul-agent-ca.pem")], cert: None, key: None }
}

fn issued(federation: &Federation) -> Arc<Material> {
    let file = kept(federation.agent("dc1"));
    let files = Files { cert: Some(file.clone().into()), key: Some(file.into()), ..ca(federation) };
    Material::for_agent(files, "consul").unwrap()
}

fn kept(agent: &Node) -> Box<Path> {
    agent.dir.join("data/auto-encrypt.pem").into()
}

fn rpc(node: &Node) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], node.rpc))
}

async fn leader(door: Door) -> Result<String, tonic::Status> {
    StatusClient::new(door).leader(LeaderRequest {}).await.map(|reply| reply.into_inner().address)
}

/// The web service is found by who asks another node.
fn registered(federation: &Federation) {
    wait("the agent's service in the catalog", SOON, || {
        let found = federation.node("dc1-server-1").get("/v1/catalog/service/web").json()?;
        if found.as_array().is_some_and(|all| all.len() == 1) { Ok(()) } else { Err(found.to_string()) }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_given_a_certificate_and_nobody_anything_else() {
    let mut federation = prepare("auto-encrypt", "24s");
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    registered(&federation);
    let agent = federation.agent("dc1");
    assert_eq!(agent.dig("web.service.consul.", RecordType::SRV).unwrap().ports(), [80]);
    assert_eq!(agent.put("/v1/kv/a", "b").code, 200);
    let file = kept(agent);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!agent.log().contains("PRIVATE KEY") && !federation.node("dc1-server-1").log().contains("PRIVATE KEY"));

    // What it says, as the agent shows it by HTTPS under the names that were asked for.
    let own = issued(&federation);
    let of = |role| Identity { role, datacenter: "dc1".into(), domain: "consul".into() };
    assert_eq!(own.identities(), [of(Role::Agent)]);
    let trusting = Material::load(Files { ca: vec![file.to_path_buf()], cert: None, key: None }, "consul").unwrap();
    for (name, known) in
        [("web.example.net", true), ("10.9.8.7", true), ("client.dc1.consul", true), ("server.dc1.consul", false)]
    {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", agent.wan)).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(link::https_client(&trusting, None));
        let shaken = connector.connect(name.try_into().unwrap(), tcp).await;
        assert_eq!(shaken.is_ok(), known, "{name}: {:?}", shaken.err());
    }

    // Nobody without a certificate gets anything.
    let server = rpc(federation.node("dc1-server-1"));
    let nameless = Dialer::new(Some(Material::load(ca(&federation), "consul").unwrap()), "dc1", "consul");
    let refused = leader(nameless.door(server, Role::Server)).await.unwrap_err();
    assert_eq!(Reason::of(&refused), Reason::Unreachable, "{refused:?}");
    // Nor on the connections for certificates, but for who knows the gossip key.
    let signing = nameless.signing_door(server).unwrap();
    for refused in [
        KvClient::new(signing.clone()).get(GetRequest { key: "a".into() }).await.unwrap_err(),
        leader(signing.clone()).await.unwrap_err(),
        RaftClient::new(signing.clone()).vote(VoteRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused:?}");
    }
    let csr = KeyRequest::new(None).unwrap().csr;
    let asked = SigningClient::new(signing).sign(SignRequest { csr, ..SignRequest::default() }).await.unwrap_err();
    assert_eq!(Reason::of(&asked), Reason::Denied, "{asked:?}");

    // The certificate is an agent's: it may call as one, not as a server, and nobody takes it for one.
    let agents = Dialer::new(Some(own.clone()), "dc1", "consul");
    assert!(leader(agents.door(server, Role::Server)).await.is_ok());
    let vote = RaftClient::new(agents.door(server, Role::Server)).vote(VoteRequest::default()).await.unwrap_err();
    assert_eq!(Reason::of(&vote), Reason::Denied, "{vote:?}");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let stands_in = Door::closed(tonic::Status::ok("not reached"));
    let standing = tokio::spawn(serve(
        listener,
        Some(Tls::new(own.clone(), false)),
        stands_in,
        Limits::default(),
        std::future::pending(),
    ));
    for dialer in [&nameless, &agents] {
        let refused = leader(dialer.door(at, Role::Server)).await.unwrap_err();
        assert!(refused.message().contains("UnknownIssuer"), "{refused:?}");
    }
    standing.abort();
    let dir = crate::harness::Dir::new("auto-encrypt-server");
    let mut config: Value =
        serde_json::from_slice(&fs::read(federation.node("dc1-server-2").config_path()).unwrap()).unwrap();
    config["data_dir"] = json!(dir.0);
    config["cert_file"] = json!(file);
    config["key_file"] = json!(file);
    fs::write(dir.0.join("config.json"), config.to_string()).unwrap();
    let out =
        Command::new(causeway()).arg("agent").arg("-config-file").arg(dir.0.join("config.json")).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && text.contains("is not signed by an authority"), "{text}");

    // Renewed before its end, and nobody who asks the agent notices.
    let before = fs::read(&file).unwrap();
    let mut asked = 0;
    wait("another certificate", SOON, || {
        let answer = agent.get("/v1/kv/a?raw&consistent");
        assert_eq!((answer.code, answer.text().as_str()), (200, "b"), "after {asked} answers");
        asked += 1;
        if fs::read(&file).unwrap() == before { Err(format!("{asked} answers")) } else { Ok(()) }
    });
    println!("{asked} answers until the certificate was renewed");
    // After a restart it has what it needs, if nobody makes certificates.
    let agent = federation.node_mut("dc1-agent");
    agent.terminate();
    agent.start();
    federation.settle();
    registered(&federation);
}

/// All servers lost what they knew, the authority too: the agent finds out, and asks again.
#[test]
fn servers_with_another_authority_are_asked_again() {
    let mut federation = prepare("auto-encrypt-lost", "72h");
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let before = fs::read(kept(federation.agent("dc1"))).unwrap();
    for node in federation.nodes.iter_mut().filter(|n| n.part == Part::Server) {
        node.kill();
        fs::remove_dir_all(node.dir.join("data/raft")).unwrap();
    }
    for node in federation.nodes.iter_mut().filter(|n| n.part == Part::Server) {
        node.start();
    }
    wait("the service, by servers that know nothing", Duration::from_secs(90), || {
        let found = federation.node("dc1-server-1").get("/v1/catalog/service/web").json()?;
        if found.as_array().is_some_and(|all| all.len() == 1) { Ok(()) } else { Err(found.to_string()) }
    });
    assert_ne!(fs::read(kept(federation.agent("dc1"))).unwrap(), before);
}

/// Where the servers make none, the agent says what to do.
#[test]
fn servers_that_make_none_are_named() {
    let mut federation = prepare("auto-encrypt-none", "72h");
    federation.configure(|node| if node.part == Part::Server { json!({"auto_encrypt": {}}) } else { json!({}) });
    for node in &mut federation.nodes {
        node.start();
    }
    let agent = federation.agent("dc1");
    wait("the advice", SOON, || match agent.log() {
        log if log.contains("set auto_encrypt.allow_tls on the servers") => Ok(()),
        log => Err(log.lines().last().unwrap_or_default().to_owned()),
    });
    assert!(!kept(agent).exists());
}
