//! Metrics as Consul shows them: names with dots, gauges with the host's name, counts and samples of the last interval that ended
//! (JSON), or totals since the start (Prometheus).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;

use super::naming::Naming;

/// Renders all metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Length of an interval, seconds.
pub const INTERVAL: u64 = 10;

/// Consul's names of what we measure, as its JSON has them. Prometheus' names have `_` for what is no letter or digit.
const NAMES: &[&str] = &[
    "consul.catalog.deregister",
    "consul.catalog.register",
    "consul.client.rpc.exceeded",
    "consul.dns.domain_query",
    "consul.kvs.apply",
    "consul.members.clients",
    "consul.members.servers",
    "consul.prepared-query.apply",
    "consul.raft.applied_index",
    "consul.raft.apply",
    "consul.raft.commitTime",
    "consul.raft.last_index",
    "consul.rpc.query",
    "consul.rpc.request",
    "consul.runtime.alloc_bytes",
    "consul.runtime.num_goroutines",
    "consul.runtime.sys_bytes",
    "consul.serf.member.failed",
    "consul.serf.member.join",
    "consul.serf.member.left",
    "consul.server.isLeader",
    "consul.session.apply",
    "consul.session_ttl.active",
    "consul.txn.apply",
];

/// A name and its labels.
type Key = (String, BTreeMap<String, String>);

/// What a summary says.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Summed {
    count: u64,
    sum: f64,
    /// Of the last minutes, as the exporter keeps them.
    least: f64,
    most: f64,
}

/// All figures at one moment; counts since the start.
#[derive(Debug, Default, Clone, PartialEq)]
struct Reading {
    gauges: BTreeMap<Key, f64>,
    counters: BTreeMap<Key, f64>,
    samples: BTreeMap<Key, Summed>,
}

/// `name{a="b"} value`.
fn line(text: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    let (head, value) = text.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = head.split_once('{') else { return Some((head, BTreeMap::new(), value)) };
    let labels = labels
        .strip_suffix('}')?
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(k, v)| (k.to_owned(), v.trim_end_matches('"').to_owned()))
        .collect();
    Some((name, labels, value))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates; counts are whole")]
fn whole(value: f64) -> u64 {
    value as u64
}

#[allow(clippy::cast_precision_loss, reason = "a mean needs no more")]
fn float(value: u64) -> f64 {
    value as f64
}

impl Reading {
    /// Reads Prometheus' text format, as our own exporter writes it.
    fn of(text: &str) -> Self {
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        let mut reading = Self::default();
        for row in text.lines() {
            if let Some(kind) = row.strip_prefix("# TYPE ") {
                kinds.extend(kind.split_once(' '));
                continue;
            }
            let Some((name, mut labels, value)) = line(row).filter(|_| !row.starts_with('#')) else { continue };
            match kinds.get(name).copied() {
                Some("gauge") => {
                    reading.gauges.insert((name.to_owned(), labels), value);
                }
                Some("counter") => {
                    reading.counters.insert((name.to_owned(), labels), value);
                }
                Some(_) => {
                    let quantile = labels.remove("quantile");
                    let sample = reading.samples.entry((name.to_owned(), labels)).or_default();
                    match quantile.as_deref() {
                        Some("0") => sample.least = value,
                        Some("1") => sample.most = value,
                        _ => {}
                    }
                }
                None => match name.rsplit_once('_') {
                    Some((base, "sum")) => {
                        reading.samples.entry((base.to_owned(), labels)).or_default().sum = value;
                    }
                    Some((base, "count")) => {
                        reading.samples.entry((base.to_owned(), labels)).or_default().count = whole(value);
                    }
                    _ => {}
                },
            }
        }
        reading
    }

    /// What Consul measures by other names or in other units: the time of requests by method and path, and of DNS questions, both
    /// in milliseconds.
    fn consuls(&self) -> Vec<(String, Summed)> {
        let mut http: BTreeMap<String, Summed> = BTreeMap::new();
        let mut dns = Summed::default();
        for ((name, labels), sample) in &self.samples {
            let sum = match name.as_str() {
                "consul_http_request_seconds" => {
                    let label = |name| labels.get(name).map_or("", String::as_str);
                    let path = label("path").trim_start_matches('/');
                    let parts = path.split('/').map(|part| if part.is_empty() { "_" } else { part });
                    let path = parts.collect::<Vec<_>>().join(".");
                    http.entry(format!("consul.http.{}.{path}", label("method"))).or_default()
                }
                "consul_dns_query_seconds" => &mut dns,
                _ => continue,
            };
            sum.least = if sum.count == 0 { sample.least * 1e3 } else { sum.least.min(sample.least * 1e3) };
            sum.most = sum.most.max(sample.most * 1e3);
            sum.count += sample.count;
            sum.sum += sample.sum * 1e3;
        }
        if dns.count > 0 {
            // Time is taken once for a batch of questions; what is counted is questions.
            let asked = self.counters.iter().filter(|((name, _), _)| name == "consul_dns_queries").map(|(_, n)| n);
            let (measured, asked) = (float(dns.count), asked.sum::<f64>());
            dns.sum = dns.sum / measured * asked;
            dns.count = whole(asked);
            http.insert("consul.dns.domain_query".into(), dns);
        }
        http.into_iter().collect()
    }
}

