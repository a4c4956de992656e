//! `exec`: runs a command on many nodes. The job is a key held by a session, an event tells the agents of it, and each writes what
//! becomes of it beside the job. Keys, words and exit codes are Consul's.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_agent::events::{Event, FilterError, Filters};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::api::{Api, ApiError, escape, text};
use super::child::Signals;
use super::store::{self, Condition, When, join};
use super::{Command, Input, flag, help, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "exec",
    operands: "[-|COMMAND...]",
    about: "Executes a command on Consul nodes",
    more: "Only agents with `disable_remote_exec = false` take part. Filters are regular expressions. With `-` the script is read from\n\
           standard input. Exit code 2: it failed somewhere, or did not end.",
    flags: &[
        flag("node", "regexp", "Only on nodes whose names match."),
        flag("prefix", "string", "Where the job is kept in the KV store. Default: _rexec."),
        flag("service", "regexp", "Only on nodes with a service whose id matches."),
        flag("shell", "", "Whether it is a line of the shell. Default: true."),
        flag("tag", "regexp", "Only where such a service has a tag that matches; needs -service."),
        flag("verbose", "", "Says what happens."),
        flag("wait", "duration", "How long all may be silent before it counts as over. Default: 2s."),
        flag("wait-repl", "duration", "How long the job may take to all servers. Default: 200ms."),
    ],
    http: true,
    run,
};

/// The event that agents listen for.
const EVENT: &str = "_rexec";
/// How long cleaning up may take.
const END: Duration = Duration::from_secs(10);

/// What to run where.
#[derive(Debug)]
struct Job {
    prefix: String,
    command: String,
    args: Vec<String>,
    script: Vec<u8>,
    wait: Duration,
    replication: Duration,
    /// Those of the event, as in its address.
    filters: String,
    verbose: bool,
}

impl Job {
    fn read(input: &Input, stdin: &mut dyn Read) -> Result<Self, String> {
        let time = |name, default| {
            let nanos = input.time(name, default)?;
            Ok::<_, String>(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
        };
        let (wait, replication) = (time("wait", 2_000_000_000)?, time("wait-repl", 200_000_000)?);
        let shell = input.value("shell").is_none() || input.on("shell");
        let (mut command, mut args, mut script) = (input.operands.join(" "), Vec::new(), Vec::new());
        if command == "-" {
            if !shell {
                return Err("Cannot configure -shell=false when reading from stdin".to_owned());
            }
            command.clear();
            stdin.read_to_end(&mut script).map_err(|e| format!("Failed to read stdin: {e}"))?;
        } else if !shell {
            command.clear();
            args.clone_from(&input.operands);
        }
        if command.is_empty() && script.is_empty() && args.is_empty() {
            return Err(format!("Must specify a command to execute\n\n{}", help(&COMMAND)));
        }
        Ok(Self {
            prefix: input.value("prefix").unwrap_or(EVENT).to_owned(),
            command,
            args,
            script,
            wait,
            replication,
            filters: filters(input)?,
            verbose: input.on("verbose"),
        })
    }

    /// As agents read it.
    fn spec(&self) -> Value {
        let script = (!self.script.is_empty()).then(|| STANDARD.encode(&self.script));
        let args = (!self.args.is_empty()).then_some(&self.args);
        let wait = u64::try_from(self.wait.as_nanos()).unwrap_or(u64::MAX);
        json!({"Command": self.command, "Args": args, "Script": script, "Wait": wait})
    }
}

/// The flags that choose nodes, checked.
fn filters(input: &Input) -> Result<String, String> {
    let given = |flag| input.value(flag).unwrap_or_default().to_owned();
    let event = Event {
        node_filter: given("node"),
        service_filter: given("service"),
        tag_filter: given("tag"),
        ..Event::default()
    };
    match Filters::of(&event) {
        Ok(_) => {}
        Err(FilterError::TagWithoutService) => {
            return Err("Cannot provide tag filter without service filter.".to_owned());
        }
        Err(FilterError::Invalid { which, why }) => {
            return Err(format!("Failed to compile {which} filter regexp: error parsing regexp: {why}"));
        }
    }
    let named = [("node", &event.node_filter), ("service", &event.service_filter), ("tag", &event.tag_filter)];
    let pairs = named.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k}={}", escape(v, false)));
    Ok(pairs.collect::<Vec<_>>().join("&"))
}

