//! Watches on real processes: handlers of agents (scripts and HTTP), a reload, and the command. The story they are for: a monitoring
//! box goes, a handler runs; a new one registers, it runs again.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::harness::{Federation, Node, Part, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until a handler's last line is as it shall be.
fn last(what: &str, path: &Path, good: impl Fn(&Value) -> bool) -> Value {
    wait(what, SOON, || match lines(path).pop() {
        Some(line) if good(&line) => Ok(line),
        other => Err(format!("{other:?}")),
    })
}

fn watches(node: &Node, more: &[Value]) {
    let mut config: Value = serde_json::from_slice(&fs::read(node.config_path()).unwrap()).unwrap();
    config["watches"] = more.into();
    node.write_config(&config);
}

/// Takes HTTP requests and hands on the lines of the head and the body of each.
fn receiver() -> (u16, mpsc::Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut text = Vec::new();
            let mut piece = [0; 4096];
            let request = loop {
                let n = stream.read(&mut piece).unwrap_or(0);
                text.extend_from_slice(&piece[..n]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                if let Some((head, body)) = whole.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str(body)
                {
                    break Some((head.to_ascii_lowercase(), body));
                }
                if n == 0 {
                    break None;
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if request.is_some_and(|r| sender.send(r).is_err()) {
                return;
            }
        }
    });
    (port, requests)
}

#[test]
fn handlers_run_when_something_changes() {
    let mut federation = Federation::prepare("watches", 1, 1);
    let dir = federation.dir.0.clone();
    // A third machine: the monitoring box.
    let mut config: Value = serde_json::from_slice(&fs::read(federation.agent("dc1").config_path()).unwrap()).unwrap();
    let boxes = Node::new("box", "dc1", Part::Agent, &dir);
    for (key, port) in [("serf_lan", boxes.serf), ("http", boxes.http), ("dns", boxes.dns), ("server", boxes.rpc)] {
        config["ports"][key] = json!(port);
    }
    config["node_name"] = json!("box");
    config["data_dir"] = json!(boxes.dir.join("data"));
    config["retry_join"] = json!([format!("127.0.0.1:{}", federation.agent("dc1").serf)]);
    config["service"] = json!({"name": "monitoring", "port": 9090});
    boxes.write_config(&config);
    federation.nodes.push(boxes);

    let file = |name: &str| dir.join(name);
    let append = |name: &str| format!("cat >> {}", file(name).display());
    let (port, requests) = receiver();
    let first = [
        json!({"type": "service", "service": "monitoring", "passingonly": true, "args": ["sh", "-c", append("boxes")]}),
        json!({"type": "key", "key": "app/x", "handler": format!("(echo $CONSUL_INDEX; cat) >> {}", file("key").display())}),
        json!({"type": "event", "name": "deploy", "args": ["sh", "-c", append("events")]}),
        json!({"type": "keyprefix", "prefix": "web/", "handler_type": "http", "http_handler_config":
            {"path": format!("http://127.0.0.1:{port}/hook"), "method": "PUT", "header": {"X-Hook": ["yes"]}}}),
        json!({"type": "connect_roots", "args": ["false"]}),
    ];
    watches(federation.agent("dc1"), &first);
    for node in &mut federation.nodes {
        node.start();
    }
    federation.leader("dc1");

    // The box is there, goes, and comes back.
    let count = |n: usize| move |v: &Value| v.as_array().is_some_and(|list| list.len() == n);
    let there = last("the box to be seen", &file("boxes"), count(1));
    assert_eq!(there[0]["Node"]["Node"], "box");
    federation.node_mut("box").kill();
    last("the handler to run for the box that is gone", &file("boxes"), count(0));
    federation.node_mut("box").start();
    last("the handler to run for the new box", &file("boxes"), count(1));
    let agent = federation.agent("dc1");

    // A key by a script: at first it is not there; the same value again is no news.
    wait("the first run", SOON, || {
        fs::read_to_string(file("key"))
            .map_err(|e| e.to_string())
            .and_then(|t| if t.ends_with("null\n") { Ok(()) } else { Err(t) })
    });
    assert!(agent.put("/v1/kv/app/x", "hello").ok().is_ok());
    let value = last("the key", &file("key"), |v| v["Value"] == "aGVsbG8=");
    let text = fs::read_to_string(file("key")).unwrap();
    let index = text.lines().rev().nth(1).unwrap();
    assert!(index.parse::<u64>().unwrap() >= value["ModifyIndex"].as_u64().unwrap(), "{text}");

    // Events: each once, of its name alone.
    agent.put("/v1/event/fire/other", "");
    agent.put("/v1/event/fire/deploy", "one");
    last("the event", &file("events"), |v| v[0]["Payload"] == "b25l");
    agent.put("/v1/event/fire/deploy", "two");
    let events = last("the next event", &file("events"), |v| v[0]["Payload"] == "dHdv");
    assert!(count(1)(&events), "{events}");

    // HTTP.
    let (head, body) = requests.recv_timeout(SOON).unwrap();
    assert!(head.starts_with("put /hook http/1.1"), "{head}");
    for header in ["x-hook: yes", "x-consul-index: ", "content-type: application/json"] {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!(body, Value::Null);
    assert!(agent.put("/v1/kv/web/1", "a").ok().is_ok());
    let (_, body) = requests.recv_timeout(SOON).unwrap();
    assert_eq!((&body[0]["Key"], &body[0]["Value"]), (&json!("web/1"), &json!("YQ==")));

    // What Causeway leaves out is said once.
    let log = agent.log();
    assert_eq!(log.matches("connect_roots is not allowed").count(), 1, "{log}");

    // Reload: a new one starts, one that is gone is killed with what its handler started, one that stays runs on undisturbed.
    let boxes_before = lines(&file("boxes")).len();
    let hang = format!("echo $$ > {}; sleep 600", file("pid").display());
    watches(agent, &[first[0].clone(), json!({"type": "nodes", "args": ["sh", "-c", hang]})]);
    assert!(agent.put("/v1/agent/reload", "").ok().is_ok());
    let pid = wait("the new handler", SOON, || {
        let text = fs::read_to_string(file("pid")).map_err(|e| e.to_string())?;
        text.trim().parse::<u32>().map_err(|_| text)
    });
    agent.put("/v1/kv/app/x", "unseen");
    // A bad watch changes nothing.
    watches(agent, &[json!({"type": "key", "args": ["true"]})]);
    let refused = agent.put("/v1/agent/reload", "");
    assert!(refused.ok().unwrap_err().contains("Must specify a single key to watch"));
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    watches(agent, &[first[0].clone()]);
    assert!(agent.put("/v1/agent/reload", "").ok().is_ok());
    wait("the handler to be killed", SOON, || match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => Err(stat),
        _ => Ok(()),
    });
    assert_eq!(lines(&file("boxes")).len(), boxes_before, "a watch that stays is not begun anew");
    assert!(!fs::read_to_string(file("key")).unwrap().contains("dW5zZWVu"), "a watch that is gone ran");
}

