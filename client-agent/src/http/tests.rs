//! The API from outside: recorded replies of Consul 1.8.7, refusals, and real sockets.
#![allow(clippy::disallowed_methods, reason = "tests use sockets, tasks and clocks")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use causeway_proto::meta::Consistency;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::driver::{Api, Limits, Listener, router, serve};
use super::testing::{FakeRegistry, SESSION, Servers, context};

type Body = Full<Bytes>;

struct Agent {
    router: Api,
    servers: Servers,
    registry: Arc<FakeRegistry>,
}

struct Answer {
    code: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Agent {
    fn new() -> Self {
        let servers = Servers::new();
        let (context, registry) = context(&servers);
        Self { router: router(context), servers, registry }
    }

    /// One with access control.
    fn with_acls() -> Self {
        let servers = Servers::new();
        let (mut context, registry) = context(&servers);
        let settings = crate::acl::Settings {
            datacenter: "dc1".into(),
            node: "s1".into(),
            down: crate::acl::Down::Extend,
            ttl: std::time::Duration::from_secs(30),
            tokens: causeway_proto::access::Tokens::default(),
        };
        context.acls = Some(crate::acl::Acls::new(servers.door(), settings));
        Self { router: router(context), servers, registry }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Each question (method, path, body) has this code and text.
    async fn answers(&self, table: &[(&str, &str, &str, u16, &str)]) {
        for (method, path, body, code, text) in table {
            let answer = self.ask(method, path, body).await;
            assert_eq!((answer.code.as_u16(), answer.text()), (*code, *text), "{method} {path} {body}");
        }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.router.answer(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { code: parts.status, headers: parts.headers, body }
    }
}

const EXT_NODE: &str = r#"{"ID":"","Node":"ext","Address":"192.0.2.1","Datacenter":"dc1","TaggedAddresses":null,"Meta":{"a":"b"},"CreateIndex":60,"ModifyIndex":60}"#;
const EXT_SERVICE: &str = r#"{"ID":"e1","Service":"exts","Tags":["t"],"Address":"192.0.2.9","Meta":{"m":"1"},"Port":5,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{"MeshGateway":{},"Expose":{}},"Connect":{},"CreateIndex":60,"ModifyIndex":60}"#;
const EXT_CHECK: &str = r#"{"Node":"ext","CheckID":"service:e1","Name":"chk","Status":"passing","Notes":"","Output":"","ServiceID":"e1","ServiceName":"exts","ServiceTags":["t"],"Type":"tcp","Definition":{"Interval":"5s","TCP":"a:1"},"CreateIndex":60,"ModifyIndex":60}"#;
const SESSION_JSON: &str = r#"[{"ID":"a108edd5-0ebc-9ae5-40ef-28bbb287887c","Name":"s","Node":"s1","LockDelay":15000000000,"Behavior":"release","TTL":"10s","NodeChecks":["serfHealth"],"ServiceChecks":null,"CreateIndex":68,"ModifyIndex":68}]"#;

/// Byte for byte what the real one answered.
#[tokio::test]
async fn recorded_replies() {
    let agent = Agent::new();
    let health = format!("[{{\"Node\":{EXT_NODE},\"Service\":{EXT_SERVICE},\"Checks\":[{EXT_CHECK}]}}]");
    for (method, path, body, wanted) in [
        ("GET", "/v1/status/leader", "", r#""127.0.0.1:18300""#),
        ("GET", "/v1/status/peers", "", r#"["127.0.0.1:18300"]"#),
        ("GET", "/v1/catalog/datacenters", "", r#"["dc1","dc3","dc2"]"#),
        ("GET", "/v1/catalog/nodes", "", &format!("[{EXT_NODE}]")),
        ("GET", "/v1/catalog/nodes?filter=Meta.a==b", "", &format!("[{EXT_NODE}]")),
        ("GET", "/v1/catalog/nodes?filter=Meta.a==c", "", "[]"),
        ("GET", "/v1/catalog/services", "", r#"{"consul":[],"exts":["t"]}"#),
        (
            "GET",
            "/v1/catalog/service/exts",
            "",
            r#"[{"ID":"","Node":"ext","Address":"192.0.2.1","Datacenter":"dc1","TaggedAddresses":null,"NodeMeta":{"a":"b"},"ServiceKind":"","ServiceID":"e1","ServiceName":"exts","ServiceTags":["t"],"ServiceAddress":"192.0.2.9","ServiceWeights":{"Passing":1,"Warning":1},"ServiceMeta":{"m":"1"},"ServicePort":5,"ServiceEnableTagOverride":false,"ServiceProxy":{"MeshGateway":{},"Expose":{}},"ServiceConnect":{},"CreateIndex":60,"ModifyIndex":60}]"#,
        ),
        ("GET", "/v1/catalog/service/exts?tag=t&tag=zz", "", "[]"),
        ("GET", "/v1/catalog/node/ext", "", &format!("{{\"Node\":{EXT_NODE},\"Services\":{{\"e1\":{EXT_SERVICE}}}}}")),
        ("GET", "/v1/catalog/node/nosuch", "", "null"),
        ("GET", "/v1/catalog/node-services/ext", "", &format!("{{\"Node\":{EXT_NODE},\"Services\":[{EXT_SERVICE}]}}")),
        ("GET", "/v1/catalog/node-services/nosuch", "", r#"{"Node":null,"Services":null}"#),
        ("GET", "/v1/health/node/ext", "", &format!("[{EXT_CHECK}]")),
        ("GET", "/v1/health/checks/exts", "", &format!("[{EXT_CHECK}]")),
        ("GET", "/v1/health/service/exts", "", &health),
        ("GET", "/v1/health/service/exts?passing=false", "", &health),
        ("GET", "/v1/health/service/exts?passing", "", &health),
        ("GET", "/v1/health/service/exts?filter=Service.Meta.m==%221%22", "", &health),
        ("GET", "/v1/health/service/nosuch", "", "[]"),
        ("GET", "/v1/health/state/critical", "", "[]"),
        ("GET", &format!("/v1/session/info/{SESSION}"), "", SESSION_JSON),
        ("GET", "/v1/session/info/b108edd5-0ebc-9ae5-40ef-28bbb287887c", "", "[]"),
        ("GET", "/v1/session/list", "", SESSION_JSON),
        ("GET", "/v1/session/node/s1", "", SESSION_JSON),
        ("PUT", &format!("/v1/session/renew/{SESSION}"), "", SESSION_JSON),
        ("PUT", &format!("/v1/session/destroy/{SESSION}"), "", "true"),
        ("PUT", "/v1/session/create", "", r#"{"ID":"a108edd5-0ebc-9ae5-40ef-28bbb287887c"}"#),
        (
            "PUT",
            "/v1/txn",
            r#"[{"KV":{"Verb":"set","Key":"t1","Value":"dg=="}},{"KV":{"Verb":"get","Key":"t1"}}]"#,
            r#"{"Results":[{"KV":{"LockIndex":0,"Key":"t1","Flags":0,"Value":null,"CreateIndex":77,"ModifyIndex":77}},{"KV":{"LockIndex":0,"Key":"t1","Flags":0,"Value":"dg==","CreateIndex":77,"ModifyIndex":77}}],"Errors":null}"#,
        ),
        (
            "PUT",
            "/v1/txn",
            r#"[{"KV":{"Verb":"bogus","Key":"t1"}}]"#,
            r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"unknown KV verb \"bogus\""}],"Index":0,"LastContact":0,"KnownLeader":true,"ConsistencyLevel":""}"#,
        ),
        (
            "GET",
            "/v1/operator/raft/configuration",
            "",
            r#"{"Servers":[{"ID":"88133ad3","Node":"s1","Address":"127.0.0.1:18300","Leader":true,"ProtocolVersion":"3","Voter":true}],"Index":0}"#,
        ),
        ("PUT", "/v1/catalog/deregister", r#"{"Node":"ext"}"#, "true"),
        ("GET", "/", "", "Consul Agent"),
    ] {
        let answer = agent.ask(method, path, body).await;
        assert_eq!(answer.text(), wanted, "{method} {path}");
    }
}

#[tokio::test]
async fn key_value_entries() {
    let agent = Agent::new();
    agent
        .answers(&[
            ("GET", "/v1/kv/a/b", "", 404, ""),
            ("PUT", "/v1/kv/a/b?flags=42", "v1", 200, "true"),
            ("PUT", "/v1/kv/a/b?cas=0", "v2", 200, "false"),
            (
                "GET",
                "/v1/kv/a/b",
                "",
                200,
                r#"[{"LockIndex":0,"Key":"a/b","Flags":42,"Value":"djE=","CreateIndex":61,"ModifyIndex":61}]"#,
            ),
            ("GET", "/v1/kv/a/b?raw", "", 200, "v1"),
            (
                "GET",
                "/v1/kv/a?recurse",
                "",
                200,
                r#"[{"LockIndex":0,"Key":"a/b","Flags":42,"Value":"djE=","CreateIndex":61,"ModifyIndex":61}]"#,
            ),
            ("GET", "/v1/kv/a?keys", "", 200, r#"["a/b"]"#),
            ("GET", "/v1/kv/nosuch?keys", "", 404, ""),
            ("PUT", "/v1/kv/sp%20ace%2Fx", "", 200, "true"),
            (
                "GET",
                "/v1/kv/sp%20ace/x",
                "",
                200,
                r#"[{"LockIndex":0,"Key":"sp ace/x","Flags":0,"Value":null,"CreateIndex":62,"ModifyIndex":62}]"#,
            ),
            ("PUT", "/v1/kv/a/b?cas=zz", "x", 500, "strconv.ParseUint: parsing \"zz\": invalid syntax"),
            ("PUT", "/v1/kv/a?flags=-1", "x", 500, "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("PUT", "/v1/kv/a?cas=0&acquire=x", "y", 400, "Conflicting flags: acquire=x&cas=0"),
            ("PUT", "/v1/kv/a?acquire=x", "y", 500, "invalid session \"x\""),
            ("PUT", "/v1/kv/", "x", 400, "Missing key name"),
            ("GET", "/v1/kv/", "", 400, "Missing key name"),
            ("DELETE", "/v1/kv/a/b?cas=1", "", 200, "false"),
            ("DELETE", "/v1/kv/?recurse&cas=1", "", 400, "Conflicting flags: cas=1&recurse="),
            ("DELETE", "/v1/kv/a/b", "", 200, "true"),
            ("DELETE", "/v1/kv/a?recurse", "", 200, "true"),
            ("POST", "/v1/kv/a", "", 405, "method POST not allowed"),
            ("GET", "/v1/kv/%ff", "", 400, "Invalid path: not UTF-8, or a damaged %-escape"),
        ])
        .await;
    let absent = agent.ask("GET", "/v1/kv/nosuch", "").await;
    assert_eq!(absent.header("x-consul-index"), "64");
    let big = agent.ask("PUT", "/v1/kv/big", &"x".repeat(524_289)).await;
    assert_eq!(big.code, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn headers_of_reads() {
    let agent = Agent::new();
    let answer = agent.ask("GET", "/v1/catalog/nodes?stale", "").await;
    assert_eq!(answer.header("x-consul-index"), "60");
    assert_eq!(answer.header("x-consul-knownleader"), "true");
    assert_eq!(answer.header("x-consul-lastcontact"), "0");
    assert_eq!(answer.header("x-consul-effective-consistency"), "stale");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-consul-translate-addresses"), "");
    let answer = agent.ask("GET", "/v1/session/list", "").await;
    assert_eq!((answer.header("x-consul-index"), answer.header("x-consul-effective-consistency")), ("60", ""));
    let answer = agent.ask("GET", "/v1/catalog/datacenters", "").await;
    assert_eq!(answer.header("x-consul-index"), "");
    let answer = agent.ask("GET", "/v1/catalog/services?pretty", "").await;
    assert_eq!(answer.text(), "{\n    \"consul\": [],\n    \"exts\": [\n        \"t\"\n    ]\n}\n");
    let answer = agent.ask("OPTIONS", "/v1/kv/a", "").await;
    assert_eq!((answer.code.as_u16(), answer.header("allow")), (200, "OPTIONS,GET,PUT,DELETE"));
    let answer = agent.ask("GET", "/v1/health/service/old?cached", "").await;
    assert_eq!((answer.header("x-cache"), answer.header("age")), ("HIT", "7"));
    assert_eq!(answer.json()[0]["Node"]["Node"], "ext");
    let answer = agent.ask("GET", "/v1/health/service/exts?cached&tag=zz", "").await;
    assert_eq!(answer.text(), "[]");
}

#[tokio::test]
async fn what_a_request_says_travels_with_the_call() {
    let agent = Agent::new();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("/v1/catalog/nodes?consistent&near=_agent")
        .header("x-consul-token", "secret")
        .header("traceparent", trace)
        .body(Body::default())
        .unwrap();
    assert_eq!(agent.send(request).await.code, StatusCode::OK);
    let seen = agent.servers.seen.lock().unwrap().pop().unwrap();
    assert_eq!((seen.token.as_deref(), seen.trace.map(|t| t.to_string()).as_deref()), (Some("secret"), Some(trace)));
    assert_eq!((seen.consistency, seen.datacenter), (Consistency::Consistent, None));
}

#[tokio::test]
async fn refusals() {
    let agent = Agent::new();
    agent
        .answers(&[
            ("GET", "/v1/catalog/nodes?dc=nosuch", "", 500, "No path to datacenter"),
            ("GET", "/v1/catalog/nodes?dc=mute", "", 500, "rpc error making call: No cluster leader"),
            ("GET", "/v1/catalog/nodes?index=x", "", 400, "Invalid index"),
            (
                "GET",
                "/v1/catalog/nodes?filter=Foo==a",
                "",
                500,
                "Failed to create boolean expression evaluator: Selector \"Foo\" is not valid",
            ),
            ("GET", "/v1/health/service/exts?passing=xx", "", 400, "Invalid value for ?passing"),
            ("GET", "/v1/health/service/", "", 400, "Missing service name"),
            ("GET", "/v1/health/state/", "", 400, "Missing check state"),
            ("GET", "/v1/catalog/node/", "", 400, "Missing node name"),
            (
                "PUT",
                "/v1/catalog/register",
                r#"{"Node":"x"}"#,
                500,
                "Must provide address if SkipNodeUpdate is not set",
            ),
            ("PUT", "/v1/catalog/register", r#"{"Address":"1.2.3.4"}"#, 500, "Must provide node"),
            ("PUT", "/v1/catalog/register", "{", 400, "Request decode failed: unexpected EOF"),
            ("PUT", "/v1/catalog/deregister", r#"{"Node":""}"#, 500, "Must provide node"),
            (
                "PUT",
                "/v1/session/renew/b108edd5-0ebc-9ae5-40ef-28bbb287887c",
                "",
                404,
                "Session id 'b108edd5-0ebc-9ae5-40ef-28bbb287887c' not found",
            ),
            ("PUT", "/v1/session/destroy/", "", 400, "Missing session"),
            ("GET", "/v1/agent/service/nosuch", "", 404, "unknown service ID: nosuch"),
            ("GET", "/v1/agent/health/service/name/nosuch", "", 404, "[]"),
            ("PUT", "/v1/agent/check/pass/nosuch", "", 500, "CheckID \"nosuch\" does not have associated TTL"),
            ("PUT", "/v1/agent/maintenance", "", 400, "Missing value for enable"),
            ("PUT", "/v1/agent/maintenance?enable=xx", "", 400, "Invalid value for enable: \"xx\""),
            ("PUT", "/v1/agent/service/maintenance/zz?enable=true", "", 404, "No service registered with ID \"zz\""),
            ("PUT", "/v1/agent/service/register", r#"{"Name":""}"#, 400, "Missing service name"),
            (
                "PUT",
                "/v1/agent/service/register",
                r#"{"Name":"x","Address":"0.0.0.0"}"#,
                400,
                "Invalid service address",
            ),
            (
                "PUT",
                "/v1/agent/service/register",
                r#"{"Name":"x","Check":{"Status":"bogus"}}"#,
                400,
                "Status for checks must 'passing', 'warning', 'critical'",
            ),
            ("PUT", "/v1/agent/check/register", "{}", 400, "Missing check name"),
            ("PUT", "/v1/agent/check/register", r#"{"Name":"c","TTL":"9s","Status":"zz"}"#, 400, "Bad check status"),
            (
                "PUT",
                "/v1/agent/check/register",
                r#"{"Name":"c","TTL":"9s","ServiceID":"nosuch"}"#,
                500,
                "ServiceID \"nosuch\" does not exist",
            ),
            ("PUT", "/v1/agent/check/update/c", r#"{"Status":"zz"}"#, 400, "Invalid check status: 'zz'"),
            ("PUT", "/v1/agent/check/update/c", "", 400, "Request decode failed: EOF"),
            ("PUT", "/v1/agent/service/deregister/", "", 500, "ServiceID missing"),
            ("PUT", "/v1/agent/force-leave/nosuch", "", 500, "agent: No node found with name 'nosuch'"),
            ("PUT", "/v1/agent/join/127.0.0.9", "", 500, "Failed to join 127.0.0.9: connection refused"),
            ("GET", "/v1/acl/tokens", "", 401, "ACL support disabled"),
            ("GET", "/v1/foo", "", 404, "/v1/foo is not an endpoint of this agent\n"),
            ("PUT", "/v1/agent/self", "", 405, "method PUT not allowed"),
        ])
        .await;
    let answer = agent.ask("GET", "/v1/catalog/nodes?dc=nosuch", "").await;
    assert_eq!(answer.header("x-causeway-reason"), "no-path");
}

#[tokio::test]
async fn registrations_with_the_catalog() {
    let agent = Agent::new();
    let body = r#"{"Datacenter":"dc1","Node":"ext","Address":"192.0.2.1","NodeMeta":{"a":"b"},"Service":{"ID":"e1","Service":"exts","Tags":["t"]},"Check":{"CheckID":"service:e1","Name":"chk","ServiceID":"e1","Definition":{"TCP":"a:1","Interval":"5s"}},"SkipNodeUpdate":false}"#;
    assert_eq!(agent.ask("PUT", "/v1/catalog/register", body).await.text(), "true");
    let request = agent.servers.registered.lock().unwrap().pop().unwrap();
    let check = &request.checks[0];
    assert_eq!((check.node.as_str(), check.status.as_str(), check.r#type.as_str()), ("ext", "critical", "tcp"));
    assert_eq!((check.service_name.as_str(), check.service_tags.len()), ("exts", 1));
    assert_eq!(request.node.unwrap().meta["a"], "b");
    let elsewhere =
        agent.ask("PUT", "/v1/catalog/register", r#"{"Datacenter":"dc9","Node":"x","Address":"1.1.1.1"}"#).await;
    assert_eq!(elsewhere.text(), "No path to datacenter");
}

#[tokio::test]
async fn services_and_checks_of_the_agent() {
    let agent = Agent::new();
    let body = r#"{"ID":"w","Name":"web","Port":90,"Address":"10.1.0.1","Check":{"TTL":"30s"}}"#;
    assert_eq!(agent.ask("PUT", "/v1/agent/service/register", body).await.code, StatusCode::OK);
    let w = r#"{"ID":"w","Service":"web","Tags":[],"Meta":{},"Port":90,"Address":"10.1.0.1","TaggedAddresses":{"lan_ipv4":{"Address":"10.1.0.1","Port":90},"wan_ipv4":{"Address":"10.1.0.1","Port":90}},"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false}"#;
    assert_eq!(agent.ask("GET", "/v1/agent/services", "").await.text(), format!("{{\"w\":{w}}}"));
    assert_eq!(agent.ask("GET", "/v1/agent/services?filter=Service==web", "").await.text(), format!("{{\"w\":{w}}}"));
    assert_eq!(agent.ask("GET", "/v1/agent/services?filter=Service==x", "").await.text(), "{}");
    assert_eq!(
        agent.ask("GET", "/v1/agent/checks", "").await.text(),
        r#"{"service:w":{"Node":"s1","CheckID":"service:w","Name":"Service 'web' check","Status":"critical","Notes":"","Output":"","ServiceID":"w","ServiceName":"web","ServiceTags":[],"Type":"ttl","Definition":{},"CreateIndex":0,"ModifyIndex":0}}"#
    );
    let answer = agent.ask("GET", "/v1/agent/health/service/id/w", "").await;
    assert_eq!((answer.code.as_u16(), answer.header("x-consul-reason")), (503, "critical"));
    assert_eq!(agent.ask("PUT", "/v1/agent/check/pass/service:w?note=ok", "").await.code, StatusCode::OK);
    let answer = agent.ask("GET", "/v1/agent/health/service/id/w", "").await;
    let check = r#"{"Node":"s1","CheckID":"service:w","Name":"Service 'web' check","Status":"passing","Notes":"","Output":"ok","ServiceID":"w","ServiceName":"web","ServiceTags":null,"Type":"","Definition":{"Interval":"0s","Timeout":"0s","DeregisterCriticalServiceAfter":"0s","HTTP":"","Header":null,"Method":"","Body":"","TLSSkipVerify":false,"TCP":""},"CreateIndex":0,"ModifyIndex":0}"#;
    assert_eq!(answer.text(), format!("{{\"AggregatedStatus\":\"passing\",\"Service\":{w},\"Checks\":[{check}]}}"));
    assert_eq!(agent.ask("GET", "/v1/agent/health/service/name/web?format=text", "").await.text(), "passing");
    agent.ask("PUT", "/v1/agent/maintenance?enable=true&reason=x", "").await;
    assert_eq!(agent.ask("GET", "/v1/agent/health/service/id/w?format=text", "").await.text(), "maintenance");
    agent.ask("PUT", "/v1/agent/maintenance?enable=false", "").await;
    let answer = agent.ask("PUT", "/v1/agent/check/update/service:w", r#"{"Status":"warning","Output":"o"}"#).await;
    assert_eq!(answer.code, StatusCode::OK);
    assert_eq!(agent.ask("GET", "/v1/agent/health/service/id/w", "").await.code.as_u16(), 429);
    assert_eq!(agent.ask("PUT", "/v1/agent/service/deregister/w", "").await.code, StatusCode::OK);
    assert_eq!(agent.ask("GET", "/v1/agent/services", "").await.text(), "{}");
}

#[tokio::test]
async fn a_service_is_watched_by_its_hash() {
    let agent = Agent::new();
    agent.ask("PUT", "/v1/agent/service/register", r#"{"Name":"web","Port":1}"#).await;
    let first = agent.ask("GET", "/v1/agent/service/web", "").await;
    let hash = first.header("x-consul-contenthash").to_owned();
    assert_eq!((hash.len(), first.json()["ContentHash"].as_str()), (16, Some(hash.as_str())));
    let path = format!("/v1/agent/service/web?hash={hash}&wait=30s");
    let watch = agent.ask("GET", &path, "");
    let change = async {
        agent.registry.change(|local| {
            let service = local.services.get_mut("web").map(Arc::make_mut).unwrap();
            service.port = 2;
        });
    };
    let (second, ()) =
        tokio::time::timeout(Duration::from_secs(10), futures::future::join(watch, change)).await.unwrap();
    assert_eq!(second.json()["Port"], 2);
    let unchanged = agent
        .ask("GET", &format!("/v1/agent/service/web?hash={}&wait=10ms", second.header("x-consul-contenthash")), "")
        .await;
    assert_eq!(unchanged.json()["Port"], 2);
}

#[tokio::test]
async fn what_the_agent_says_of_itself() {
    let agent = Agent::new();
    let this = agent.ask("GET", "/v1/agent/self", "").await.json();
    assert_eq!(
        this["Config"].to_string(),
        r#"{"Datacenter":"dc1","NodeName":"s1","NodeID":"88133ad3-f8d9-e86f-d3f8-ea3a36ae09aa","Revision":"","Server":true,"Version":"1.8.7"}"#
    );
    assert_eq!(this["DebugConfig"].to_string(), r#"{"DNSPort":8600,"ACLToken":"hidden"}"#);
    assert_eq!(
        (this["Member"]["Addr"].as_str(), this["Stats"]["consul"]["leader"].as_str()),
        (Some("127.0.0.1"), Some("true"))
    );
    let members = agent.ask("GET", "/v1/agent/members", "").await.json();
    assert_eq!(members[0]["Tags"]["role"], "consul");
    assert_eq!((&members[0]["Status"], &members[0]["DelegateCur"]), (&Value::from(1), &Value::from(4)));
    let wan = agent.ask("GET", "/v1/agent/members?wan=1", "").await.json();
    assert_eq!((wan[0]["Name"].as_str(), wan[0]["Status"].as_u64()), (Some("s1.dc1"), Some(1)));
    let metrics = agent.ask("GET", "/v1/agent/metrics", "").await.json();
    assert_eq!(metrics["Gauges"][0]["Name"], "a");
    let metrics = agent.ask("GET", "/v1/agent/metrics?format=prometheus", "").await;
    assert_eq!(metrics.text(), "# HELP a a\n# TYPE a gauge\na 1\n");
    for path in ["/v1/agent/reload", "/v1/agent/leave"] {
        assert_eq!(agent.ask("PUT", path, "").await.code, StatusCode::OK);
    }
}

#[tokio::test]
async fn large_answers_are_compressed() {
    let agent = Agent::new();
    let plain = agent.ask("GET", "/v1/health/service/many", "").await;
    let request = |path: &str| Request::get(path).header("accept-encoding", "gzip").body(Body::default()).unwrap();
    let packed = agent.send(request("/v1/health/service/many")).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() * 10 < plain.body.len());
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.body.as_slice()), &mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    assert_eq!(agent.send(request("/v1/status/leader")).await.header("content-encoding"), "");
}

/// A served agent on a real socket.
struct Served {
    agent: Agent,
    addr: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn served(limits: Limits) -> Served {
    let agent = Agent::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(vec![Listener::Tcp(listener)], agent.router.clone(), limits, stop.clone()));
    Served { agent, addr, stop, task }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut text)).await.expect("the answer ends");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_blocked_read_ends_with_its_client() {
    let served = served(Limits::default()).await;
    let mut client = TcpStream::connect(served.addr).await.unwrap();
    client.write_all(b"GET /v1/kv/x?index=60&wait=300s HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let blocked = Arc::clone(&served.agent.servers.blocked);
    until("the read blocks", || blocked.load(Ordering::SeqCst) == 1).await;
    drop(client);
    until("the read ends", || blocked.load(Ordering::SeqCst) == 0).await;
    served.stop.cancel();
}

#[tokio::test]
async fn a_blocked_read_returns_with_a_change() {
    let served = served(Limits::default()).await;
    let mut client = TcpStream::connect(served.addr).await.unwrap();
    client
        .write_all(b"GET /v1/kv/x?index=60&wait=300s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let blocked = Arc::clone(&served.agent.servers.blocked);
    until("the read blocks", || blocked.load(Ordering::SeqCst) == 1).await;
    served.agent.ask("PUT", "/v1/kv/x", "v").await;
    let text = to_end(&mut client).await;
    assert!(text.contains("X-Consul-Index: 61") && text.contains("\"Value\":\"dg==\""), "{text}");
    served.stop.cancel();
}

#[tokio::test]
async fn stopping_ends_blocked_reads() {
    let served = served(Limits { drain: Duration::from_millis(50), ..Limits::default() }).await;
    let mut client = TcpStream::connect(served.addr).await.unwrap();
    client.write_all(b"GET /v1/kv/x?index=60&wait=300s HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let blocked = Arc::clone(&served.agent.servers.blocked);
    until("the read blocks", || blocked.load(Ordering::SeqCst) == 1).await;
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), served.task).await.expect("stops within a second").unwrap();
}

/// Between requests the limit for heads does not count, that for idle connections does.
#[tokio::test]
async fn idle_connections_end() {
    let (header_timeout, idle_timeout) = (Duration::from_millis(50), Duration::from_millis(300));
    let served = served(Limits { header_timeout, idle_timeout, ..Limits::default() }).await;
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    let asked = std::time::Instant::now();
    stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let took = asked.elapsed();
    assert!((idle_timeout..Duration::from_secs(5)).contains(&took), "{took:?}");
    served.stop.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_idle_connections_are_not() {
    let served = served(Limits { header_timeout: Duration::from_millis(150), ..Limits::default() }).await;
    let mut slow = TcpStream::connect(served.addr).await.unwrap();
    slow.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHo").await.unwrap();
    let mut idle = TcpStream::connect(served.addr).await.unwrap();
    idle.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut some = [0u8; 4096];
    assert!(idle.read(&mut some).await.unwrap() > 0);
    // The slow one ends, which takes longer than the limit; then the idle one still works.
    to_end(&mut slow).await;
    idle.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(to_end(&mut idle).await.contains("127.0.0.1:18300"));
    served.stop.cancel();
}

#[tokio::test]
async fn too_large_bodies_are_refused_before_they_are_kept() {
    let served = served(Limits::default()).await;
    let mut client = TcpStream::connect(served.addr).await.unwrap();
    client
        .write_all(b"PUT /v1/kv/big HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    client.write_all(&vec![b'x'; 600_000]).await.unwrap();
    let text = to_end(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert!(text.ends_with("Request body(600000 bytes) too large, max size: 524288 bytes. See https://www.consul.io/docs/agent/options.html#kv_max_value_size."), "{text}");
    served.stop.cancel();
}

#[tokio::test]
async fn clients_have_a_limit_of_connections() {
    let served = served(Limits { max_connections_per_client: 1.into(), ..Limits::default() }).await;
    let mut first = TcpStream::connect(served.addr).await.unwrap();
    first.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut some = [0u8; 4096];
    assert!(first.read(&mut some).await.unwrap() > 0);
    let mut second = TcpStream::connect(served.addr).await.unwrap();
    assert!(to_end(&mut second).await.starts_with("HTTP/1.1 429"));
    drop(first);
    let addr = served.addr;
    let again = async {
        loop {
            let mut third = TcpStream::connect(addr).await.unwrap();
            let _ = third.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            if to_end(&mut third).await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again).await.expect("the place is given back");
    served.stop.cancel();
}

#[tokio::test]
async fn a_socket_in_the_file_system() {
    let path = std::env::temp_dir().join(format!("causeway-http-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let agent = Agent::new();
    let listener = UnixListener::bind(&path).unwrap();
    let stop = CancellationToken::new();
    let task =
        tokio::spawn(serve(vec![Listener::Unix(listener)], agent.router.clone(), Limits::default(), stop.clone()));
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"GET /v1/status/leader HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(to_end(&mut client).await.contains("127.0.0.1:18300"));
    stop.cancel();
    task.await.unwrap();
    let _ = std::fs::remove_file(&path);
}

/// Texts and shapes are those of the real Consul 1.8.7 to the same requests.
#[tokio::test]
async fn user_events() {
    let agent = Agent::new();
    let none = agent.ask("GET", "/v1/event/list", "").await;
    assert_eq!((none.code, none.text(), none.header("x-consul-index")), (StatusCode::OK, "[]", "1"));
    assert_eq!(none.header("x-consul-knownleader"), "", "no server was asked");
    let fired = agent.ask("PUT", "/v1/event/fire/deploy?service=web&tag=v1&node=s", "payload").await;
    let id = fired.json()["ID"].as_str().unwrap().to_owned();
    let shape = |ltime| {
        format!(
            r#"{{"ID":"{id}","Name":"deploy","Payload":"cGF5bG9hZA==","NodeFilter":"s","ServiceFilter":"web","TagFilter":"v1","Version":1,"LTime":{ltime}}}"#
        )
    };
    assert_eq!(fired.text(), shape(0));
    let first = agent.ask("GET", "/v1/event/list?index=1&wait=10s", "").await;
    assert_eq!(first.text(), format!("[{}]", shape(1)));
    let empty = agent.ask("POST", "/v1/event/fire/a/b%20c", "").await.json();
    assert_eq!((&empty["Name"], &empty["Payload"]), (&Value::from("a/b c"), &Value::Null));
    let second =
        agent.ask("GET", &format!("/v1/event/list?index={}&wait=10s", first.header("x-consul-index")), "").await;
    assert_eq!(second.json().as_array().unwrap().len(), 2);
    let named = agent.ask("GET", "/v1/event/list?name=deploy&node=zzz&dc=dc9&stale&consistent&filter=(", "").await;
    assert_eq!(named.text(), first.text(), "Consul knows no other filter");
    agent
        .answers(&[
            ("PUT", "/v1/event/fire/", "", 400, "Missing name"),
            ("PUT", "/v1/event/fire/x?tag=b", "", 500, "Cannot provide tag filter without service filter"),
            (
                "PUT",
                "/v1/event/fire/x?node=(",
                "",
                500,
                "Invalid node filter: error parsing regexp: missing closing ): `(`",
            ),
            ("PUT", "/v1/event/fire/x?dc=dc9", "", 500, "No path to datacenter"),
            ("PUT", "/v1/event/list", "", 405, "method PUT not allowed"),
            ("GET", "/v1/event/fire/x", "", 405, "method GET not allowed"),
            ("GET", "/v1/event/list?index=x", "", 400, "Invalid index"),
            ("GET", "/v1/event/list?wait=x", "", 400, "Invalid wait time"),
        ])
        .await;
}

/// What the table says of modes is what happens: who takes them refuses two at once, who does not ignores them.
#[tokio::test]
async fn the_table_is_true_of_modes_and_namespaces() {
    let agent = Agent::new();
    let guarded = Agent::with_acls();
    for row in super::gate::TABLE.iter().filter(|row| row.modes) {
        let (agent, name) = match row.pattern {
            "/v1/acl/" => (&guarded, "tokens"),
            pattern => (&agent, if pattern.ends_with('/') { "x" } else { "" }),
        };
        let answer = agent.ask("GET", &format!("{}{name}?stale&consistent", row.pattern), "").await;
        let reads = row.methods.iter().any(|(method, _)| *method == "GET");
        let text = "Cannot specify ?stale with ?consistent, conflicting semantics.";
        assert!(
            !reads || (answer.code, answer.text()) == (StatusCode::BAD_REQUEST, text),
            "{}: {}",
            row.pattern,
            answer.text()
        );
    }
    for row in super::gate::TABLE {
        let name = if row.pattern.ends_with('/') { "x" } else { "" };
        let (method, _) = row.methods[0];
        if matches!(row.pattern, "/v1/agent/leave" | "/v1/agent/monitor") {
            continue;
        }
        let answer = agent.ask(method, &format!("{}{name}?ns=a", row.pattern), "").await;
        let refused = answer.text().contains("Namespaces are a Consul Enterprise feature");
        assert_eq!(refused, row.spaced, "{}: {}", row.pattern, answer.text());
    }
    let answer = guarded.ask("GET", "/v1/acl/tokens?ns=a", "").await;
    assert!(answer.text().contains("Namespaces are a Consul Enterprise feature"), "{}", answer.text());
}

/// A wrong method is told before anything else, as Consul does, and before that access control is off.
#[tokio::test]
async fn wrong_methods_of_access_control() {
    for agent in [Agent::new(), Agent::with_acls()] {
        let answer = agent.ask("POST", "/v1/acl/token/x", "").await;
        assert_eq!((answer.code.as_u16(), answer.text()), (405, "method POST not allowed"));
        assert_eq!(answer.headers["allow"], "OPTIONS,GET,PUT,DELETE");
        assert_eq!(agent.ask("GET", "/v1/acl/nope", "").await.code.as_u16(), 404);
        let options = agent.ask("OPTIONS", "/v1/acl/policies", "").await;
        assert_eq!((options.code.as_u16(), options.headers["allow"].to_str().unwrap()), (200, "OPTIONS,GET"));
    }
    let answer = Agent::new().ask("GET", "/v1/acl/policies", "").await;
    assert_eq!((answer.code.as_u16(), answer.text()), (401, "ACL support disabled"));
}
