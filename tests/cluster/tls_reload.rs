//! What a reload takes up of TLS, on real processes: certificates, authorities, whether callers must show one, versions and cipher
//! suites, by HTTP, by signal and by command; and that connections which are open stay open, and a file that is no good changes nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Federation, Node, causeway, signal, wait};
use hickory_proto::rr::RecordType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
const ANY: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];
const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// A connection by TLS, kept open.
struct Caller(StreamOwned<ClientConnection, TcpStream>);

/// How somebody calls.
struct How<'a> {
    ca: &'a Path,
    own: Option<(&'a Path, &'a Path)>,
    versions: &'static [&'static SupportedProtocolVersion],
    suite: Option<CipherSuite>,
}

impl How<'_> {
    fn call(&self, port: u16) -> Result<Caller, String> {
        let mut caller = self.connect(port)?;
        // A refusal of our certificate comes with the first answer.
        caller.get("/v1/status/leader").map(|_| caller)
    }

    /// Whether a server of HTTP/2 lets us in: it then answers our first frame with its own. Who is refused gets no byte; the alert that
    /// says why may be lost, since a socket that is closed with something unread is reset.
    fn enters(&self, port: u16) -> Result<(), String> {
        let mut caller = self.connect(port)?;
        let hello = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        caller.0.write_all(&hello).map_err(|e| e.to_string())?;
        match caller.0.read_exact(&mut [0]) {
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => panic!("no word: {e}"),
            other => other.map_err(|e| e.to_string()),
        }
    }

    fn connect(&self, port: u16) -> Result<Caller, String> {
        let mut provider = rustls::crypto::ring::default_provider();
        if let Some(suite) = self.suite {
            provider.cipher_suites.retain(|s| s.suite() == suite);
        }
        let mut roots = RootCertStore::empty();
        for der in CertificateDer::pem_file_iter(self.ca).unwrap() {
            roots.add(der.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
        };
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Ok(Caller(StreamOwned::new(connection, stream)))
    }
}

impl Caller {
    fn get(&mut self, path: &str) -> Result<String, String> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").map_err(|e| e.to_string())?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).map_err(|e| e.to_string())?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")).ok_or(head.clone())?;
        let mut body = vec![0; length.trim().parse().map_err(|_| head.clone())?];
        self.0.read_exact(&mut body).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The certificate that the other end showed.
    fn shown(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

fn make(dir: &Path, args: &str) {
    let out = Command::new(causeway()).args(args.split(' ')).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
}

fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

fn change(node: &Node, more: &Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(node.config_path()).unwrap()).unwrap();
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    node.write_config(&config);
}

fn refused(result: Result<Caller, String>, what: &str) {
    let Err(why) = result else { panic!("{what}: was let in") };
    assert!(!why.contains("TimedOut") && !why.contains("WouldBlock"), "{what}: {why}");
}

