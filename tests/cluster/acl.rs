//! Access control on real processes: who has no token, or one that nobody knows, gets nothing, at the first request too; who has one gets
//! what its rules say, by HTTP, DNS, blocked reads and views, here and in other sites, and only for as long as they say it.

use std::collections::BTreeSet;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};

use crate::harness::{Federation, Node, Part, http, wait};

const SOON: Duration = Duration::from_secs(30);
const UNKNOWN: &str = "9f2b7c1e-0000-4000-8000-000000000001";

fn ask(node: &Node, method: &str, path: &str, token: &str, body: &str) -> http::Answer {
    let headers = [("X-Consul-Token", token)];
    let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
    http::request_with(node.http, method, path, headers, body.as_bytes())
}

fn get(node: &Node, path: &str, token: &str) -> http::Answer {
    ask(node, "GET", path, token, "")
}

fn said(answer: &http::Answer) -> (u16, String) {
    (answer.code, answer.text())
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// A token with these rules, made with a management token: its accessor and its secret.
fn token(node: &Node, root: &str, name: &str, rules: &str, more: &Value) -> (String, String) {
    let policy = json!({ "Name": name, "Rules": rules }).to_string();
    wait("the policy to be made", SOON, || {
        let made = ask(node, "PUT", "/v1/acl/policy", root, &policy);
        // The answer to a try before this one may have been lost.
        if made.code == 200 || made.text().contains("already exists") { Ok(()) } else { Err(made.text()) }
    });
    let mut body = json!({ "Description": name, "Policies": [{ "Name": name }] });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    // A local token is made where the policy may not have come yet.
    let made = wait("the policy", SOON, || ask(node, "PUT", "/v1/acl/token", root, &body.to_string()).json());
    (text(&made, "AccessorID"), text(&made, "SecretID"))
}

fn bootstrap(node: &Node) -> String {
    wait("the bootstrap", SOON, || Ok(text(&ask(node, "PUT", "/v1/acl/bootstrap", "", "").json()?, "SecretID")))
}

/// Waits until the agent of a site is in its catalog.
fn settled(federation: &Federation, dc: &str, root: &str) {
    let agent = federation.agent(dc);
    let wanted = federation.nodes.iter().filter(|n| n.dc == dc).count();
    wait("all nodes in the catalog", SOON, || {
        let nodes = get(agent, "/v1/catalog/nodes", root).json()?;
        let found = nodes.as_array().map_or(0, Vec::len);
        if found == wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
    });
}

/// Every path that says or does anything, with its method.
const PATHS: &[(&str, &str)] = &[
    ("GET", "/v1/acl/token/self"),
    ("GET", "/v1/acl/tokens"),
    ("GET", "/v1/acl/policies"),
    ("GET", "/v1/acl/roles"),
    ("GET", "/v1/agent/self"),
    ("GET", "/v1/agent/members"),
    ("GET", "/v1/agent/services"),
    ("GET", "/v1/agent/checks"),
    ("GET", "/v1/agent/host"),
    ("GET", "/v1/agent/metrics"),
    ("GET", "/v1/agent/monitor"),
    ("GET", "/v1/agent/version"),
    ("GET", "/v1/agent/service/web"),
    ("GET", "/v1/agent/health/service/name/web"),
    ("GET", "/v1/agent/health/service/id/web"),
    ("PUT", "/v1/agent/reload"),
    ("PUT", "/v1/agent/leave"),
    ("PUT", "/v1/agent/join/127.0.0.1"),
    ("PUT", "/v1/agent/force-leave/x"),
    ("PUT", "/v1/agent/maintenance?enable=true"),
    ("PUT", "/v1/agent/service/deregister/web"),
    ("PUT", "/v1/agent/service/maintenance/web?enable=true"),
    ("PUT", "/v1/agent/check/deregister/x"),
    ("PUT", "/v1/agent/check/pass/x"),
    ("PUT", "/v1/agent/check/update/x"),
    ("PUT", "/v1/agent/token/default"),
    ("GET", "/v1/catalog/nodes"),
    ("GET", "/v1/catalog/services"),
    ("GET", "/v1/catalog/service/consul"),
    ("GET", "/v1/catalog/node/x"),
    ("GET", "/v1/catalog/node-services/x"),
    ("GET", "/v1/health/node/x"),
    ("GET", "/v1/health/service/consul"),
    ("GET", "/v1/health/service/consul?cached"),
    ("GET", "/v1/health/checks/x"),
    ("GET", "/v1/health/state/any"),
    ("GET", "/v1/kv/a"),
    ("GET", "/v1/kv/a?stale"),
    ("GET", "/v1/kv/?keys"),
    ("GET", "/v1/kv/a?recurse"),
    ("PUT", "/v1/kv/a"),
    ("DELETE", "/v1/kv/a?recurse"),
    ("GET", "/v1/session/list"),
    ("GET", "/v1/session/node/x"),
    ("GET", "/v1/event/list"),
    ("GET", "/v1/coordinate/nodes"),
    ("GET", "/v1/coordinate/node/x"),
    ("GET", "/v1/query"),
    ("GET", "/v1/operator/raft/configuration"),
    ("GET", "/v1/operator/autopilot/configuration"),
    ("GET", "/v1/operator/autopilot/health"),
    ("GET", "/v1/operator/usage"),
    ("GET", "/v1/snapshot"),
    ("GET", "/v1/config/service-defaults"),
    ("GET", "/v1/internal/ui/nodes"),
    ("GET", "/v1/internal/ui/services"),
    ("GET", "/v1/internal/exports"),
    ("GET", "/v1/internal/replication"),
    ("GET", "/v1/internal/federation"),
];

#[test]
fn who_is_not_known_gets_nothing_and_who_is_gets_what_the_rules_say() {
    let mut federation = Federation::prepare("acl", 1, 1);
    federation.configure(|_| {
        json!({ "acl": {
        "enabled": true, "default_policy": "deny", "enable_token_persistence": true, "token_ttl": "1s",
    } })
    });
    for node in &mut federation.nodes {
        node.start();
    }
    let server = federation.node("dc1-server-1");
    let root = bootstrap(server);
    let again = ask(server, "PUT", "/v1/acl/bootstrap", "", "");
    assert!(
        again.code == 403
            && again.text().starts_with("Permission denied: ACL bootstrap no longer allowed (reset index: "),
        "{}",
        again.text()
    );

    // A token that was made up is refused at every door, at its first request. Each gets one of its own.
    for (at, (method, path)) in PATHS.iter().enumerate() {
        for (node, who) in [(server, "server"), (federation.agent("dc1"), "agent")] {
            let made_up = format!("9f2b7c1e-0000-4000-8000-{at:012}{}", &who[..1]);
            let answer = ask(node, method, path, &made_up, "{}");
            assert_eq!(said(&answer), (403, "ACL not found".into()), "{method} {path} at the {who}");
        }
    }
    // And who shows none sees nothing.
    for (path, empty) in [
        ("/v1/catalog/nodes", "[]"),
        ("/v1/catalog/services", "{}"),
        ("/v1/agent/members", "[]"),
        ("/v1/agent/services", "{}"),
    ] {
        assert_eq!(said(&get(server, path, "")), (200, empty.into()), "{path}");
    }
    for (method, path) in [
        ("GET", "/v1/kv/a"),
        ("PUT", "/v1/kv/a"),
        ("GET", "/v1/agent/self"),
        ("GET", "/v1/acl/tokens"),
        ("GET", "/v1/snapshot"),
        ("GET", "/v1/operator/raft/configuration"),
    ] {
        assert_eq!(said(&ask(server, method, path, "", "x")), (403, "Permission denied".into()), "{method} {path}");
    }
    // Ways around the gate lead nowhere, or to the gate.
    for path in ["/v1//kv/a", "/v1/KV/a", "/v1/agent/../kv/a", "/v1/%6bv/a", "/v1/kv%2fa", "//v1/kv/a"] {
        let answer = get(server, path, UNKNOWN);
        assert!(answer.code == 403 || answer.code == 404, "{path}: {} {}", answer.code, answer.text());
    }

    // The agent may not register its node before it has a token for that; the token is kept over a restart.
    let name = "dc1-agent";
    let rules = format!("node \"{name}\" {{ policy = \"write\" }} service_prefix \"\" {{ policy = \"read\" }}");
    let (_, agents) = token(server, &root, "agents", &rules, &json!({}));
    let agent = federation.agent("dc1");
    wait("the refusal of the agent's node", SOON, || match agent.log().contains("the catalog refuses this") {
        true => Ok(()),
        false => Err("not in the log".into()),
    });
    let body = json!({ "Token": agents }).to_string();
    assert_eq!(said(&ask(agent, "PUT", "/v1/agent/token/agent", &agents, &body)), (403, "Permission denied".into()));
    wait("the agent's token", SOON, || ask(agent, "PUT", "/v1/agent/token/agent", &root, &body).ok());
    let own = get(server, &format!("/v1/catalog/node/{name}"), &root).json().unwrap();
    wait("the agent's own addresses in the catalog", SOON, || {
        let node = get(server, &format!("/v1/catalog/node/{name}"), &root).json()?;
        if node["Node"]["TaggedAddresses"]["lan_ipv4"].is_string() { Ok(()) } else { Err(format!("{own} {node}")) }
    });

    // Services: a token for one of them registers that one alone.
    let (_, web) = token(
        server,
        &root,
        "web",
        "service \"web\" { policy = \"write\" } key_prefix \"web/\" { policy = \"write\" }",
        &json!({}),
    );
    let register = |name: &str, id: &str, token: &str| {
        let body = json!({ "Name": name, "ID": id, "Port": 80, "Token": token, "Address": "127.0.0.1" });
        ask(agent, "PUT", "/v1/agent/service/register", token, &body.to_string())
    };
    assert_eq!(register("web", "w", &web).code, 200);
    assert_eq!(said(&register("db", "d", &web)), (403, "Permission denied: Missing service:write on db".into()));
    assert_eq!(register("db", "d", &root).code, 200);
    assert_eq!(
        said(&register("web", "d", &web)),
        (403, "Permission denied: Missing service:write on db".into()),
        "another service's ID"
    );
    let deregister =
        |id: &str, token: &str| ask(agent, "PUT", &format!("/v1/agent/service/deregister/{id}"), token, "");
    assert_eq!(said(&deregister("d", &web)), (403, "Permission denied: Missing service:write on db".into()));
    wait("both services", SOON, || {
        let all = get(server, "/v1/catalog/services", &root).json()?;
        if all["web"].is_array() && all["db"].is_array() { Ok(()) } else { Err(all.to_string()) }
    });

    // Lists lose what may not be seen, and say so.
    let (reader_id, reader) = token(
        server,
        &root,
        "reader",
        "service \"web\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } key_prefix \"pub/\" { policy = \"read\" } event \"ok\" { policy = \"write\" }",
        &json!({}),
    );
    for node in [server, agent] {
        let seen = get(node, "/v1/catalog/services", &reader);
        let names: BTreeSet<String> = seen.json().unwrap().as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            (names, seen.header("x-consul-results-filtered-by-acls")),
            (BTreeSet::from(["web".to_owned()]), Some("true"))
        );
        let whole = get(node, "/v1/catalog/services", &root);
        assert_eq!(whole.header("x-consul-results-filtered-by-acls"), None);
        assert_eq!(get(node, "/v1/health/service/db", &reader).text(), "[]");
        assert_eq!(get(node, "/v1/health/service/db?cached", &reader).text(), "[]", "nor out of a view");
        assert_ne!(get(node, "/v1/health/service/web", &reader).text(), "[]");
    }
    assert_eq!(get(agent, "/v1/agent/services", &reader).json().unwrap().as_object().unwrap().len(), 1);
    assert_eq!(said(&get(agent, "/v1/agent/service/d", &reader)), (403, "Permission denied".into()));

    // Keys.
    for key in ["pub/a", "web/a", "top/secret"] {
        ask(server, "PUT", &format!("/v1/kv/{key}"), &root, "v").ok().unwrap();
    }
    assert_eq!(get(agent, "/v1/kv/pub/a?raw", &reader).text(), "v");
    assert_eq!(get(server, "/v1/kv/pub/a?raw", &reader).text(), "v");
    for node in [agent, server] {
        assert_eq!(said(&get(node, "/v1/kv/top/secret", &reader)), (403, "Permission denied".into()));
        assert_eq!(said(&ask(node, "PUT", "/v1/kv/pub/a", &reader, "w")), (403, "Permission denied".into()));
        let keys = get(node, "/v1/kv/?keys", &reader);
        assert_eq!(
            (keys.text().as_str(), keys.header("x-consul-results-filtered-by-acls")),
            ("[\"pub/a\"]", Some("true"))
        );
        let txn = r#"[{"KV":{"Verb":"set","Key":"web/a","Value":"dg=="}},{"KV":{"Verb":"set","Key":"top/secret","Value":"dg=="}}]"#;
        let answer = ask(node, "PUT", "/v1/txn", &web, txn);
        assert_eq!(
            (answer.code, answer.text().contains(r#"{"OpIndex":1,"What":"Permission denied"}"#)),
            (409, true),
            "{}",
            answer.text()
        );
        assert_eq!(ask(node, "DELETE", "/v1/kv/web/?recurse", &reader, "").code, 403);
        assert_eq!(ask(node, "DELETE", "/v1/kv/?recurse", &web, "").code, 403);
    }
    assert_eq!(ask(agent, "PUT", "/v1/event/fire/other", &reader, "").code, 403);
    assert_eq!(ask(agent, "PUT", "/v1/event/fire/ok", &reader, "").code, 200);
    assert_eq!(get(agent, "/v1/event/list", &web).text(), "[]");
    // Nor does anything run by an event, nor are keys of gossip seen.
    assert_eq!(ask(agent, "PUT", "/v1/event/fire/_rexec", &reader, "{}").code, 403);
    assert_eq!(ask(agent, "PUT", "/v1/event/fire/_rexec?dc=dc1", &reader, "{}").code, 403);
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let keys = ask(agent, method, "/v1/operator/keyring", &reader, "{\"Key\":\"MTIzNDU2Nzg5MDEyMzQ1Ng==\"}");
        assert!(keys.code == 500 && keys.text().contains("keyring denied"), "{method}: {}", keys.text());
    }

    // DNS goes by the default token: first there is none, then one that may see `web`, then that one is gone.
    let dig = |name: &str| agent.dig(name, RecordType::A).map(|reply| (reply.code, reply.answers.len()));
    assert_eq!(dig("web.service.consul").unwrap(), (ResponseCode::NXDomain, 0));
    let body = json!({ "Token": reader }).to_string();
    ask(agent, "PUT", "/v1/agent/token/default", &root, &body).ok().unwrap();
    wait("web by DNS", SOON, || match dig("web.service.consul")? {
        (ResponseCode::NoError, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(dig("db.service.consul").unwrap(), (ResponseCode::NXDomain, 0));

    // A read that waits ends as soon as its token may not read any more.
    let index = get(server, "/v1/kv/pub/a", &reader).index();
    let before = server.log().matches("Kv/Get").count();
    let (port, path, secret) = (server.http, format!("/v1/kv/pub/a?index={index}&wait=60s"), reader.clone());
    let blocked =
        std::thread::spawn(move || http::request_with(port, "GET", &path, &[("X-Consul-Token", &secret)], b""));
    wait("the blocked read", SOON, || {
        if server.log().matches("Kv/Get").count() > before { Ok(()) } else { Err("not seen in the log".into()) }
    });
    assert_eq!(ask(server, "DELETE", &format!("/v1/acl/token/{reader_id}"), &root, "").text(), "true");
    assert_eq!(said(&blocked.join().unwrap()), (403, "ACL not found".into()));
    for node in [server, agent] {
        wait("the end of the token", SOON, || match get(node, "/v1/kv/pub/a", &reader) {
            answer if answer.code == 403 => Ok(()),
            answer => Err(answer.text()),
        });
    }
    wait("the end of it in DNS", SOON, || match dig("web.service.consul")? {
        (ResponseCode::NoError, _) => Err("still answered".into()),
        _ => Ok(()),
    });

    // Nobody's secret is in a log, nor in what an agent says of itself.
    for node in &federation.nodes {
        for secret in [&root, &agents, &web, &reader] {
            assert!(!node.log().contains(secret.as_str()), "a secret in the log of {}", node.name);
            assert!(!get(node, "/v1/agent/self", &root).text().contains(secret.as_str()));
            assert!(!get(node, "/v1/agent/metrics?format=prometheus", &root).text().contains(secret.as_str()));
        }
    }

    // All of it is there after a restart, the agent's token too.
    for node in &mut federation.nodes {
        node.kill();
        node.start();
    }
    settled(&federation, "dc1", &root);
    let kept = std::fs::read_to_string(federation.agent("dc1").dir.join("data/acl-tokens.json")).unwrap();
    assert!(kept.contains(&agents));
}

/// A federation of two with access control, dc1 the primary; the secret of a token that may do everything.
fn two_sites(name: &str, down: &str) -> (Federation, String) {
    let root = "5e0b7a52-6d1c-4f0e-9a53-0d7a4b1f2c3d";
    let mut federation = Federation::prepare(name, 2, 1);
    federation.configure(|_| {
        json!({ "primary_datacenter": "dc1", "acl": {
        "enabled": true, "default_policy": "deny", "down_policy": down, "token_ttl": "1s",
        "tokens": { "initial_management": root, "agent": root, "replication": root },
    } })
    });
    for node in &mut federation.nodes {
        node.start();
    }
    for dc in ["dc1", "dc2"] {
        settled(&federation, dc, root);
    }
    (federation, root.to_owned())
}

#[test]
fn tokens_hold_in_all_sites_but_local_ones_and_unknown_ones_are_refused_with_the_primary_away() {
    let (mut federation, root) = two_sites("acl-sites", "extend-cache");
    let (one, two) = (federation.agent("dc1"), federation.agent("dc2"));
    let rules = "key_prefix \"\" { policy = \"write\" }";
    let (_, everywhere) = token(one, &root, "everywhere", rules, &json!({}));
    let (local_id, local) = token(one, &root, "local", rules, &json!({ "Local": true }));
    // What is made at the secondary is made at the primary.
    let (_, there) = token(two, &root, "there", rules, &json!({}));
    let (own_id, own) = token(two, &root, "own", rules, &json!({ "Local": true }));
    wait("the copies", SOON, || {
        for (node, secret) in
            [(one, &everywhere), (two, &everywhere), (one, &there), (two, &there), (two, &own), (one, &local)]
        {
            ask(node, "PUT", "/v1/kv/a", secret, "1").ok()?;
        }
        Ok(())
    });
    let listed = |node: &Node| get(node, "/v1/acl/tokens", &root).text();
    assert!(listed(one).contains(&local_id) && !listed(two).contains(&local_id), "a local token left its site");
    assert!(listed(two).contains(&own_id) && !listed(one).contains(&own_id), "a local token left its site");
    for (node, secret) in [(two, &local), (one, &own)] {
        assert_eq!(said(&get(node, "/v1/kv/a", secret)), (403, "ACL not found".into()));
    }
    // It does not leave with a call either: what refuses is the site that it holds in.
    let refused = get(one, "/v1/kv/a?dc=dc2", &local);
    assert_eq!(refused.code, 403, "{}", refused.text());
    assert!(refused.text().ends_with("ACL not found"), "{}", refused.text());
    assert_eq!(get(one, "/v1/kv/a?dc=dc2&raw", &everywhere).text(), "1");
    // From an agent, a server and a gateway; what leaves is found by its trace at the other end.
    for (at, node) in [one, federation.node("dc1-server-1"), federation.node("dc1-gateway")].into_iter().enumerate() {
        let traced = |secret: &str, of: &str| {
            let trace = format!("{of}af7651916cd43dd8448eb211c8031{at:02x}");
            let parent = format!("00-{trace}-b7ad6b7169203331-01");
            let headers = [("X-Consul-Token", secret), ("traceparent", parent.as_str())];
            (http::request_with(node.http, "GET", "/v1/kv/a?dc=dc2", &headers, b"").code, trace)
        };
        let ((kept, inside), (passed, outside)) = (traced(&local, "0"), traced(&everywhere, "1"));
        assert_eq!((kept, passed), (403, 200));
        let there = |trace: &str| federation.nodes.iter().any(|n| n.dc == "dc2" && n.log().contains(trace));
        wait("the call that may leave", SOON, || if there(&outside) { Ok(()) } else { Err("no such line".into()) });
        assert!(!there(&inside), "a local token left its site");
    }
    let unknown = get(one, "/v1/kv/a?dc=dc2", UNKNOWN);
    assert!(unknown.code == 403 && unknown.text().ends_with("ACL not found"), "{}", unknown.text());
    let replication = get(two, "/v1/acl/replication", &root).json().unwrap();
    assert_eq!(
        (&replication["Enabled"], &replication["Running"], &replication["SourceDatacenter"]),
        (&json!(true), &json!(true), &json!("dc1"))
    );
    assert!(replication["LagMilliseconds"].is_u64(), "{replication}");

    // The primary goes away: known tokens go on, one that was made up is refused at its first request, to read and to write.
    for node in federation.nodes.iter_mut().filter(|n| n.dc == "dc1") {
        node.kill();
    }
    let two = federation.agent("dc2");
    let server = federation.nodes.iter().find(|n| n.dc == "dc2" && n.part == Part::Server).unwrap();
    assert_eq!(said(&get(server, "/v1/kv/a", "7d1c9f00-0000-4000-8000-00000000000a")), (403, "ACL not found".into()));
    assert_eq!(
        said(&ask(server, "PUT", "/v1/kv/a", "7d1c9f00-0000-4000-8000-00000000000b", "evil")),
        (403, "ACL not found".into())
    );
    assert_eq!(said(&get(two, "/v1/kv/a", "7d1c9f00-0000-4000-8000-00000000000c")), (403, "ACL not found".into()));
    assert_eq!(
        said(&get(two, "/v1/agent/self", "7d1c9f00-0000-4000-8000-00000000000d")),
        (403, "ACL not found".into())
    );
    assert_eq!(get(two, "/v1/kv/a?raw", &everywhere).text(), "1");
    ask(two, "PUT", "/v1/kv/b", &own, "2").ok().unwrap();
    // What holds everywhere cannot be made now, what holds here can.
    let body = json!({ "Description": "late" }).to_string();
    assert_ne!(ask(two, "PUT", "/v1/acl/token", &root, &body).code, 200);
    let body = json!({ "Description": "late", "Local": true }).to_string();
    assert_eq!(ask(two, "PUT", "/v1/acl/token", &root, &body).code, 200);
}
