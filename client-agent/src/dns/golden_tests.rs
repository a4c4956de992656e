//! Answers, word for word, as Consul 1.8.7 gives them where it does not err.

use std::time::Duration;

use causeway_proto::catalog::{ServiceAddress, ServiceHealth, Weights};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::answer::{self, Ask, ServiceAsk, Setup};
use super::config::Config;
use super::reply::{ClientEdns, Head, Reply, ede};
use crate::views::fake::{check, instance};
use crate::views::{NodeView, ServiceView, ViewError};

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn config() -> Config {
    Config { service_ttl: [("web".to_owned(), Duration::from_secs(5))].into(), ..Config::default() }
}

fn ask(name: &str, qtype: RecordType) -> Ask {
    Ask { owner: Name::from_ascii(name).unwrap(), qtype, udp: Some(512), edns: false, unix: 42, from: None }
}

fn lines(reply: &Reply) -> Vec<String> {
    let mut all: Vec<String> = reply.answers.iter().map(ToString::to_string).collect();
    all.extend(reply.authorities.iter().map(|r| format!("auth {r}")));
    all.extend(reply.glue.iter().map(|(_, r)| format!("glue {r}")));
    all.sort();
    all
}

fn web() -> Vec<ServiceHealth> {
    let mut one = instance("n1", "10.0.0.1", "w1", "web", 80);
    one.service.as_mut().unwrap().tags = vec!["v1".into(), "Prim.ary".into()];
    let meta = [("env", "prod"), ("rfc1035-x", "raw value"), ("a=b", "c`d")];
    one.node.as_mut().unwrap().meta = meta.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let mut two = instance("n1", "10.0.0.1", "w2", "web", 81);
    two.service.as_mut().unwrap().address = "10.1.0.2".into();
    two.service.as_mut().unwrap().weights = Some(Weights { passing: 5, warning: 2 });
    let mut three = instance("n2", "host.example.com", "w3", "web", 82);
    three.service.as_mut().unwrap().address = "fq.example.org".into();
    vec![one, two, three]
}

fn service_with(config: Config, instances: Vec<ServiceHealth>, tag: Option<&str>, ask: &Ask) -> Reply {
    let view = ServiceView { instances: instances.into_iter().map(Into::into).collect() };
    let of = ServiceAsk { name: "web", tag, dc: "dc1", tell: false };
    answer::service(&Setup::new(config).unwrap(), ask, of, &view, None, &mut rng())
}

fn service(instances: Vec<ServiceHealth>, qtype: RecordType) -> Reply {
    service_with(config(), instances, None, &ask("WeB.service.consul.", qtype))
}

#[test]
fn addresses_of_a_service() {
    let want = ["WeB.service.consul. 5 IN A 10.0.0.1", "WeB.service.consul. 5 IN A 10.1.0.2"];
    assert_eq!(lines(&service(web(), RecordType::A)), want);
    assert_eq!(lines(&service(web(), RecordType::ANY)), want);
    assert_eq!(lines(&service(web(), RecordType::AAAA)), ["WeB.service.consul. 5 IN CNAME fq.example.org."]);
    let soa = "auth consul. 0 IN SOA ns.consul. hostmaster.consul. 42 3600 600 86400 0";
    let none = service(web(), RecordType::MX);
    assert_eq!((none.code, lines(&none)), (ResponseCode::NoError, vec![soa.to_owned()]));
}

#[test]
fn srv_with_glue_and_metadata() {
    let got = lines(&service(web(), RecordType::SRV));
    let want = [
        "WeB.service.consul. 5 IN SRV 1 1 80 n1.node.dc1.consul.",
        "WeB.service.consul. 5 IN SRV 1 1 82 fq.example.org.",
        "WeB.service.consul. 5 IN SRV 1 5 81 0a010002.addr.dc1.consul.",
        "glue 0a010002.addr.dc1.consul. 0 IN A 10.1.0.2",
        "glue n1.node.dc1.consul. 0 IN A 10.0.0.1",
        "glue n1.node.dc1.consul. 0 IN TXT a`=b=c``d",
        "glue n1.node.dc1.consul. 0 IN TXT env=prod",
        "glue n1.node.dc1.consul. 0 IN TXT raw value",
    ];
    assert_eq!(got, want);
    let plain = Config { enable_additional_node_meta_txt: false, ..config() };
    let got = lines(&service_with(plain, web(), None, &ask("web.service.consul.", RecordType::SRV)));
    assert_eq!(got.len(), 5);
    // A node whose name cannot be looked up is pointed to by its address.
    let odd = lines(&service(vec![instance("n 4", "10.0.0.4", "o", "web", 7)], RecordType::SRV));
    assert_eq!(odd[0], "WeB.service.consul. 5 IN SRV 1 1 7 0a000004.addr.dc1.consul.");
}

