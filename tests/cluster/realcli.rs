//! The real Consul 1.8.7's command line on our agent, row by row beside the same on its own agent; and ours on its agent. Runs where
//! `CONSUL_BIN` names it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Dir, causeway, free_port, http, wait};
use regex::Regex;
use serde_json::json;

/// What is compared of a row.
#[allow(dead_code, reason = "the reasons are for who reads them")]
enum Compare {
    /// Exit code and both streams.
    All,
    /// The exit code; why not more.
    Code(&'static str),
    /// Nothing: what is missing, and where it is.
    Nothing(&'static str),
}
use Compare::{All, Code, Nothing};

/// The rows, in this order: some build on others. `DIR` is a directory of the agent's own.
const ROWS: &[(&str, Compare)] = &[
    ("members", All),
    ("members -detailed", Code("our build and a tag of our own")),
    ("members -status=alive", All),
    ("members -wan", All),
    ("catalog nodes", Code("node ids are random, and shown in part")),
    ("catalog nodes -detailed", All),
    ("catalog nodes -service=consul -detailed", All),
    ("catalog services", All),
    ("catalog services -tags", All),
    ("catalog services -node=n1", All),
    ("catalog services -namespace=x", All),
    ("catalog datacenters", All),
    ("kv put a 1", All),
    ("kv get a", All),
    ("kv get -detailed a", All),
    ("kv get nope", All),
    ("kv get -recurse", All),
    ("kv get -keys", All),
    ("kv get -recurse -detailed", All),
    ("kv get -base64 a", All),
    ("kv put -cas -modify-index=1 a 2", All),
    ("kv export", All),
    ("kv import -", Code("of an empty input each says what its reader says")),
    ("kv delete nope", All),
    ("kv delete -recurse a", All),
    ("kv put b -", All),
    ("kv get", All),
    ("kv put -namespace=x a b", All),
    ("info", Code("fewer figures of the log, a build of our own")),
    ("version", Code("ours names itself")),
    ("version -format=bogus", All),
    ("event -name=x", All),
    ("event -name=x payload", All),
    ("event", Code("a help behind it")),
    ("exec -wait=300ms -node=n1 true", All),
    ("exec -wait=300ms -node=n1 exit 3", All),
    ("exec -wait=300ms -node=none true", All),
    ("exec", Code("a help behind it")),
    ("monitor -log-level=bogus", All),
    ("debug -duration=1s", All),
    ("debug -capture=bogus", All),
    ("snapshot inspect /nonexistent", All),
    ("snapshot save DIR/s.snap", Code("names the file")),
    ("snapshot inspect DIR/s.snap", Code("an id of our own")),
    ("snapshot restore DIR/s.snap", All),
    ("operator raft list-peers", All),
    ("operator raft remove-peer -address=1.2.3.4:5", All),
    ("operator raft remove-peer", All),
    ("operator autopilot get-config", All),
    ("operator autopilot set-config -max-trailing-logs=300", All),
    ("keyring -list", Code("names the WAN pool, which ours has not")),
    ("keygen", Code("random")),
    ("lock -n=1 lk true", All),
    ("lock lk false", All),
    ("lock -child-exit-code lk false", All),
    ("lock -verbose -n=2 sm true", All),
    ("lock -n=0 lk true", All),
    ("lock lk", All),
    ("maint", All),
    ("maint -enable -reason=x", All),
    ("maint", All),
    ("maint -disable", All),
    ("maint -enable -disable", All),
    ("services register -name=cli1 -port=9 -tag=a -meta=k=v -tagged-address=lan=1.2.3.4:5", All),
    ("services register -name=cli2 -tagged-address=lan=1.2.3.4", All),
    ("maint -enable -service=cli1", All),
    ("maint", All),
    ("maint -disable -service=cli1", All),
    ("services deregister -id=cli1", All),
    ("services deregister -id=nope", All),
    ("services register", All),
    ("services deregister", All),
    ("config list -kind service-defaults", All),
    ("config read -kind service-defaults -name web", All),
    ("config delete -kind service-defaults -name web", All),
    ("config read -kind service-resolver -name nope", All),
    ("acl bootstrap", All),
    ("acl token list", All),
    ("acl policy list", All),
    ("acl role list", All),
    ("acl auth-method list", All),
    ("acl binding-rule list", All),
    ("acl set-agent-token default x", All),
    ("logout", All),
    ("intention check a b", Nothing("the mesh is not in this product")),
    ("connect ca get-config", Nothing("the mesh is not in this product")),
    ("watch -type=key -key=zz", All),
    ("watch -type=services", All),
    ("watch -type=nodes", All),
    ("watch -type=service -service=consul", Code("metadata of our own build")),
    ("watch -type=checks", All),
    ("watch -type=event -name=zz", All),
    ("watch -type=keyprefix -prefix=z", All),
    ("watch -type=bogus", All),
    ("force-leave nobody", All),
    ("reload", All),
    ("rtt n1", All),
];

/// Rows in which our command line says something else than Consul's to the same agent, and why.
const OURS: &[(&str, &str)] =
    &[("watch -type=checks", "prints what the agent says; Go's client adds the fields that an agent leaves out")];

/// An agent that ends with the test.
struct Agent {
    child: Child,
    http: u16,
    dir: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn start(binary: &Path, dir: PathBuf, more: &serde_json::Value) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let http = free_port();
        let mut config = json!({
            "disable_remote_exec": false,
            "ports": {"http": http, "dns": free_port(), "server": free_port(), "serf_lan": free_port()},
        });
        if let Some(more) = more.as_object() {
            config["ports"].as_object_mut().unwrap().extend(more.clone());
        }
        let file = dir.join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(binary);
        command.args(["agent", "-dev", "-node=n1", "-config-file"]).arg(&file).env_remove("CONSUL_HTTP_ADDR");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let agent = Self { child: command.spawn().unwrap(), http, dir };
        wait("the agent to know itself", Duration::from_secs(40), || {
            let health = http::request(http, "GET", "/v1/health/service/consul?passing", b"").json()?;
            if health.as_array().is_some_and(|h| h.len() == 1) { Ok(()) } else { Err(health.to_string()) }
        });
        agent
    }

    /// Exit code and both streams, without what differs from run to run: ids, numbers, spaces.
    fn say(&self, binary: &Path, row: &str) -> (Option<i32>, String, String) {
        let dir = self.dir.display().to_string();
        let out = Command::new(binary)
            .args(row.split(' ').map(|word| word.replace("DIR", &dir)))
            .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", self.http))
            .env("SHELL", "/bin/sh")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let volatile = Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]+").unwrap();
        let plain = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).replace(&dir, "DIR");
            volatile.replace_all(&text, "#").split_whitespace().collect::<Vec<_>>().join(" ")
        };
        (out.status.code(), plain(&out.stdout), plain(&out.stderr))
    }

    fn clear(&self) {
        http::request(self.http, "DELETE", "/v1/kv/?recurse", b"");
    }
}

