//! `lock`: runs a child while it holds a lock, or one of the slots of a semaphore. Keys, marks, sessions, words and exit codes are
//! Consul's, so that both products' commands exclude each other.

mod mutex;
mod semaphore;

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::api::{Api, ApiError};
use super::child::{self, GRACE, Signals, Target};
use super::store::{self, When, join};
use super::{Command, Input, flag, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "lock",
    operands: "PREFIX CHILD...",
    about: "Execute a command holding a lock",
    more: "Waits for the lock at PREFIX, runs the child, gives the lock back. If the lock is lost the child is sent SIGTERM, and after 5 s\n\
           SIGKILL. Flags behind PREFIX are the child's own. With -n above 1 so many may hold it at a time.",
    flags: &[
        flag("child-exit-code", "", "Whether a child that fails makes the exit code 2. Default: false."),
        flag("monitor-retry", "int", "Errors of the agent in sequence, a second apart, that are no loss. Default: 3."),
        flag("n", "int", "How many may hold it at a time. Default: 1."),
        flag("name", "string", "Name of the session; default: made from child and prefix."),
        flag("pass-stdin", "", "Whether the child reads our standard input."),
        flag("shell", "", "Whether the child is a line of the shell (of $SHELL, else /bin/sh). Default: true."),
        flag("timeout", "duration", "How long to wait for it; default: 0, for ever."),
        flag("try", "duration", "Old spelling of -timeout."),
        flag("verbose", "", "Says what happens."),
    ],
    http: true,
    run,
};

/// The last piece of the key that both kinds use, so that one used as the other is noticed.
const KEY: &str = ".lock";
/// How long one read waits for a change.
const WAIT: Duration = Duration::from_secs(15);
/// How long one read of a lock that is held waits for its loss.
const WATCH: Duration = Duration::from_secs(45);
/// Between two looks at a lock that cannot be seen.
const RETRY: Duration = Duration::from_secs(1);
/// How long giving back may take.
const END: Duration = Duration::from_secs(20);

/// Why a lock is not had or not given back; Consul's words.
#[derive(Debug, thiserror::Error)]
enum LockError {
    #[error("failed to {0}: {1}")]
    Api(&'static str, ApiError),
    #[error("Existing key does not match lock use")]
    NoLock,
    #[error("Existing key does not match semaphore use")]
    NoSemaphore,
    #[error("semaphore limit conflict (lock: {theirs}, local: {ours})")]
    Limit { theirs: u64, ours: u64 },
    #[error("failed to make contender entry: it belongs to another session")]
    NoEntry,
    #[error("lock decoding failed: {0}")]
    Garbled(String),
    #[error("Lock in use")]
    InUse,
    #[error("no answer in time")]
    Late,
}

impl LockError {
    /// Whether the agent may only be unable to say, for now: errors of servers and of the network.
    fn passing(&self) -> bool {
        matches!(self, Self::Api(_, ApiError::Refused { code: 500.., .. } | ApiError::Unreachable { .. }))
    }
}

/// What the flags say.
struct Given {
    limit: u64,
    retries: u64,
    name: String,
    shell: bool,
    pass_stdin: bool,
    child_code: bool,
    verbose: bool,
    /// `None`: for ever.
    timeout: Option<Duration>,
    prefix: String,
    child: Vec<String>,
}

impl Given {
    fn read(input: &Input) -> Result<Self, String> {
        let limit = input.whole("n", 1)?;
        let retries = input.whole("monitor-retry", 3)?;
        let timeout = match input.time("timeout", 0)? {
            0 => input.time("try", 0)?,
            timeout => timeout,
        };
        if limit <= 0 {
            return Err("Lock holder limit must be positive".to_owned());
        }
        let [prefix, child @ ..] = input.operands.as_slice() else {
            return Err("Key prefix and child command must be specified".to_owned());
        };
        if child.is_empty() {
            return Err("Key prefix and child command must be specified".to_owned());
        }
        let timeout = u64::try_from(timeout).map_err(|_| "Timeout must be positive".to_owned())?;
        let prefix = prefix.strip_prefix('/').unwrap_or(prefix).to_owned();
        let name = match input.value("name").filter(|n| !n.is_empty()) {
            Some(name) => name.to_owned(),
            None => format!("Consul lock for '{}' at '{prefix}'", child.join(" ")),
        };
        Ok(Self {
            limit: limit.unsigned_abs(),
            retries: u64::try_from(retries).map_err(|_| "Number for 'monitor-retry' must be >= 0".to_owned())?,
            name,
            shell: input.value("shell").is_none() || input.on("shell"),
            pass_stdin: input.on("pass-stdin"),
            child_code: input.on("child-exit-code"),
            verbose: input.on("verbose"),
            timeout: Some(Duration::from_nanos(timeout)).filter(|t| !t.is_zero()),
            prefix,
            child: child.to_vec(),
        })
    }

