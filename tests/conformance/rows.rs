//! What the suite asks, beside what there is to ask: each row of the inventory of Consul's interfaces (names and rules of DNS, the HTTP
//! API, types of checks, commands), with a text that a question of the scripts has when it is about that row.

use std::fs;

use crate::script;

/// Section, row, and texts that must all stand in questions (or in what goes with them). Not here: snapshots and waiting, which are
/// programs ([`crate::snapshot`], [`crate::timing`]), and what later versions than 1.8.7 have.
const ROWS: &[(&str, &str, &[&str])] = &[
    (
        "1a",
        "<node>.node",
        &[
            "DIG n1.node.consul A",
            "DIG n1.node.dc1.consul A",
            "DIG nobody.node.consul A",
            "DIG n1.node.consul SRV",
            "DIG n.dot.node.consul A",
        ],
    ),
    (
        "1a",
        "[<tag>.]<svc>.service",
        &[
            "DIG web.service.consul A",
            "DIG v1.web.service.consul A",
            "DIG web.service.consul SRV",
            "DIG prim.ary.web.service.consul A",
        ],
    ),
    ("1a", "_<svc>._tcp", &["DIG _web._tcp", "_udp"]),
    ("1a", "<name>.query", &["DIG tagged.query.consul SRV", "DIG none.query.consul A"]),
    ("1a", "<hex>.addr", &[".addr.consul A", ".addr.consul AAAA"]),
    ("1a", "PTR", &["in-addr.arpa", "ip6.arpa"]),
    ("1a", "SOA and NS", &["consul SOA", "consul NS"]),
    ("1a", "<dc>.dc", &["DIG web.service.dc1.dc.consul A"]),
    ("1a", "mesh kinds", &["DIG web.connect.consul A", "DIG web.ingress.consul A"]),
    ("1a", "extra labels", &["DIG web.service.dc1.extra.consul A"]),
    ("1a", "bare domain, AXFR", &["DIG consul A", "AXFR"]),
    ("1a", "health", &["\"Status\":\"critical\"", "\"Status\":\"warning\""]),
    ("1a", "SRV", &["DIG far.service.consul SRV", "DIG six.service.consul SRV"]),
    ("1a", "CNAME", &["DIG named.node.consul A", "DIG named.node.consul CNAME"]),
    ("1a", "TXT", &["DIG n1.node.consul TXT", "rfc1035-"]),
    ("1a", "ANY", &["DIG n1.node.consul ANY", "DIG web.service.consul ANY"]),
    ("1a", "no data", &["DIG web.service.consul MX", "DIG web.service.consul AAAA"]),
    ("1a", "unknown datacenter", &["DIG web.service.nowhere.consul A"]),
    ("1a", "dns_config", &["@strict DIG"]),
    (
        "1a",
        "size and transport",
        &[
            "DIG many.service.consul SRV tcp count",
            "DIG many.service.consul A edns=1232 count",
            "DIG many.service.consul A count",
        ],
    ),
    ("1a", "client subnet", &["near=_ip"]),
    ("1a", "recursors", &["DIG silent.example.com A", "DIG refused.example.com A", "DIG large.example.com TXT tcp"]),
    ("1b", "status", &["/v1/status/leader", "/v1/status/peers"]),
    (
        "1b",
        "agent",
        &[
            "/v1/agent/self",
            "/v1/agent/members",
            "/v1/agent/host",
            "/v1/agent/metrics",
            "/v1/agent/monitor",
            "/v1/agent/reload",
            "/v1/agent/leave",
            "/v1/agent/maintenance",
            "/v1/agent/join/",
            "/v1/agent/force-leave/",
            "/v1/agent/token/",
        ],
    ),
    (
        "1b",
        "agent services",
        &[
            "/v1/agent/services",
            "/v1/agent/service/w1",
            "/v1/agent/service/register",
            "replace-existing-checks",
            "/v1/agent/service/deregister/",
            "/v1/agent/service/maintenance/",
            "hash=",
        ],
    ),
    (
        "1b",
        "agent checks",
        &[
            "/v1/agent/checks",
            "/v1/agent/check/register",
            "/v1/agent/check/deregister/",
            "/v1/agent/check/pass/",
            "/v1/agent/check/warn/",
            "/v1/agent/check/fail/",
            "/v1/agent/check/update/",
        ],
    ),
    ("1b", "agent health", &["/v1/agent/health/service/id/", "/v1/agent/health/service/name/", "format=text"]),
    (
        "1b",
        "catalog",
        &[
            "PUT /v1/catalog/register",
            "PUT /v1/catalog/deregister",
            "/v1/catalog/datacenters",
            "/v1/catalog/nodes",
            "/v1/catalog/services",
            "/v1/catalog/service/",
            "/v1/catalog/node/",
            "/v1/catalog/node-services/",
            "node-meta=",
            "near=",
        ],
    ),
    (
        "1b",
        "health",
        &[
            "/v1/health/node/",
            "/v1/health/checks/",
            "/v1/health/service/",
            "/v1/health/state/any",
            "/v1/health/state/critical",
            "passing",
        ],
    ),
    (
        "1b",
        "kv",
        &[
            "GET /v1/kv/",
            "PUT /v1/kv/",
            "DELETE /v1/kv/",
            "recurse",
            "keys",
            "separator",
            "raw",
            "flags=",
            "cas=",
            "acquire=",
            "release=",
        ],
    ),
    (
        "1b",
        "session",
        &[
            "/v1/session/create",
            "/v1/session/destroy/",
            "/v1/session/renew/",
            "/v1/session/info/",
            "/v1/session/node/",
            "/v1/session/list",
            "LockDelay",
            "Behavior",
        ],
    ),
    (
        "1b",
        "txn",
        &[
            "PUT /v1/txn",
            "get-tree",
            "check-index",
            "check-session",
            "check-not-exists",
            "delete-tree",
            "delete-cas",
            "\"Node\"",
            "\"Service\"",
            "\"Check\"",
        ],
    ),
    ("1b", "event", &["/v1/event/fire/", "/v1/event/list", "node=", "service=", "tag="]),
    (
        "1b",
        "query",
        &["POST /v1/query", "GET /v1/query", "PUT /v1/query/", "DELETE /v1/query/", "/execute", "/explain", "limit="],
    ),
    (
        "1b",
        "coordinate",
        &["/v1/coordinate/datacenters", "/v1/coordinate/nodes", "/v1/coordinate/node/", "/v1/coordinate/update"],
    ),
    ("1b", "acl, where it is off", &["/v1/acl/bootstrap", "/v1/acl/tokens"]),
    (
        "1b",
        "operator",
        &[
            "/v1/operator/raft/configuration",
            "/v1/operator/raft/peer",
            "/v1/operator/keyring",
            "/v1/operator/autopilot/configuration",
            "/v1/operator/autopilot/health",
            "relay-factor",
            "local-only",
        ],
    ),
    ("1b", "config entries", &["PUT /v1/config", "GET /v1/config/", "DELETE /v1/config/"]),
    (
        "1b",
        "internal",
        &["/v1/internal/ui/nodes", "/v1/internal/ui/node/", "/v1/internal/ui/services", "/v1/internal/acl/authorize"],
    ),
    ("1b", "root, other methods", &["GET /\n", "OPTIONS /v1/", "HEAD /v1/", "PATCH /v1/"]),
    (
        "1b",
        "common parameters",
        &[
            "dc=",
            "pretty",
            "stale",
            "consistent",
            "cached",
            "index=",
            "wait=",
            "filter=",
            "X-Consul-Token",
            "Authorization: Bearer",
        ],
    ),
    ("1c", "types", &["\"Args\"", "\"HTTP\"", "\"TCP\"", "\"GRPC\"", "\"TTL\"", "\"Alias", "Docker"]),
    (
        "1c",
        "common keys",
        &[
            "SuccessBeforePassing",
            "FailuresBeforeCritical",
            "DeregisterCriticalServiceAfter",
            "OutputMaxSize",
            "\"Notes\"",
            "\"Interval\"",
            "\"Timeout\"",
        ],
    ),
    ("1e", "acl token", &["CLI acl token"]),
    ("1e", "agent", &["CLI agent"]),
    ("1e", "catalog nodes", &["CLI catalog nodes"]),
    ("1e", "catalog services", &["CLI catalog services"]),
    ("1e", "catalog datacenters", &["CLI catalog datacenters"]),
    ("1e", "config", &["CLI config"]),
    ("1e", "debug", &["CLI debug"]),
    ("1e", "event", &["CLI event"]),
    ("1e", "exec", &["CLI exec"]),
    ("1e", "force-leave", &["CLI force-leave"]),
    ("1e", "info", &["CLI info"]),
    ("1e", "join", &["CLI join"]),
    ("1e", "keygen", &["CLI keygen"]),
    ("1e", "keyring -list", &["CLI keyring -list"]),
    ("1e", "keyring -install", &["CLI keyring -install"]),
    ("1e", "keyring -use", &["CLI keyring -use"]),
    ("1e", "keyring -remove", &["CLI keyring -remove"]),
    ("1e", "kv get", &["CLI kv get"]),
    ("1e", "kv put", &["CLI kv put"]),
    ("1e", "kv delete", &["CLI kv delete"]),
    ("1e", "kv export", &["CLI kv export"]),
    ("1e", "kv import", &["CLI kv import"]),
    ("1e", "leave", &["CLI leave"]),
    ("1e", "lock", &["CLI lock"]),
    ("1e", "logout", &["CLI logout"]),
    ("1e", "maint", &["CLI maint"]),
    ("1e", "members", &["CLI members"]),
    ("1e", "monitor", &["CLI monitor"]),
    ("1e", "operator autopilot", &["CLI operator autopilot"]),
    ("1e", "operator raft", &["CLI operator raft"]),
    ("1e", "reload", &["CLI reload"]),
    ("1e", "rtt", &["CLI rtt"]),
    ("1e", "services register", &["CLI services register"]),
    ("1e", "services deregister", &["CLI services deregister"]),
    ("1e", "snapshot save", &["CLI snapshot save"]),
    ("1e", "snapshot restore", &["CLI snapshot restore"]),
    ("1e", "snapshot inspect", &["CLI snapshot inspect"]),
    ("1e", "tls ca create", &["CLI tls ca create"]),
    ("1e", "tls cert create", &["CLI tls cert create"]),
    ("1e", "validate", &["CLI validate"]),
    ("1e", "version", &["CLI version"]),
    ("1e", "watch", &["CLI watch"]),
    (
        "1e",
        "common flags and variables",
        &[
            "-http-addr=",
            "-token=",
            "-token-file=",
            "-datacenter=",
            "-stale",
            "-ca-file=",
            "CONSUL_HTTP_ADDR=",
            "CONSUL_HTTP_TOKEN=",
            "CONSUL_HTTP_SSL=",
        ],
    ),
];

#[test]
fn every_row_of_the_inventory_is_asked() {
    let dir = script::path("kv").parent().unwrap().to_owned();
    let mut asked = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            // Answers are no questions.
            if !["| ", "/ ", "#"].iter().any(|p| line.starts_with(p)) {
                asked.push_str(line);
                asked.push('\n');
            }
        }
    }
    let missing: Vec<String> = ROWS
        .iter()
        .flat_map(|(section, row, texts)| texts.iter().map(move |text| (section, row, text)))
        .filter(|(.., text)| !asked.contains(**text))
        .map(|(section, row, text)| format!("{section} {row}: nothing asks {text:?}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
