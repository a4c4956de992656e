//! What is said of files that cannot be used, and what `causeway tls` makes.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod common;

use std::time::{Duration, SystemTime};

use causeway_certs::authority::Authority;
use causeway_certs::issue::Kind;
use causeway_certs::material::{Files, Material};
use causeway_certs::tls::{CaOptions, CertOptions, create_ca, create_cert, issue_for_dev};
use causeway_certs::{Identity, Role};
use common::{Dir, authority, data, files, subject};

fn why(files: Files) -> String {
    Material::load(files, "consul").unwrap_err().0
}

#[test]
fn every_refusal_names_the_file_and_what_to_do() {
    let (dir, ours, elsewhere, other) = (Dir::new(), authority(), Dir::new(), authority());
    let now = SystemTime::now();
    let good = files(&dir, &ours, &subject(Kind::Server, "dc1"), now);
    let strange = files(&elsewhere, &other, &subject(Kind::Server, "dc1"), now);
    Material::load(good.clone(), "consul").unwrap();
    let rubbish = Some(dir.write("rubbish.pem", "rubbish"));
    let leaf_as_ca = vec![good.cert.clone().unwrap()];
    for (files, needles) in [
        (
            Files { key: strange.key.clone(), ..good.clone() },
            ["dc1-server-key.pem", "does not belong to the certificate in"],
        ),
        (Files { ca: strange.ca.clone(), ..good.clone() }, ["dc1-server.pem", "is not signed by an authority in"]),
        (Files { cert: rubbish.clone(), ..good.clone() }, ["rubbish.pem", "holds no certificate"]),
        (Files { key: rubbish, ..good.clone() }, ["rubbish.pem", "holds no private key"]),
        (Files { key: None, ..good.clone() }, ["dc1-server.pem", "set key_file"]),
        (Files { cert: None, ..good.clone() }, ["dc1-server-key.pem", "set cert_file"]),
        (Files { cert: Some(dir.0.join("nothing.pem")), ..good.clone() }, ["nothing.pem", "look at the path"]),
        (Files { ca: vec![dir.0.join("nothing.pem")], ..good.clone() }, ["nothing.pem", "look at the path"]),
        (Files { ca: leaf_as_ca, ..good.clone() }, ["dc1-server.pem", "is not of an authority"]),
    ] {
        let text = why(files);
        assert!(needles.iter().all(|n| text.contains(n)), "{text}");
    }
    let old = Authority::create(30, &[], now - Duration::from_secs(86_400 * 9)).unwrap();
    let text = why(files(&dir, &old, &subject(Kind::Server, "dc1"), now - Duration::from_secs(86_400 * 3)));
    assert!(
        text.contains("dc1-server.pem") && text.contains("expired on") && text.contains("causeway tls cert create"),
        "{text}"
    );
    let dead = Authority::create(1, &[], now - Duration::from_secs(86_400 * 9)).unwrap();
    let text = why(files(&dir, &dead, &subject(Kind::Server, "dc1"), now));
    assert!(
        text.contains("ca.pem") && text.contains("expired on") && text.contains("causeway tls ca create"),
        "{text}"
    );
}

#[test]
fn authorities_may_lie_in_a_directory_and_old_ones_beside_new() {
    let (dir, cas) = (Dir::new(), Dir::new());
    let (old, new) =
        (Authority::create(1, &[], SystemTime::now() - Duration::from_secs(86_400 * 9)).unwrap(), authority());
    cas.write("old.pem", old.cert_pem());
    cas.write("new.pem", new.cert_pem());
    cas.write(".hidden", "rubbish");
    let files = files(&dir, &new, &subject(Kind::Server, "dc1"), SystemTime::now());
    let files = Files { ca: vec![cas.0.clone()], ..files };
    let material = Material::load(files.clone(), "consul").unwrap();
    let id = Identity { role: Role::Server, datacenter: "dc1".to_owned(), domain: "consul".to_owned() };
    assert_eq!(material.identities(), [id]);
    assert!(material.require(Role::Server, "dc1").is_ok());
    assert!(material.not_before() < SystemTime::now() && SystemTime::now() < material.not_after());
    assert!(material.not_after() < SystemTime::now() + Duration::from_secs(86_400 + 60));
    let empty = Dir::new();
    assert!(why(Files { ca: vec![empty.0.clone()], ..files }).contains("there is no certificate"));
}

