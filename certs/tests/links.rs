//! Which handshakes succeed, for each kind of link; in memory, no sockets but the last test's.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_certs::issue::Kind;
use causeway_certs::link;
use causeway_certs::material::{Files, Material};
use causeway_certs::{Identity, Role};
use common::{Dir, authority, data, files, material, subject};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

/// Runs a handshake to its end; `Err` is the text of the side that refused.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), String> {
    let mut c = ClientConnection::new(client.clone(), name.to_owned().try_into().unwrap()).unwrap();
    let mut s = ServerConnection::new(server.clone()).unwrap();
    for _ in 0..20 {
        let mut wire = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            s.read_tls(&mut rest).unwrap();
            s.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        let mut wire = Vec::new();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            c.read_tls(&mut rest).unwrap();
            c.process_new_packets().map_err(|e| format!("client: {e}"))?;
        }
    }
    assert!(!c.is_handshaking() && !s.is_handshaking());
    Ok((c, s))
}

fn identity(role: Role, datacenter: &str) -> Identity {
    Identity { role, datacenter: datacenter.to_owned(), domain: "consul".to_owned() }
}

fn nameless(dir: &Dir, ca: &str) -> Arc<Material> {
    Material::load(Files { ca: vec![dir.0.join(ca)], cert: None, key: None }, "consul").unwrap()
}

#[test]
fn rpc_proves_role_and_datacenter() {
    let (ours, other) = (authority(), authority());
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let agent = material(&dir, &ours, Kind::Client, "dc1");
    let expect = link::rpc_client(&agent, &identity(Role::Server, "dc1"));
    // (who answers, its authority is ours, accepted)
    for (kind, datacenter, is_ours, accepted) in [
        (Kind::Server, "dc1", true, true),
        (Kind::Server, "dc2", true, false),
        (Kind::Client, "dc1", true, false),
        (Kind::Gateway, "dc1", true, false),
        (Kind::Server, "dc1", false, false),
    ] {
        let server = if is_ours {
            material(&dir, &ours, kind, datacenter)
        } else {
            material(&elsewhere, &other, kind, datacenter)
        };
        let result = shake(&expect, &link::rpc_server(&server, false), "server.dc1.consul");
        assert_eq!(result.is_ok(), accepted, "{kind:?} {datacenter} ours: {is_ours}: {:?}", result.err());
        if let (Err(text), true) = (&result, is_ours) {
            assert!(text.contains("server.dc1.consul is needed"), "{text}");
        }
    }
}