/// A watch that makes no sense ends the start, and says which key of which file.
#[test]
fn a_bad_watch_ends_the_start() {
    let federation = Federation::prepare("badwatch", 1, 1);
    let agent = federation.agent("dc1");
    watches(agent, &[json!({"type": "nodes"})]);
    let out = Command::new(crate::harness::causeway())
        .args(["agent", "-config-file"])
        .arg(agent.config_path())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("config.json: key \"watches\": Must define a watch handler"), "{text}");
}

#[test]
fn the_command() {
    let federation = Federation::start("watchcli", 1, 1);
    let agent = federation.agent("dc1");
    let addr = format!("-http-addr=127.0.0.1:{}", agent.http);
    let watch = |args: &[&str]| {
        let mut command = Command::new(crate::harness::causeway());
        command.args(["watch", &addr]).args(args);
        command
    };
    let run = |args: &[&str]| {
        let out = watch(args).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    assert_eq!(run(&["-type", "key", "-key", "a"]), (Some(0), "null\n".into()));
    agent.put("/v1/kv/a", "x<y");
    let (code, text) = run(&["-type", "key", "-key", "a"]);
    assert!(code == Some(0) && text.starts_with("{\n    \"Key\": \"a\",\n    \"CreateIndex\": "), "{text}");
    assert!(run(&["-type=services"]).1.contains("\"consul\": []"));
    // Flags behind the child's name are the child's; its status ends the watch.
    let (code, text) =
        run(&["-type=key", "-key=a", "-shell=false", "sh", "-c", "grep -o eDx5; echo \"$1\"; exit 9", "x", "-key"]);
    assert_eq!((code, text.as_str()), (Some(1), "eDx5\n-key\nError executing handler: exit status 9\n"));
    assert_eq!(
        run(&["-type=key", "-key=a", "cat >/dev/null; exit 3"]),
        (Some(1), "Error executing handler: exit status 3\n".into())
    );
    for (args, text) in [
        (&["-type", "bogus"][..], "Unsupported watch type: bogus\n"),
        (&["-type", "key"], "Must specify a single key to watch\n"),
        (&["-type", "connect_roots"], "Type connect_roots is not supported in the CLI tool\n"),
    ] {
        assert_eq!(run(args), (Some(1), text.to_owned()));
    }
    assert!(run(&[]).1.starts_with("Watch type must be specified\n"));

    // It goes on until a signal, and runs the child for each change.
    let out = federation.dir.0.join("out");
    let mut running = watch(&["-type", "key", "-key", "a", &format!("cat >> {}", out.display())])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    last("the first", &out, |v| v["Value"] == "eDx5");
    agent.put("/v1/kv/a", "z");
    last("the next", &out, |v| v["Value"] == "eg==");
    assert_eq!(lines(&out).len(), 2);
    crate::harness::signal(&running, "TERM");
    let status = wait("its end", SOON, || running.try_wait().unwrap().ok_or_else(|| "runs".to_owned()));
    assert_eq!(status.code(), Some(0));
}