    /// How long the next read may wait; `None`: time is over. The first look is always allowed.
    fn wait(&self, attempt: u64, elapsed: Duration) -> Option<Duration> {
        match self.timeout {
            Some(timeout) if attempt > 0 && elapsed >= timeout => None,
            Some(timeout) => Some(timeout.saturating_sub(elapsed).clamp(Duration::from_millis(1), WAIT)),
            None => Some(WAIT),
        }
    }

    fn say(&self, text: &str) {
        if self.verbose {
            print_out(&format!("{text}\n"));
        }
    }
}

fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn run(input: &Input) -> ExitCode {
    let given = match Given::read(input) {
        Ok(given) => given,
        Err(text) => return complain(&text),
    };
    let api = match Api::new(input) {
        Ok(api) => api,
        Err(e) => return complain(&format!("Error connecting to Consul agent: {e}")),
    };
    if let Err(e) = api.get("/v1/agent/self") {
        return complain(&format!("Error querying Consul agent: {e}"));
    }
    api.block_on(async {
        match Signals::listen() {
            Ok(signals) => hold(&api, &given, signals).await,
            Err(e) => complain(&format!("Cannot listen for signals: {e}")),
        }
    })
}

/// The lock, of either kind.
struct Lock<'a> {
    api: &'a Api,
    given: &'a Given,
    key: String,
    session: String,
}

impl<'a> Lock<'a> {
    async fn prepare(api: &'a Api, given: &'a Given) -> Result<Self, ApiError> {
        let mut session = json!({"Name": given.name, "TTL": store::TTL});
        if given.limit > 1 {
            // The entry of a contender goes with its session.
            session["Behavior"] = Value::from("delete");
        }
        let session = store::create_session(api, &session).await?;
        Ok(Self { api, given, key: join(&[&given.prefix, KEY]), session })
    }

    fn single(&self) -> bool {
        self.given.limit == 1
    }

    async fn acquire(&self) -> Result<Option<()>, LockError> {
        let (api, given) = (self.api, self.given);
        match self.single() {
            true => mutex::acquire(api, &self.key, &self.session, given).await,
            false => semaphore::acquire(api, &given.prefix, given.limit, &self.session, given).await,
        }
    }

    async fn look(&self, when: When) -> Result<(bool, u64), LockError> {
        match self.single() {
            true => mutex::look(self.api, &self.key, &self.session, when).await,
            false => semaphore::look(self.api, &self.given.prefix, self.given.limit, &self.session, when).await,
        }
    }

    /// Ends when the lock is lost, or cannot be seen any more.
    async fn watch(&self) {
        let (mut index, mut retries) = (0, self.given.retries);
        loop {
            match self.look(When { index, wait: WATCH, consistent: true }).await {
                Ok((false, _)) => return,
                Ok((true, now)) => (index, retries) = (now, self.given.retries),
                Err(e) if e.passing() && retries > 0 => {
                    (index, retries) = (0, retries - 1);
                    sleep(RETRY).await;
                }
                Err(_) => return,
            }
        }
    }

