//! Scripts: a step asks one thing and holds the answer expected. The head of `scripts/kv.txt` explains the form.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli;
use crate::client::{self, Dig};
use crate::differences::DIFFERENCES;
use crate::harness::{self, http};
use crate::subject::Subject;
use crate::target;

/// One question with its answers.
#[derive(Default)]
struct Step {
    /// Comments and blank lines before it, as written.
    before: Vec<String>,
    /// `[@node] METHOD /path`, `[@node] DIG name type [tcp] [v6] [edns=size] [count]` or `[@node] CLI [NAME=value] words`.
    ask: String,
    /// Lines below the question that say how to ask, as written: `> body`, `^ header`, `until text`, `absent text`, `set name from`,
    /// `pick places`: of the answer the first line, and what is at these places of the JSON.
    how: Vec<String>,
    /// Consul's answer.
    theirs: Vec<String>,
    /// Our answer, and the difference it is explained by.
    ours: Option<(String, Vec<String>)>,
}

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/scripts").join(format!("{name}.txt"))
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut before = Vec::new();
    for line in text.lines() {
        if let Some(ask) = line.strip_prefix("== ") {
            steps.push(Step { before: std::mem::take(&mut before), ask: ask.to_owned(), ..Step::default() });
            continue;
        }
        let Some(step) = steps.last_mut().filter(|_| !line.is_empty() && !line.starts_with('#')) else {
            before.push(line.to_owned());
            continue;
        };
        if let Some(line) = line.strip_prefix("| ") {
            step.theirs.push(line.to_owned());
        } else if let Some(line) = line.strip_prefix("/ ") {
            step.ours
                .as_mut()
                .unwrap_or_else(|| panic!("{}: our answer without `differs`", step.ask))
                .1
                .push(line.to_owned());
        } else if let Some(id) = line.strip_prefix("differs ") {
            step.ours = Some((id.to_owned(), Vec::new()));
        } else {
            step.how.push(line.to_owned());
        }
    }
    steps
}

fn write(steps: &[Step]) -> String {
    let mut out = String::new();
    let mut line = |prefix: &str, text: &str| {
        out.push_str(prefix);
        out.push_str(text);
        out.push('\n');
    };
    for step in steps {
        step.before.iter().for_each(|l| line("", l));
        line("== ", &step.ask);
        step.how.iter().for_each(|l| line("", l));
        step.theirs.iter().for_each(|l| line("| ", l));
        if let Some((id, lines)) = &step.ours {
            line("differs ", id);
            lines.iter().for_each(|l| line("/ ", l));
        }
    }
    out
}

/// Values taken from answers, for later questions: name and value.
type Taken = Vec<(String, String)>;

/// Runs scripts one after the other against one subject; all that differs is reported at the end.
pub fn run(subject: &Subject, names: &[&str]) {
    let record = std::env::var("RECORD").is_ok_and(|v| !v.is_empty());
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut failures = Vec::new();
    for name in names.iter().filter(|n| only.is_empty() || only.split(',').any(|o| o == **n)) {
        let mut steps = parse(&fs::read_to_string(path(name)).unwrap());
        let mut taken = Taken::new();
        let began = Instant::now();
        for step in &mut steps {
            let asked = Instant::now();
            let found = settle(subject, step, &mut taken, record);
            if asked.elapsed() > Duration::from_secs(3) {
                println!("{name}: {} took {:?}", step.ask, asked.elapsed());
            }
            let explained = step.ours.is_some();
            let wanted = match &mut step.ours {
                Some((id, ours)) if !subject.consul => {
                    assert!(DIFFERENCES.iter().any(|d| d.id == *id), "{name}: no difference {id}");
                    ours
                }
                _ => &mut step.theirs,
            };
            if record && (subject.consul || explained) {
                *wanted = found;
            } else if *wanted != found {
                failures.push(format!("{name}: {}\n{}", step.ask, compare(wanted, &found)));
            }
        }
        println!("{name}: {} steps in {:?}", steps.len(), began.elapsed());
        if record {
            fs::write(path(name), write(&steps)).unwrap();
        }
    }
    assert!(failures.is_empty(), "{} steps differ\n\n{}", failures.len(), failures.join("\n\n"));
}