#[test]
fn consuls_command_line_says_the_same_of_both_agents() {
    let Some(real) = std::env::var_os("CONSUL_BIN").map(PathBuf::from) else {
        println!("SKIPPED: CONSUL_BIN names no Consul 1.8.7 whose command line could be tried on our agent");
        return;
    };
    let dir = Dir::new("realcli");
    let ours = PathBuf::from(causeway());
    let on_ours = Agent::start(&ours, dir.0.join("ours"), &json!({}));
    let more = json!({"serf_wan": free_port(), "grpc": -1});
    let on_theirs = Agent::start(&real, dir.0.join("theirs"), &more);
    let mut wrong = Vec::new();
    for (row, compare) in ROWS {
        let (a, b) = (on_theirs.say(&real, row), on_ours.say(&real, row));
        let same = match compare {
            All => a == b,
            Code(_) => a.0 == b.0,
            Nothing(_) => true,
        };
        if !same {
            wrong.push(format!("{row}\n  its agent {a:?}\n  our agent {b:?}"));
        }
    }
    on_theirs.clear();
    on_ours.clear();
    for (row, compare) in ROWS {
        let (a, b) = (on_theirs.say(&real, row), on_theirs.say(&ours, row));
        let known = OURS.iter().any(|(r, _)| r == row);
        let same = match compare {
            All => a == b,
            Code(_) => a.0 == b.0,
            Nothing(_) => true,
        };
        if !same && !known {
            wrong.push(format!("{row}\n  its command {a:?}\n  our command {b:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