    async fn release(&self) -> Result<(), LockError> {
        let (api, given) = (self.api, self.given);
        let released = async {
            match self.single() {
                true => mutex::release(api, &self.key, &self.session).await,
                false => semaphore::release(api, &given.prefix, given.limit, &self.session).await,
            }
        };
        let released = timeout(END, released).await.unwrap_or(Err(LockError::Late));
        // Its end gives back what could not be given back otherwise.
        let _ = timeout(END, store::destroy_session(api, &self.session)).await;
        released
    }

    async fn clean(&self) -> Result<(), LockError> {
        let cleaned = async {
            match self.single() {
                true => mutex::clean(self.api, &self.key).await,
                false => semaphore::clean(self.api, &self.given.prefix, self.given.limit).await,
            }
        };
        timeout(END, cleaned).await.unwrap_or(Err(LockError::Late))
    }
}

async fn hold(api: &Api, given: &Given, mut signals: Signals) -> ExitCode {
    match given.limit {
        1 => given.say(&format!("Setting up lock at path: {}", join(&[&given.prefix, KEY]))),
        n => given.say(&format!("Setting up semaphore (limit {n}) at prefix: {}", given.prefix)),
    }
    given.say("Attempting lock acquisition");
    let lock = match Lock::prepare(api, given).await {
        Ok(lock) => lock,
        Err(e) => return complain(&format!("Lock acquisition failed: failed to create session: {e}")),
    };
    let renewed = store::keep_session(api, &lock.session);
    tokio::pin!(renewed);
    let acquired = tokio::select! {
        acquired = lock.acquire() => acquired,
        _ = signals.next() => Ok(None),
        lost = &mut renewed => Err(LockError::Api("renew session", lost)),
    };
    match acquired {
        Ok(Some(())) => {}
        other => {
            // A contender's entry is deleted with it.
            let _ = timeout(END, store::destroy_session(api, &lock.session)).await;
            return complain(&match other {
                Err(e) => format!("Lock acquisition failed: {e}"),
                Ok(_) => "Shutdown triggered or timeout during lock acquisition".to_owned(),
            });
        }
    }
    let failed = {
        let lost = async {
            tokio::select! {
                () = lock.watch() => {}
                _ = &mut renewed => {}
            }
        };
        tokio::pin!(lost);
        run_child(given, &mut signals, &mut lost).await
    };
    if let Err(e) = lock.release().await {
        return complain(&format!("Lock release failed: {e}"));
    }
    match lock.clean().await {
        Ok(()) => given.say("Cleanup succeeded"),
        Err(LockError::InUse) => given.say("Cleanup aborted, lock in use"),
        Err(e) => return complain(&format!("Lock cleanup failed: {e}")),
    }
    if failed && given.child_code { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Runs the child to its end; true where it ended badly by itself. One that outlives the lock is killed.
async fn run_child(given: &Given, signals: &mut Signals, lost: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    given.say("Starting handler");
    let mut command = match child::command(&given.child, given.shell) {
        Ok(command) => command,
        Err(e) => {
            eprintln!("Error executing handler: {e}");
            return true;
        }
    };
    command.env("CONSUL_LOCK_HELD", "true").kill_on_drop(true);
    if given.pass_stdin {
        given.say("Stdin passed to handler process");
        // It stays in our group: another one may not read from the terminal.
        command.stdin(Stdio::inherit());
    } else {
        // A group of its own: what it started must not outlive the lock either.
        command.stdin(Stdio::null()).process_group(0);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("Error starting handler: {e}");
            return true;
        }
    };
    let target = Target::of(&child, !given.pass_stdin);
    tokio::select! {
        ended = child.wait() => {
            let failure = match ended {
                Ok(status) => child::failure(status),
                Err(e) => Some(e.to_string()),
            };
            if let Some(failure) = &failure {
                eprintln!("Error running handler: {failure}");
            }
            given.say("Child terminated, releasing lock");
            failure.is_some()
        }
        number = signals.next() => {
            given.say("Shutdown triggered, killing child");
            forward(target, number);
            end(given, &mut child, target).await;
            false
        }
        () = lost => {
            given.say("Lock lost, killing child");
            end(given, &mut child, target).await;
            false
        }
    }
}

fn forward(target: Option<Target>, number: rustix::process::Signal) {
    if let Some(Err(e)) = target.map(|t| t.send(number)) {
        eprintln!("Warning, could not forward signal: {e}");
    }
}

/// SIGTERM, and SIGKILL for one that does not heed it.
async fn end(given: &Given, child: &mut Child, target: Option<Target>) {
    let Some(target) = target else { return given.say("No child process to kill") };
    given.say(&format!("Terminating child pid {}", target.pid()));
    if let Err(e) = target.send(rustix::process::Signal::TERM) {
        eprintln!("Failed to terminate {}: {e}", target.pid());
    }
    if timeout(GRACE, child.wait()).await.is_ok() {
        given.say("Child terminated");
        // What it left behind in its group would act as if the lock were held.
        let _ = target.send(rustix::process::Signal::KILL);
        return;
    }
    given.say(&format!("Child did not exit after grace period of {}s", GRACE.as_secs()));
    given.say(&format!("Killing child pid {}", target.pid()));
    if let Err(e) = target.send(rustix::process::Signal::KILL) {
        eprintln!("Failed to kill {}: {e}", target.pid());
    }
    let _ = timeout(GRACE, child.wait()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[(&'static str, &str)], operands: &[&str]) -> Result<Given, String> {
        Given::read(&Input::of(flags, operands))
    }

    #[test]
    fn flags_are_judged_in_consuls_words() {
        for (flags, operands, text) in [
            (&[("n", "0")][..], &["k", "true"][..], "Lock holder limit must be positive"),
            (&[], &["k"], "Key prefix and child command must be specified"),
            (&[("timeout", "-1s")], &["k", "true"], "Timeout must be positive"),
            (&[("monitor-retry", "-1")], &["k", "true"], "Number for 'monitor-retry' must be >= 0"),
            (&[("n", "x")], &["k", "true"], "invalid value \"x\" for flag -n: parse error"),
            (&[("try", "x")], &["k", "true"], "invalid value \"x\" for flag -try: parse error"),
        ] {
            assert_eq!(given(flags, operands).err().as_deref(), Some(text));
        }
        let lock = given(&[("try", "2s")], &["/a/b", "sh", "-c", "x"]).ok().unwrap();
        assert_eq!(
            (lock.name.as_str(), lock.prefix.as_str(), lock.timeout),
            ("Consul lock for 'sh -c x' at 'a/b'", "a/b", Some(Duration::from_secs(2)))
        );
        assert!(lock.shell && !lock.child_code && lock.retries == 3);
    }

    #[test]
    fn the_first_look_is_free_and_the_rest_is_counted() {
        let lock = given(&[("timeout", "2s")], &["k", "true"]).ok().unwrap();
        let ms = Duration::from_millis;
        assert_eq!(lock.wait(0, ms(5000)), Some(ms(1)));
        assert_eq!(lock.wait(1, ms(500)), Some(ms(1500)));
        assert_eq!(lock.wait(1, ms(2000)), None);
        let patient = given(&[], &["k", "true"]).ok().unwrap();
        assert_eq!(patient.wait(9, Duration::from_secs(9999)), Some(WAIT));
    }

    #[test]
    fn only_servers_and_the_network_are_given_another_chance() {
        let refused = |code| LockError::Api("read lock", ApiError::Refused { code, body: String::new() });
        assert!(refused(500).passing() && refused(503).passing() && !refused(403).passing());
        assert!(!LockError::NoLock.passing());
    }
}
