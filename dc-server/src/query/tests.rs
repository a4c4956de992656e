use std::sync::Arc;
use std::time::Duration;

use causeway_proto::catalog::{Check, Node, Service, ServiceHealth, StringList};
use causeway_proto::federation::{Site, SiteState, SiteStatus};
use causeway_proto::query::{Failover, PreparedQuery, ServiceQuery, StringMap, Target, Template};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::failover::{by_distance, candidates, patience};
use super::{select, template, validate};

fn list(values: &[&str]) -> Option<StringList> {
    Some(StringList { values: values.iter().map(ToString::to_string).collect() })
}

fn map(key: &str, value: &str) -> Option<StringMap> {
    Some(StringMap { values: [(key.to_owned(), value.to_owned())].into() })
}

fn query(name: &str, service: &str) -> PreparedQuery {
    let service = ServiceQuery { service: service.into(), ..ServiceQuery::default() };
    PreparedQuery { name: name.into(), service: Some(service), ..PreparedQuery::default() }
}

fn templated(name: &str, service: &str, regexp: &str) -> PreparedQuery {
    let template = Template { r#type: "name_prefix_match".into(), regexp: regexp.into(), remove_empty_tags: true };
    PreparedQuery { template: Some(template), ..query(name, service) }
}

fn with(change: impl FnOnce(&mut ServiceQuery)) -> PreparedQuery {
    let mut query = query("q", "web");
    change(query.service.as_mut().unwrap());
    query
}

/// The texts are those of Consul 1.8.7.
#[test]
fn what_is_refused() {
    let failover = |failover| with(|s| s.failover = Some(failover));
    let ttl = |text: &str| PreparedQuery { dns_ttl: text.into(), ..query("q", "web") };
    let mut bad_type = templated("t", "web", "");
    bad_type.template.as_mut().unwrap().r#type = "zz".into();
    for (query, text) in [
        (query("a", ""), "Invalid prepared query: Must provide a Service name to query"),
        (query("", "web"), "Invalid prepared query: Must be bound to a session"),
        (
            failover(Failover { nearest_n: -1, ..Failover::default() }),
            "Invalid prepared query: Bad NearestN '-1', must be >= 0",
        ),
        (
            failover(Failover { nearest_n: 1, targets: vec![Target::default()], ..Failover::default() }),
            "Invalid prepared query: Targets cannot be populated with NearestN or Datacenters",
        ),
        (ttl("abc"), "Invalid prepared query: Bad DNS TTL 'abc': time: invalid duration \"abc\""),
        (ttl("-1s"), "Invalid prepared query: DNS TTL '-1000000000', must be >=0"),
        (
            with(|s| s.node_meta = map("", "x")),
            "Invalid prepared query: Couldn't load metadata pair ('', 'x'): Key cannot be blank",
        ),
        (bad_type, "failed compiling template: Bad Template.Type 'zz'"),
        (
            templated("t", "${bad", ""),
            "failed compiling template: Bad format '${bad' in Service.Service: parse error: syntax error",
        ),
        (
            templated("t", "${foo.bar}", ""),
            "failed compiling template: Bad evaluation for '${foo.bar}' in Service.Service: 1:3: unknown variable accessed: foo.bar",
        ),
    ] {
        assert_eq!(validate::check(&query).unwrap_err().to_string(), text);
    }
    let bad = validate::check(&templated("t", "web", "(")).unwrap_err().to_string();
    assert!(bad.starts_with("failed compiling template: Bad Regexp: error parsing regexp: unclosed group"), "{bad}");
    assert!(validate::check(&with(|s| s.connect = true)).is_err());
    for query in [
        query("q", "web"),
        ttl("1m30s"),
        ttl("0"),
        with(|s| s.service_meta = map("", "x")),
        templated("", "${name.full}", ""),
    ] {
        assert_eq!(validate::check(&query), Ok(()));
    }
}

/// As Consul 1.8.7 explains the same templates.
#[test]
fn templates_are_filled_in() {
    let said = |query: &PreparedQuery, name: &str| template::render(query, name).unwrap().service.unwrap();
    let all = templated("geo", "${name.full}|${ name.prefix }|${name.suffix}|${match(0)}|$${x}", "");
    assert_eq!(said(&all, "geofoo").service, "geofoo|geo|foo||${x}");
    let mut matching = templated("geo-", "${match(1)}", r"^geo-(.*?)-([^\-]+?)$");
    matching.service.as_mut().unwrap().tags = list(&["${match(2)}", "${match(9)}", "!${name.suffix}x"]);
    let hit = said(&matching, "geo-web-b");
    assert_eq!((hit.service.as_str(), hit.tags), ("web", list(&["b", "!web-bx"])));
    let miss = said(&matching, "geo-web");
    assert_eq!((miss.service.as_str(), miss.tags), ("", list(&["!webx"])));
    // What is no template is taken as it is.
    assert_eq!(said(&query("q", "${name.full}"), "q").service, "${name.full}");
}

fn instance(id: &str, tags: &[&str], status: &str) -> Arc<ServiceHealth> {
    let meta = [("v".to_owned(), id.to_owned())];
    Arc::new(ServiceHealth {
        node: Some(Node { name: format!("n-{id}"), meta: meta.clone().into(), ..Node::default() }),
        service: Some(Service {
            id: id.into(),
            tags: tags.iter().map(ToString::to_string).collect(),
            meta: meta.into(),
            ..Service::default()
        }),
        checks: vec![Check { id: format!("c-{id}"), status: status.into(), ..Check::default() }],
    })
}

#[test]
fn instances_that_answer() {
    let all = || {
        vec![instance("1", &["A"], "passing"), instance("2", &["a", "b"], "warning"), instance("3", &["a"], "critical")]
    };
    let table: [(PreparedQuery, &[&str]); 8] = [
        (with(|_| {}), &["1", "2"]),
        (with(|s| s.only_passing = true), &["1"]),
        (with(|s| s.ignore_check_ids = list(&["c-3"])), &["1", "2", "3"]),
        (with(|s| s.tags = list(&["a"])), &["1", "2"]),
        (with(|s| s.tags = list(&["a", "!B"])), &["1"]),
        (with(|s| s.node_meta = map("v", "2")), &["2"]),
        (with(|s| s.service_meta = map("v", "1")), &["1"]),
        (with(|s| s.service_meta = map("v", "9")), &[]),
    ];
    for (query, wanted) in table {
        let mut rng = SmallRng::seed_from_u64(7);
        let found = select::select(&query.service.unwrap(), all(), &mut rng);
        let mut ids: Vec<_> = found.iter().map(|i| i.service.as_ref().unwrap().id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, wanted);
    }
    let limited = |limit| {
        let mut found = select::select(&ServiceQuery::default(), all(), &mut SmallRng::seed_from_u64(7));
        select::limit(&mut found, limit);
        found.len()
    };
    assert_eq!([limited(-1), limited(0), limited(1), limited(5)], [2, 2, 1, 2]);
}

#[test]
fn whom_to_ask_next() {
    let site = |dc: &str, rtt_us, state: SiteState, local| SiteStatus {
        site: Some(Site { datacenter: dc.into(), ..Site::default() }),
        rtt_us,
        state: state.into(),
        local,
        ..SiteStatus::default()
    };
    let (linked, cut) = (SiteState::Linked, SiteState::Unreachable);
    let sites = vec![
        site("dc1", 0, linked, true),
        site("far", 90_000, linked, false),
        site("cut", 10, cut, false),
        site("new", 0, linked, false),
        site("near", 1000, linked, false),
        site("gone", 5, SiteState::Left, false),
    ];
    let known = by_distance(sites, "dc1");
    assert_eq!(known, ["near", "far", "new", "cut"]);
    let ask = |nearest_n, datacenters: &[&str], known: Option<&[String]>| {
        candidates(&Failover { nearest_n, datacenters: list(datacenters), targets: Vec::new() }, known, "dc1")
    };
    let known = Some(known.as_slice());
    assert_eq!(ask(2, &[], known), ["near", "far"]);
    assert_eq!(ask(1, &["cut", "near", "nowhere", "dc1", "far", "cut"], known), ["near", "cut", "far"]);
    assert_eq!(ask(3, &["cut", "dc1"], None), ["cut"]);
    assert!(ask(0, &[], known).is_empty());
    let targets = ["far", "near"].map(|dc| Target { datacenter: dc.into(), peer: String::new() }).to_vec();
    assert_eq!(candidates(&Failover { targets, ..Failover::default() }, known, "dc1"), ["far", "near"]);

    let s = Duration::from_secs_f64;
    assert_eq!([patience(s(9.0), false), patience(s(1.0), false), patience(s(1.0), true)], [s(2.0), s(0.5), s(1.0)]);
}
