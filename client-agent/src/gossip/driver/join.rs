//! Joining: addresses to try, attempts, and attempts again.
#![allow(clippy::disallowed_methods, reason = "driver: name resolution, clock and chance")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::tcp::{self, Answered};
use super::{Gossip, Link};
use crate::gossip::JoinError;

/// Addresses tried at the same time.
const AT_ONCE: usize = 8;
/// Addresses that one name may stand for.
const MAX_ADDRS: usize = 64;
/// How long a name may take to resolve.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// What came of a round of joins.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// Other nodes that answered.
    pub(super) others: usize,
    /// Addresses at which we answered ourselves.
    pub(super) ourselves: usize,
    /// Address and reason of the rest.
    pub(super) failures: Vec<(String, String)>,
}

/// Host and port of an address as users write it: `host`, `host:port`, `ip`, `[v6]`, `[v6]:port`.
fn split(addr: &str, default_port: u16) -> Option<(String, u16)> {
    let addr = addr.trim();
    if let Ok(ip) = addr.parse::<IpAddr>() {
        return Some((ip.to_string(), default_port));
    }
    if let Some(rest) = addr.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => default_port,
            None => return None,
        };
        return Some((ip.to_owned(), port));
    }
    match addr.split_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        None if !addr.is_empty() => Some((addr.to_owned(), default_port)),
        _ => None,
    }
}

async fn resolve(addr: &str, default_port: u16) -> Result<Vec<SocketAddr>, String> {
    let (host, port) = split(addr, default_port)
        .ok_or_else(|| "not an address; write host, host:port, ip, ip:port or [ipv6]:port".to_owned())?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = timeout(RESOLVE_DEADLINE, tokio::net::lookup_host((host.as_str(), port))).await;
    let found = found
        .map_err(|_| format!("lookup {host}: i/o timeout"))?
        .map_err(|e| format!("lookup {host}: no such host ({e})"))?;
    let mut addrs: Vec<SocketAddr> = found.take(MAX_ADDRS).collect();
    addrs.sort_unstable();
    addrs.dedup();
    if addrs.is_empty() { Err(format!("lookup {host}: no such host")) } else { Ok(addrs) }
}

/// Tries all addresses, all that each name stands for, until the deadline.
pub(super) async fn join(link: &Link, addrs: &[String], deadline: Duration) -> Joined {
    let until = Instant::now() + deadline;
    let rounds = futures::stream::iter(addrs.iter().cloned()).map(|addr| async move {
        let mut joined = Joined::default();
        let targets = match timeout_at(until, resolve(&addr, link.port)).await {
            Ok(Ok(targets)) => targets,
            Ok(Err(why)) => {
                joined.failures.push((addr, why));
                return joined;
            }
            Err(_) => {
                joined.failures.push((addr, "the time for joining was over".to_owned()));
                return joined;
            }
        };
        for to in targets {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                joined.failures.push((to.ip().to_string(), format!("dial tcp {to}: i/o timeout")));
                continue;
            }
            match timeout(left, tcp::exchange(link, to, left)).await {
                Ok(Ok(Answered::Other)) => joined.others += 1,
                Ok(Ok(Answered::Ourselves)) => joined.ourselves += 1,
                Ok(Err(error)) => joined.failures.push((to.ip().to_string(), error.to_string())),
                Err(_) => joined.failures.push((to.ip().to_string(), format!("dial tcp {to}: i/o timeout"))),
            }
        }
        joined
    });
    let all: Vec<Joined> = rounds.buffered(AT_ONCE).collect().await;
    all.into_iter().fold(Joined::default(), |mut sum, one| {
        sum.others += one.others;
        sum.ourselves += one.ourselves;
        sum.failures.extend(one.failures);
        sum
    })
}

/// After a restart: looks for the members known before, each at its address under its name, until one has answered.
pub(super) async fn rejoin(link: &Link, peers: Vec<(SocketAddr, String)>) {
    let search = async {
        let mut pause = Duration::from_millis(250);
        for _ in 0..20 {
            let answered = futures::stream::iter(peers.clone())
                .map(|(addr, name)| async move {
                    tcp::who_is(link, &name, addr).await.is_some()
                        && tcp::exchange(link, addr, tcp::DEADLINE).await.is_ok()
                })
                .buffer_unordered(AT_ONCE)
                .filter(|ok| std::future::ready(*ok))
                .take(3)
                .count()
                .await;
            if answered > 0 {
                tracing::info!("rejoined the members known before the restart");
                return;
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        tracing::warn!("none of the members known before the restart answers");
    };
    link.stop.run_until_cancelled(search).await;
}

/// Joins until another node has answered; resolves names anew each time.
#[derive(Debug, Clone)]
pub struct RetryJoin {
    /// As [`Gossip::join`] takes them.
    pub addrs: Vec<String>,
    /// Between two attempts (default 30 s). The first ones come quicker: 250 ms, 500 ms, 1 s and so on up to this.
    pub interval: Duration,
    /// Attempts at most; 0: without end.
    pub max: u32,
}

/// All attempts were in vain.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no node could be joined in {attempts} attempts; check retry_join: {last}")]
pub struct RetryJoinError {
    /// How many were made.
    pub attempts: u32,
    /// What the last one said.
    pub last: JoinError,
}

impl RetryJoin {
    /// Runs until another node has answered, `stop`, or the attempts are used up. Addresses at which we answer ourselves do not
    /// count, unless there are no others.
    pub async fn run(self, gossip: &Gossip, stop: &CancellationToken) -> Result<(), RetryJoinError> {
        let mut attempts = 0;
        let mut pause = Duration::from_millis(250);
        loop {
            let Some(joined) =
                stop.run_until_cancelled(join(gossip.link(), &self.addrs, Duration::from_secs(15))).await
            else {
                return Ok(());
            };
            if joined.others > 0 || joined.failures.is_empty() {
                tracing::info!(answered = joined.others, "joined");
                return Ok(());
            }
            attempts += 1;
            let last = JoinError { failures: joined.failures };
            if self.max != 0 && attempts >= self.max {
                return Err(RetryJoinError { attempts, last });
            }
            let wait = pause.min(self.interval).mul_f64(rand::random_range(0.75..1.25));
            tracing::warn!(error = %last.to_string().trim_end(), retry_in_ms = wait.as_millis() as u64, "join failed");
            pause = (pause * 2).min(self.interval);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_users_write_them() {
        for (addr, host, port) in [
            ("10.0.0.1", "10.0.0.1", 8301),
            ("10.0.0.1:99", "10.0.0.1", 99),
            ("::1", "::1", 8301),
            ("[::1]", "::1", 8301),
            ("[fe80::1]:77", "fe80::1", 77),
            ("node.example", "node.example", 8301),
            (" node.example:5 ", "node.example", 5),
        ] {
            assert_eq!(split(addr, 8301), Some((host.to_owned(), port)), "{addr}");
        }
        for bad in ["", ":5", "a:b", "[::1", "[::1]5", "a:70000", "a:1:2"] {
            assert_eq!(split(bad, 8301), None, "{bad}");
        }
    }
}
