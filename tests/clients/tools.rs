//! The programs of others: where they are, what brings them, how they are started and ended.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::harness::wait;

/// Past the capture of outputs: that nothing was tested must be seen.
pub fn skip(client: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIP {client}: {why}");
}

/// Where `.ci/clients` puts what no package of the system brings.
pub fn clients_dir() -> PathBuf {
    std::env::var_os("CLIENTS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients"), PathBuf::from)
}

/// The program's path.
pub fn find(program: &str) -> Option<PathBuf> {
    let own = clients_dir();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = vec![own.join("bullseye/usr/bin"), own.join("venv/bin")];
    places.extend(std::env::split_paths(&path));
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    // Debian keeps the server's programs off the path.
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(releases.map(|release| release.path().join("bin")));
    places.into_iter().map(|place| place.join(program)).find(|file| file.is_file())
}

/// The programs, or nothing and a loud word on what brings them.
pub fn need<const N: usize>(client: &str, programs: [&str; N], brings: &str) -> Option<[PathBuf; N]> {
    let found = programs.map(find);
    let missing: Vec<&str> = programs.iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(p, _)| *p).collect();
    if !missing.is_empty() {
        skip(client, &format!("no {}; {brings}, or .ci/clients", missing.join(", ")));
        return None;
    }
    Some(found.map(Option::unwrap_or_default))
}

/// A program that runs until this is dropped, with what it started.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in a group of its own; it says what it has to say to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let out = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, log: log.to_owned() }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, of all its group.
    pub fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Asks it to end in order (SIGTERM).
    pub fn terminate(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Runs to its end, which must be good and come in time; what it said.
    fn finish(mut self, what: &str, within: Duration) -> String {
        let log = self.log.clone();
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let status = wait(what, within, || self.child.try_wait().unwrap().ok_or_else(said));
        assert!(status.success(), "{what}: {status}\n{}", said());
        said()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.log(), 40));
        }
        self.kill();
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a program to its good end; what it said.
pub fn run(what: &str, command: Command, dir: &Path, within: Duration) -> String {
    Daemon::start(command, &dir.join(format!("{what}.log"))).finish(what, within)
}

/// What a short command prints, whatever its exit code.
pub fn output(program: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}
