//! The subject's own command line: its exit code and both streams, without what differs from run to run.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use crate::harness::{self, Node, wait};
use crate::script;
use crate::subject::{self, Subject};
use regex::Regex;

/// Words of a line; 'one word' and "one word" are one.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ' ') if !word.is_empty() => out.push(std::mem::take(&mut word)),
            (None, ' ') => {}
            (_, c) => word.push(c),
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// Numbers of several digits, those behind a word for an index or a size, times, and keys.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"[A-Za-z0-9+/]{43}=", "<key>"),
        (r"\b\d{4}-\d\d-\d\d[T ][0-9:.]+( ?[+-]\d{4} UTC|Z)?", "<time>"),
        (r"\b\d+(\.\d+)?(µs|ms|s)\b", "<duration>"),
        (r"\b\d+\.\d+ ms\b", "<duration>"),
        (r"((?:[Ii]ndex|LTime|Session|Term|Size|Version)\W+)\d+\b", "${1}<n>"),
        (r"\b\d+-\d+-\d{10,}\b", "<id>"),
        // Codes of HTTP are no such numbers.
        (r"(code: \d+)|\b\d{3,}(\.\d+)?\b", "${1}<n>"),
        (r"(code: \d+)<n>", "${1}"),
    ]
    .map(|(pattern, by)| (Regex::new(pattern).unwrap(), by))
    .into()
});

/// One line of a shell: `NAME=value` words in front are for the environment. The commands of one script share a directory.
pub fn run(subject: &Subject, node: &Node, line: &str, input: &str) -> String {
    let dir = subject.federation.dir.0.join("cli");
    fs::create_dir_all(&dir).unwrap();
    let binary = subject::consul().unwrap_or_else(|| harness::causeway().to_owned());
    let mut command = Command::new(binary);
    command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", node.http)).env("SHELL", "/bin/sh").current_dir(&dir);
    for name in ["CONSUL_HTTP_TOKEN", "CONSUL_HTTP_SSL", "HTTP_PROXY", "http_proxy"] {
        command.env_remove(name);
    }
    let mut all = words(line).into_iter().peekable();
    while let Some((name, value)) = all
        .peek()
        .and_then(|w| w.split_once('='))
        .filter(|(n, _)| n.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    {
        command.env(name, value.replace("{http}", &node.http.to_string()));
        all.next();
    }
    command.args(all.map(|w| w.replace("{http}", &node.http.to_string()).replace("{serf}", &node.serf.to_string())));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let child = &mut running.0;
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read it is gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let streams = [read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap())];
    let code = wait(line, Duration::from_secs(60), || match child.try_wait().unwrap() {
        Some(status) => Ok(status.code()),
        None => Err("it runs still".into()),
    });
    let mut out = format!("exit {}\n", code.map_or("by a signal".to_owned(), |code| code.to_string()));
    for (number, stream) in streams.into_iter().enumerate() {
        // Ports first: they are numbers too.
        let text = script::ports(subject, &stream.join().unwrap());
        // A help is each one's own, and where it is to be found.
        let help = |line: &&str| !line.starts_with("Usage:") && !line.ends_with("lists the flags.");
        let lines: Vec<&str> = text.lines().take_while(help).collect();
        let said = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        for line in lines.iter().take(said) {
            out.push_str(&format!("{} {}\n", number + 1, plain(line, &dir.display().to_string())));
        }
    }
    out
}

/// A command that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What is cut shows as a difference.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn plain(line: &str, dir: &str) -> String {
    let mut line = line.replace(dir, "<dir>").replace("Causeway", "Consul").replace("causeway", "consul");
    line = line.replace("127.0.0.1", "<ip>").replace("rpc error making call: ", "");
    line = script::anonymous(&line);
    for (pattern, by) in VOLATILE.iter() {
        line = pattern.replace_all(&line, *by).into_owned();
    }
    line.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
}
