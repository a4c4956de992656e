//! `lock`, `exec`, `debug` and completions on real processes; where `CONSUL_BIN` names a real Consul 1.8.7, its commands and ours in
//! every mixture, as both must keep to the same keys.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Dir, Federation, Node, causeway, wait};

const SOON: Duration = Duration::from_secs(20);

/// Ours, and the real one where there is one.
fn binaries() -> Vec<PathBuf> {
    let real = std::env::var_os("CONSUL_BIN").map(PathBuf::from);
    if real.is_none() {
        println!("SKIPPED in part: CONSUL_BIN names no Consul 1.8.7; ours is tried alone");
    }
    [PathBuf::from(causeway())].into_iter().chain(real).collect()
}

fn command(binary: &Path, http: u16, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{http}")).env("SHELL", "/bin/sh");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(binary: &Path, http: u16, args: &[&str], stdin: &str) -> (i32, String) {
    let mut child = command(binary, http, args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), text)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Waits for its end; its code.
fn code(child: &mut Child, what: &str) -> i32 {
    wait(what, SOON, || match child.try_wait().unwrap() {
        Some(status) => Ok(status.code().unwrap_or(-1)),
        None => Err("it runs".to_owned()),
    })
}

fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// The pid that a child wrote into a file.
fn pid(file: &Path) -> String {
    wait("a pid to be written", SOON, || match fs::read_to_string(file) {
        Ok(text) if text.ends_with('\n') => Ok(text.trim().to_owned()),
        other => Err(format!("{other:?}")),
    })
}