/// What a key beside the job tells.
#[derive(Debug, PartialEq, Eq)]
enum Told<'a> {
    Job,
    Taken(&'a str),
    Ended(&'a str),
    /// A piece of output; empty: a sign of life.
    Output(&'a str),
    Unknown,
}

/// Reads the name of a key, without the job's directory.
fn told(key: &str) -> Told<'_> {
    if key == "job" {
        return Told::Job;
    }
    if let Some(node) = key.strip_suffix("/ack") {
        return Told::Taken(node);
    }
    if let Some(node) = key.strip_suffix("/exit") {
        return Told::Ended(node);
    }
    match key.rsplit_once("/out/") {
        Some((node, _)) => Told::Output(node),
        None => Told::Unknown,
    }
}

/// Lines of a node, as Consul marks them: with an arrow those of the command, indented those of the node.
fn lines(node: &str, arrow: bool, text: &str) -> String {
    let mark = if arrow { "==>" } else { "   " };
    let all: String = text.split('\n').map(|line| format!("{mark} {node}: {line}\n")).collect();
    format!("{}\n", all.trim_end())
}

fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn run(input: &Input) -> ExitCode {
    let job = match Job::read(input, &mut std::io::stdin()) {
        Ok(job) => job,
        Err(text) => return complain(&text),
    };
    let api = match Api::new(input) {
        Ok(api) => api,
        Err(e) => return complain(&format!("Error connecting to Consul agent: {e}")),
    };
    let own = match api.get("/v1/agent/self") {
        Ok(own) => own,
        Err(e) => return complain(&format!("Error querying Consul agent: {e}")),
    };
    let elsewhere = input.value("datacenter").filter(|dc| !dc.is_empty() && own["Config"]["Datacenter"] != **dc);
    api.block_on(async {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(e) => return complain(&format!("Cannot listen for signals: {e}")),
        };
        let session = match session(&api, &job, &own["Config"], elsewhere).await {
            Ok(session) => session,
            Err(e) => return complain(&format!("Failed to create session: {e}")),
        };
        if job.verbose {
            print_out(&format!("Created remote execution session: {session}\n"));
        }
        let renewed = store::keep_session(&api, &session);
        let outcome = tokio::select! {
            outcome = carry_out(&api, &job, &session) => outcome,
            lost = renewed => Err(format!("Session renew failed: {lost}")),
            _ = signals.next() => Ok(ExitCode::FAILURE),
        };
        // First the session: from then on no agent can add to what is deleted.
        let _ = timeout(END, store::destroy_session(&api, &session)).await;
        let _ = timeout(END, store::delete_tree(&api, &join(&[&job.prefix, &session]))).await;
        outcome.unwrap_or_else(|text| complain(&text))
    })
}

/// A session of the agent's own node, or of a server's in another datacenter.
async fn session(api: &Api, job: &Job, own: &Value, elsewhere: Option<&str>) -> Result<String, ApiError> {
    let mut session = json!({"Name": "Remote Exec", "Behavior": "delete", "TTL": store::TTL});
    if let Some(dc) = elsewhere {
        if job.verbose {
            print_out("Remote exec in foreign datacenter, using Session TTL\n");
        }
        let servers = api.ask("GET", "/v1/health/service/consul?passing=1", "").await?.json()?;
        let node = text(&servers[0]["Node"], "Node");
        if node.is_empty() {
            let text = "Failed to find Consul server in remote datacenter";
            return Err(ApiError::Settings(text.to_owned()));
        }
        if job.verbose {
            print_out(&format!("Binding session to remote node {node}@{dc}\n"));
        }
        session["Name"] = Value::from(format!("Remote Exec via {}@{}", text(own, "NodeName"), text(own, "Datacenter")));
        session["Node"] = Value::from(node);
        session["Checks"] = json!([]);
    }
    store::create_session(api, &session).await
}

