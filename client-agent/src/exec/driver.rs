//! Waits for calls, runs jobs and writes what becomes of them.
#![allow(
    clippy::disallowed_methods,
    reason = "the one file of this feature that touches tasks, disk, chance and processes"
)]

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::door::Door;
use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::kv::{ApplyRequest, GetRequest, Verb};
use causeway_proto::meta::{Consistency, Meta};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::output::Pieces;
use super::{Call, JobError};
use crate::checks::script::Group;
use crate::events::Event;
use crate::http::exec::{Job, Run};

/// Jobs at a time; one more is not taken, which whoever asked sees by the node's silence.
const MOST: usize = 16;
/// How long a call to the servers may take.
const CALL: Duration = Duration::from_secs(10);
/// How long less than a whole piece of output is held; Consul's.
const HOLD: Duration = Duration::from_millis(500);
/// The exit code of what could not be started; Consul's.
const NOT_STARTED: i32 = 255;
/// That of what was ended by a signal; Consul's.
const SIGNALLED: i32 = -1;

/// What jobs need.
#[derive(Clone)]
pub struct World {
    /// To the servers of this datacenter; it shows them the agent's token.
    pub door: Door,
    /// This node's name.
    pub node: String,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Runs what is called for until `stop`; what runs then is killed.
pub async fn serve(world: World, mut calls: broadcast::Receiver<Arc<Event>>, stop: CancellationToken) {
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = jobs.join_next() => {}
            call = calls.recv() => match call {
                Ok(_) if jobs.len() >= MOST => {
                    tracing::warn!(running = jobs.len(), "remote exec: too many jobs; this one is not taken");
                }
                Ok(event) => {
                    let world = world.clone();
                    jobs.spawn(async move {
                        if let Err(error) = world.take(&event).await {
                            tracing::warn!(%error, "remote exec");
                        }
                    });
                }
                Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "remote exec: calls came too fast"),
                Err(RecvError::Closed) => break,
            },
        }
    }
    jobs.shutdown().await;
}

impl World {
    async fn take(&self, event: &Event) -> Result<(), JobError> {
        let call = Call::read(&event.payload).map_err(JobError::Payload)?;
        let job = self.job(&call).await?;
        self.write(&call, "ack", Vec::new()).await?;
        let code = match self.run(&call, job).await {
            Ok(code) => code,
            Err(error @ JobError::Start { .. }) => {
                tracing::warn!(%error, "remote exec");
                NOT_STARTED
            }
            Err(error) => return Err(error),
        };
        tracing::info!(session = call.session, code, "remote exec: done");
        self.write(&call, "exit", code.to_string().into_bytes()).await
    }

    /// From any server first, as all agents ask at once; from the leader where that one does not have it yet.
    async fn job(&self, call: &Call) -> Result<Job, JobError> {
        let key = call.job();
        for consistency in [Consistency::Stale, Consistency::Default] {
            let meta = Meta { consistency, ..Meta::default() };
            let mut client = KvClient::new(self.door.clone());
            let reply = timeout(CALL, client.get(meta.request(GetRequest { key: key.clone() }))).await;
            let failed = |why| JobError::Store { key: key.clone(), what: "read", why };
            let reply = reply.map_err(|_| failed("no answer in time".to_owned()))?;
            if let Some(entry) = reply.map_err(|s| failed(s.message().to_owned()))?.into_inner().entry {
                return Job::read(&entry.value).map_err(|why| JobError::Garbled { key, why });
            }
        }
        Err(JobError::Missing(key))
    }

