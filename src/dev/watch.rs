//! Shows health as it changes, by the same blocking query that anyone else would use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{ask, say};

/// Follows one datacenter's checks until it is cancelled.
pub async fn health(datacenter: String, port: u16, began: Instant) {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let (mut index, mut first) = (0u64, true);
    loop {
        let path = format!("/v1/health/state/any?stale&index={index}&wait=30s");
        let Ok(answer) = ask(port, "GET", &path, String::new(), Duration::from_secs(40)).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        if answer.code != 200 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        index = if answer.index < index { 0 } else { answer.index };
        let mut now = BTreeMap::new();
        for check in answer.json().as_array().into_iter().flatten() {
            let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            let what = match text("ServiceID").as_str() {
                "" => format!("node {}", text("Node")),
                id => format!("service {id} on {}", text("Node")),
            };
            now.insert(format!("{what}, check {:?}", text("Name")), text("Status"));
        }
        if !first {
            for (what, status) in &now {
                match known.get(what) {
                    Some(before) if before != status => {
                        say(began, &datacenter, &format!("{what}: {before} -> {status}"))
                    }
                    None => say(began, &datacenter, &format!("{what}: {status}")),
                    _ => {}
                }
            }
            for what in known.keys().filter(|k| !now.contains_key(*k)) {
                say(began, &datacenter, &format!("{what}: gone"));
            }
        }
        first = false;
        known = now;
    }
}
