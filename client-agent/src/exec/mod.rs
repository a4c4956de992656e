//! Remote execution, the agent's end: an event names a job, the job is a key in the KV store, and what becomes of it is written beside
//! it, each key held by the job's session, so that nothing more is written (and what runs is killed) once whoever asked has ended it.
//! The keys are Consul's: `PREFIX/SESSION/job`, and for each node `NODE/ack`, `NODE/out/00000` and on, `NODE/exit`.
//!
//! It is off unless the configuration says `disable_remote_exec = false`: who may write keys and fire events may then run anything as
//! the user of the agent. The other end is the command `exec`.

mod driver;
mod output;

use crate::http::exec::Call;

pub use driver::{World, serve};

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

impl Call {
    fn job(&self) -> String {
        join(&[&self.prefix, &self.session, "job"])
    }

    fn of_node(&self, node: &str, what: &str) -> String {
        join(&[&self.prefix, &self.session, node, what])
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
    fn keys_of_a_call() {
        let call = Call { prefix: "_rexec".into(), session: "s".into() };
        assert_eq!(
            (call.job().as_str(), call.of_node("n1", "out/00000").as_str()),
            ("_rexec/s/job", "_rexec/s/n1/out/00000")
        );
    }
}
