//! What takes time: blocking queries, locks, sessions that end.

use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::http::{self, Answer};
use crate::harness::{Node, wait};
use crate::subject::Subject;

/// A question under way, and when it was answered.
struct Waiting(JoinHandle<(Answer, Instant)>);

impl Waiting {
    fn start(node: &Node, path: &str) -> Self {
        let (port, path) = (node.http, path.to_owned());
        Self(spawn(move || (http::request(port, "GET", &path, b""), Instant::now())))
    }

    fn over(&self) -> bool {
        self.0.is_finished()
    }

    fn end(self) -> (Answer, Instant) {
        self.0.join().unwrap()
    }
}

/// Runs all of them; they share one subject but no names.
pub fn run(subject: &Subject) {
    type Test = fn(&Subject);
    let tests: [(&str, Test); 8] = [
        ("an index never goes back and is never 0", indexes),
        ("a query wakes with its key only", keys_wake_alone),
        ("a service query wakes with its service only", services_wake_alone),
        ("a query ends after its wait", waits_end),
        ("a missing key can be waited for", absent_key),
        ("a lock is handed on", locks),
        ("lock delay", lock_delay),
        ("sessions end with their checks and their time", sessions_end),
    ];
    std::thread::scope(|scope| {
        let running: Vec<_> = tests.iter().map(|(name, test)| (name, scope.spawn(move || test(subject)))).collect();
        let failed: Vec<&str> =
            running.into_iter().filter(|_| true).filter_map(|(n, t)| t.join().err().map(|_| *n)).collect();
        assert!(failed.is_empty(), "failed: {failed:?}");
    });
}

const SOON: Duration = Duration::from_secs(5);

fn indexes(subject: &Subject) {
    let agent = subject.node("agent");
    for path in [
        "/v1/kv/nothing/here",
        "/v1/kv/nothing/?recurse",
        "/v1/kv/nothing/?keys",
        "/v1/catalog/nodes",
        "/v1/catalog/services",
        "/v1/catalog/service/nothing",
        "/v1/catalog/node/nothing",
        "/v1/health/service/nothing",
        "/v1/health/checks/nothing",
        "/v1/health/node/nothing",
        "/v1/health/state/any",
        "/v1/session/list",
        "/v1/session/node/nothing",
        "/v1/session/info/6a1f2f7c-8e39-4a0b-b9b5-d7a1c1a2f3e4",
    ] {
        let answer = agent.get(path);
        assert!(answer.index() > 0, "{path}: {answer:?}");
        for name in ["x-consul-knownleader", "x-consul-lastcontact"] {
            assert!(answer.header(name).is_some(), "{path} has no {name}: {:?}", answer.headers);
        }
    }
}

fn keys_wake_alone(subject: &Subject) {
    let agent = subject.node("agent");
    agent.put("/v1/kv/wake/a", "1").ok().unwrap();
    let index = agent.get("/v1/kv/wake/a").index();
    let one = Waiting::start(agent, &format!("/v1/kv/wake/a?index={index}&wait=15s"));
    let tree = Waiting::start(agent, &format!("/v1/kv/wake/?recurse&index={index}&wait=15s"));
    // Other keys, one of them with the same beginning.
    for key in ["other", "wak", "wake/ab"] {
        agent.put(&format!("/v1/kv/{key}"), "x").ok().unwrap();
    }
    let (woken, _) = tree.end();
    assert!(woken.index() > index, "the tree has a new key");
    let tree = Waiting::start(agent, &format!("/v1/kv/wake/?recurse&index={}&wait=15s", woken.index()));
    assert!(!one.over(), "woken by another key");
    agent.put("/v1/kv/wake/a", "2").ok().unwrap();
    let (answer, _) = one.end();
    assert!(answer.index() > index);
    assert_eq!(answer.json().unwrap()[0]["Value"], json!("Mg=="));
    // A deletion below wakes a tree.
    let (woken, _) = tree.end();
    let tree = Waiting::start(agent, &format!("/v1/kv/wake/?keys&index={}&wait=15s", woken.index()));
    http::request(agent.http, "DELETE", "/v1/kv/wake/ab", b"").ok().unwrap();
    let (deleted, _) = tree.end();
    assert!(deleted.index() > woken.index());
    assert_eq!(deleted.json().unwrap(), json!(["wake/a"]));
}