#[test]
fn rpc_listeners_verify_those_who_call() {
    let (ours, other) = (authority(), authority());
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let server = material(&dir, &ours, Kind::Server, "dc1");
    let agent = material(&dir, &ours, Kind::Client, "dc1");
    let stranger_files = files(&elsewhere, &other, &subject(Kind::Server, "dc1"), SystemTime::now());
    // The stranger trusts us; it is we who must refuse it.
    let stranger = Material::load(Files { ca: vec![], ..stranger_files.clone() }, "consul").unwrap();
    let both = dir.write("both.pem", format!("{}{}", ours.cert_pem(), other.cert_pem()));
    let stranger_trusting = Material::load(Files { ca: vec![both], ..stranger_files }, "consul").unwrap();
    let none = nameless(&dir, "ca.pem");
    let expect = identity(Role::Server, "dc1");
    for (client, mandatory, accepted) in [
        (&agent, true, true),
        (&agent, false, true),
        (&none, false, true),
        (&none, true, false),
        (&stranger_trusting, true, false),
        (&stranger_trusting, false, false),
        (&stranger, true, false),
    ] {
        let result =
            shake(&link::rpc_client(client, &expect), &link::rpc_server(&server, mandatory), "server.dc1.consul");
        assert_eq!(result.is_ok(), accepted, "{client:?} {mandatory}: {:?}", result.err());
        if let Ok((_, s)) = result {
            let names = s.peer_certificates().map(|chain| link::peer_identities(chain, "consul")).unwrap_or_default();
            assert_eq!(names, client.identities());
            assert_eq!(s.alpn_protocol(), Some(link::RPC_ALPN));
            assert_eq!(s.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        }
    }
}

#[test]
fn only_gateways_link_sites() {
    let (ours, other) = (authority(), authority());
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let one = material(&dir, &ours, Kind::Gateway, "dc1");
    let two = material(&dir, &ours, Kind::Gateway, "dc2");
    let server = material(&dir, &ours, Kind::Server, "dc2");
    let stranger = material(&elsewhere, &other, Kind::Gateway, "dc2");
    // (dials, listens, expected datacenter, accepted)
    for (client, listener, datacenter, accepted) in [
        (&one, &two, Some("dc2"), true),
        (&one, &two, None, true),
        (&one, &two, Some("dc3"), false),
        (&one, &server, Some("dc2"), false),
        (&one, &server, None, false),
        (&server, &two, Some("dc2"), false),
        (&stranger, &two, Some("dc2"), false),
        (&one, &stranger, None, false),
        (&nameless(&dir, "ca.pem"), &two, Some("dc2"), false),
    ] {
        let result = shake(&link::wan_client(client, datacenter), &link::wan_server(listener), "gateway.dc2.consul");
        assert_eq!(result.is_ok(), accepted, "{client:?} to {listener:?} as {datacenter:?}: {:?}", result.err());
        if let Ok((c, _)) = result {
            assert_eq!(c.alpn_protocol(), Some(link::WAN_ALPN));
        }
    }
}

#[test]
fn another_domain_makes_no_role() {
    let ours = authority();
    let dir = Dir::new();
    let wrong = causeway_certs::issue::Subject { domain: "evil".to_owned(), ..subject(Kind::Gateway, "dc2") };
    let wrong = Material::load(files(&dir, &ours, &wrong, SystemTime::now()), "consul").unwrap();
    assert_eq!(wrong.identities(), []);
    assert!(wrong.require(Role::Gateway, "dc2").unwrap_err().0.contains("tls cert create -gateway -dc dc2"));
    let one = material(&dir, &ours, Kind::Gateway, "dc1");
    assert!(shake(&link::wan_client(&one, None), &link::wan_server(&wrong), "x.y").is_err());
}

#[test]
fn a_wildcard_is_no_server() {
    let ours = authority();
    let dir = Dir::new();
    let wild = causeway_certs::issue::Subject {
        additional_dns: vec!["*.dc1.consul".to_owned()],
        ..subject(Kind::Client, "dc1")
    };
    let wild = Material::load(files(&dir, &ours, &wild, SystemTime::now()), "consul").unwrap();
    let agent = material(&dir, &ours, Kind::Client, "dc1");
    let expect = link::rpc_client(&agent, &identity(Role::Server, "dc1"));
    assert!(shake(&expect, &link::rpc_server(&wild, false), "server.dc1.consul").is_err());
}

#[test]
fn certificates_of_consuls_own_cli_are_accepted() {
    let load = |name: &str| {
        let files = Files {
            ca: vec![data("consul-agent-ca.pem")],
            cert: Some(data(&format!("{name}.pem"))),
            key: Some(data(&format!("{name}-key.pem"))),
        };
        Material::load(files, "consul").unwrap()
    };
    let (server, client) = (load("dc1-server-consul-0"), load("dc1-client-consul-0"));
    assert_eq!(server.identities(), [identity(Role::Server, "dc1")]);
    assert_eq!(client.identities(), [], "Consul knows no name for agents");
    let expect = link::rpc_client(&client, &identity(Role::Server, "dc1"));
    shake(&expect, &link::rpc_server(&server, true), "server.dc1.consul").unwrap();
    let expect = link::rpc_client(&server, &identity(Role::Server, "dc1"));
    shake(&expect, &link::rpc_server(&client, true), "server.dc1.consul").unwrap_err();
}

#[test]
fn no_session_is_resumed() {
    let ours = authority();
    let dir = Dir::new();
    let server = material(&dir, &ours, Kind::Server, "dc1");
    let client = link::rpc_client(&server, &identity(Role::Server, "dc1"));
    let listener = link::rpc_server(&server, true);
    for _ in 0..3 {
        let (c, s) = shake(&client, &listener, "server.dc1.consul").unwrap();
        assert_eq!((c.handshake_kind(), s.handshake_kind()), (Some(HandshakeKind::Full), Some(HandshakeKind::Full)));
    }
}

#[test]
fn https_verifies_the_host_and_takes_tls_12() {
    let ours = authority();
    let dir = Dir::new();
    let server = material(&dir, &ours, Kind::Server, "dc1");
    let listener = link::https_server(&server, false);
    let browser = nameless(&dir, "ca.pem");
    for (dialled, instead, accepted) in [
        ("localhost", None, true),
        ("127.0.0.1", None, true),
        ("::1", None, true),
        ("server.dc1.consul", None, true),
        ("example.com", None, false),
        ("example.com", Some("server.dc1.consul"), true),
        ("localhost", Some("server.dc2.consul"), false),
        ("localhost", Some("no name!"), false),
    ] {
        let result = shake(&link::https_client(&browser, instead), &listener, dialled);
        assert_eq!(result.is_ok(), accepted, "{dialled} {instead:?}: {:?}", result.err());
    }
    shake(&link::https_client_unverified().unwrap(), &listener, "example.com").unwrap();
    assert!(shake(&link::https_client(&browser, None), &link::https_server(&server, true), "localhost").is_err());

    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(dir.0.join("ca.pem")).unwrap();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    shake(&old, &listener, "localhost").unwrap();
    shake(&old, &link::rpc_server(&server, false), "server.dc1.consul").unwrap_err();

    // By rules of the operator: what was agreed on says it.
    let agreed = |rules: &link::HttpsRules, client: &Arc<ClientConfig>| {
        let (c, _) =
            shake(client, &link::https_server_by(&server, false, &rules.settle().unwrap()), "localhost").ok()?;
        Some((c.protocol_version()?, c.negotiated_cipher_suite()?.suite()))
    };
    let only_13 = link::HttpsRules { only_13: true, ..link::HttpsRules::default() };
    assert!(agreed(&only_13, &old).is_none() && agreed(&only_13, &link::https_client(&browser, None)).is_some());
    let (suites, without) = link::suites(
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA",
    )
    .unwrap();
    assert_eq!((suites.len(), without.len()), (2, 1));
    let one = link::HttpsRules { suites, ..link::HttpsRules::default() };
    let (version, suite) = agreed(&one, &old).unwrap();
    assert!(version == rustls::ProtocolVersion::TLSv1_2 && format!("{suite:?}").contains("CHACHA20"), "{suite:?}");
    assert_eq!(link::suites("TLS_FOO"), Err("TLS_FOO".to_owned()));
}

#[test]
fn clocks_half_an_hour_apart_link_and_days_do_not() {
    let now = SystemTime::now();
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let set_back = causeway_certs::authority::SET_BACK;
    let day = Duration::from_secs(24 * 3600);
    // The authority is old enough for all of them.
    let ours = causeway_certs::authority::Authority::create(30, &[], now - 3 * day).unwrap();
    let dir = Dir::new();
    let one = material(&dir, &ours, Kind::Gateway, "dc1");
    // (issued at, what that means, accepted)
    for (at, what, accepted) in [
        (now + Duration::from_secs(1900), "issued by a clock 1,900 s ahead", true),
        (now - Duration::from_secs(1900), "issued by a clock 1,900 s behind", true),
        (now + set_back + minutes(30), "valid in 30 minutes", true),
        (now + set_back + minutes(90), "valid in 90 minutes", false),
        (now - day - minutes(30), "expired 30 minutes ago", true),
        (now - day - minutes(90), "expired 90 minutes ago", false),
    ] {
        let result = Material::load(files(&dir, &ours, &subject(Kind::Gateway, "dc2"), at), "consul");
        assert_eq!(result.is_ok(), accepted, "{what}: {:?}", result.err());
        let Ok(two) = result else { continue };
        shake(&link::wan_client(&one, Some("dc2")), &link::wan_server(&two), "gateway.dc2.consul")
            .map_err(|e| format!("{what}: {e}"))
            .unwrap();
        shake(&link::wan_client(&two, Some("dc1")), &link::wan_server(&one), "gateway.dc1.consul")
            .map_err(|e| format!("{what}, dialling: {e}"))
            .unwrap();
    }
}

/// What a peer shows is verified at its handshake, not only at our own start.
#[test]
fn an_expired_peer_is_refused() {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let ours = causeway_certs::authority::Authority::create(30, &[], now - 3 * day).unwrap();
    let dir = Dir::new();
    let one = material(&dir, &ours, Kind::Gateway, "dc1");
    let old = files(&dir, &ours, &subject(Kind::Gateway, "dc2"), now - day - Duration::from_secs(7200));
    let pem = |path: &Option<std::path::PathBuf>| std::fs::read(path.as_ref().unwrap()).unwrap();
    let chain = vec![rustls_pki_types::pem::PemObject::from_pem_slice(&pem(&old.cert)).unwrap()];
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(&pem(&old.key)).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![link::WAN_ALPN.to_vec()];
    let text = shake(&link::wan_client(&one, Some("dc2")), &Arc::new(config), "gateway.dc2.consul").unwrap_err();
    assert!(text.contains("no longer valid"), "{text}");
}

#[tokio::test]
async fn quic_takes_the_configurations() {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    let ours = authority();
    let dir = Dir::new();
    let one = material(&dir, &ours, Kind::Gateway, "dc1");
    let two = material(&dir, &ours, Kind::Gateway, "dc2");
    let agent = material(&dir, &ours, Kind::Client, "dc1");

    let config = QuicServerConfig::try_from(link::wan_server(&two)).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let listener = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let accepting = listener.clone();
    let accepted = tokio::spawn(async move {
        let mut names = Vec::new();
        while let Some(incoming) = accepting.accept().await {
            if let Ok(connection) = incoming.await {
                let chain = connection.peer_identity().unwrap();
                let chain = chain.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().unwrap();
                names.extend(link::peer_identities(&chain, "consul"));
                connection.open_uni().await.unwrap().write_all(b"welcome").await.unwrap();
                connection.closed().await;
            }
        }
        names
    });
    for (material, accepted) in [(&one, true), (&agent, false)] {
        let config = QuicClientConfig::try_from(link::wan_client(material, Some("dc2"))).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connection = endpoint.connect_with(config, addr, "gateway.dc2.consul").unwrap().await.unwrap();
        // A refusal of our certificate arrives after the client's side of the handshake.
        let greeted = tokio::time::timeout(Duration::from_secs(10), connection.accept_uni()).await.unwrap();
        assert_eq!(greeted.is_ok(), accepted, "{material:?}");
        connection.close(0_u32.into(), b"");
        endpoint.wait_idle().await;
    }
    listener.close(0_u32.into(), b"");
    assert_eq!(accepted.await.unwrap(), [identity(Role::Gateway, "dc1")]);
}