/// Nobody but the system's authorities is trusted; where it has none, the text says what to install.
#[test]
fn the_systems_authorities_can_be_used() {
    match Material::system() {
        Ok(system) => assert!(system.has_authorities() && !system.has_certificate()),
        Err(e) => assert!(e.0.contains("ca-certificates"), "{e}"),
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (dir, ours) = (Dir::new(), authority());
    let material = common::material(&dir, &ours, Kind::Server, "dc1");
    let issued = ours.issue(&subject(Kind::Server, "dc1"), 1, SystemTime::now()).unwrap();
    for (text, key) in [
        (format!("{material:?}"), ours.key_pem()),
        (format!("{ours:?}"), ours.key_pem()),
        (format!("{issued:?}"), &issued.key_pem),
    ] {
        assert!(!text.contains("PRIVATE") && !text.contains(key.lines().nth(1).unwrap()), "{text}");
    }
}

/// Word for word what Consul 1.8.7 prints.
#[test]
fn texts_and_names_are_consuls() {
    let dir = Dir::new();
    let lines = create_ca(&dir.0, &CaOptions::default()).unwrap();
    assert_eq!(lines, ["==> Saved consul-agent-ca.pem", "==> Saved consul-agent-ca-key.pem"]);
    assert_eq!(
        create_ca(&dir.0, &CaOptions::default()).unwrap_err().to_string(),
        "consul-agent-ca.pem already exists."
    );
    let lines = create_cert(&dir.0, &CertOptions::new(Kind::Server)).unwrap();
    assert_eq!(
        lines,
        [
            "==> WARNING: Server Certificates grants authority to become a",
            "    server and access all state in the cluster including root keys",
            "    and all ACL tokens. Do not distribute them to production hosts",
            "    that are not server nodes. Store them as securely as CA keys.",
            "==> Using consul-agent-ca.pem and consul-agent-ca-key.pem",
            "==> Saved dc1-server-consul-0.pem",
            "==> Saved dc1-server-consul-0-key.pem",
        ]
    );
    let before = std::fs::read(dir.0.join("dc1-server-consul-0.pem")).unwrap();
    let lines = create_cert(&dir.0, &CertOptions::new(Kind::Server)).unwrap();
    assert_eq!(lines[5..], ["==> Saved dc1-server-consul-1.pem", "==> Saved dc1-server-consul-1-key.pem"]);
    assert_eq!(before, std::fs::read(dir.0.join("dc1-server-consul-0.pem")).unwrap());
    for (kind, name) in [(Kind::Client, "dc1-client-consul-0"), (Kind::Cli, "dc1-cli-consul-0")] {
        let lines = create_cert(&dir.0, &CertOptions::new(kind)).unwrap();
        let saved = [format!("==> Saved {name}.pem"), format!("==> Saved {name}-key.pem")];
        assert_eq!(lines[0], "==> Using consul-agent-ca.pem and consul-agent-ca-key.pem");
        assert_eq!(lines[1..], saved);
    }
    let lines = create_cert(&dir.0, &CertOptions::new(Kind::Gateway)).unwrap();
    assert_eq!(lines.last().unwrap(), "==> Saved dc1-gateway-consul-0-key.pem");
    #[cfg(unix)]
    for entry in std::fs::read_dir(&dir.0).unwrap().map(Result::unwrap) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions()) & 0o077;
        let secret = entry.file_name().to_string_lossy().contains("-key");
        assert!(!secret || mode == 0, "{:?} {mode:o}", entry.path());
    }
    let bare = Dir::new();
    let text = create_cert(&bare.0, &CertOptions::new(Kind::Server)).unwrap_err().to_string();
    assert!(text.starts_with("Error reading CA:") && text.contains("consul-agent-ca.pem"), "{text}");
    let node = CertOptions { node: Some("n".to_owned()), ..CertOptions::new(Kind::Client) };
    assert_eq!(create_cert(&dir.0, &node).unwrap_err().to_string(), "-node requires -server");
    assert!(causeway_certs::tls::kind(true, true, false, false).is_err());
    assert!(causeway_certs::tls::kind(false, false, false, false).is_err());
}