#[test]
fn a_reload_takes_up_tls_and_drops_no_connection() {
    let mut federation = Federation::prepare("tls-reload", 1, 1);
    let certs = federation.dir.0.join("certs");
    let at = |name: &str| -> PathBuf { certs.join(name) };
    make(&certs, "tls cert create -server -dc dc1");
    federation.configure(|node| {
        let ports =
            json!({"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc, "https": node.wan});
        json!({"verify_incoming_rpc": false, "ports": ports, "dns_config": {"node_ttl": "5s"}})
    });
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let (server, agent) = (federation.node("dc1-server-1"), federation.agent("dc1"));
    let (https, ca) = (server.wan, at("consul-agent-ca.pem"));
    let anyone = || How { ca: &ca, own: None, versions: ANY, suite: None };
    let old = || How { versions: ONLY_12, ..anyone() };
    let aes = || How { suite: Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), ..old() };
    let chacha = || How { suite: Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256), ..old() };
    let (client, client_key) = (at("dc1-client-consul-0.pem"), at("dc1-client-consul-0-key.pem"));
    let known = || How { own: Some((&client, &client_key)), ..anyone() };

    // Held through all that follows: a connection by HTTPS, and a question that an agent waits for an answer to.
    let mut held = anyone().call(https).unwrap();
    assert_eq!(agent.put("/v1/kv/waits", "1").code, 200);
    let index = agent.get("/v1/kv/waits").index();
    let port = agent.http;
    let waiting = std::thread::spawn(move || {
        crate::harness::http::request(port, "GET", &format!("/v1/kv/waits?raw&wait=120s&index={index}"), b"")
    });

    // Versions and suites, by HTTP, by signal and by command.
    old().call(https).unwrap();
    change(server, &json!({"tls_min_version": "tls13"}));
    server.put("/v1/agent/reload", "").ok().unwrap();
    refused(old().call(https), "TLS 1.2 after tls_min_version = tls13");
    anyone().call(https).unwrap();
    change(server, &json!({"tls_min_version": "tls12", "tls_cipher_suites": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"}));
    signal(server.child.as_ref().unwrap(), "HUP");
    wait("the suites of TLS 1.2", SOON, || chacha().call(https).map(drop));
    refused(aes().call(https), "a suite that is not in tls_cipher_suites");
    change(server, &json!({"tls_cipher_suites": ""}));
    let address = format!("127.0.0.1:{}", server.http);
    let by_command = Command::new(causeway()).args(["reload", "-http-addr", &address]).output().unwrap();
    assert!(by_command.status.success(), "{}", String::from_utf8_lossy(&by_command.stderr));
    aes().call(https).unwrap();

    // Whether callers must show a certificate: of HTTPS, of RPC, and no more.
    anyone().call(https).unwrap();
    change(server, &json!({"verify_incoming_https": true}));
    server.put("/v1/agent/reload", "").ok().unwrap();
    refused(anyone().call(https), "nobody's certificate with verify_incoming_https");
    known().call(https).unwrap();
    let rpc = |how: How<'_>| how.enters(server.rpc);
    rpc(How { versions: ONLY_13, ..anyone() }).unwrap();
    change(server, &json!({"verify_incoming_https": false, "tls": {"internal_rpc": {"verify_incoming": true}}}));
    server.put("/v1/agent/reload", "").ok().unwrap();
    anyone().call(https).unwrap();
    rpc(How { versions: ONLY_13, ..anyone() }).unwrap_err();
    rpc(How { versions: ONLY_13, ..known() }).unwrap();

    // Another certificate, under another name; then one for HTTPS alone, which RPC does not show.
    let (second, second_key) = (at("dc1-server-consul-1.pem"), at("dc1-server-consul-1-key.pem"));
    assert_eq!(anyone().call(https).unwrap().shown(), der(&at("dc1-server-consul-0.pem")));
    change(server, &json!({"cert_file": second, "key_file": second_key}));
    server.put("/v1/agent/reload", "").ok().unwrap();
    assert_eq!(anyone().call(https).unwrap().shown(), der(&second));
    let apart =
        json!({"internal_rpc": {"verify_incoming": true}, "https": {"cert_file": client, "key_file": client_key}});
    change(server, &json!({"tls": apart}));
    server.put("/v1/agent/reload", "").ok().unwrap();
    assert_eq!(anyone().call(https).unwrap().shown(), der(&client));
    federation.settle();

    // A second authority: first trusted beside the first, then the only one, without an outage in between.
    let next = federation.dir.0.join("next");
    fs::create_dir_all(&next).unwrap();
    make(&next, "tls ca create");
    make(&next, "tls cert create -server -dc dc1");
    make(&next, "tls cert create -client -dc dc1");
    let (new_ca, both) = (next.join("consul-agent-ca.pem"), next.join("both.pem"));
    fs::write(&both, [fs::read(&ca).unwrap(), fs::read(&new_ca).unwrap()].concat()).unwrap();
    let of = |kind: &str, ca: &Path| {
        json!({"ca_file": ca, "cert_file": next.join(format!("dc1-{kind}-consul-0.pem")),
               "key_file": next.join(format!("dc1-{kind}-consul-0-key.pem")), "tls": {}, "verify_incoming": true})
    };
    let steps: [(Value, Value); 3] = [
        (json!({"ca_file": both}), json!({"ca_file": both})),
        (of("server", &both), of("client", &both)),
        (of("server", &new_ca), of("client", &new_ca)),
    ];
    for (for_server, for_agent) in steps {
        for (node, more) in [(server, for_server), (agent, for_agent)] {
            change(node, &more);
            node.put("/v1/agent/reload", "").ok().unwrap();
        }
        assert_eq!(agent.get("/v1/kv/waits?raw&consistent").text(), "1");
    }
    refused(known().call(https), "a certificate of the authority that went");
    let (new_client, new_key) = (next.join("dc1-client-consul-0.pem"), next.join("dc1-client-consul-0-key.pem"));
    let of_new = || How { ca: &new_ca, own: Some((&new_client, &new_key)), ..anyone() };
    assert_eq!(of_new().call(https).unwrap().shown(), der(&next.join("dc1-server-consul-0.pem")));

    // What is no good is refused, with all that stands beside it in the file.
    let ttl = |node: &Node| node.dig("dc1-server-1.node.consul.", RecordType::A).unwrap().ttl;
    let good: Value = serde_json::from_slice(&fs::read(server.config_path()).unwrap()).unwrap();
    for (bad, wanted) in [
        (json!({"key_file": second_key}), "does not belong to the certificate"),
        (json!({"ca_file": at("nothing.pem")}), "cannot be read"),
        (json!({"cert_file": new_client, "key_file": new_key}), "server.dc1.consul is needed"),
        (json!({"tls_min_version": "tls14"}), "tls13"),
        (json!({"tls_cipher_suites": "TLS_FOO"}), "TLS_FOO"),
        (json!({"tls": {"https": {"cert_file": at("nothing.pem"), "key_file": second_key}}}), "cannot be read"),
    ] {
        server.write_config(&good);
        change(server, &json!({"dns_config": {"node_ttl": "9s"}, "verify_incoming": false}));
        change(server, &bad);
        let answer = server.put("/v1/agent/reload", "");
        assert!(answer.code == 500 && answer.text().contains(wanted), "{bad}: {} {}", answer.code, answer.text());
        assert_eq!(ttl(server), Some(5), "{bad}: a part of it was taken up");
        refused(How { ca: &new_ca, ..anyone() }.call(https), "verify_incoming of a refused file");
        of_new().call(https).unwrap();
    }
    // TLS itself is switched at a start only, and that is said.
    server.write_config(&good);
    change(server, &json!({"ca_file": "", "cert_file": "", "key_file": "", "verify_incoming": false}));
    let mut without: Value = serde_json::from_slice(&fs::read(server.config_path()).unwrap()).unwrap();
    without["ports"]["https"] = json!(-1);
    server.write_config(&without);
    server.put("/v1/agent/reload", "").ok().unwrap();
    wait("the keys that wait for a start", SOON, || match server.log() {
        log if log.contains("taken up at the next start only") && log.contains("ca_file") => Ok(()),
        log => Err(log.lines().last().unwrap_or_default().to_owned()),
    });

    // Those who were there from the beginning are there still.
    assert!(held.get("/v1/status/leader").unwrap().contains("127.0.0.1"));
    assert_eq!(agent.put("/v1/kv/waits", "2").code, 200);
    let answer = waiting.join().unwrap();
    assert_eq!((answer.code, answer.text().as_str()), (200, "2"));
    for (node, shown) in [(server, "server"), (agent, "agent")] {
        assert!(!node.log().contains("PRIVATE KEY"), "a key in the log of the {shown}");
    }
}