fn dies(pid: &str, what: &str) {
    wait(what, SOON, || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
}

fn sessions(agent: &Node) -> Vec<Value> {
    agent.get("/v1/session/list").json().unwrap().as_array().unwrap().clone()
}

/// Starts one that holds it and does not let go, and waits until it does.
fn holder(binary: &Path, http: u16, flag: &str, key: &str) -> Child {
    let child = ["lock", flag, key, "echo held; exec sleep 600"];
    let mut child = command(binary, http, &child).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line != "held\n" {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("{line:?}, {:?}: {said}", child.wait());
    }
    child
}

#[test]
fn locks_exclude_each_other() {
    let federation = Federation::start("lock", 1, 1);
    let agent = federation.agent("dc1");
    let all = binaries();
    for first in &all {
        for second in &all {
            for slots in [1, 2] {
                let flag = format!("-n={slots}");
                let mut held: Vec<Child> = (0..slots).map(|_| holder(first, agent.http, &flag, "locks/one")).collect();
                let late = ["lock", &flag, "-timeout=300ms", "locks/one", "echo got it"];
                let (exit, said) = run(second, agent.http, &late, "");
                let wanted = (1, "Shutdown triggered or timeout during lock acquisition\n");
                assert_eq!((exit, said.as_str()), wanted, "{first:?} {second:?} {slots}");
                // One who used it as the other kind is told so.
                let other = if slots == 1 { "-n=2" } else { "-n=1" };
                let (exit, said) = run(second, agent.http, &["lock", other, "locks/one", "true"], "");
                assert!(exit == 1 && said.contains("Existing key does not match"), "{said}");
                for mut child in held.drain(..) {
                    signal(&child, "TERM");
                    assert_eq!(code(&mut child, "the holder to end"), 0);
                }
                let (exit, said) = run(second, agent.http, &late, "");
                assert_eq!((exit, said.as_str()), (0, "got it\n"), "{first:?} {second:?} {slots}");
            }
        }
    }
    // Consul's command may end before its session does, which then lives for twice its 15 s.
    let patience = if all.len() > 1 { Duration::from_secs(60) } else { SOON };
    wait("nothing to be left of them", patience, || match (agent.get("/v1/kv/locks?keys").code, sessions(agent)) {
        (404, sessions) if sessions.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[test]
fn a_lock_that_is_lost_ends_its_child() {
    let federation = Federation::start("lost", 1, 1);
    let agent = federation.agent("dc1");
    let dir = &federation.dir.0;
    let (heeds, stubborn) = (dir.join("heeds"), dir.join("stubborn"));
    let line = |file: &Path, trap: &str| {
        format!("trap '{trap}' TERM; sleep 600 & echo $! > {}; while true; do wait; done", file.display())
    };
    let all = [(&heeds, "a", "echo told; exit 0"), (&stubborn, "b", "")];
    let mut locks: Vec<Child> = all
        .iter()
        .map(|(file, key, trap)| {
            let args = ["lock", "-verbose", key, &line(file, trap)];
            command(Path::new(causeway()), agent.http, &args).spawn().unwrap()
        })
        .collect();
    let children = [pid(&heeds), pid(&stubborn)];
    for session in sessions(agent) {
        let id = session["ID"].as_str().unwrap();
        assert!(session["Name"].as_str().unwrap().starts_with("Consul lock for 'trap"), "{session}");
        agent.put(&format!("/v1/session/destroy/{id}"), "");
    }
    let said = |child: &mut Child| {
        assert_eq!(code(child, "the command to end"), 0);
        let mut text = String::new();
        child.stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let polite = said(&mut locks[0]);
    assert!(polite.contains("Lock lost, killing child\n") && polite.contains("told\n"), "{polite}");
    let killed = said(&mut locks[1]);
    assert!(killed.contains("Child did not exit after grace period of 5s\nKilling child pid "), "{killed}");
    for child in children {
        dies(&child, "what the child started to end");
    }
}

#[test]
fn commands_run_on_the_nodes_that_allow_it() {
    let mut federation = Federation::prepare("exec", 1, 1);
    // On the server it stays as it is: off.
    federation.configure(|node| match node.name.as_str() {
        "dc1-agent" => json!({"disable_remote_exec": false}),
        _ => json!({}),
    });
    for node in &mut federation.nodes {
        node.start();
    }
    federation.settle();
    let agent = federation.agent("dc1");
    for binary in binaries() {
        let exec = |args: &[&str], stdin: &str| run(&binary, agent.http, args, stdin);
        let (exit, said) = exec(&["exec", "-verbose", "echo hi; echo there >&2; exit 4"], "");
        assert_eq!(exit, 2, "{said}");
        for piece in [
            "==> dc1-agent: acknowledged\n",
            "    dc1-agent: hi\n",
            "    dc1-agent: there\n",
            "==> dc1-agent: finished with exit code 4\n",
            "1 / 1 node(s) completed / acknowledged\n",
        ] {
            assert!(said.contains(piece), "{piece:?} in {said}");
        }
        let (exit, said) = exec(&["exec", "-wait=500ms", "-node=server", "echo hi"], "");
        assert_eq!((exit, said.as_str()), (0, "0 / 0 node(s) completed / acknowledged\n"));
        let (exit, said) = exec(&["exec", "-wait=500ms", "-shell=false", "printf", "%s|", "a b", "$HOME"], "");
        assert!(exit == 0 && said.contains("    dc1-agent: a b|$HOME|\n"), "{said}");
        let (exit, said) = exec(&["exec", "-wait=500ms", "-"], "#!/bin/sh\nprintf script; exit 0\n");
        assert!(exit == 0 && said.contains("    dc1-agent: script\n"), "{said}");
        let (exit, said) = exec(&["exec", "-wait=500ms", "-shell=false", "/nonexistent"], "");
        assert!(exit == 2 && said.contains("finished with exit code 255"), "{said}");
        // Longer than the wait, and silent: signs of life keep it.
        let (exit, said) = exec(&["exec", "-wait=400ms", "sleep 2; echo late"], "");
        assert!(exit == 0 && said.contains("    dc1-agent: late\n"), "{said}");
    }
    // Whoever asked goes: what runs is killed, and nothing is left.
    let file = federation.dir.0.join("pid");
    let line = format!("sleep 600 & echo $! > {}; wait", file.display());
    let mut asking = command(Path::new(causeway()), agent.http, &["exec", "-wait=300ms", &line]).spawn().unwrap();
    let sleeper = pid(&file);
    assert!(lives(&sleeper));
    signal(&asking, "TERM");
    assert_eq!(code(&mut asking, "the command to end"), 1);
    dies(&sleeper, "the job to be killed");
    assert_eq!(sessions(agent), Vec::<Value>::new());
    wait("the keys to go", SOON, || match agent.get("/v1/kv/_rexec?keys").code {
        404 => Ok(()),
        other => Err(other.to_string()),
    });
    let log = agent.log();
    assert!(log.contains("remote exec: runs") && log.contains("the job's session has ended"), "{log}");
}

#[test]
fn an_archive_tells_of_an_agent_and_gives_no_secret_away() {
    const TOKEN: &str = "6ac6bd21-1d2c-4f0c-a2f7-2f2e6a5d6f11";
    let federation = Federation::start("debug", 1, 1);
    let agent = federation.agent("dc1");
    let config: Value = serde_json::from_slice(&fs::read(agent.config_path()).unwrap()).unwrap();
    let key = config["encrypt"].as_str().unwrap();
    let output = federation.dir.0.join("seen");
    let flag = format!("-output={}", output.display());
    let token = format!("-token={TOKEN}");
    let args = ["debug", "-duration=10s", "-interval=5s", &token, &flag];
    let (exit, said) = run(Path::new(causeway()), agent.http, &args, "");
    assert_eq!(exit, 0, "{said}");
    let archive = format!("{}.tar.gz", output.display());
    assert!(
        said.contains("Unable to capture pprof") && said.contains(&format!("Saved debug archive: {archive}")),
        "{said}"
    );
    assert!(!output.exists(), "the directory is packed");
    let unpacked = Command::new("tar").args(["xzf", &archive]).current_dir(&federation.dir.0).status().unwrap();
    assert!(unpacked.success());
    let json = |name: &str| -> Value { serde_json::from_slice(&fs::read(output.join(name)).unwrap()).unwrap() };
    assert_eq!(json("agent.json")["Config"]["NodeName"], "dc1-agent");
    assert_eq!(json("index.json")["Targets"], json!(["metrics", "logs", "host", "agent", "cluster"]));
    assert!(json("cluster.json").is_array() && json("host.json").is_object());
    let mut intervals = 0;
    for entry in fs::read_dir(&output).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        intervals += 1;
        let log = fs::read_to_string(entry.join("consul.log")).unwrap();
        let metrics: Value = serde_json::from_slice(&fs::read(entry.join("metrics.json")).unwrap()).unwrap();
        assert!(metrics["Counters"].is_array(), "{metrics}");
        assert!(!log.contains(TOKEN) && !log.contains(key));
    }
    assert_eq!(intervals, 2);
    for name in ["agent.json", "cluster.json", "host.json", "index.json"] {
        let text = fs::read_to_string(output.join(name)).unwrap();
        assert!(!text.contains(TOKEN) && !text.contains(key), "{name}");
    }
    let (exit, said) = run(Path::new(causeway()), agent.http, &["debug", "-duration=1s"], "");
    assert_eq!((exit, said.as_str()), (1, "==> Capture validation failed: duration must be longer than 10s\n"));
}

#[test]
fn shells_complete_our_commands() {
    let dir = Dir::new("completion");
    let rc = dir.0.join(".bashrc");
    fs::write(&rc, "alias x=y").unwrap();
    let install = |flag: &str| {
        let mut command = Command::new(causeway());
        let status = command.arg(flag).env("HOME", &dir.0).env_remove("XDG_CONFIG_HOME").status().unwrap();
        assert!(status.success());
        fs::read_to_string(&rc).unwrap()
    };
    let once = install("-autocomplete-install");
    assert!(once.starts_with("alias x=y\ncomplete -C ") && once.lines().count() == 2, "{once}");
    assert_eq!(install("-autocomplete-install"), once);
    // As bash asks: it runs what stands behind -C, with the line in the environment.
    let ask = |line: &str| {
        let asked = Command::new(causeway()).env("COMP_LINE", line).env("COMP_POINT", line.len().to_string()).output();
        String::from_utf8(asked.unwrap().stdout).unwrap()
    };
    assert_eq!(ask("causeway kv g"), "get\n");
    assert_eq!(ask("causeway kv get -keys -rec"), "-recurse\n");
    assert_eq!(install("-autocomplete-uninstall"), "alias x=y\n");
}