async fn carry_out(api: &Api, job: &Job, session: &str) -> Result<ExitCode, String> {
    let dir = join(&[&job.prefix, session]);
    let spec = job.spec().to_string().into_bytes();
    match store::put(api, &format!("{dir}/job"), 0, Condition::Acquire(session), spec).await {
        Ok(true) => {}
        Ok(false) => return Err(format!("Failed to create job file: failed to acquire key {dir}/job")),
        Err(e) => return Err(format!("Failed to create job file: {e}")),
    }
    if job.verbose {
        print_out("Uploaded remote execution spec\n");
    }
    // So that agents find it at whatever server they ask.
    sleep(job.replication).await;
    let payload = json!({"Prefix": job.prefix, "Session": session}).to_string();
    let fired = api.ask("PUT", &format!("/v1/event/fire/{EVENT}?{}", job.filters), payload).await;
    let event = fired.and_then(super::api::Answer::json).map_err(|e| format!("Failed to fire event: {e}"))?;
    if job.verbose {
        print_out(&format!("Fired remote execution event: {}\n", text(&event, "ID")));
    }
    let mut tally = Tally::default();
    follow(api, job, &dir, &mut tally).await?;
    Ok(if tally.bad > 0 || tally.ended < tally.taken { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// How many nodes have it, are done with it, and failed.
#[derive(Debug, Default)]
struct Tally {
    taken: usize,
    ended: usize,
    bad: usize,
}

/// Prints what nodes tell, until all have been silent for long enough.
async fn follow(api: &Api, job: &Job, dir: &str, tally: &mut Tally) -> Result<(), String> {
    let began = Instant::now();
    let (mut index, mut seen) = (0, BTreeSet::new());
    let mut last = Instant::now();
    let dir = format!("{dir}/");
    loop {
        // Longer where some are known to be at work.
        let patience = if tally.taken > tally.ended { job.wait * 2 } else { job.wait };
        let when = When { index, wait: job.wait, consistent: false };
        let keys = tokio::select! {
            keys = store::keys(api, &dir, when) => keys,
            () = sleep_until(last + patience) => break,
        };
        let (keys, now) = keys.map_err(|e| format!("Failed to read results: {e}"))?;
        if now == index {
            continue;
        }
        index = now;
        for key in keys {
            if seen.insert(key.clone()) && tell(api, job, &key, key.strip_prefix(&dir).unwrap_or(&key), tally).await {
                last = Instant::now();
            }
        }
    }
    print_out(&format!("{} / {} node(s) completed / acknowledged\n", tally.ended, tally.taken));
    if job.verbose {
        print_out(&format!("Completed in {:.2} seconds\n", began.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Prints what one key says; false where it says nothing of a node.
async fn tell(api: &Api, job: &Job, key: &str, short: &str, tally: &mut Tally) -> bool {
    let value = async || match store::get(api, key, When::default()).await {
        Ok((Some(pair), _)) => Some(pair.value),
        Ok((None, _)) => {
            eprintln!("Failed to read key '{key}': it is gone");
            None
        }
        Err(e) => {
            eprintln!("Failed to read key '{key}': {e}");
            None
        }
    };
    match told(short) {
        Told::Job => false,
        Told::Taken(node) => {
            tally.taken += 1;
            if job.verbose {
                print_out(&lines(node, true, "acknowledged"));
            }
            true
        }
        Told::Ended(node) => {
            let Some(value) = value().await else { return false };
            let value = String::from_utf8_lossy(&value);
            let Ok(code) = value.parse::<i32>() else {
                eprintln!("Failed to parse exit code '{value}'");
                return false;
            };
            tally.ended += 1;
            tally.bad += usize::from(code != 0);
            print_out(&lines(node, true, &format!("finished with exit code {code}")));
            true
        }
        Told::Output(node) => {
            let Some(value) = value().await else { return false };
            if !value.is_empty() {
                print_out(&lines(node, false, &String::from_utf8_lossy(&value)));
            } else if job.verbose {
                print_out(&lines(node, true, "heartbeat received"));
            }
            true
        }
        Told::Unknown => {
            eprintln!("Unknown key '{short}', ignoring.");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(flags: &[(&'static str, &str)], operands: &[&str], stdin: &str) -> Result<Job, String> {
        Job::read(&Input::of(flags, operands), &mut stdin.as_bytes())
    }

    #[test]
    fn jobs_are_written_as_consul_does() {
        let spec = |job: Result<Job, String>| job.unwrap().spec().to_string();
        assert_eq!(
            spec(job(&[], &["uptime", "-p"], "")),
            r#"{"Command":"uptime -p","Args":null,"Script":null,"Wait":2000000000}"#
        );
        assert_eq!(
            spec(job(&[("shell", "false"), ("wait", "1s")], &["uptime", "-p"], "")),
            r#"{"Command":"","Args":["uptime","-p"],"Script":null,"Wait":1000000000}"#
        );
        assert_eq!(
            spec(job(&[], &["-"], "#!/bin/sh\n")),
            r#"{"Command":"","Args":null,"Script":"IyEvYmluL3NoCg==","Wait":2000000000}"#
        );
    }

    #[test]
    fn what_is_refused() {
        for (flags, operands, text) in [
            (&[][..], &[][..], "Must specify a command to execute"),
            (&[("shell", "false")], &["-"], "Cannot configure -shell=false when reading from stdin"),
            (&[("tag", "a")], &["x"], "Cannot provide tag filter without service filter."),
            (
                &[("node", "(")],
                &["x"],
                "Failed to compile node filter regexp: error parsing regexp: missing closing ): `(`",
            ),
            (&[("wait", "x")], &["x"], "invalid value \"x\" for flag -wait: parse error"),
        ] {
            let error = job(flags, operands, "").unwrap_err();
            assert_eq!(error.lines().next(), Some(text));
        }
        assert_eq!(
            job(&[("node", "^a b"), ("service", "web")], &["x"], "").unwrap().filters,
            "node=%5Ea%20b&service=web"
        );
    }

    #[test]
    fn keys_tell() {
        for (key, said) in [
            ("job", Told::Job),
            ("n1/ack", Told::Taken("n1")),
            ("n1/exit", Told::Ended("n1")),
            ("n1/out/00000", Told::Output("n1")),
            ("n1/other", Told::Unknown),
        ] {
            assert_eq!(told(key), said);
        }
    }

    #[test]
    fn lines_are_marked_as_consul_marks_them() {
        assert_eq!(lines("real", true, "acknowledged"), "==> real: acknowledged\n");
        assert_eq!(lines("real", false, "hi\n"), "    real: hi\n    real:\n");
    }
}