fn compare(wanted: &[String], found: &[String]) -> String {
    let mut out: Vec<String> = Vec::new();
    out.extend(wanted.iter().filter(|l| !found.contains(l)).map(|l| format!("  wanted {l}")));
    out.extend(found.iter().filter(|l| !wanted.contains(l)).map(|l| format!("  found  {l}")));
    if out.is_empty() {
        out.push(format!("  other order or number: wanted {wanted:?}, found {found:?}"));
    }
    out.join("\n")
}

/// Asks until the step's condition holds and, unless recording, until the answer is the one wanted; then gives the last answer.
fn settle(subject: &Subject, step: &Step, taken: &mut Taken, record: bool) -> Vec<String> {
    let conditions: Vec<&String> =
        step.how.iter().filter(|l| l.starts_with("until ") || l.starts_with("absent ")).collect();
    let wanted = match &step.ours {
        Some((_, ours)) if !subject.consul => ours,
        _ => &step.theirs,
    };
    let began = Instant::now();
    loop {
        let found = ask(subject, step, taken);
        let text = found.join("\n");
        let holds = conditions.iter().all(|c| match c.split_once(' ') {
            Some(("until", what)) => text.contains(what),
            Some((_, what)) => !text.contains(what),
            None => true,
        });
        let patience = Duration::from_secs(if holds { 2 } else { 8 });
        // Only a step that waits for something may be asked again.
        if conditions.is_empty() || (holds && (record || *wanted == found)) || began.elapsed() > patience {
            if !holds {
                println!("{}: {conditions:?} never held", step.ask);
            }
            return found;
        }
        harness::pause();
    }
}

fn ask(subject: &Subject, step: &Step, taken: &mut Taken) -> Vec<String> {
    let fill = |text: &str| {
        let mut text = text.replace("{target}", &target::port().to_string());
        for (name, value) in taken.iter() {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    };
    let asked = fill(&step.ask);
    let mut words = asked.split(' ').peekable();
    let node = match words.peek().and_then(|w| w.strip_prefix('@')) {
        Some(name) => {
            let _ = words.next();
            subject.node(name)
        }
        None => subject.node("agent"),
    };
    let words: Vec<&str> = words.collect();
    let body: Vec<String> = step.how.iter().filter_map(|l| l.strip_prefix("> ")).map(&fill).collect();
    if words[0] == "CLI" {
        let line = asked.split_once("CLI ").map_or("", |(_, line)| line);
        let found = cli::run(subject, node, line, &body.join("\n"));
        return found.lines().map(str::to_owned).collect();
    }
    if words[0] == "DIG" {
        let extra: BTreeSet<&str> = words[3..].iter().copied().collect();
        let dig = Dig {
            name: words[1],
            kind: words[2],
            tcp: extra.contains("tcp"),
            edns: extra.iter().find_map(|e| e.strip_prefix("edns=")?.parse().ok()),
            count: extra.contains("count"),
            v6: extra.contains("v6"),
        };
        let found = client::dig(node.dns, &dig).unwrap_or_else(|e| vec![e]);
        let named = |line: String| {
            let ids = taken.iter().filter(|(_, value)| value.len() > 30);
            ids.fold(line, |line, (name, value)| line.replace(value, &format!("{{{name}}}")))
        };
        return found.into_iter().map(named).collect();
    }
    let body = match body.join("\n") {
        big if big.starts_with("{big:") => {
            let size: usize = big[5..].trim_end_matches('}').parse().unwrap();
            "x".repeat(size)
        }
        body => body,
    };
    let headers: Vec<String> = step.how.iter().filter_map(|l| l.strip_prefix("^ ")).map(fill).collect();
    let headers: Vec<(&str, &str)> = headers.iter().filter_map(|h| h.split_once(": ")).collect();
    let answer = http::request_with(node.http, words[0], words[1], &headers, body.as_bytes());
    for line in step.how.iter().filter_map(|l| l.strip_prefix("set ")) {
        let (name, from) = line.split_once(' ').unwrap();
        let value = if from == "index" {
            answer.index().to_string()
        } else {
            let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            match value.pointer(from) {
                Some(serde_json::Value::String(s)) => s.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            }
        };
        taken.retain(|(n, _)| n != name);
        taken.push((name.to_owned(), value));
    }
    let replace = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in taken.iter().filter(|(_, v)| v.len() > 30) {
            text = text.replace(value, &format!("{{{name}}}"));
        }
        anonymous(&ports(subject, &text).replace(&format!(":{}", target::port()), ":<target>"))
    };
    // From a node that nobody knows nothing is nearer than anything else, and the order is chance.
    let near = words[1].contains("near=") && !words[1].contains("near=nobody");
    let ordered = near || ["/v1/kv", "/v1/txn"].iter().any(|p| words[1].starts_with(p));
    let shown = client::show(&answer, ordered, &replace);
    let Some(picked) = step.how.iter().find_map(|l| l.strip_prefix("pick")) else { return shown };
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let at = |place: &str| format!("{place} {}", body.pointer(place).map_or("-".into(), |v| replace(&v.to_string())));
    shown.into_iter().take(1).chain(picked.split_whitespace().map(at)).collect()
}