#[test]
fn tags_ignore_case() {
    let ask = ask("x.web.service.consul.", RecordType::A);
    assert_eq!(service_with(config(), web(), Some("prim.ary"), &ask).answers.len(), 1);
    assert_eq!(service_with(config(), web(), Some("nope"), &ask).code, ResponseCode::NXDomain);
}

#[test]
fn health_decides() {
    let with = |status: &str| {
        let mut one = instance("n1", "10.0.0.1", "w", "web", 80);
        one.service.as_mut().unwrap().weights = Some(Weights { passing: 5, warning: 2 });
        one.checks = vec![check("passing"), check(status)];
        vec![one]
    };
    assert_eq!(service(with("critical"), RecordType::A).code, ResponseCode::NXDomain);
    let warned = lines(&service(with("warning"), RecordType::SRV));
    assert!(warned[0].contains("SRV 1 2 80"), "{warned:?}");
    let strict = Config { only_passing: true, ..config() };
    let got = service_with(strict, with("warning"), None, &ask("web.service.consul.", RecordType::A));
    assert_eq!(got.code, ResponseCode::NXDomain);
}

fn many(count: usize) -> Vec<ServiceHealth> {
    (0..count)
        .map(|i| {
            let mut one = instance(&format!("m{i}"), &format!("10.9.{}.{}", i / 250, i % 250), "big", "web", 80);
            one.node.as_mut().unwrap().meta = [("k".to_owned(), "v".to_owned())].into();
            one
        })
        .collect()
}

fn head(edns: Option<u16>) -> Head {
    let edns = edns.map(|payload| ClientEdns { payload, version: 0, dnssec_ok: false, subnet: None });
    Head { id: 1, op_code: OpCode::Query, recursion_desired: true, checking_disabled: false, edns }
}

/// Answers, glue and the TC bit of what is sent, checked to be within the size.
fn sent(config: Config, count: usize, qtype: RecordType, edns: Option<u16>) -> (usize, usize, bool) {
    let head = head(edns);
    let most = head.most_udp();
    let ask = Ask { udp: Some(most), edns: edns.is_some(), ..ask("web.service.consul.", qtype) };
    let reply = service_with(config.clone(), many(count), None, &ask);
    let query = Query::query(ask.owner.clone(), qtype);
    let bytes = reply.encode(&head, Some(&query), Setup::new(config).unwrap().style(), most).unwrap();
    assert!(bytes.len() <= most, "{} > {most}", bytes.len());
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.edns.is_some(), edns.is_some());
    if let Some(size) = edns {
        assert_eq!(message.max_payload(), size.max(512));
    }
    (message.answers.len(), message.additionals.len(), message.metadata.truncation)
}

#[test]
fn udp_answers_are_cut_as_in_consul() {
    let truncate = Config { enable_truncate: true, ..config() };
    assert_eq!(sent(config(), 20, RecordType::A, None), (3, 0, false));
    assert_eq!(sent(truncate.clone(), 20, RecordType::A, None), (3, 0, true));
    assert_eq!(sent(truncate.clone(), 3, RecordType::A, None), (3, 0, false));
    assert_eq!(sent(Config { udp_answer_limit: 20, ..config() }, 20, RecordType::A, None), (8, 0, false));
    assert_eq!(sent(config(), 40, RecordType::A, Some(4096)), (40, 0, false));
    // All 20 fit once the metadata is left out.
    assert_eq!(sent(config(), 20, RecordType::SRV, Some(1400)), (20, 20, false));
    let (answers, glue, cut) = sent(truncate, 200, RecordType::SRV, Some(1232));
    assert!(answers > 10 && answers < 40 && glue == answers && cut, "{answers} {glue}");
    assert_eq!(sent(Config { a_record_limit: 2, ..config() }, 20, RecordType::A, Some(4096)), (2, 0, false));
    assert_eq!(sent(Config { disable_compression: true, ..config() }, 5, RecordType::A, None).0, 3);
}

#[test]
fn every_size_is_kept() {
    for size in (512..3000).step_by(37) {
        for count in [1, 7, 60, 300] {
            sent(config(), count, RecordType::SRV, Some(size));
            sent(config(), count, RecordType::A, Some(size));
        }
    }
}

