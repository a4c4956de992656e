//! Runs a program in a process group of its own, which is killed as a whole when its time is over.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Outcome;
use super::output::{Tail, go_duration};
use crate::registry::{ScriptCheck, Status};

/// Kills the group when it is dropped: at the timeout, when the check is removed and when the agent stops.
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group of a process that was started with one of its own.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Lets it live.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the script for this long at most: exit status 0 passes, 1 warns, anything else is critical.
pub(super) async fn run(script: &ScriptCheck, limit: usize, within: Duration) -> Outcome {
    let (program, args): (&str, &[String]) = match script {
        ScriptCheck::Shell(line) => ("/bin/sh", &["-c".to_owned(), line.clone()]),
        ScriptCheck::Args(args) => match args.split_first() {
            Some((program, args)) => (program, args),
            None => return Outcome::critical("the script has no program to run; give it one in args"),
        },
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && program.contains('/') => {
            return Outcome::critical(format!("fork/exec {program}: no such file or directory"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Outcome::critical(format!("exec: {program:?}: executable file not found in $PATH"));
        }
        Err(error) => return Outcome::critical(format!("fork/exec {program}: {error}")),
    };
    let group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut tail = Tail::new(limit);
    let finished = timeout(within, async {
        // What its children still write counts too, so the end is the end of both pipes.
        read_both(stdout, stderr, &mut tail).await;
        child.wait().await
    })
    .await;
    match finished {
        Err(_) => {
            drop(group);
            // The kernel has killed it; this takes its exit status, so that no zombie stays.
            let _ = timeout(Duration::from_secs(1), child.wait()).await;
            Outcome::critical(format!("Timed out ({}) running check\n\n{}", go_duration(within), tail.captured()))
        }
        Ok(status) => {
            group.release();
            match status.map(|s| s.code()) {
                Ok(Some(0)) => Outcome::new(Status::Passing, tail.captured()),
                Ok(Some(1)) => Outcome::new(Status::Warning, tail.captured()),
                Ok(_) => Outcome::critical(tail.captured()),
                Err(error) => Outcome::critical(format!("waiting for {program}: {error}")),
            }
        }
    }
}

/// Reads both to their ends.
pub(crate) async fn read_both(
    mut a: Option<impl AsyncRead + Unpin>,
    mut b: Option<impl AsyncRead + Unpin>,
    tail: &mut Tail,
) {
    let (mut in_a, mut in_b) = (vec![0; 4096], vec![0; 4096]);
    while a.is_some() || b.is_some() {
        tokio::select! {
            n = read(&mut a, &mut in_a) => match n {
                0 => a = None,
                n => tail.write(in_a.get(..n).unwrap_or_default()),
            },
            n = read(&mut b, &mut in_b) => match n {
                0 => b = None,
                n => tail.write(in_b.get(..n).unwrap_or_default()),
            },
        }
    }
}

/// Bytes read; 0 at the end and on errors, which end a pipe just as well.
async fn read(from: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> usize {
    match from {
        Some(from) => from.read(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests look at the clock and at real processes")]

    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(line: &str) -> ScriptCheck {
        ScriptCheck::Shell(line.into())
    }

    #[tokio::test]
    async fn exit_statuses() {
        for (line, status, output) in [
            ("echo fine", Status::Passing, "fine\n"),
            ("echo hm; exit 1", Status::Warning, "hm\n"),
            ("echo bad >&2; exit 2", Status::Critical, "bad\n"),
            ("kill -9 $$", Status::Critical, ""),
        ] {
            assert_eq!(run(&shell(line), 4096, LONG).await, Outcome::new(status, output), "{line}");
        }
        let args = ScriptCheck::Args(vec!["echo".into(), "a b".into(), "$HOME".into()]);
        assert_eq!(run(&args, 4096, LONG).await.output, "a b $HOME\n", "no shell between");
    }

    #[tokio::test]
    async fn programs_that_are_not_there() {
        let args = |p: &str| ScriptCheck::Args(vec![p.into()]);
        let missing = run(&args("/nonexist"), 4096, LONG).await;
        assert_eq!(missing, Outcome::critical("fork/exec /nonexist: no such file or directory"));
        assert_eq!(run(&args("no-such-program"), 4096, LONG).await.status, Status::Critical);
        assert_eq!(run(&ScriptCheck::Args(vec![]), 4096, LONG).await.status, Status::Critical);
    }

    #[tokio::test]
    async fn big_output_is_bounded() {
        let outcome = run(&shell("yes | head -c 5000000"), 20, LONG).await;
        assert_eq!(outcome.output, format!("Captured 20 of 5000000 bytes\n...\n{}", "y\n".repeat(10)));
    }

    /// Whether a process is there and has not ended.
    fn lives(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    #[tokio::test]
    async fn a_hanging_script_is_killed_with_its_children() {
        let start = Instant::now();
        let outcome = run(&shell("echo begin; sleep 600 & echo $!; wait"), 4096, Duration::from_secs(1)).await;
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(outcome.status, Status::Critical);
        let output = outcome.output.strip_prefix("Timed out (1s) running check\n\nbegin\n").unwrap();
        let child = output.trim().to_owned();
        while lives(&child) {
            assert!(start.elapsed() < Duration::from_secs(10), "its child {child} lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_script_that_is_dropped_is_killed_with_its_children() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("sleep 600 & echo $! > {}; wait", file.path().display());
        let script = shell(&line);
        let mut running = Box::pin(run(&script, 4096, LONG));
        let start = Instant::now();
        let child = loop {
            let _ = timeout(Duration::from_millis(5), &mut running).await;
            let text = std::fs::read_to_string(file.path()).unwrap();
            if text.ends_with('\n') {
                break text.trim().to_owned();
            }
            assert!(start.elapsed() < Duration::from_secs(10));
        };
        assert!(lives(&child));
        drop(running);
        while lives(&child) {
            assert!(start.elapsed() < Duration::from_secs(10), "its child {child} lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
