//! The log: text or JSON on standard output, a file and syslog beside it; the level can be changed while running.

mod rotate;
mod tap;

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use self::rotate::{LogFile, Rotation};
pub use tap::Tap;

use crate::options::{ConfigError, Settings, table as t};

/// Changes the level of a running log.
#[derive(Clone)]
pub struct Level {
    filter: reload::Handle<EnvFilter, Registry>,
    tap: Tap,
}

impl Level {
    /// Takes a level that [`filter`] made.
    pub fn set(&self, filter: EnvFilter) -> Result<(), String> {
        self.filter.reload(filter).map_err(|e| format!("the level of the log cannot be changed: {e}"))
    }

    /// The log for whoever wants to follow it, at a level of its own.
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }
}

/// The level that the settings name.
pub fn filter(settings: &Settings) -> Result<EnvFilter, ConfigError> {
    let level = match settings.text(&t::LOG_LEVEL).to_ascii_uppercase().as_str() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" | "WARNING" => "warn",
        "ERR" | "ERROR" => "error",
        other => {
            return Err(
                settings.error(&t::LOG_LEVEL, format!("is {other:?}; it must be TRACE, DEBUG, INFO, WARN or ERR"))
            );
        }
    };
    // Libraries speak one level less than we do, so that a log at INFO is about Causeway.
    let libraries = if matches!(level, "trace" | "debug") { "info" } else { "error" };
    let ours =
        ["causeway", "causeway_proto", "causeway_certs", "causeway_server", "causeway_agent", "causeway_gateway"]
            .map(|name| format!("{name}={level}"))
            .join(",");
    EnvFilter::try_new(format!("{libraries},{ours}")).map_err(|e| settings.error(&t::LOG_LEVEL, e))
}

/// When the log's file is changed for a new one. Consul's meanings: 0 bytes is no bound, 0 files are all, -1 is none.
fn rotation(settings: &Settings) -> Result<Rotation, ConfigError> {
    let bytes = settings.bounded(&t::LOG_ROTATE_BYTES, 0..=i64::MAX)?;
    let files = settings.bounded(&t::LOG_ROTATE_MAX_FILES, -1..=1_000_000)?;
    let age = settings.duration(&t::LOG_ROTATE_DURATION);
    Ok(Rotation {
        bytes: u64::try_from(bytes).ok().filter(|bytes| *bytes > 0),
        age: if age.is_zero() { std::time::Duration::from_secs(86_400) } else { age },
        keep: match files {
            0 => None,
            files => Some(usize::try_from(files).unwrap_or(0)),
        },
    })
}

/// Whether the log can be started with these settings, as far as they say.
pub fn check(settings: &Settings) -> Result<(), ConfigError> {
    filter(settings)?;
    rotation(settings).map(|_| ())
}

/// Starts the log. Called once.
pub fn start(settings: &Settings) -> Result<Level, ConfigError> {
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    let json = settings.on(&t::LOG_JSON);
    let file = match settings.some_text(&t::LOG_FILE) {
        None => None,
        Some(path) => {
            let file = LogFile::open(&path, rotation(settings)?);
            Some(file.map_err(|e| settings.error(&t::LOG_FILE, format!("{path:?} cannot be opened: {e}")))?)
        }
    };
    let syslog = if settings.on(&t::ENABLE_SYSLOG) {
        Syslog::open(&settings.text(&t::SYSLOG_FACILITY), &SYSLOG_SOCKETS)
    } else {
        Ok(None)
    };
    let syslog = syslog.map_err(|e| settings.error(&t::SYSLOG_FACILITY, e))?;
    let missing_syslog = settings.on(&t::ENABLE_SYSLOG) && syslog.is_none();

    let mut layers: Vec<Box<dyn Layer<_> + Send + Sync>> = Vec::new();
    let format = tracing_subscriber::fmt::layer();
    layers.push(if json { format.json().boxed() } else { format.with_ansi(false).boxed() });
    if let Some(file) = file {
        let format = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(file));
        layers.push(if json { format.json().boxed() } else { format.boxed() });
    }
    if let Some(syslog) = syslog {
        layers.push(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .without_time()
                .with_level(false)
                .with_writer(syslog)
                .boxed(),
        );
    }
    let tap = Tap::default();
    // The level holds for these layers alone: who follows the log by the tap has another one.
    let started = Registry::default().with(layers.with_filter(filter)).with(tap.layer()).try_init();
    started.map_err(|e| settings.error(&t::LOG_LEVEL, format!("the log cannot be started: {e}")))?;
    if missing_syslog {
        tracing::warn!(
            "enable_syslog is on and no syslog socket answers (/dev/log, /var/run/syslog): logging without it"
        );
    }
    Ok(Level { filter: handle, tap })
}