/// As Prometheus has it.
fn underscored(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// As Consul's JSON has it, where it is a name of Consul's.
fn dotted(name: &str) -> &str {
    NAMES.iter().find(|known| underscored(known) == name).unwrap_or(&name)
}

#[derive(Debug, Default, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    timestamp: String,
    gauges: Vec<Gauge>,
    points: Vec<()>,
    counters: Vec<Sampled>,
    samples: Vec<Sampled>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge {
    name: String,
    value: f64,
    labels: BTreeMap<String, String>,
}

/// A counter or a sample, of one interval.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sampled {
    name: String,
    count: u64,
    rate: f64,
    sum: f64,
    min: f64,
    max: f64,
    mean: f64,
    stddev: f64,
    labels: BTreeMap<String, String>,
}

/// `2026-11-21 19:32:00 +0000 UTC`, of seconds since 1970.
fn written(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} +0000 UTC", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The kinds of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// How it stands.
    Gauge,
    /// How often, in the interval.
    Counter,
    /// How long or how much, of each that happened in the interval.
    Sample,
}

/// One figure of an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What it is.
    pub kind: Kind,
    /// Its name, with the host where gauges have it.
    pub name: String,
    /// Its name without a host.
    pub plain: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How often it happened; of a gauge 1.
    pub count: u64,
    /// The gauge's value; else the sum of the interval.
    pub sum: f64,
    least: f64,
    most: f64,
}

impl Measured {
    fn sampled(self) -> Sampled {
        let count = float(self.count);
        Sampled {
            name: self.name,
            count: self.count,
            rate: self.sum / float(INTERVAL),
            sum: self.sum,
            min: self.least,
            max: self.most,
            mean: if self.kind == Kind::Counter { 1.0 } else { self.sum / count },
            stddev: 0.0,
            labels: self.labels,
        }
    }
}

/// What was measured between two readings, by kind and name.
fn between(before: &Reading, now: &Reading, naming: &Naming) -> Vec<Measured> {
    let none = BTreeMap::new();
    let figure = |kind, name: &str, labels: &BTreeMap<String, String>, count, sum, (least, most)| {
        let name = dotted(name);
        let gauge = kind == Kind::Gauge;
        naming.shows(name, gauge).then(|| Measured {
            kind,
            name: if gauge { naming.gauge(name) } else { naming.plain(name) },
            plain: naming.plain(name),
            labels: labels.clone(),
            count,
            sum,
            least,
            most,
        })
    };
    let gauges = now.gauges.iter().filter_map(|((name, labels), v)| figure(Kind::Gauge, name, labels, 1, *v, (*v, *v)));
    let counters = now.counters.iter().filter_map(|(key, total)| {
        let sum = total - before.counters.get(key).copied().unwrap_or(0.0);
        (sum > 0.0).then(|| figure(Kind::Counter, &key.0, &key.1, whole(sum), sum, (1.0, 1.0))).flatten()
    });
    let sampled = |name: &str, labels: &BTreeMap<String, String>, now: Summed, before: Summed| {
        let (count, sum) = (now.count.saturating_sub(before.count), now.sum - before.sum);
        (count > 0).then(|| figure(Kind::Sample, name, labels, count, sum, (now.least, now.most))).flatten()
    };
    let own = now.samples.iter().filter_map(|(key, sample)| {
        sampled(&key.0, &key.1, *sample, before.samples.get(key).copied().unwrap_or_default())
    });
    let known: BTreeMap<String, Summed> = before.consuls().into_iter().collect();
    let consuls = now.consuls().into_iter().filter_map(|(name, sample)| {
        let before = known.get(&name).copied().unwrap_or_default();
        sampled(&name, &none, sample, before)
    });
    let mut all: Vec<Measured> = gauges.chain(counters).chain(own).chain(consuls).collect();
    all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    all
}