    /// Writes one of the node's keys, for as long as the job's session lives.
    async fn write(&self, call: &Call, what: &str, value: Vec<u8>) -> Result<(), JobError> {
        let key = call.of_node(&self.node, what);
        let request = ApplyRequest {
            verb: Verb::Lock.into(),
            key: key.clone(),
            value,
            session: call.session.clone(),
            ..ApplyRequest::default()
        };
        let mut client = KvClient::new(self.door.clone());
        let failed = |why| JobError::Store { key: key.clone(), what: "written", why };
        match timeout(CALL, client.apply(Meta::default().request(request))).await {
            Err(_) => Err(failed("no answer in time".to_owned())),
            Ok(Err(status)) if status.message().contains("invalid session") => Err(JobError::Over(key)),
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Ok(Ok(reply)) if reply.get_ref().done => Ok(()),
            Ok(Ok(_)) => Err(JobError::Over(key)),
        }
    }

    /// Runs a job to its end; its group is killed where what it says cannot be written any more.
    async fn run(&self, call: &Call, job: Job) -> Result<i32, JobError> {
        let (mut command, what, _file) = prepare(job.run).await?;
        tracing::info!(session = call.session, what, "remote exec: runs");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(|source| JobError::Start { what, source })?;
        let group = Group::of(&child);
        self.tell(call, &mut child, job.heartbeat).await?;
        let status = child.wait().await;
        group.release();
        Ok(status.ok().map_or(1, |s| s.code().unwrap_or(SIGNALLED)))
    }

    /// Writes its output as it comes, and a sign of life where none does, until both its pipes end.
    async fn tell(&self, call: &Call, child: &mut Child, heartbeat: Duration) -> Result<(), JobError> {
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let (mut from_out, mut from_err) = (vec![0; 4096], vec![0; 4096]);
        let mut pieces = Pieces::default();
        let mut number = 0_u32;
        while out.is_some() || err.is_some() {
            let ready = tokio::select! {
                n = read(&mut out, &mut from_out) => pieces.add(from_out.get(..n).unwrap_or_default()),
                n = read(&mut err, &mut from_err) => pieces.add(from_err.get(..n).unwrap_or_default()),
                () = sleep(if pieces.pending() { HOLD } else { heartbeat }) => vec![pieces.flush()],
            };
            for piece in ready {
                self.write(call, &format!("out/{number:05x}"), piece).await?;
                number += 1;
            }
        }
        if pieces.pending() {
            self.write(call, &format!("out/{number:05x}"), pieces.flush()).await?;
        }
        Ok(())
    }
}

/// Bytes read; 0 at the end, after which it is gone. Errors end a pipe just as well.
async fn read(from: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> usize {
    let Some(pipe) = from else { return std::future::pending().await };
    let n = pipe.read(into).await.unwrap_or(0);
    if n == 0 {
        *from = None;
    }
    n
}

/// The file of a script; it goes with the job.
struct ScriptFile(PathBuf);

impl Drop for ScriptFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The command of a job, its words for the log, and the file that must live as long as it.
async fn prepare(run: Run) -> Result<(Command, String, Option<ScriptFile>), JobError> {
    let (line, file) = match run {
        Run::Program(program, args) => {
            let mut command = Command::new(&program);
            command.args(args);
            return Ok((command, program, None));
        }
        Run::Line(line) => (line, None),
        Run::Script(script) => {
            let path = std::env::temp_dir().join(format!("rexec{:016x}", rand::random::<u64>()));
            let failed = |source| JobError::Start { what: format!("script file {}", path.display()), source };
            let mut options = tokio::fs::OpenOptions::new();
            let opened = options.write(true).create_new(true).mode(0o700).open(&path).await;
            let mut open = opened.map_err(failed)?;
            let file = ScriptFile(path.clone());
            open.write_all(&script).await.map_err(failed)?;
            // Closed for good before it runs: a file that is being written cannot be executed.
            open.flush().await.map_err(failed)?;
            drop(open.into_std().await);
            (path.display().to_string(), Some(file))
        }
    };
    let shell = std::env::var("SHELL").ok().filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".to_owned());
    let mut command = Command::new(shell);
    command.arg("-c").arg(&line);
    Ok((command, line, file))
}