/// Where syslog daemons listen: Linux, macOS, FreeBSD.
const SYSLOG_SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Lines to the local syslog daemon (RFC 3164's local form, one datagram a line). A daemon that is away costs lines, never time;
/// the path is looked up for each line, so a daemon that was restarted gets the next one.
struct Syslog {
    socket: Arc<UnixDatagram>,
    path: Arc<Path>,
    facility: u8,
}

impl Syslog {
    /// `None` where nothing listens at any of `sockets`.
    fn open(facility: &str, sockets: &[&str]) -> Result<Option<Self>, String> {
        let names = [
            "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP", "",
            "", "", "", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
        ];
        let wanted = facility.to_ascii_uppercase();
        let facility = names
            .iter()
            .position(|n| !n.is_empty() && *n == wanted)
            .ok_or_else(|| format!("is {facility:?}; it must be one of LOCAL0 to LOCAL7, DAEMON, USER, ..."))?;
        let Ok(socket) = UnixDatagram::unbound() else { return Ok(None) };
        let listens = |path: &&&str| UnixDatagram::unbound().is_ok_and(|probe| probe.connect(path).is_ok());
        let Some(path) = sockets.iter().find(listens) else { return Ok(None) };
        if socket.set_nonblocking(true).is_err() {
            return Ok(None);
        }
        let facility = u8::try_from(facility).unwrap_or(16);
        Ok(Some(Self { socket: Arc::new(socket), path: Path::new(path).into(), facility }))
    }
}

impl Syslog {
    fn line(&self, severity: u8) -> SyslogLine {
        SyslogLine {
            socket: self.socket.clone(),
            path: self.path.clone(),
            priority: self.facility * 8 + severity,
            line: Vec::new(),
        }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = SyslogLine;

    fn make_writer(&'a self) -> Self::Writer {
        self.line(6)
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        let severity = match *meta.level() {
            tracing::Level::ERROR => 3,
            tracing::Level::WARN => 4,
            tracing::Level::INFO => 6,
            tracing::Level::DEBUG | tracing::Level::TRACE => 7,
        };
        self.line(severity)
    }
}

/// One line, sent when it is dropped.
struct SyslogLine {
    socket: Arc<UnixDatagram>,
    path: Arc<Path>,
    priority: u8,
    line: Vec<u8>,
}

impl Write for SyslogLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for SyslogLine {
    fn drop(&mut self) {
        let mut packet = format!("<{}>causeway[{}]: ", self.priority, std::process::id()).into_bytes();
        packet.extend_from_slice(self.line.trim_ascii_end());
        packet.truncate(2048);
        let _ = self.socket.send_to(&packet, &self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn daemon(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn received(daemon: &UnixDatagram) -> String {
        let mut packet = [0; 4096];
        let length = daemon.recv(&mut packet).unwrap();
        String::from_utf8(packet[..length].to_vec()).unwrap()
    }

    #[test]
    fn syslog_gets_each_line_with_its_severity_and_the_daemon_may_restart() {
        let dir = std::env::temp_dir().join(format!("causeway-syslog-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        let at = path.to_str().unwrap();
        assert!(Syslog::open("LOCAL3", &[at]).unwrap().is_none(), "nobody listens yet");
        let first = daemon(&path);
        let syslog = Syslog::open("local3", &["/nonexistent/log", at]).unwrap().unwrap();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_level(false);
        let subscriber = Registry::default().with(layer.with_writer(syslog));
        let head = |priority: u8| format!("<{priority}>causeway[{}]: ", std::process::id());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(site = "dc2", "the link is down");
            let line = received(&first);
            // LOCAL3 is facility 19, a warning severity 4 (RFC 3164 section 4.1.1).
            assert!(line.starts_with(&head(19 * 8 + 4)), "{line}");
            assert!(line.ends_with(r#"the link is down site="dc2""#), "{line}");
            drop(first);
            std::fs::remove_file(&path).unwrap();
            tracing::error!("lost, and nobody waits for it");
            let second = daemon(&path);
            tracing::error!("again");
            let line = received(&second);
            assert!(line.starts_with(&head(19 * 8 + 3)) && line.ends_with("again"), "{line}");
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_facility_nobody_knows_is_refused() {
        let refused = Syslog::open("LOCAL9", &SYSLOG_SOCKETS).err().unwrap();
        assert!(refused.contains("LOCAL9") && refused.contains("LOCAL0 to LOCAL7"), "{refused}");
    }
}
