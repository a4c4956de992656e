//! Asks for what is watched and runs the handlers.
#![allow(clippy::disallowed_methods, reason = "the one file of this feature that touches tasks, clock and processes")]

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::checks;
use crate::checks::http::Tls;
use crate::checks::output::Tail;
use crate::checks::script::{Group, read_both};
use crate::http::watch::progress::Progress;
use crate::http::watch::{Handler, Plan, Value};
use crate::registry::{HttpCheck, Secret, Status};

/// How long one question may wait for something new.
const WAIT: Duration = Duration::from_secs(300);
/// Beyond it an answer does not come: the wait, its jitter and some seconds.
const ANSWER: Duration = Duration::from_secs(345);
/// An answer without news that comes sooner did not wait; the next question is held back for as long.
const TOO_SOON: Duration = Duration::from_secs(1);
/// Bytes of a handler's output that are logged.
const OUTPUT: usize = 4096;

/// An answer of the HTTP API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its index; 0: none was given.
    pub index: u64,
    /// Its body.
    pub body: Bytes,
}

type Asked = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;
/// Asks the HTTP API: path with query, and token.
pub type Ask = Arc<dyn Fn(String, Secret) -> Asked + Send + Sync>;

/// The watches of this agent. When it is dropped they end, and with them each handler that runs.
pub struct Watches {
    ask: Ask,
    hands: Arc<Hands>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    tasks: JoinSet<()>,
    plans: Vec<(Plan, AbortHandle)>,
}

/// What handlers need.
struct Hands {
    ca_files: Vec<PathBuf>,
    /// Made when the first HTTP handler runs: it holds every authority of the system.
    tls: OnceLock<Option<Tls>>,
}

impl Watches {
    /// Without any watch yet. `ca_files` are authorities that HTTP handlers trust besides the system's.
    pub fn new(ask: Ask, ca_files: Vec<PathBuf>) -> Self {
        let hands = Arc::new(Hands { ca_files, tls: OnceLock::new() });
        Self { ask, hands, running: Mutex::default() }
    }

    /// From now on these, in a Tokio runtime. One that was there before goes on as it is; of one that is gone the handler is killed.
    pub fn set(&self, plans: Vec<Plan>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut running.plans);
        for plan in plans {
            let handle = match before.iter().position(|(other, _)| *other == plan) {
                Some(at) => before.swap_remove(at).1,
                None => running.tasks.spawn(follow(plan.clone(), self.ask.clone(), self.hands.clone())),
            };
            running.plans.push((plan, handle));
        }
        for (_, handle) in before {
            handle.abort();
        }
        // Takes away what ended since the last time.
        while running.tasks.try_join_next().is_some() {}
    }

    /// Ends them all and waits until they have.
    pub async fn stop(&self) {
        let mut tasks = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.plans.clear();
            std::mem::take(&mut running.tasks)
        };
        tasks.shutdown().await;
    }
}