/// Replaces the nodes' ports by what they are for.
pub fn ports(subject: &Subject, text: &str) -> String {
    let mut text = text.to_owned();
    for node in &subject.federation.nodes {
        for (port, name) in [(node.rpc, "rpc"), (node.serf, "serf"), (node.http, "http")] {
            text = text.replace(&format!("\":{port}"), &format!("\":\"<{} {name}>\"", node.name));
            text = text.replace(&format!(":{port}"), &format!(":<{} {name}>", node.name));
        }
    }
    text
}

/// Replaces UUIDs.
pub fn anonymous(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let uuid = bytes.get(at..at + 36).is_some_and(|w| {
            w.iter()
                .enumerate()
                .all(|(i, b)| if [8, 13, 18, 23].contains(&i) { *b == b'-' } else { b.is_ascii_hexdigit() })
        });
        if uuid {
            out.push_str("<uuid>");
            at += 36;
        } else {
            let next = text[at..].chars().next().unwrap_or_default();
            out.push(next);
            at += next.len_utf8();
        }
    }
    out
}

/// The README lists them all, as they stand here.
#[test]
fn the_readme_shows_every_difference() {
    let readme = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let cell = |text: &str| text.replace('|', "\\|");
    let mut table = String::from("| Consul 1.8.7 | Causeway | why |\n|---|---|---|\n");
    for d in DIFFERENCES {
        table.push_str(&format!("| {} | {} | {} |\n", cell(d.consul), cell(d.ours), cell(d.why)));
    }
    assert!(readme.contains(&table), "put this table below \"Differences from Consul\" in README.md:\n\n{table}");
}

/// Every difference is used by a step, and its texts are there.
#[test]
fn every_difference_is_shown_by_a_step() {
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(path("kv").parent().unwrap()).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        used.extend(parse(&text).into_iter().filter_map(|s| Some(s.ours?.0)));
    }
    let listed: BTreeSet<String> = DIFFERENCES.iter().filter(|d| !d.general).map(|d| d.id.to_owned()).collect();
    assert_eq!(used, listed);
    assert!(DIFFERENCES.iter().all(|d| !d.consul.is_empty() && !d.ours.is_empty() && !d.why.is_empty()));
}
