//! Archives of the whole state: saved, put back, altered. Two products keep different states, so what is compared is what happens.

use std::time::Duration;

use crate::harness::http::{Answer, request};
use crate::harness::wait;
use crate::subject::Subject;

pub fn run(subject: &Subject) {
    let agent = subject.node("agent");
    let archive = |method: &str, path: &str, body: &[u8]| -> Answer { request(agent.http, method, path, body) };
    agent.put("/v1/kv/kept", "1").ok().unwrap();
    let saved = archive("GET", "/v1/snapshot", b"");
    assert_eq!(saved.code, 200, "{}", saved.text());
    assert!(saved.body.starts_with(&[0x1f, 0x8b]), "gzip");
    assert!(saved.index() > 0);
    assert_eq!(saved.header("content-type"), Some("application/x-gzip"));
    for (path, code) in [("/v1/snapshot?stale", 200), ("/v1/snapshot?dc=dc1", 200), ("/v1/snapshot?dc=nowhere", 500)] {
        assert_eq!(archive("GET", path, b"").code, code, "{path}");
    }

    agent.put("/v1/kv/kept", "2").ok().unwrap();
    agent.put("/v1/kv/later", "x").ok().unwrap();
    // One that is cut short, one with a byte altered, and none at all: refused, and nothing changed.
    let mut altered = saved.body.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 0xff;
    for (what, body) in [("cut", &saved.body[..saved.body.len() / 2]), ("altered", &altered), ("empty", b"")] {
        let refused = archive("PUT", "/v1/snapshot", body);
        assert_eq!(refused.code, 500, "{what}: {}", refused.text());
        assert_eq!(agent.get("/v1/kv/kept?raw&consistent").text(), "2", "{what}");
    }

    let restored = archive("PUT", "/v1/snapshot", &saved.body);
    assert_eq!((restored.code, restored.text().as_str()), (200, ""));
    wait("the state of before", Duration::from_secs(10), || {
        let (kept, later) = (agent.get("/v1/kv/kept?raw&consistent"), agent.get("/v1/kv/later?consistent"));
        if (kept.text().as_str(), later.code) == ("1", 404) {
            Ok(())
        } else {
            Err(format!("{} {}", kept.text(), later.code))
        }
    });
    // And it goes on from there.
    assert_eq!(agent.put("/v1/kv/after", "x").text().trim(), "true");
}
