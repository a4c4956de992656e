//! What remote execution finds in events and keys, written by Consul's command `exec` or ours.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::events::parse_uuid;

/// Shortest and longest time between two signs of life of a job without output.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// What the event says.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Call {
    pub(crate) prefix: String,
    pub(crate) session: String,
}

impl Call {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        let call: Self = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
        if parse_uuid(&call.session).is_none() {
            return Err(format!("{:?} is no session", call.session));
        }
        Ok(call)
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
pub(crate) struct Job {
    pub(crate) run: Run,
    /// Between two signs of life.
    pub(crate) heartbeat: Duration,
}

/// What a job runs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// A file of its own.
    Script(Vec<u8>),
    /// A line of the shell.
    Line(String),
    /// A program and its arguments.
    Program(String, Vec<String>),
}

impl Job {
    pub(crate) fn read(value: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(value).map_err(|e| e.to_string())?;
        let mut args = written.args.unwrap_or_default().into_iter();
        let script = STANDARD.decode(written.script.unwrap_or_default()).map_err(|e| format!("script: {e}"))?;
        // In the order in which Consul's agents look.
        let run = match (args.next(), written.command.unwrap_or_default()) {
            (Some(program), _) => Run::Program(program, args.collect()),
            _ if !script.is_empty() => Run::Script(script),
            (_, line) if !line.is_empty() => Run::Line(line),
            _ => return Err("nothing to run".to_owned()),
        };
        let wait = Duration::from_nanos(u64::try_from(written.wait.unwrap_or(0)).unwrap_or(0));
        Ok(Self { run, heartbeat: wait.clamp(HEARTBEAT.0, HEARTBEAT.1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let call = Call::read(br#"{"Prefix":"_rexec","Session":"7a5b51e4-5a35-fae9-8af2-3f4f27475140"}"#).unwrap();
        assert_eq!((call.prefix.as_str(), call.session.len()), ("_rexec", 36));
        for bad in ["", "{}", r#"{"Prefix":"a","Session":"../../x"}"#] {
            assert!(Call::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// Jobs as the real Consul 1.8.7 wrote them.
    #[test]
    fn jobs() {
        let read = |text: &str| Job::read(text.as_bytes());
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