#[test]
fn tcp_takes_all_that_fits() {
    let ask = Ask { udp: None, ..ask("web.service.consul.", RecordType::SRV) };
    let setup = Setup::new(config()).unwrap();
    for (count, whole) in [(300, true), (2000, false)] {
        let reply = service_with(config(), many(count), None, &ask);
        let query = Query::query(ask.owner.clone(), ask.qtype);
        let bytes = reply.encode(&head(None), Some(&query), setup.style(), 65535).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= 65535 && (whole || bytes.len() > 65000), "{}", bytes.len());
        assert!(!message.metadata.truncation);
        assert_eq!(message.answers.len() == count, whole, "{}", message.answers.len());
    }
}

#[test]
fn nodes() {
    let setup = Setup::new(config()).unwrap();
    let get = |instance: ServiceHealth, qtype| {
        let view = NodeView { node: instance.node.map(Into::into) };
        answer::node(&setup, &ask("n1.node.consul.", qtype), "dc1", &view)
    };
    let one = || web().remove(0);
    let texts = ["TXT a`=b=c``d", "TXT env=prod", "TXT raw value"];
    let glue = texts.map(|t| format!("glue n1.node.consul. 0 IN {t}"));
    let own = texts.map(|t| format!("n1.node.consul. 0 IN {t}"));
    let a = "n1.node.consul. 0 IN A 10.0.0.1".to_owned();
    assert_eq!(lines(&get(one(), RecordType::TXT)), own);
    assert_eq!(lines(&get(one(), RecordType::AAAA)), glue);
    assert_eq!(lines(&get(one(), RecordType::ANY)), [&[a.clone()][..], &own].concat());
    let mut all = [&[a][..], &glue].concat();
    all.sort();
    assert_eq!(lines(&get(one(), RecordType::A)), all);
    let host = instance("n1", "host.example.com", "x", "x", 1);
    let reply = get(host.clone(), RecordType::A);
    assert_eq!(lines(&reply), ["n1.node.consul. 0 IN CNAME host.example.com."]);
    assert!(reply.follow.is_some());
    assert!(lines(&get(host, RecordType::SRV)).is_empty());
    let missing = answer::node(&setup, &ask("n1.node.consul.", RecordType::A), "dc1", &NodeView::default());
    assert_eq!(missing.code, ResponseCode::NXDomain);
}

#[test]
fn other_datacenters_as_seen_from_outside() {
    let wan = |port| ServiceAddress { address: "192.0.2.7".into(), port };
    let tagged = |address: &str, tag: Option<ServiceAddress>| {
        let mut one = instance("n1", "10.2.0.1", "w", "web", 80);
        one.node.as_mut().unwrap().tagged_addresses = [("wan".to_owned(), "192.0.2.1".to_owned())].into();
        let service = one.service.as_mut().unwrap();
        service.address = address.into();
        service.tagged_addresses = tag.map(|tag| ("wan".to_owned(), tag)).into_iter().collect();
        one
    };
    let on = Config { translate_wan_addrs: true, ..config() };
    let srv = |config: &Config, one: ServiceHealth, dc: &str| {
        let view = ServiceView { instances: vec![one.into()] };
        let of = ServiceAsk { name: "web", tag: None, dc, tell: false };
        let ask = ask("w.consul.", RecordType::SRV);
        lines(&answer::service(&Setup::new(config.clone()).unwrap(), &ask, of, &view, None, &mut rng())).join("; ")
    };
    let inside = "glue n1.node.dc2.consul. 0 IN A 10.2.0.1; w.consul. 5 IN SRV 1 1 80 n1.node.dc2.consul.";
    assert_eq!(srv(&config(), tagged("", None), "dc2"), inside);
    // Our own are given as they are.
    assert_eq!(srv(&on, tagged("", Some(wan(9090))), "dc1"), inside.replace("dc2", "dc1"));
    assert_eq!(srv(&on, tagged("", None), "dc2"), inside.replace("10.2.0.1", "192.0.2.1"));
    // Address and port are one pair; Consul 1.8 gives 9090 with the address inside.
    let pair = "glue c0000207.addr.dc2.consul. 0 IN A 192.0.2.7; w.consul. 5 IN SRV 1 1 9090 c0000207.addr.dc2.consul.";
    assert_eq!(srv(&on, tagged("", Some(wan(9090))), "dc2"), pair);
    assert_eq!(srv(&on, tagged("10.2.0.9", Some(wan(9090))), "dc2"), pair);
    assert_eq!(srv(&on, tagged("10.2.0.9", Some(wan(0))), "dc2"), pair.replace("9090", "80"));
    let setup = Setup::new(on).unwrap();
    let node = |dc| {
        let view = NodeView { node: tagged("", None).node.map(Into::into) };
        lines(&answer::node(&setup, &ask("n1.consul.", RecordType::A), dc, &view)).join("; ")
    };
    assert_eq!(node("DC2"), "n1.consul. 0 IN A 192.0.2.1");
    assert_eq!(node("dc1"), "n1.consul. 0 IN A 10.2.0.1");
}

