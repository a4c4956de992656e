//! `debug`: gathers what a person who was not there needs to understand an agent, for a while, into one archive of Consul's layout:
//! `agent.json`, `host.json`, `cluster.json`, `index.json`, and a directory for each interval with `metrics.json` and `consul.log`.
//! Nothing secret goes in: see [`scrub`].

mod scrub;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_agent::http::duration::format as go;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use super::api::{Api, ApiError, text};
use super::child::Signals;
use super::{Command, Input, flag, pretty, print_out};
use scrub::Scrub;

/// The command.
pub static COMMAND: Command = Command {
    name: "debug",
    operands: "",
    about: "Records a debugging archive for operators",
    more: "What an agent, its host and its datacenter are, and its metrics and log for a while, as OUTPUT.tar.gz. Tokens, keys and\n\
           passwords are left out. Profiles (pprof) are Go's: they are taken of agents that have them.",
    flags: &[
        flag("archive", "", "Whether to make one file of it; otherwise the directory is left. Default: true."),
        flag(
            "capture",
            "value",
            "What to take: metrics, logs, pprof, host, agent, cluster; may be repeated. Default: all.",
        ),
        flag("duration", "duration", "How long. Default: 2m0s, at least 10s."),
        flag("interval", "duration", "How often metrics are taken. Default: 30s, at least 5s."),
        flag("output", "path", "Where to, without .tar.gz. Default: consul-debug-TIME."),
    ],
    http: true,
    run,
};

const SECOND: i64 = 1_000_000_000;
/// Everything, in Consul's order.
const ALL: [&str; 6] = ["metrics", "logs", "pprof", "host", "agent", "cluster"];
/// The layout's version; Consul's.
const LAYOUT: u32 = 1;
/// Longest CPU profile that is asked for at a time.
const PROFILE: Duration = Duration::from_secs(30);

/// What stops it.
#[derive(Debug, thiserror::Error)]
enum DebugError {
    #[error("Capture validation failed: {0}")]
    Invalid(String),
    #[error("Error creating index document: {0}")]
    Index(io::Error),
    #[error("Archive creation failed: {0}; what was taken is in {1}")]
    Archive(io::Error, String),
}

/// What the flags say.
#[derive(Debug)]
struct Given {
    duration: Duration,
    interval: Duration,
    output: PathBuf,
    archive: bool,
    capture: Vec<String>,
}

impl Given {
    fn read(input: &Input, now: u64) -> Result<Self, DebugError> {
        let invalid = |text: String| DebugError::Invalid(text);
        let (duration, interval) = (
            input.time("duration", 120 * SECOND).map_err(invalid)?,
            input.time("interval", 30 * SECOND).map_err(invalid)?,
        );
        let as_go = |nanos: i64| go(Duration::from_nanos(nanos.unsigned_abs()));
        // Consul names 10 s for both.
        if duration < 10 * SECOND {
            return Err(invalid("duration must be longer than 10s".to_owned()));
        }
        if interval < 5 * SECOND {
            return Err(invalid("interval must be longer than 10s".to_owned()));
        }
        if duration < interval {
            let text = format!("duration ({}) must be longer than interval ({})", as_go(duration), as_go(interval));
            return Err(invalid(text));
        }
        let capture = match input.values("capture") {
            [] => ALL.map(str::to_owned).to_vec(),
            some => some.to_vec(),
        };
        if let Some(other) = capture.iter().find(|c| !ALL.contains(&c.as_str())) {
            return Err(invalid(format!("target not found: {other}")));
        }
        let output = input.value("output").map_or_else(|| format!("consul-debug-{now}"), str::to_owned);
        Ok(Self {
            duration: Duration::from_nanos(duration.unsigned_abs()),
            interval: Duration::from_nanos(interval.unsigned_abs()),
            output: PathBuf::from(output),
            archive: input.value("archive").is_none() || input.on("archive"),
            capture,
        })
    }

    fn takes(&self, what: &str) -> bool {
        self.capture.iter().any(|c| c == what)
    }