#[test]
fn names_cannot_lead_out_of_the_directory() {
    let dir = Dir::new();
    create_ca(&dir.0, &CaOptions::default()).unwrap();
    for dc in ["../x", "a/b", "", "a b", ".."] {
        let options = CertOptions { datacenter: dc.to_owned(), ..CertOptions::new(Kind::Client) };
        assert!(create_cert(&dir.0, &options).is_err(), "{dc}");
    }
    assert!(create_ca(&dir.0, &CaOptions { domain: "../x".to_owned(), ..CaOptions::default() }).is_err());
    for days in [0, 40_000] {
        assert!(create_cert(&dir.0, &CertOptions { days, ..CertOptions::new(Kind::Client) }).is_err());
    }
}

#[test]
fn a_server_has_the_names_it_was_given() {
    let dir = Dir::new();
    create_ca(&dir.0, &CaOptions::default()).unwrap();
    let options = CertOptions {
        node: Some("n1".to_owned()),
        datacenter: "dc2".to_owned(),
        additional_dnsnames: vec!["ui.example.com".to_owned()],
        additional_ipaddresses: vec!["10.1.2.3".parse().unwrap()],
        ..CertOptions::new(Kind::Server)
    };
    create_cert(&dir.0, &options).unwrap();
    let pem = std::fs::read(dir.0.join("dc2-server-consul-0.pem")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let cert = pem.parse_x509().unwrap();
    let names: Vec<_> =
        cert.subject_alternative_name().unwrap().unwrap().value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(cert.subject().to_string(), "CN=server.dc2.consul");
    let names = names.join(" ");
    for name in ["ui.example.com", "n1.server.dc2.consul", "server.dc2.consul", "localhost"] {
        assert!(names.contains(&format!("DNSName({name})")), "{names}");
    }
    assert_eq!(names.matches("IPAddress").count(), 3, "{names}");
}

#[test]
fn a_constrained_authority_keeps_to_its_domain() {
    let dir = Dir::new();
    let ca = CaOptions {
        name_constraint: true,
        additional_name_constraints: vec!["example.com".to_owned()],
        ..CaOptions::default()
    };
    create_ca(&dir.0, &ca).unwrap();
    for (name, allowed) in [("ui.example.com", true), ("ui.example.org", false)] {
        let options = CertOptions { additional_dnsnames: vec![name.to_owned()], ..CertOptions::new(Kind::Server) };
        let result = create_cert(&dir.0, &options);
        assert_eq!(result.is_ok(), allowed, "{name}: {result:?}");
    }
    let at = |name: &str| dir.0.join(name);
    let files = Files {
        ca: vec![at("consul-agent-ca.pem")],
        cert: Some(at("dc1-server-consul-0.pem")),
        key: Some(at("dc1-server-consul-0-key.pem")),
    };
    Material::load(files, "consul").unwrap();
}

#[test]
fn an_authority_made_by_consul_issues_for_us() {
    let dir = Dir::new();
    let options = CertOptions {
        ca: Some(data("consul-agent-ca.pem")),
        key: Some(data("consul-agent-ca-key.pem")),
        ..CertOptions::new(Kind::Gateway)
    };
    create_cert(&dir.0, &options).unwrap();
    let files = Files {
        ca: vec![data("consul-agent-ca.pem")],
        cert: Some(dir.0.join("dc1-gateway-consul-0.pem")),
        key: Some(dir.0.join("dc1-gateway-consul-0-key.pem")),
    };
    Material::load(files, "consul").unwrap().require(Role::Gateway, "dc1").unwrap();
    // A key of another pair is found before anything is written.
    let other = authority();
    let options = CertOptions { ca: Some(dir.write("other.pem", other.cert_pem())), ..options };
    let text = create_cert(&dir.0, &options).unwrap_err().to_string();
    assert!(text.contains("does not belong"), "{text}");
}

#[test]
fn trials_get_all_they_need_in_one_step() {
    let dir = Dir::new();
    let made = issue_for_dev(&dir.0.join("new"), "consul", &["dc1", "dc2"]).unwrap();
    for dev in &made {
        for (files, role) in [(&dev.server, Role::Server), (&dev.gateway, Role::Gateway), (&dev.agent, Role::Agent)] {
            Material::load(files.clone(), "consul").unwrap().require(role, &dev.datacenter).unwrap();
        }
    }
    assert_eq!(made.len(), 2);
    issue_for_dev(&dir.0.join("new"), "consul", &["dc3"]).unwrap();
}
