//! The log for those who follow it (`agent/monitor`): each at a level of its own, whatever the agent's is. A follower that is slow
//! loses lines and is told how many; the log never waits for one. While nobody follows, nothing is computed.

use std::fmt::Write;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Filtered;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// Lines that a follower may be behind.
const BEHIND: usize = 512;
/// Most followers at a time.
const MOST: usize = 16;

/// Where followers are served from.
#[derive(Clone, Default)]
pub struct Tap(Arc<Followers>);

#[derive(Default)]
struct Followers {
    all: RwLock<Vec<Follower>>,
    /// The most talkative level anybody follows; see [`rank`]. 0: nobody follows.
    most: AtomicU8,
}

struct Follower {
    level: Level,
    json: bool,
    lines: mpsc::Sender<Bytes>,
    dropped: AtomicU64,
}

fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Whether a follower of this level sees what a target says at a level: libraries speak one less than we do, as in the log.
fn wants(follows: u8, meta: &Metadata<'_>) -> bool {
    let ours = meta.target().starts_with("causeway");
    let limit = match follows {
        0 => 0,
        _ if ours => follows,
        4.. => 3,
        _ => 1,
    };
    rank(*meta.level()) <= limit
}

impl Tap {
    /// The layer that hears of all there is to log.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> Filtered<Self, Self, S> {
        self.clone().with_filter(self.clone())
    }

    /// Follows the log from now on, until the receiver is dropped; `None`: too many do.
    pub fn follow(&self, level: Level, json: bool) -> Option<mpsc::Receiver<Bytes>> {
        let (lines, follower) = mpsc::channel(BEHIND);
        {
            let mut all = self.0.all.write().unwrap_or_else(PoisonError::into_inner);
            all.retain(|follower| !follower.lines.is_closed());
            if all.len() >= MOST {
                return None;
            }
            all.push(Follower { level, json, lines, dropped: AtomicU64::new(0) });
        }
        self.settle();
        Some(follower)
    }

    /// Forgets those who went away.
    fn settle(&self) {
        let most = {
            let mut all = self.0.all.write().unwrap_or_else(PoisonError::into_inner);
            all.retain(|follower| !follower.lines.is_closed());
            all.iter().map(|follower| rank(follower.level)).max().unwrap_or(0)
        };
        if self.0.most.swap(most, Ordering::AcqRel) != most {
            // What nobody asks for is not even looked at, which is decided once for each place that logs.
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// To be called now and then: followers that went away while nothing was logged are forgotten.
    pub fn upkeep(&self) {
        if self.0.most.load(Ordering::Acquire) > 0 {
            self.settle();
        }
    }
}

impl<S> Filter<S> for Tap {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        // Those who ask whether anybody would listen are told, too.
        !meta.is_span() && wants(self.0.most.load(Ordering::Acquire), meta)
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> Interest {
        if !meta.is_span() && wants(self.0.most.load(Ordering::Acquire), meta) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0.most.load(Ordering::Acquire) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }
}

impl<S: Subscriber> Layer<S> for Tap {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (mut text, mut json) = (None, None);
        let all = self.0.all.read().unwrap_or_else(PoisonError::into_inner);
        for follower in all.iter().filter(|follower| wants(rank(follower.level), event.metadata())) {
            let line = if follower.json {
                json.get_or_insert_with(|| Line::of(event).json())
            } else {
                text.get_or_insert_with(|| Line::of(event).text())
            };
            follower.send(line);
        }
    }
}

