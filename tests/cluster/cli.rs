//! The executable under the name `consul`, as scripts call it, and, where `CONSUL_BIN` names a real Consul 1.8.7, that one beside it:
//! both ask the same agent of ours and must say the same and end with the same code.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Federation, causeway};

#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn run(binary: &Path, http: u16, args: &[&str]) -> Said {
    let out = Command::new(binary)
        .args(args)
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{http}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: out.status.code().unwrap_or(-1), out: text(&out.stdout), err: text(&out.stderr) }
}

/// The executable's other name.
fn named_consul(dir: &Path) -> PathBuf {
    let link = dir.join("consul");
    std::os::unix::fs::symlink(causeway(), &link).unwrap();
    link
}

fn oracle() -> Option<PathBuf> {
    let named = std::env::var_os("CONSUL_BIN").map(PathBuf::from);
    if named.is_none() {
        println!("SKIPPED: CONSUL_BIN names no Consul 1.8.7 to compare with; only what we know of it is looked at");
    }
    named
}

/// Each row: the arguments, the exit code, and a piece of the output (standard output and error together).
#[test]
fn commands_say_what_consuls_say() {
    let mut federation = Federation::start("cli", 1, 1);
    let ours = named_consul(&federation.dir.0);
    let real = oracle();
    let http = federation.agent("dc1").http;
    let server = format!("127.0.0.1:{}", federation.node("dc1-server-1").serf);
    let bad = federation.dir.0.join("bad.json");
    std::fs::write(&bad, r#"{"no_such_option": 1}"#).unwrap();
    let good = federation.dir.0.join("good.json");
    std::fs::write(&good, r#"{"datacenter": "dc1", "data_dir": "/tmp/never-written"}"#).unwrap();
    let (bad, good) = (bad.to_str().unwrap(), good.to_str().unwrap());

    let rows: Vec<(Vec<&str>, i32, &str)> = vec![
        (vec!["kv", "get", "a/b"], 1, "Error! No key exists at: a/b"),
        (vec!["kv", "put", "a/b", "one"], 0, "Success! Data written to: a/b"),
        (vec!["kv", "get", "a/b"], 0, "one"),
        (vec!["kv", "get", "-base64", "a/b"], 0, "b25l"),
        (vec!["kv", "get", "-detailed", "a/b"], 0, "Flags            0"),
        (vec!["kv", "get", "-recurse", "a"], 0, "a/b:one"),
        (vec!["kv", "get", "-recurse", "none"], 0, ""),
        (vec!["kv", "get", "one", "two"], 1, "Too many arguments"),
        (vec!["kv", "delete", "one", "two"], 1, "Too many arguments"),
        (vec!["kv", "put", "one", "two", "three"], 1, "Too many arguments"),
        (vec!["kv", "get", "-keys", "a"], 0, "a/"),
        (vec!["kv", "put", "-cas", "-modify-index=1", "a/b", "two"], 1, "CAS failed"),
        (vec!["kv", "export", "a"], 0, "\"value\": \"b25l\""),
        (vec!["kv", "delete", "a/b"], 0, "Success! Deleted key: a/b"),
        (vec!["kv", "delete", "-recurse", "a"], 0, "Success! Deleted keys with prefix: a"),
        (vec!["kv", "get"], 1, "Error! Missing KEY argument"),
        (vec!["members"], 0, "dc1-server-1"),
        (vec!["members", "-wan"], 0, "dc1-server-1.dc1"),
        (vec!["members", "-detailed"], 0, "role=node"),
        (vec!["members", "-status=failed"], 2, ""),
        (vec!["members", "-http-addr=127.0.0.1:1"], 1, "Error retrieving members"),
        (vec!["catalog", "datacenters"], 0, "dc1"),
        (vec!["catalog", "nodes"], 0, "dc1-agent"),
        (vec!["catalog", "nodes", "-service=consul"], 0, "dc1-server-1"),
        (vec!["catalog", "nodes", "-service=none"], 0, "No nodes match the given query - try expanding your search"),
        (vec!["catalog", "nodes", "-detailed"], 0, "lan=127.0.0.1"),
        (vec!["catalog", "services"], 0, "consul"),
        (vec!["catalog", "services", "-tags"], 0, "consul"),
        (vec!["join", &server], 0, "Successfully joined cluster by contacting 1 nodes."),
        (vec!["join"], 1, "At least one address to join must be specified."),
        (vec!["join", "127.0.0.1:1"], 1, "Error joining address '127.0.0.1:1'"),
        (vec!["reload"], 0, "Configuration reload triggered"),
        (vec!["validate", good], 0, "Configuration is valid!"),
        (vec!["validate", bad], 1, "no_such_option"),
        (vec!["validate"], 1, "Must specify at least one config file or directory"),
        (vec!["info"], 0, "agent:"),
        (vec!["version"], 0, "Consul v1.8.7"),
        (vec!["no-such-command"], 127, ""),
    ];
    // What each says of itself, or in words of its own.
    let alike = |args: &[&str]| {
        !matches!(args, ["version" | "info" | "no-such-command", ..] | ["join", "127.0.0.1:1"])
            && args != ["validate", bad]
            // The system's words for a refused connection, and the times of an entry.
            && !args.contains(&"-http-addr=127.0.0.1:1")
            && args != ["kv", "get", "-detailed", "a/b"]
            // What other sites' servers were built from is not known, which Consul calls "< 0.3".
            && args != ["members", "-wan"]
    };
    let mut wrong = Vec::new();
    for (args, code, piece) in &rows {
        let said = run(&ours, http, args);
        let all = format!("{}{}", said.out, said.err);
        if said.code != *code || !all.contains(piece) {
            wrong.push(format!("{args:?}: wanted {code} {piece:?}, got {said:?}"));
        }
        if let Some(real) = &real {
            if matches!(args.as_slice(), ["kv", "delete", ..]) {
                run(real, http, &["kv", "put", "a/b", "one"]);
            }
            let theirs = run(real, http, args);
            // Behind an error Consul may print its help, which speaks of Consul.
            let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
            let same = said.out == theirs.out && first(&said.err) == first(&theirs.err);
            if said.code != theirs.code || (alike(args) && !same) {
                wrong.push(format!("{args:?}:\n  ours   {said:?}\n  theirs {theirs:?}"));
            }
        }
    }
    // At the end, as afterwards there is nobody to ask.
    let said = run(&ours, http, &["leave"]);
    if (said.code, said.out.as_str()) != (0, "Graceful leave complete\n") {
        wrong.push(format!("leave: {said:?}"));
    }
    let agent = federation.node_mut("dc1-agent");
    crate::harness::wait("the agent to end", std::time::Duration::from_secs(15), || {
        match agent.child.as_mut().unwrap().try_wait().unwrap() {
            Some(status) if status.success() => Ok(()),
            Some(status) => panic!("{status}"),
            None => Err("still running".to_owned()),
        }
    });
    let said = run(&ours, http, &["members"]);
    if said.code != 1 || !said.err.contains("Error retrieving members") {
        wrong.push(format!("members of nobody: {said:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