fn register(agent: &Node, name: &str, id: &str) {
    let body = json!({"Name": name, "ID": id, "Port": 1, "Check": {"TTL": "10m", "Status": "passing"}});
    agent.put("/v1/agent/service/register", &body.to_string()).ok().unwrap();
    wait("the registration", SOON, || {
        let found = agent.get(&format!("/v1/health/service/{name}?passing")).json()?;
        if found.as_array().is_some_and(|f| f.iter().any(|s| s["Service"]["ID"] == id)) {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

fn services_wake_alone(subject: &Subject) {
    let agent = subject.node("agent");
    register(agent, "watched", "watched-1");
    let settled = |path: &str| {
        let mut last = 0;
        wait("the index to rest", SOON, || {
            let index = agent.get(path).index();
            if std::mem::replace(&mut last, index) == index { Ok(index) } else { Err(index.to_string()) }
        })
    };
    for path in ["/v1/health/service/watched?passing", "/v1/catalog/service/watched", "/v1/health/checks/watched"] {
        let index = settled(path);
        let join = if path.contains('?') { '&' } else { '?' };
        let waiting = Waiting::start(agent, &format!("{path}{join}index={index}&wait=15s"));
        let other = format!("unrelated-{}", path.len());
        register(agent, &other, &other);
        agent.put(&format!("/v1/agent/service/deregister/{other}"), "").ok().unwrap();
        wait("the other to go", SOON, || {
            let found = agent.get(&format!("/v1/catalog/service/{other}")).json()?;
            if found == json!([]) { Ok(()) } else { Err(found.to_string()) }
        });
        assert!(!waiting.over(), "{path} was woken by another service");
        agent.put("/v1/agent/check/warn/service:watched-1?note=woken", "").ok().unwrap();
        let (answer, _) = waiting.end();
        if !path.contains("catalog") {
            assert!(answer.index() > index, "{path}");
        }
        agent.put("/v1/agent/check/pass/service:watched-1", "").ok().unwrap();
        wait("it to pass again", SOON, || {
            let found = agent.get("/v1/health/service/watched?passing").json()?;
            if found.as_array().is_some_and(|f| f.len() == 1) { Ok(()) } else { Err(found.to_string()) }
        });
    }
    // A service that comes to be, and one that goes.
    let index = settled("/v1/health/service/newcomer");
    let waiting = Waiting::start(agent, &format!("/v1/health/service/newcomer?index={index}&wait=15s"));
    register(agent, "newcomer", "newcomer-1");
    let (answer, _) = waiting.end();
    assert!(answer.index() > index);
    let index = settled("/v1/health/service/newcomer");
    let waiting = Waiting::start(agent, &format!("/v1/health/service/newcomer?index={index}&wait=15s"));
    agent.put("/v1/agent/service/deregister/newcomer-1", "").ok().unwrap();
    let (answer, _) = waiting.end();
    assert!(answer.index() > index, "{} after {index}", answer.index());
    assert_eq!(answer.json().unwrap(), json!([]));
}

fn waits_end(subject: &Subject) {
    let agent = subject.node("agent");
    agent.put("/v1/kv/quiet", "1").ok().unwrap();
    let index = agent.get("/v1/kv/quiet").index();
    let began = Instant::now();
    let answer = agent.get(&format!("/v1/kv/quiet?index={index}&wait=1s"));
    let took = began.elapsed();
    assert_eq!(answer.index(), index);
    assert!(took >= Duration::from_millis(950) && took < Duration::from_millis(2500), "{took:?}");
    // A wait without an index, and an index that is past, do not wait.
    for path in ["/v1/kv/quiet?wait=10s", "/v1/kv/quiet?index=1&wait=10s", "/v1/kv/quiet?index=0&wait=10s"] {
        let began = Instant::now();
        agent.get(path).ok().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "{path}");
    }
}

fn absent_key(subject: &Subject) {
    let agent = subject.node("agent");
    let missing = agent.get("/v1/kv/absent/key");
    assert_eq!((missing.code, missing.text().as_str()), (404, ""));
    let waiting = Waiting::start(agent, &format!("/v1/kv/absent/key?index={}&wait=15s", missing.index()));
    agent.put("/v1/kv/absent/key", "now").ok().unwrap();
    let (answer, _) = wait_for(waiting, |index| agent_wait(agent, "/v1/kv/absent/key", index));
    assert_eq!(answer.json().unwrap()[0]["Value"], json!("bm93"));
    let waiting = Waiting::start(agent, &format!("/v1/kv/absent/key?index={}&wait=15s", answer.index()));
    http::request(agent.http, "DELETE", "/v1/kv/absent/key", b"").ok().unwrap();
    let (gone, _) = waiting.end();
    assert_eq!(gone.code, 404);
    assert!(gone.index() > answer.index());
}

fn agent_wait(agent: &Node, path: &str, index: u64) -> Waiting {
    Waiting::start(agent, &format!("{path}?index={index}&wait=15s"))
}

/// Waits again while the answer is still that there is nothing: a watch on nothing may be woken by other changes.
fn wait_for(mut waiting: Waiting, again: impl Fn(u64) -> Waiting) -> (Answer, Instant) {
    for _ in 0..100 {
        let (answer, at) = waiting.end();
        if answer.code != 404 {
            return (answer, at);
        }
        waiting = again(answer.index());
    }
    panic!("still nothing after 100 answers");
}

fn session(agent: &Node, body: &Value) -> String {
    let answer = agent.put("/v1/session/create", &body.to_string());
    answer.json().unwrap()["ID"].as_str().unwrap().to_owned()
}

fn locks(subject: &Subject) {
    let agent = subject.node("agent");
    let (one, two) = (session(agent, &json!({"LockDelay": "0s"})), session(agent, &json!({"LockDelay": "0s"})));
    let put = |path: String| agent.put(&path, "v").text();
    assert_eq!(put(format!("/v1/kv/lead?acquire={one}")), "true");
    assert_eq!(put(format!("/v1/kv/lead?acquire={two}")), "false");
    let held = agent.get("/v1/kv/lead");
    assert_eq!(held.json().unwrap()[0]["Session"], json!(one));
    let waiting = Waiting::start(agent, &format!("/v1/kv/lead?index={}&wait=15s", held.index()));
    assert_eq!(put(format!("/v1/kv/lead?release={two}")), "false");
    assert_eq!(put(format!("/v1/kv/lead?release={one}")), "true");
    let (free, _) = waiting.end();
    let free = free.json().unwrap();
    assert_eq!((free[0].get("Session"), &free[0]["LockIndex"]), (None, &json!(1)));
    assert_eq!(put(format!("/v1/kv/lead?acquire={two}")), "true");
    assert_eq!(agent.get("/v1/kv/lead").json().unwrap()[0]["LockIndex"], json!(2));
}

fn lock_delay(subject: &Subject) {
    let agent = subject.node("agent");
    let (one, two) = (session(agent, &json!({"LockDelay": "2s"})), session(agent, &json!({"LockDelay": "0s"})));
    assert_eq!(agent.put(&format!("/v1/kv/delayed?acquire={one}"), "v").text(), "true");
    let began = Instant::now();
    agent.put(&format!("/v1/session/destroy/{one}"), "").ok().unwrap();
    assert_eq!(agent.put(&format!("/v1/kv/delayed?acquire={two}"), "v").text(), "false", "within the delay");
    wait("the delay to pass", Duration::from_secs(6), || {
        match agent.put(&format!("/v1/kv/delayed?acquire={two}"), "v").text() {
            text if text == "true" => Ok(()),
            text => Err(text),
        }
    });
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
}

fn sessions_end(subject: &Subject) {
    let agent = subject.node("agent");
    // By a check that turns critical; what it held is deleted, which wakes who waits.
    register(agent, "guarded", "guarded-1");
    let body = json!({"Checks": ["serfHealth", "service:guarded-1"], "Behavior": "delete", "LockDelay": "0s"});
    let tied = session(agent, &body);
    assert_eq!(agent.put(&format!("/v1/kv/tied?acquire={tied}"), "v").text(), "true");
    let held = agent.get("/v1/kv/tied");
    let waiting = Waiting::start(agent, &format!("/v1/kv/tied?index={}&wait=15s", held.index()));
    agent.put("/v1/agent/check/fail/service:guarded-1", "").ok().unwrap();
    let (gone, _) = waiting.end();
    assert_eq!(gone.code, 404);
    assert_eq!(agent.get(&format!("/v1/session/info/{tied}")).json().unwrap(), json!([]));
    assert_eq!(agent.put(&format!("/v1/session/renew/{tied}"), "").code, 404);
    // By its time: not before it, and not long after twice of it. Renewing counts from then on.
    let short = session(agent, &json!({"TTL": "10s", "LockDelay": "0s"}));
    assert_eq!(agent.put(&format!("/v1/kv/timed?acquire={short}"), "v").text(), "true");
    let began = Instant::now();
    wait("the session to end", Duration::from_secs(25), || {
        match agent.get(&format!("/v1/session/info/{short}")).text() {
            text if text.trim() == "[]" => Ok(()),
            text => Err(text),
        }
    });
    assert!(began.elapsed() >= Duration::from_secs(10), "ended after {:?}", began.elapsed());
    let freed = agent.get("/v1/kv/timed").json().unwrap();
    assert_eq!(freed[0].get("Session"), None, "released, not deleted");
}