impl Follower {
    /// Never waits.
    fn send(&self, line: &Bytes) {
        let lost = self.dropped.load(Ordering::Acquire);
        if lost > 0 {
            let told = Line {
                level: Level::WARN,
                target: "causeway::monitor".into(),
                message: "lines were dropped, this follower is too slow".into(),
                fields: vec![("count", serde_json::Value::from(lost))],
            };
            let told = if self.json { told.json() } else { told.text() };
            if self.lines.capacity() < 2 || self.lines.try_send(told).is_err() {
                self.dropped.fetch_add(1, Ordering::AcqRel);
                return;
            }
            self.dropped.fetch_sub(lost, Ordering::AcqRel);
        }
        if self.lines.try_send(line.clone()).is_err() {
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// One event.
struct Line {
    level: Level,
    /// As Consul names its parts: with dots.
    target: String,
    message: String,
    fields: Vec<(&'static str, serde_json::Value)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl Line {
    fn of(event: &Event<'_>) -> Self {
        let meta = event.metadata();
        let mut line =
            Self { level: *meta.level(), target: meta.target().into(), message: String::new(), fields: Vec::new() };
        event.record(&mut line);
        line
    }

    fn put(&mut self, field: &Field, value: serde_json::Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.fields.push((field.name(), value));
        }
    }

    fn time() -> String {
        let mut out = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut out));
        out
    }

    fn part(&self) -> String {
        self.target.replace("::", ".")
    }

    /// `2026-11-21T19:32:39.129345Z [INFO]  causeway.run: ready: http=...`, in Consul's form.
    fn text(&self) -> Bytes {
        let level = match self.level {
            Level::ERROR => "[ERROR]",
            Level::WARN => "[WARN] ",
            Level::INFO => "[INFO] ",
            Level::DEBUG => "[DEBUG]",
            Level::TRACE => "[TRACE]",
        };
        let mut out = format!("{} {level} {}: {}", Self::time(), self.part(), self.message.trim_end());
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let before = if at == 0 { ":" } else { "" };
            let _ = match value.as_str() {
                Some(text) if !text.contains([' ', '"', '\n']) => write!(out, "{before} {name}={text}"),
                _ => write!(out, "{before} {name}={value}"),
            };
        }
        // One event is one line, whatever is in it.
        let mut out = out.replace('\n', "\\n");
        out.push('\n');
        out.into()
    }

    fn json(&self) -> Bytes {
        let mut map = serde_json::Map::new();
        map.insert("@level".into(), self.level.to_string().to_lowercase().into());
        map.insert("@message".into(), self.message.as_str().into());
        map.insert("@module".into(), self.part().into());
        map.insert("@timestamp".into(), Self::time().into());
        for (name, value) in &self.fields {
            map.insert((*name).into(), value.clone());
        }
        let mut out = serde_json::Value::Object(map).to_string();
        out.push('\n');
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn text(line: Bytes) -> String {
        String::from_utf8(line.to_vec()).unwrap()
    }

    #[test]
    fn each_follower_has_a_level_and_a_form_of_its_own() {
        let tap = Tap::default();
        let subscriber = tracing_subscriber::Registry::default().with(tap.layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "causeway::a", "nobody hears this");
            let mut info = tap.follow(Level::INFO, false).unwrap();
            let mut all = tap.follow(Level::TRACE, true).unwrap();
            tracing::debug!(target: "causeway::a", n = 3, "low");
            tracing::info!(target: "causeway::a::b", site = "dc 2", ok = true, "the link\nis up");
            tracing::debug!(target: "h2::codec", "of a library");
            let line = text(info.try_recv().unwrap());
            assert!(line.ends_with(" [INFO]  causeway.a.b: the link\\nis up: site=\"dc 2\" ok=true\n"), "{line}");
            assert!(info.try_recv().is_err());
            let json: serde_json::Value = serde_json::from_slice(&all.try_recv().unwrap()).unwrap();
            assert_eq!((&json["@level"], &json["@message"], &json["n"]), (&"debug".into(), &"low".into(), &3.into()));
            assert!(json["@timestamp"].as_str().unwrap().ends_with('Z'));
            assert!(text(all.try_recv().unwrap()).contains("causeway.a.b"));
            assert!(all.try_recv().is_err());
            drop((info, all));
            tap.upkeep();
            assert_eq!(tap.0.most.load(Ordering::Acquire), 0, "nothing is computed for nobody");
        });
    }

    #[test]
    fn a_slow_follower_loses_lines_and_is_told() {
        let tap = Tap::default();
        let subscriber = tracing_subscriber::Registry::default().with(tap.layer());
        tracing::subscriber::with_default(subscriber, || {
            let mut slow = tap.follow(Level::INFO, false).unwrap();
            for n in 0..BEHIND + 7 {
                tracing::info!(target: "causeway::slow", n, "line");
            }
            let mut seen = 0;
            while slow.try_recv().is_ok() {
                seen += 1;
            }
            assert_eq!(seen, BEHIND);
            tracing::info!(target: "causeway::slow", "again");
            let told = text(slow.try_recv().unwrap());
            assert!(told.contains("[WARN]") && told.ends_with("count=7\n"), "{told}");
            assert!(text(slow.try_recv().unwrap()).ends_with("causeway.slow: again\n"));
            let followers: Vec<_> = (0..MOST).map(|_| tap.follow(Level::INFO, false)).collect();
            assert!(followers.last().unwrap().is_none() && followers[MOST - 2].is_some());
        });
    }
}
