use super::*;

fn plan_of(text: &str) -> Result<Plan, ConfigError> {
    let mut settings = Settings::default();
    settings.read_text("x.json", text, false)?;
    plan(&settings)
}

#[test]
fn old_spellings_of_access_control_hold_and_do_not_leave_it_open() {
    let p = plan_of(
        r#"{"data_dir":"/d","bind_addr":"127.0.0.1","acl_datacenter":"dc1","acl_default_policy":"deny","acl_token":"a","acl_ttl":"9s"}"#,
    )
    .unwrap();
    let s = &p.settings;
    assert!(s.on(&t::ACL_ENABLED));
    let texts = [&t::PRIMARY_DATACENTER, &t::ACL_DEFAULT_POLICY, &t::ACL_TOKENS_DEFAULT].map(|def| s.text(def));
    assert_eq!(texts, ["dc1", "deny", "a"]);
    assert_eq!(s.duration(&t::ACL_TOKEN_TTL), std::time::Duration::from_secs(9));
    assert_eq!(s.warnings().len(), 4, "{:?}", s.warnings());
    assert!(s.warnings()[0].contains(r#""acl_datacenter" is the old spelling of "primary_datacenter""#));
    // What is said by its new name counts, in whatever order.
    for more in
        [r#""acl":{"enabled":false,"tokens":{"default":"b"}}"#, r#""acl":{"tokens":{"default":"b"},"enabled":false}"#]
    {
        let text =
            format!(r#"{{"data_dir":"/d","bind_addr":"127.0.0.1",{more},"acl_datacenter":"dc1","acl_token":"a"}}"#);
        let s = plan_of(&text).unwrap().settings;
        assert_eq!((s.on(&t::ACL_ENABLED), s.text(&t::ACL_TOKENS_DEFAULT).as_str()), (false, "b"));
    }
}

#[test]
fn an_agent_and_a_server() {
    let p = plan_of(
        r#"{"data_dir":"/d","datacenter":"Foo","encrypt":"","start_join":["172.2.6.15"],"bind_addr":"127.0.0.1"}"#,
    )
    .ok()
    .unwrap();
    assert_eq!((p.datacenter.as_str(), p.server, p.join.len()), ("foo", false, 1));
    assert!(p.leave_on_terminate && p.leave_on_interrupt && p.gossip_keys.is_empty() && p.gateway.is_none());
    assert_eq!(p.advertise, p.bind);
    let p = plan_of(
        r#"{"data_dir":"/d","server":true,"bootstrap_expect":3,"client_addr":"127.0.0.1 ::1","ports":{"dns":-1}}"#,
    )
    .ok()
    .unwrap();
    assert!(p.server && !p.leave_on_terminate && p.dns.is_empty() && p.http.len() == 2);
}

#[test]
fn what_makes_no_sense_is_one_clear_line() {
    for (text, wanted) in [
        ("{}", "data_dir"),
        (r#"{"data_dir":"/d","datacenter":"a.b"}"#, "datacenter"),
        (r#"{"data_dir":"/d","bind_addr":"nohost"}"#, "bind_addr"),
        (r#"{"data_dir":"/d","encrypt":"abc"}"#, "keygen"),
        (r#"{"data_dir":"/d","ports":{"dns":70000}}"#, "ports.dns"),
        (r#"{"data_dir":"/d","bootstrap_expect":3}"#, "needs \"server\": true"),
        (r#"{"data_dir":"/d","gateway":{"peers":["a:1"]}}"#, "tls cert create -gateway"),
        (r#"{"data_dir":"/d","cert_file":"a"}"#, "key_file"),
        (r#"{"data_dir":"/d","performance":{"raft_multiplier":11}}"#, "from 1 to 10"),
        (r#"{"data_dir":"/d","advertise_addr":"0.0.0.0"}"#, "advertise_addr"),
        (r#"{"data_dir":"/d","node_id":"x"}"#, "UUID"),
        (r#"{"data_dir":"/d","bind_addr":"{{ GetFoo }}"}"#, "GetFoo"),
        (r#"{"data_dir":"/d","bind_addr":"10.0.0.1 10.0.0.2"}"#, "must be one address"),
        (r#"{"data_dir":"/d","advertise_addr_ipv4":"::1"}"#, "no IPv4 address"),
        (r#"{"data_dir":"/d","cert_file":"a","key_file":"b"}"#, "ca_file"),
        (r#"{"data_dir":"/d","ports":{"https":1}}"#, "cert_file"),
        (r#"{"data_dir":"/d","ports":{"https":1},"cert_file":"a","key_file":"b","verify_incoming":true}"#, "ca_file"),
        (r#"{"data_dir":"/d","tls_cipher_suites":"TLS_FOO"}"#, "TLS_FOO"),
        (r#"{"data_dir":"/d","tls_cipher_suites":"TLS_RSA_WITH_AES_128_CBC_SHA"}"#, "GCM"),
        (r#"{"data_dir":"/d","tls_min_version":"tls14"}"#, "tls13"),
        (r#"{"data_dir":"/d","unix_sockets":{"mode":"abc"}}"#, "octal"),
    ] {
        let e = plan_of(text).err().unwrap().to_string();
        assert!(e.contains(wanted) && !e.contains('\n'), "{text}: {e}");
    }
}

#[test]
fn addresses_of_both_kinds_and_templates() {
    let p = plan_of(r#"{"data_dir":"/d","advertise_addr_ipv4":"10.0.0.1","advertise_addr_ipv6":"fd00::1","advertise_addr_wan_ipv6":"fd01::1"}"#)
        .ok()
        .unwrap();
    assert_eq!((p.advertise.to_string(), p.advertise_wan.to_string()), ("10.0.0.1".into(), "fd01::1".into()));
    let tag = |name: &str| p.tagged_addresses.get(name).map(String::as_str);
    assert_eq!(
        (tag("lan_ipv4"), tag("lan_ipv6"), tag("wan_ipv6")),
        (Some("10.0.0.1"), Some("fd00::1"), Some("fd01::1"))
    );
    let loopback =
        r#"{{ GetAllInterfaces | include \"flags\" \"loopback\" | include \"type\" \"ipv4\" | attr \"address\" }}"#;
    let p = plan_of(&format!(
        r#"{{"data_dir":"/d","bind_addr":"{loopback}","client_addr":"{loopback} 127.0.0.2","serf_lan":"{loopback}","advertise_addr":"{loopback}","addresses":{{"http":"{loopback}"}},"retry_join":["{loopback}","x"]}}"#
    ))
    .unwrap_or_else(|e| panic!("{e}"));
    assert!(p.bind.is_loopback() && p.advertise.is_loopback() && p.gossip_bind.ip().is_loopback());
    assert_eq!(
        (p.dns.len(), p.http.len(), p.join.as_slice()),
        (2, 1, ["127.0.0.1".to_owned(), "x".to_owned()].as_slice())
    );
}

#[test]
fn https() {
    let of = |more: &str| plan_of(&format!(r#"{{"data_dir":"/d","ports":{{"https":1}},{more}}}"#));
    let p = of(r#""cert_file":"b","key_file":"c""#).unwrap_or_else(|e| panic!("{e}"));
    assert!(p.tls.is_none() && p.https_tls.is_some_and(|h| h.files.ca.is_empty() && h.rules == HttpsRules::default()));
    let p = of(
        r#""ca_file":"a","cert_file":"b","key_file":"c","tls_min_version":"tls13","tls_prefer_server_cipher_suites":true,"tls":{"https":{"cert_file":"d","key_file":"e","verify_incoming":true}}"#,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let h = p.https_tls.unwrap();
    assert_eq!((h.files.cert, p.tls.unwrap().cert), (Some("d".into()), Some("b".into())));
    assert!(h.rules.only_13 && h.rules.prefer_server && p.verify_incoming_https && !p.verify_incoming_rpc);
    let p = of(
        r#""cert_file":"b","key_file":"c","tls_cipher_suites":"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA""#,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        p.https_tls.unwrap().rules.suites,
        [causeway_certs::link::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
    );
    assert!(p.settings.warnings().iter().any(|w| w.contains("CBC")), "{:?}", p.settings.warnings());
}

#[test]
fn certificates_of_agents() {
    let of = |text: &str| plan_of(&format!(r#"{{"data_dir":"/d",{text}}}"#));
    let names = r#""auto_encrypt":{"tls":true,"dns_san":["web.example.net"],"ip_san":["10.0.0.1"]}"#;
    let p = of(&format!(r#""ca_file":"a","ports":{{"https":1}},{names}"#)).unwrap_or_else(|e| panic!("{e}"));
    let asks = p.asks.unwrap();
    assert_eq!((asks.names.len(), asks.ips.len(), asks.file), (1, 1, "/d/auto-encrypt.pem".into()));
    assert!(p.signs.is_none() && p.tls.unwrap().cert.is_none());
    let own = of(&format!(r#""ca_file":"a","cert_file":"b","key_file":"c",{names}"#)).unwrap_or_else(|e| panic!("{e}"));
    assert!(own.asks.is_none(), "it has one");
    let p = of(names).unwrap_or_else(|e| panic!("{e}"));
    assert!(p.asks.is_none() && p.settings.warnings().iter().any(|w| w.contains("ca_file")));
    let server = r#""server":true,"ca_file":"a","cert_file":"b","key_file":"c""#;
    let p = of(&format!(r#"{server},"auto_encrypt":{{"allow_tls":true}}"#)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(p.signs, Some(std::time::Duration::from_secs(72 * 3600)));
    let p = of(r#""server":true,"auto_encrypt":{"allow_tls":true}"#).unwrap_or_else(|e| panic!("{e}"));
    assert!(p.signs.is_none() && p.settings.warnings().iter().any(|w| w.contains("cert_file")));
    for (text, wanted) in [
        (format!(r#"{server},"auto_encrypt":{{"tls":true}}"#), "no servers"),
        (r#""auto_encrypt":{"allow_tls":true}"#.to_owned(), "is for servers"),
        (format!(r#"{server},"auto_encrypt":{{"allow_tls":true,"certificate_ttl":"1s"}}"#), "10s"),
        (r#""auto_encrypt":{"tls":true,"dns_san":["server.dc1.consul"]}"#.to_owned(), "domain consul"),
    ] {
        let e = of(&text).err().unwrap().to_string();
        assert!(e.contains(wanted) && !e.contains('\n'), "{text}: {e}");
    }
}

#[test]
fn clouds_are_not_asked() {
    let p =
        plan_of(r#"{"data_dir":"/d","retry_join":["provider=aws tag_key=a tag_value=b","10.0.0.1"]}"#).ok().unwrap();
    assert_eq!(p.join, ["10.0.0.1"]);
    assert!(p.settings.warnings()[0].contains("retry_join"), "{:?}", p.settings.warnings());
}

#[test]
fn gateways() {
    let tls = r#""ca_file":"a","cert_file":"b","key_file":"c""#;
    let p = plan_of(&format!(r#"{{"data_dir":"/d",{tls},"bind_addr":"10.0.0.1","gateway":{{"peers":["x:443"]}}}}"#))
        .ok()
        .unwrap();
    let g = p.gateway.unwrap();
    assert_eq!(g.advertise, ["10.0.0.1:443"]);
    let p =
        plan_of(&format!(r#"{{"data_dir":"/d",{tls},"gateway":{{"listen":"none","peers":["x:443"]}}}}"#)).ok().unwrap();
    assert!(p.gateway.unwrap().advertise.is_empty());
    let proxied = |proxy: &str| plan_of(&format!(r#"{{"data_dir":"/d",{tls},"gateway":{{"proxy":"{proxy}"}}}}"#));
    let proxy = |text: &str| proxied(text).unwrap().gateway.unwrap().proxy;
    assert_eq!((proxy(""), proxy("none")), (GatewayProxy::Environment, GatewayProxy::Off));
    assert!(matches!(proxy("http://u:secret@p:3128"), GatewayProxy::Through(p) if p.address() == "p:3128"));
    let error = proxied("https://u:secret@p:3128").err().unwrap().to_string();
    assert!(error.contains("gateway.proxy") && !error.contains("secret"), "{error}");
}
