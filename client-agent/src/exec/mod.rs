//! Remote execution, the agent's end: an event names a job, the job is a key in the KV store, and what becomes of it is written beside
//! it, each key held by the job's session, so that nothing more is written (and what runs is killed) once whoever asked has ended it.
//! The keys are Consul's: `PREFIX/SESSION/job`, and for each node `NODE/ack`, `NODE/out/00000` and on, `NODE/exit`.
//!
//! It is off unless the configuration says `disable_remote_exec = false`: who may write keys and fire events may then run anything as
//! the user of the agent. The other end is the command `exec`.

mod driver;
mod output;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::events::parse_uuid;

pub use driver::{World, serve};

/// Shortest and longest time between two signs of life of a job without output.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Why a job is not run.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("the event's payload is no call for a job: {0}")]
    Payload(String),
    #[error("there is no job at {0}; it was taken back, or this agent reads another datacenter's keys")]
    Missing(String),
    #[error("the job at {key} cannot be read: {why}")]
    Garbled { key: String, why: String },
    #[error("key {key} cannot be {what}: {why}")]
    Store { key: String, what: &'static str, why: String },
    #[error("key {0} was not written: the job's session has ended")]
    Over(String),
    #[error("{what}: {source}")]
    Start { what: String, source: std::io::Error },
}

/// What the event says.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
struct Call {
    prefix: String,
    session: String,
}

impl Call {
    fn read(payload: &[u8]) -> Result<Self, JobError> {
        let call: Self = serde_json::from_slice(payload).map_err(|e| JobError::Payload(e.to_string()))?;
        if parse_uuid(&call.session).is_none() {
            return Err(JobError::Payload(format!("{:?} is no session", call.session)));
        }
        Ok(call)
    }

    fn job(&self) -> String {
        join(&[&self.prefix, &self.session, "job"])
    }

    fn of_node(&self, node: &str, what: &str) -> String {
        join(&[&self.prefix, &self.session, node, what])
    }
}

/// What the job's key holds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Written {
    command: Option<String>,
    args: Option<Vec<String>>,
    script: Option<String>,
    wait: Option<i64>,
}

/// A job.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    run: Run,
    /// Between two signs of life.
    heartbeat: Duration,
}

/// What a job runs.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    /// A file of its own.
    Script(Vec<u8>),
    /// A line of the shell.
    Line(String),
    /// A program and its arguments.
    Program(String, Vec<String>),
}

impl Job {
    fn read(key: &str, value: &[u8]) -> Result<Self, JobError> {
        let garbled = |why: String| JobError::Garbled { key: key.to_owned(), why };
        let written: Written = serde_json::from_slice(value).map_err(|e| garbled(e.to_string()))?;
        let mut args = written.args.unwrap_or_default().into_iter();
        let script =
            STANDARD.decode(written.script.unwrap_or_default()).map_err(|e| garbled(format!("script: {e}")))?;
        // In the order in which Consul's agents look.
        let run = match (args.next(), written.command.unwrap_or_default()) {
            (Some(program), _) => Run::Program(program, args.collect()),
            _ if !script.is_empty() => Run::Script(script),
            (_, line) if !line.is_empty() => Run::Line(line),
            _ => return Err(garbled("nothing to run".to_owned())),
        };
        let wait = Duration::from_nanos(u64::try_from(written.wait.unwrap_or(0)).unwrap_or(0));
        Ok(Self { run, heartbeat: wait.clamp(HEARTBEAT.0, HEARTBEAT.1) })
    }
}

/// Joins pieces of a key as Go's `path.Join` does: empty and `.` pieces are left out, `..` takes back one.
pub fn join(pieces: &[&str]) -> String {
    let mut out: Vec<&str> = Vec::new();
    for piece in pieces.iter().flat_map(|p| p.split('/')) {
        match piece {
            "" | "." => {}
            ".." if out.last().is_some_and(|last| *last != "..") => {
                out.pop();
            }
            piece => out.push(piece),
        }
    }
    let rooted = pieces.iter().find(|p| !p.is_empty()).is_some_and(|p| p.starts_with('/'));
    format!("{}{}", if rooted { "/" } else { "" }, out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_joined_as_go_does() {
        for (pieces, joined) in [
            (vec!["lk", ".lock"], "lk/.lock"),
            (vec!["a//b/", "c"], "a/b/c"),
            (vec!["", ".lock"], ".lock"),
            (vec!["a/../b", "./c"], "b/c"),
            (vec!["/a", "b"], "/a/b"),
        ] {
            assert_eq!(join(&pieces), joined, "{pieces:?}");
        }
    }

    #[test]
    fn calls() {
        let call = Call::read(br#"{"Prefix":"_rexec","Session":"7a5b51e4-5a35-fae9-8af2-3f4f27475140"}"#).unwrap();
        assert_eq!(call.job(), "_rexec/7a5b51e4-5a35-fae9-8af2-3f4f27475140/job");
        assert_eq!(call.of_node("n1", "out/00000"), "_rexec/7a5b51e4-5a35-fae9-8af2-3f4f27475140/n1/out/00000");
        for bad in ["", "{}", r#"{"Prefix":"a","Session":"../../x"}"#] {
            assert!(Call::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// Jobs as the real Consul 1.8.7 wrote them.
    #[test]
    fn jobs() {
        let read = |text: &str| Job::read("k", text.as_bytes());
        let job = read(r#"{"Command":"uptime","Args":null,"Script":null,"Wait":2000000000}"#).unwrap();
        assert_eq!(job, Job { run: Run::Line("uptime".into()), heartbeat: Duration::from_secs(2) });
        let job = read(r#"{"Command":"","Args":["ls","-l"],"Script":null,"Wait":1}"#).unwrap();
        assert_eq!(job, Job { run: Run::Program("ls".into(), vec!["-l".into()]), heartbeat: HEARTBEAT.0 });
        let job = read(r#"{"Command":"","Args":null,"Script":"aGk=","Wait":-1}"#).unwrap();
        assert_eq!(job.run, Run::Script(b"hi".to_vec()));
        for bad in ["", "{}", r#"{"Command":""}"#, r#"{"Script":"%"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