/// As `agent/metrics` shows an interval; `began`: seconds since 1970.
fn show(all: Vec<Measured>, began: u64) -> Shown {
    let mut shown = Shown { timestamp: written(began), ..Shown::default() };
    for one in all {
        match one.kind {
            Kind::Gauge => shown.gauges.push(Gauge { name: one.name, value: one.sum, labels: one.labels }),
            Kind::Counter => shown.counters.push(one.sampled()),
            Kind::Sample => shown.samples.push(one.sampled()),
        }
    }
    shown
}

/// The metrics of this process.
pub struct Figures {
    render: RenderMetrics,
    naming: ArcSwap<Naming>,
    state: Mutex<State>,
}

struct State {
    /// Start of the running interval, seconds since 1970.
    began: u64,
    /// As it began.
    before: Reading,
    /// The last one that ended, and when it began.
    ended: Option<(Vec<Measured>, u64)>,
}

impl Figures {
    /// `now`: seconds since 1970.
    pub fn new(render: RenderMetrics, naming: Naming, now: u64) -> Self {
        let state = State { began: now - now % INTERVAL, before: Reading::default(), ended: None };
        Self { render, naming: ArcSwap::from_pointee(naming), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names and shows from now on by these rules; the host stays.
    pub fn set_naming(&self, naming: Naming) {
        self.naming.store(Arc::new(naming));
    }

    /// Ends an interval and gives what was measured in it. To be called every [`INTERVAL`] seconds.
    pub fn tick(&self, now: u64) -> Vec<Measured> {
        let reading = Reading::of(&(self.render)());
        let mut state = self.state();
        let all = between(&state.before, &reading, &self.naming.load());
        state.ended = Some((all.clone(), state.began));
        state.before = reading;
        state.began = now - now % INTERVAL;
        all
    }

    /// The last interval that ended; the first one while it runs.
    pub(super) fn shown(&self) -> impl Serialize + use<> {
        let (ended, began) = {
            let state = self.state();
            (state.ended.clone(), state.began)
        };
        let first = || (between(&Reading::default(), &Reading::of(&(self.render)()), &self.naming.load()), began);
        let (all, began) = ended.unwrap_or_else(first);
        show(all, began)
    }

    /// Prometheus' text format, with Consul's names beside ours, and a HELP line for each as Consul writes it.
    pub(super) fn prometheus(&self) -> String {
        let naming = self.naming.load();
        let text = (self.render)();
        let mut out = String::with_capacity(text.len() * 2);
        // What the exporter says of a family before it says what it is; the family; by which name it is shown, if it is.
        let (mut help, mut family, mut shown) = (None, "", None);
        for row in text.lines() {
            if let Some(rest) = row.strip_prefix("# HELP ") {
                help = rest.split_once(' ').map(|(_, words)| words);
                continue;
            }
            if let Some((name, kind)) = row.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                family = name;
                let wanted = naming.shows(dotted(name), kind == "gauge");
                shown = wanted.then(|| underscored(&naming.plain(dotted(name))));
                let help = help.take();
                if let Some(name) = &shown {
                    out.push_str(&format!("# HELP {name} {}\n", help.unwrap_or(name)));
                }
            }
            match &shown {
                _ if row.is_empty() => {}
                None => continue,
                Some(name) if name == family => out.push_str(row),
                Some(name) => out.push_str(&row.replacen(family, name, 1)),
            }
            out.push('\n');
        }
        for (name, sample) in Reading::of(&text).consuls() {
            if !naming.shows(&name, false) {
                continue;
            }
            let name = underscored(&naming.plain(&name));
            out.push_str(&format!(
                "# HELP {name} {name}\n# TYPE {name} summary\n{name}_sum {}\n{name}_count {}\n\n",
                sample.sum, sample.count
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a x\n# TYPE a gauge\na 1.5\n\n# TYPE consul_raft_apply counter\nconsul_raft_apply 3\n\
        # TYPE b counter\nb{m=\"GET\",p=\"x,y\"} 3\n# TYPE c summary\nc{quantile=\"0\"} 1\nc{quantile=\"1\"} 4\nc_sum 10\n\
        c_count 4\n# TYPE consul_runtime_sys_bytes gauge\nconsul_runtime_sys_bytes 7\n# TYPE consul_http_request_seconds summary\n\
        consul_http_request_seconds_sum{method=\"GET\",path=\"/v1/kv/\",code=\"2xx\"} 0.5\n\
        consul_http_request_seconds_count{method=\"GET\",path=\"/v1/kv/\",code=\"2xx\"} 5\n\
        consul_http_request_seconds_sum{method=\"GET\",path=\"/v1/kv/\",code=\"4xx\"} 0.1\n\
        consul_http_request_seconds_count{method=\"GET\",path=\"/v1/kv/\",code=\"4xx\"} 1\n";

    fn figures(text: Arc<Mutex<String>>) -> Figures {
        let naming = Naming { host: "h".into(), ..Naming::default() };
        Figures::new(Arc::new(move || text.lock().unwrap().clone()), naming, 1_795_289_525)
    }

    #[test]
    fn an_interval_counts_what_happened_in_it() {
        let text = Arc::new(Mutex::new(TEXT.to_owned()));
        let figures = figures(text.clone());
        let show = || serde_json::to_value(figures.shown()).unwrap();
        let named = |all: &serde_json::Value, kind: &str, name: &str| {
            all[kind].as_array().unwrap().iter().find(|m| m["Name"] == name).cloned().unwrap_or_default()
        };
        let running = show();
        assert_eq!(running["Timestamp"], "2026-11-21 19:32:00 +0000 UTC");
        assert_eq!(named(&running, "Counters", "consul.raft.apply")["Count"], 3);
        figures.tick(1_795_289_530);
        *text.lock().unwrap() = TEXT
            .replace("consul_raft_apply 3", "consul_raft_apply 8")
            .replace("c_sum 10", "c_sum 16")
            .replace("c_count 4", "c_count 6");
        assert_eq!(show(), running, "the interval that ended, whatever came since");
        figures.tick(1_795_289_540);
        let next = show();
        assert_eq!(next["Timestamp"], "2026-11-21 19:32:10 +0000 UTC");
        let apply = named(&next, "Counters", "consul.raft.apply");
        assert_eq!((&apply["Count"], &apply["Rate"], &apply["Mean"]), (&5.into(), &0.5.into(), &1.0.into()));
        assert_eq!(named(&next, "Samples", "c")["Mean"], 3.0);
        assert!(named(&next, "Counters", "b").is_null(), "what did not happen is not shown");
        assert_eq!(named(&next, "Gauges", "consul.h.runtime.sys_bytes")["Value"], 7.0);
        assert_eq!(named(&next, "Gauges", "a")["Value"], 1.5);
    }

    #[test]
    fn requests_are_shown_as_consul_names_them() {
        let figures = figures(Arc::new(Mutex::new(TEXT.to_owned())));
        let shown = serde_json::to_value(figures.shown()).unwrap();
        let samples = shown["Samples"].as_array().unwrap();
        let kv = samples.iter().find(|m| m["Name"] == "consul.http.GET.v1.kv._").unwrap();
        assert_eq!((&kv["Count"], &kv["Sum"]), (&6.into(), &600.0.into()));
        let text = figures.prometheus();
        assert!(text.contains("# TYPE consul_http_GET_v1_kv__ summary\nconsul_http_GET_v1_kv___sum 600\n"), "{text}");
        assert!(text.contains("# HELP a x\n# TYPE a gauge") && text.contains("# HELP b b\n# TYPE b counter"), "{text}");
        let types = text.lines().filter(|l| l.starts_with("# TYPE ")).count();
        assert_eq!(text.lines().filter(|l| l.starts_with("# HELP ")).count(), types);
    }

    #[test]
    fn what_is_not_wanted_is_not_shown_and_names_begin_as_configured() {
        let figures = figures(Arc::new(Mutex::new(TEXT.to_owned())));
        let rules = vec![("dc.http".into(), false), ("a".into(), false)];
        figures.set_naming(Naming { prefix: "dc".into(), rules, ..Naming::default() });
        let text = figures.prometheus();
        assert!(
            text.contains("# HELP dc_raft_apply dc_raft_apply\n# TYPE dc_raft_apply counter\ndc_raft_apply 3\n"),
            "{text}"
        );
        assert!(!text.contains("dc_http_GET") && !text.contains("\na 1.5") && !text.contains("HELP a "), "{text}");
        let shown = serde_json::to_string(&figures.shown()).unwrap();
        assert!(shown.contains("dc.raft.apply") && !shown.contains("dc.http.GET"), "{shown}");
        let measured = figures.tick(1_795_289_530);
        let apply = measured.iter().find(|m| m.name == "dc.raft.apply").unwrap();
        assert_eq!((apply.kind, apply.count, apply.sum), (Kind::Counter, 3, 3.0));
    }

    #[test]
    fn times_are_written_as_go_does() {
        assert_eq!(written(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(written(951_782_400), "2000-02-29 00:00:00 +0000 UTC");
        assert_eq!(written(1_735_689_599), "2024-12-31 23:59:59 +0000 UTC");
    }
}