    /// The name that is shown.
    fn target(&self) -> String {
        format!("{}{}", self.output.display(), if self.archive { ".tar.gz" } else { "" })
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn complain(text: &str) -> ExitCode {
    eprintln!("==> {text}");
    ExitCode::FAILURE
}

fn run(input: &Input) -> ExitCode {
    if !input.operands.is_empty() {
        return complain("debug: Too many arguments provided, expected 0");
    }
    let api = match Api::new(input) {
        Ok(api) => api,
        Err(e) => return complain(&format!("Error connecting to Consul agent: {e}")),
    };
    match record(&api, input) {
        Ok(target) => {
            print_out(&format!("    Saved debug archive: {target}\n"));
            ExitCode::SUCCESS
        }
        Err(e) => complain(&e.to_string()),
    }
}

fn record(api: &Api, input: &Input) -> Result<String, DebugError> {
    let mut given = Given::read(input, unix_now())?;
    let own = api.get("/v1/agent/self").map_err(|e| {
        DebugError::Invalid(format!("error querying target agent: {e}. verify connectivity and agent address"))
    })?;
    let profiles = given.takes("pprof").then(|| profiled(api, &own));
    if let Some(Err(why)) = profiles {
        given.capture.retain(|c| c != "pprof");
        eprintln!("[WARN] Unable to capture pprof. {why}");
    }
    // Made, not reused: nothing of somebody else's is overwritten or goes into the archive.
    if given.output.exists() {
        let text = format!("output directory already exists: {}", given.output.display());
        return Err(DebugError::Invalid(text));
    }
    fs::create_dir_all(&given.output)
        .map_err(|e| DebugError::Invalid(format!("could not create output directory: {e}")))?;
    let version = text(&own["Config"], "Version");
    print_out(&format!(
        "==> Starting debugger and capturing static information...\n     Agent Version: '{version}'\n          Interval: '{}'\n          Duration: '{}'\n            Output: '{}'\n           Capture: '{}'\n",
        go(given.interval),
        go(given.duration),
        given.target(),
        given.capture.join(", "),
    ));
    let recorder = Recorder { api, given: &given, scrub: Scrub::new(api.secrets()) };
    recorder.fixed(own);
    if ["metrics", "logs", "pprof"].iter().any(|w| given.takes(w)) {
        api.block_on(async {
            match Signals::listen() {
                Ok(mut signals) => Box::pin(recorder.passing(&mut signals)).await,
                Err(e) => eprintln!("==> Error encountered during collection: {e}"),
            }
        });
    }
    let index = json!({
        "Version": LAYOUT, "AgentVersion": version, "Interval": go(given.interval), "Duration": go(given.duration),
        "Targets": given.capture,
    });
    recorder.json(&given.output.join("index.json"), index).map_err(DebugError::Index)?;
    if given.archive {
        pack(&given.output).map_err(|e| DebugError::Archive(e, given.output.display().to_string()))?;
    }
    Ok(given.target())
}

/// Whether the agent has profiles to give; if not, why.
fn profiled(api: &Api, own: &Value) -> Result<(), String> {
    if own["DebugConfig"]["EnableDebug"] == false {
        return Err("Set enable_debug to true on target agent to enable profiling.".to_owned());
    }
    match api.request("GET", "/debug/pprof/cmdline", "") {
        Ok(answer) if answer.code == 200 => Ok(()),
        Ok(_) => Err("This agent is no Go program and has no such profiles.".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

struct Recorder<'a> {
    api: &'a Api,
    given: &'a Given,
    scrub: Scrub,
}

impl Recorder<'_> {
    fn json(&self, path: &Path, mut value: Value) -> io::Result<()> {
        self.scrub.value(&mut value);
        fs::write(path, pretty(&value, b"\t"))
    }

    /// What does not change while we look.
    fn fixed(&self, own: Value) {
        let of = |what: &str, path: &str| self.given.takes(what).then(|| (format!("{what}.json"), self.api.get(path)));
        let own = self.given.takes("agent").then(|| ("agent.json".to_owned(), Ok(own)));
        let all = [of("host", "/v1/agent/host"), own, of("cluster", "/v1/agent/members?wan=1")];
        for (name, value) in all.into_iter().flatten() {
            let written = value.map_err(|e| e.to_string());
            let written = written.and_then(|v| self.json(&self.given.output.join(name), v).map_err(|e| e.to_string()));
            if let Err(e) = written {
                eprintln!("Static capture failed: {e}");
            }
        }
    }

    /// What does, interval by interval.
    async fn passing(&self, signals: &mut Signals) {
        let began = Instant::now();
        let utc = || causeway_agent::http::figures::utc(unix_now());
        print_out(&format!("==> Beginning capture interval {} (0)\n", utc()));
        let mut count = 0_u32;
        while began.elapsed() < self.given.duration {
            count += 1;
            let next = (began + self.given.interval * count).min(began + self.given.duration);
            let taken = tokio::select! {
                taken = self.interval(next) => taken,
                _ = signals.next() => {
                    eprintln!("==> Error encountered during collection: stopping collection due to shutdown signal");
                    return;
                }
            };
            match taken {
                Ok(()) => print_out(&format!("==> Capture successful {} ({count})\n", utc())),
                Err(e) => eprintln!("==> Error encountered during collection: {e}"),
            }
        }
    }

    async fn interval(&self, until: Instant) -> Result<(), DebugFault> {
        let dir = self.given.output.join(unix_now().to_string());
        fs::create_dir_all(&dir)?;
        let metrics = async {
            if !self.given.takes("metrics") {
                return Ok(());
            }
            let metrics = self.api.ask("GET", "/v1/agent/metrics", "").await?.json()?;
            Ok::<_, DebugFault>(self.json(&dir.join("metrics.json"), metrics)?)
        };
        let profiles = async { if self.given.takes("pprof") { self.profiles(&dir, until).await } else { Ok(()) } };
        let logs =
            async { if self.given.takes("logs") { self.log(&dir.join("consul.log"), until).await } else { Ok(()) } };
        let (metrics, profiles, logs, ()) = tokio::join!(metrics, profiles, logs, sleep_until(until));
        metrics.and(profiles).and(logs)
    }

    async fn log(&self, path: &Path, until: Instant) -> Result<(), DebugFault> {
        let mut lines = Vec::new();
        let left = until.saturating_duration_since(Instant::now());
        let mut keep = |piece: &[u8]| lines.extend_from_slice(piece);
        let followed = timeout(left, self.api.stream("/v1/agent/monitor?loglevel=debug", &mut keep)).await;
        // The end of the time is the good end.
        followed.unwrap_or(Ok(()))?;
        Ok(fs::write(path, self.scrub.text(&String::from_utf8_lossy(&lines)))?)
    }

    async fn profiles(&self, dir: &Path, until: Instant) -> Result<(), DebugFault> {
        let seconds = until.saturating_duration_since(Instant::now()).min(PROFILE).as_secs().max(1);
        let take = async |name: &str, path: String| {
            let profile = self.api.ask("GET", &path, "").await?.ok()?;
            Ok::<_, DebugFault>(fs::write(dir.join(name), profile)?)
        };
        take("heap.prof", "/debug/pprof/heap".to_owned()).await?;
        take("goroutine.prof", "/debug/pprof/goroutine".to_owned()).await?;
        let (cpu, trace) = tokio::join!(
            take("profile.prof", format!("/debug/pprof/profile?seconds={seconds}")),
            take("trace.out", format!("/debug/pprof/trace?seconds={seconds}"))
        );
        cpu.and(trace)
    }
}

/// Why one interval lacks something.
#[derive(Debug, thiserror::Error)]
enum DebugFault {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Makes one file of the directory, beside it, and removes it.
fn pack(dir: &Path) -> io::Result<()> {
    let name = dir.file_name().ok_or_else(|| io::Error::other("the output has no name"))?;
    let mut target = dir.as_os_str().to_owned();
    target.push(".tar.gz");
    let target = PathBuf::from(target);
    let file = fs::File::create_new(&target)?;
    let packed = (|| {
        let gzip = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        let mut archive = tar::Builder::new(gzip);
        archive.append_dir_all(name, dir)?;
        archive.into_inner()?.finish()?.sync_all()
    })();
    match packed {
        Ok(()) => fs::remove_dir_all(dir),
        Err(e) => {
            let _ = fs::remove_file(&target);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_judged_in_consuls_words() {
        let read = |flags: &[(&'static str, &str)]| Given::read(&Input::of(flags, &[]), 7);
        for (flags, text) in [
            (&[("duration", "9s")][..], "duration must be longer than 10s"),
            (&[("interval", "4s")], "interval must be longer than 10s"),
            (&[("duration", "20s"), ("interval", "25s")], "duration (20s) must be longer than interval (25s)"),
            (&[("capture", "x")], "target not found: x"),
        ] {
            assert_eq!(read(flags).unwrap_err().to_string(), format!("Capture validation failed: {text}"));
        }
        let given = read(&[]).unwrap();
        assert_eq!((given.target().as_str(), given.capture.len()), ("consul-debug-7.tar.gz", 6));
        assert_eq!(read(&[("archive", "false")]).unwrap().target(), "consul-debug-7");
    }
}
