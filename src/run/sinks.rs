//! Metrics for those who collect them: StatsD, Statsite and DogStatsD, sent once an interval.
//!
//! A counter carries how often in the interval; a timer the interval's mean, with the sampling rate that makes the receiver count it as
//! often as it happened. Consul sends each event apart, which costs it a packet for every few calls.

use std::fmt::Write as _;
use std::time::Duration;

use causeway_agent::http::figures::{Kind, Measured};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, lookup_host};

use crate::options::{ConfigError, Def, Settings, table as t};

/// Largest datagram: what passes Ethernet whole, as Consul has it.
const DATAGRAM: usize = 1400;
/// Time that one collector may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// The values of labels behind the name.
    Plain,
    /// Labels as tags, no host in names.
    Tags,
}

/// Who gets metrics.
#[derive(Debug, Clone, Default)]
pub struct Sinks {
    statsd: Option<String>,
    statsite: Option<String>,
    dogstatsd: Option<String>,
    tags: Vec<String>,
}

impl Sinks {
    /// Those that are configured.
    pub fn of(s: &Settings) -> Result<Self, ConfigError> {
        let address = |def: &Def| match s.some_text(def) {
            Some(text) if text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) => {
                Err(s.error(def, format!("is {text:?}; write host:port")))
            }
            text => Ok(text),
        };
        Ok(Self {
            statsd: address(&t::TELEMETRY_STATSD_ADDRESS)?,
            statsite: address(&t::TELEMETRY_STATSITE_ADDRESS)?,
            dogstatsd: address(&t::TELEMETRY_DOGSTATSD_ADDR)?,
            tags: s.list(&t::TELEMETRY_DOGSTATSD_TAGS),
        })
    }

    /// Sends an interval; a collector that is away costs a line at DEBUG and, at most, a moment.
    pub async fn send(&self, measured: &[Measured]) {
        let plain = || lines(measured, Style::Plain, &[]);
        if let Some(to) = &self.statsd {
            told("telemetry.statsd_address", to, datagrams(to, &plain())).await;
        }
        if let Some(to) = &self.dogstatsd {
            told("telemetry.dogstatsd_addr", to, datagrams(to, &lines(measured, Style::Tags, &self.tags))).await;
        }
        if let Some(to) = &self.statsite {
            told("telemetry.statsite_address", to, stream(to, plain().concat())).await;
        }
    }
}

async fn told(key: &str, to: &str, sent: impl Future<Output = std::io::Result<()>>) {
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(key, to, %error, "metrics of one interval were not sent"),
        Err(_) => tracing::debug!(key, to, "metrics of one interval were not sent in time"),
    }
}

async fn datagrams(to: &str, lines: &[String]) -> std::io::Result<()> {
    let to = lookup_host(to).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    for packet in packets(lines) {
        socket.send_to(packet.as_bytes(), to).await?;
    }
    Ok(())
}

async fn stream(to: &str, text: String) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// As many lines in a datagram as fit.
fn packets(lines: &[String]) -> Vec<String> {
    let mut packets: Vec<String> = Vec::new();
    for line in lines {
        match packets.last_mut() {
            Some(last) if last.len() + line.len() <= DATAGRAM => last.push_str(line),
            _ => packets.push(line.clone()),
        }
    }
    packets
}

/// What a name may not hold, as Consul replaces it.
fn clean(name: &str) -> String {
    name.chars().map(|c| if matches!(c, ':' | ' ' | '|' | '\n') { '_' } else { c }).collect()
}

fn lines(measured: &[Measured], style: Style, tags: &[String]) -> Vec<String> {
    measured.iter().map(|one| line(one, style, tags)).collect()
}

#[allow(clippy::cast_precision_loss, reason = "a mean needs no more")]
fn line(one: &Measured, style: Style, tags: &[String]) -> String {
    let mut name = if style == Style::Tags { one.plain.clone() } else { one.name.clone() };
    // A timer is in milliseconds; those that are Consul's are already.
    let seconds = one.kind == Kind::Sample && name.ends_with("_seconds");
    if seconds {
        name.truncate(name.len() - "_seconds".len());
        name.push_str("_ms");
    }
    if style == Style::Plain {
        one.labels.values().for_each(|value| name.push_str(&format!(".{value}")));
    }
    let mut line = clean(&name);
    let _ = match one.kind {
        Kind::Gauge => write!(line, ":{:.6}|g", one.sum),
        Kind::Counter if style == Style::Tags => write!(line, ":{:.0}|c", one.sum),
        Kind::Counter => write!(line, ":{:.6}|c", one.sum),
        Kind::Sample => {
            let mean = one.sum / one.count.max(1) as f64 * if seconds { 1e3 } else { 1.0 };
            let rate = if one.count > 1 { format!("|@{:.9}", 1.0 / one.count as f64) } else { String::new() };
            write!(line, ":{mean:.6}|ms{rate}")
        }
    };
    if style == Style::Tags {
        let own = one.labels.iter().map(|(name, value)| format!("{name}:{value}"));
        let all: Vec<String> = own.chain(tags.iter().cloned()).collect();
        if !all.is_empty() {
            let _ = write!(line, "|#{}", all.join(","));
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use causeway_agent::http::figures::Figures;
    use causeway_agent::http::naming::Naming;

    use super::*;

    fn measured() -> Vec<Measured> {
        let text = "# TYPE consul_raft_apply counter\nconsul_raft_apply 3\n# TYPE consul_raft_last_index gauge\nconsul_raft_last_index 7\n\
            # TYPE causeway_x_seconds summary\ncauseway_x_seconds_sum{a=\"b c\"} 0.5\ncauseway_x_seconds_count{a=\"b c\"} 5\n";
        let text = Arc::new(Mutex::new(text.to_owned()));
        let naming = Naming { host: "h".into(), ..Naming::default() };
        Figures::new(Arc::new(move || text.lock().unwrap().clone()), naming, 0).tick(10)
    }

    #[test]
    fn lines_are_consuls() {
        assert_eq!(
            lines(&measured(), Style::Plain, &[]),
            [
                "consul.h.raft.last_index:7.000000|g\n",
                "consul.raft.apply:3.000000|c\n",
                "causeway_x_ms.b_c:100.000000|ms|@0.200000000\n"
            ]
        );
        assert_eq!(
            lines(&measured(), Style::Tags, &["e:f".into()]),
            [
                "consul.raft.last_index:7.000000|g|#e:f\n",
                "consul.raft.apply:3|c|#e:f\n",
                "causeway_x_ms:100.000000|ms|@0.200000000|#a:b c,e:f\n"
            ]
        );
    }

    #[test]
    fn datagrams_are_full_and_no_fuller() {
        let lines: Vec<String> = (0..100).map(|n| format!("consul.raft.apply.number.{n:04}:1.000000|c\n")).collect();
        let packets = packets(&lines);
        let fewest = lines.concat().len().div_ceil(DATAGRAM);
        assert!(packets.iter().all(|p| p.len() <= DATAGRAM) && packets.len() <= fewest + 1, "{}", packets.len());
        assert_eq!(packets.concat(), lines.concat());
    }

    #[tokio::test]
    async fn a_collector_gets_them() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sinks = Sinks { statsd: Some(socket.local_addr().unwrap().to_string()), ..Sinks::default() };
        sinks.send(&measured()).await;
        let mut packet = [0; 2048];
        let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut packet)).await.unwrap().unwrap();
        assert!(packet[..length].starts_with(b"consul.h.raft.last_index:7.000000|g\n"));
    }
}
