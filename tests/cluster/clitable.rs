//! Every command of Consul 1.8.7 beside ours: flags, exit code and stream of its help, and what each says of a flag that nobody knows.
//! Runs where `CONSUL_BIN` names the real one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::causeway;

/// All of its command line, leaf by leaf and family by family.
const COMMANDS: &str = "agent|catalog datacenters|catalog nodes|catalog services|config delete|config list|config read|config write|\
    debug|event|exec|force-leave|info|join|keygen|keyring|kv delete|kv export|kv get|kv import|kv put|leave|lock|maint|members|\
    monitor|operator autopilot get-config|operator autopilot set-config|operator raft list-peers|operator raft remove-peer|reload|\
    rtt|services deregister|services register|snapshot inspect|snapshot restore|snapshot save|tls ca create|tls cert create|\
    validate|version|watch|catalog|config|kv|operator|operator autopilot|operator raft|services|snapshot|tls|tls ca|tls cert";

/// Where ours differs, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[];

fn run(binary: &Path, words: &str, more: &str) -> Output {
    let mut command = Command::new(binary);
    command.args(words.split(' ')).arg(more).env_remove("CONSUL_HTTP_ADDR").stdin(Stdio::null());
    command.output().unwrap()
}

/// The names at the beginnings of lines, behind two spaces or more.
fn flags(out: &Output) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let names = text.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.trim_start().strip_prefix('-')?;
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(name.len());
        Some(name[..end].to_owned()).filter(|n| !n.is_empty())
    });
    names.collect()
}

#[test]
fn no_flag_of_consuls_is_missing() {
    let Some(real) = std::env::var_os("CONSUL_BIN").map(PathBuf::from) else {
        println!("SKIPPED: CONSUL_BIN names no Consul 1.8.7 to compare with");
        return;
    };
    let ours = Path::new(causeway());
    let mut wrong = Vec::new();
    for command in COMMANDS.split('|') {
        let known = |what: &str| DIFFERENCES.iter().any(|(c, w, _)| *c == command && (*w == what || *w == "*"));
        let (theirs, own) = (run(&real, command, "-h"), run(ours, command, "-h"));
        let missing: Vec<String> = flags(&theirs).difference(&flags(&own)).filter(|f| !known(f)).cloned().collect();
        if !missing.is_empty() {
            wrong.push(format!("{command}: without {missing:?}"));
        }
        let end = |out: &Output| (out.status.code(), out.stdout.is_empty(), out.stderr.is_empty());
        if end(&theirs) != end(&own) && !known("-h") {
            wrong.push(format!("{command} -h: {:?}, theirs {:?}", end(&own), end(&theirs)));
        }
        // Families take no flags; what they say of one is their help.
        let (theirs, own) = (run(&real, command, "-no-such-flag"), run(ours, command, "-no-such-flag"));
        let first = |out: &Output| {
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            let line = text.lines().next().unwrap_or_default().replace("consul", "causeway");
            // Ours names the nearest behind it; a help is each one's own.
            let line = line.split(" (did you").next().unwrap_or_default().to_owned();
            (out.status.code(), if line.starts_with("Usage") { String::new() } else { line })
        };
        if first(&theirs) != first(&own) && !known("-no-such-flag") {
            wrong.push(format!("{command} -no-such-flag: {:?}, theirs {:?}", first(&own), first(&theirs)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