#[test]
fn the_zone() {
    let setup = Setup::new(config()).unwrap();
    let servers = ServiceView {
        instances: (0..5).map(|i| instance(&format!("S{i}"), "10.0.0.9", "consul", "consul", 8300).into()).collect(),
    };
    let ask = ask("x.consul.", RecordType::SOA);
    let soa = answer::soa(&setup, &ask, &servers, "dc1", &mut rng());
    assert_eq!((soa.answers.len(), soa.authorities.len(), soa.glue.len()), (1, 3, 3));
    assert_eq!(soa.answers[0].to_string(), "consul. 0 IN SOA ns.consul. hostmaster.consul. 42 3600 600 86400 0");
    let ns = answer::ns(&setup, &ask, &servers, "dc1", &mut rng());
    assert_eq!((ns.answers.len(), ns.authorities.len(), ns.glue.len()), (3, 0, 3));
    assert!(ns.answers[0].to_string().starts_with("consul. 0 IN NS s"));
}

#[test]
fn failures() {
    let setup = Setup::new(config()).unwrap();
    let ask = ask("web.service.dc9.consul.", RecordType::A);
    let of = |error: ViewError| {
        let reply = answer::failed(&setup, &ask, &error);
        assert!(reply.authoritative);
        (reply.code, reply.authorities.len(), reply.ede)
    };
    assert_eq!(of(ViewError::NoPath("dc9".into())), (ResponseCode::NXDomain, 1, None));
    assert_eq!(of(ViewError::Denied), (ResponseCode::NXDomain, 1, Some(ede::PROHIBITED)));
    let unreachable = (ResponseCode::ServFail, 0, Some(ede::NO_REACHABLE_AUTHORITY));
    assert_eq!(of(ViewError::Unreachable("dc9".into())), unreachable);
    assert_eq!(of(ViewError::Deadline), unreachable);
}

#[test]
fn every_instance_comes_first_equally_often() {
    let view = ServiceView { instances: many(10).into_iter().map(Into::into).collect() };
    let setup = Setup::new(config()).unwrap();
    let (ask, of) =
        (ask("web.service.consul.", RecordType::A), ServiceAsk { name: "web", tag: None, dc: "dc1", tell: false });
    let mut rng = rng();
    let mut firsts = std::collections::BTreeMap::new();
    for n in 0..100 {
        let reply = answer::service(&setup, &ask, of, &view, Some(n), &mut rng);
        *firsts.entry(reply.answers[0].to_string()).or_insert(0) += 1;
    }
    assert!(firsts.len() == 10 && firsts.values().all(|n| *n == 10), "{firsts:?}");
}

#[test]
fn bad_domains_are_refused() {
    for domain in ["", "a..b", "con sul"] {
        assert!(Setup::new(Config { domain: domain.into(), ..config() }).is_err(), "{domain}");
    }
    assert!(Setup::new(Config { alt_domain: "x y".into(), ..config() }).is_err());
}

#[test]
fn a_client_subnet_is_echoed_with_scope_0() {
    use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
    let subnet = ClientSubnet::new([1, 2, 3, 0].into(), 24, 7);
    let mut head = head(Some(1232));
    head.edns.as_mut().unwrap().subnet = Some(subnet);
    let edns = service(web(), RecordType::A).edns(&head).unwrap();
    let echo = ClientSubnet::new([1, 2, 3, 0].into(), 24, 0);
    assert_eq!(edns.option(EdnsCode::Subnet), Some(&EdnsOption::Subnet(echo)));
    // What a prepared query gives may hang on who asks: it is for that subnet.
    let edns = Reply { by_client: true, ..service(web(), RecordType::A) }.edns(&head).unwrap();
    let echo = ClientSubnet::new([1, 2, 3, 0].into(), 24, 24);
    assert_eq!(edns.option(EdnsCode::Subnet), Some(&EdnsOption::Subnet(echo)));
}
