//! The child of `watch` and `lock`: how it is started, how it is told to end, and the signals that end the command itself.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal as Number, kill_process, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long a child may take to end after SIGTERM; Consul's. It is well below the delay of a lost lock, 15 s.
pub const GRACE: Duration = Duration::from_secs(5);

/// What ends a command from outside.
pub struct Signals {
    int: Signal,
    term: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    /// The next one.
    pub async fn next(&mut self) -> Number {
        tokio::select! {
            _ = self.int.recv() => Number::INT,
            _ = self.term.recv() => Number::TERM,
        }
    }
}

/// The command that the operands are: a line of the shell ($SHELL, else /bin/sh), or a program and its arguments.
pub fn command(operands: &[String], shell: bool) -> Result<Command, &'static str> {
    if shell {
        let shell = std::env::var("SHELL").ok().filter(|s| !s.is_empty()).unwrap_or_else(|| "/bin/sh".to_owned());
        let mut command = Command::new(shell);
        command.arg("-c").arg(operands.join(" "));
        return Ok(command);
    }
    let (program, args) = operands.split_first().ok_or("need an executable to run")?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// The process alone: it shares our terminal.
    Process(Pid),
    /// The process and all that it started: it is the head of a group.
    Group(Pid),
}

impl Target {
    /// A running child; `group`: it was started as the head of one.
    pub fn of(child: &Child, group: bool) -> Option<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)?;
        Some(if group { Self::Group(pid) } else { Self::Process(pid) })
    }

    /// Its number.
    pub fn pid(self) -> i32 {
        let (Self::Process(pid) | Self::Group(pid)) = self;
        pid.as_raw_nonzero().get()
    }

    /// Sends a signal. That nobody is there any more is no error.
    pub fn send(self, number: Number) -> io::Result<()> {
        let sent = match self {
            Self::Process(pid) => kill_process(pid, number),
            Self::Group(pid) => kill_process_group(pid, number),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How a child ended, in Go's words; `None`: well.
pub fn failure(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit status {code}")),
        (None, number) => Some(format!("signal: {}", signal_name(number.unwrap_or_default()))),
    }
}

/// As Go's `syscall.Signal` prints the common ones.
fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn ends_in_gos_words() {
        // The status as the system's wait gives it: the exit code is its second byte, a signal its first.
        for (raw, words) in [
            (0, None),
            (3 << 8, Some("exit status 3")),
            (9, Some("signal: killed")),
            (15, Some("signal: terminated")),
            (40, Some("signal: signal 40")),
        ] {
            assert_eq!(failure(ExitStatus::from_raw(raw)).as_deref(), words);
        }
    }

    #[test]
    fn operands_as_a_line_or_as_they_are() {
        let operands = ["echo", "a b"].map(str::to_owned);
        let args = |shell| {
            let command = command(&operands, shell).unwrap();
            command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(args(true), ["-c", "echo a b"]);
        assert_eq!(args(false), ["a b"]);
        assert!(command(&[], false).is_err());
    }
}