async fn follow(plan: Plan, ask: Ask, hands: Arc<Hands>) {
    let mut progress = Progress::default();
    loop {
        let (began, before) = (Instant::now(), progress.index());
        let question = ask(plan.watch.path(before, WAIT), plan.watch.token.clone());
        let answer = match timeout(ANSWER, question).await {
            Ok(answer) => answer,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let data = answer.and_then(|a| Ok((a.index, plan.watch.data(a.status, &a.body)?)));
        match data {
            Err(error) => {
                let wait = progress.failed();
                tracing::error!(kind = ?plan.watch.kind, retry = ?wait, error, "watch errored");
                sleep(wait).await;
            }
            Ok((index, data)) => {
                // Without an index there is nothing to wait for; it is asked again soon.
                match progress.answered(&plan.watch, index.max(1), data) {
                    Some(data) => hands.handle(&plan, index, &data).await,
                    None if index <= before => sleep(TOO_SOON.saturating_sub(began.elapsed())).await,
                    None => {}
                }
            }
        }
    }
}

impl Hands {
    async fn handle(&self, plan: &Plan, index: u64, data: &Value) {
        // A line, as Go's encoder ends it.
        let input = format!("{data}\n");
        let kind = &plan.watch.kind;
        let outcome = match &plan.handler {
            Handler::Args(args) => match args.split_first() {
                Some((program, args)) => script(program, args, index, &input).await,
                None => Err("it names no program".to_owned()),
            },
            Handler::Shell(line) => script("/bin/sh", &["-c".to_owned(), line.clone()], index, &input).await,
            Handler::Http { request, timeout } => self.http(request, *timeout, index, input).await,
        };
        match outcome {
            Ok(output) => tracing::debug!(?kind, output, "watch handler output"),
            Err(error) => tracing::error!(?kind, error, "failed to run watch handler"),
        }
    }

    async fn http(&self, request: &HttpCheck, within: Duration, index: u64, body: String) -> Result<String, String> {
        let made = || Tls::new(&checks::authorities(&self.ca_files)).ok();
        let Some(tls) = self.tls.get_or_init(made) else { return Err("TLS cannot be set up".to_owned()) };
        let mut request = HttpCheck { body, ..request.clone() };
        for (name, value) in [("Content-Type", "application/json".to_owned()), ("X-Consul-Index", index.to_string())] {
            if !request.header.keys().any(|k| k.eq_ignore_ascii_case(name)) {
                request.header.insert(name.to_owned(), vec![value]);
            }
        }
        if !request.header.keys().any(|k| k.eq_ignore_ascii_case("user-agent")) {
            request.header.insert("User-Agent".to_owned(), vec!["Consul Watch".to_owned()]);
        }
        match timeout(within, checks::http::run(&request, OUTPUT, tls)).await {
            Err(_) => Err(checks::http::timed_out(&request)),
            Ok(outcome) if outcome.status == Status::Passing => Ok(outcome.output),
            Ok(outcome) => Err(outcome.output),
        }
    }
}

/// Runs a handler to its end; its group is killed when this is dropped before.
async fn script(program: &str, args: &[String], index: u64, input: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).env("CONSUL_INDEX", index.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("fork/exec {program}: {e}"))?;
    let group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut tail = Tail::new(OUTPUT);
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A handler need not read what it is given.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    tokio::join!(tell, read_both(stdout, stderr, &mut tail));
    let status = child.wait().await.map_err(|e| format!("waiting for {program}: {e}"))?;
    group.release();
    let output = tail.captured();
    if status.success() { Ok(output) } else { Err(format!("{program}: {status}; it said {output:?}")) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    /// Gives these answers, then waits for ever; tells the paths.
    fn fake(answers: &[(u64, &'static str)]) -> (Ask, mpsc::UnboundedReceiver<String>) {
        let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
        let (asked, paths) = mpsc::unbounded_channel();
        let ask: Ask = Arc::new(move |path, _| {
            let _ = asked.send(path);
            let next = answers.lock().unwrap().pop_front();
            Box::pin(async move {
                match next {
                    Some((index, body)) => Ok(Answer { status: 200, index, body: Bytes::from_static(body.as_bytes()) }),
                    None => std::future::pending().await,
                }
            })
        });
        (ask, paths)
    }

    fn plan(line: &str) -> Plan {
        Plan::parse(json!({"type":"nodes","handler":line}).as_object().unwrap()).unwrap()
    }

    async fn until(what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn handlers_get_each_new_answer_and_end_with_the_watch() {
        let dir = tempfile::tempdir().unwrap();
        let (out, pid) = (dir.path().join("out"), dir.path().join("pid"));
        let (ask, mut paths) = fake(&[(3, "[1]"), (4, "[1]"), (5, "[2]")]);
        let watches = Watches::new(ask, Vec::new());
        let first = plan(&format!("(echo $CONSUL_INDEX; cat) >> {}", out.display()));
        watches.set(vec![first.clone()]);
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        until("both answers", || read(&out) == "3\n[1]\n5\n[2]\n").await;
        for index in [0, 3, 4, 5] {
            assert_eq!(paths.recv().await.unwrap(), format!("/v1/catalog/nodes?index={index}&wait=300s"));
        }
        // Set again, it is the same watch: it asks nothing anew.
        watches.set(vec![first]);
        assert!(paths.try_recv().is_err());
        watches.stop().await;
        // A handler that hangs is killed with its watch.
        let (ask, _paths) = fake(&[(3, "[]")]);
        let watches = Watches::new(ask, Vec::new());
        watches.set(vec![plan(&format!("echo $$ > {}; sleep 600", pid.display()))]);
        until("the handler to start", || read(&pid).ends_with('\n')).await;
        let child = read(&pid).trim().to_owned();
        watches.set(Vec::new());
        until("the handler to be killed", || {
            std::fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "))
        })
        .await;
        watches.stop().await;
    }
}
