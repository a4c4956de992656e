//! What the DNS part is told. All of it but `listen` may change while it runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::tcp::Limits;

/// In which order recursors are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecursorStrategy {
    /// As listed.
    #[default]
    Sequential,
    /// In a new order for each question.
    Random,
}

/// The numbers in the SOA record, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soa {
    /// Refresh.
    pub refresh: u32,
    /// Retry.
    pub retry: u32,
    /// Expire.
    pub expire: u32,
    /// Least TTL, which is also how long resolvers remember that a name does not exist.
    pub min_ttl: u32,
}

impl Default for Soa {
    fn default() -> Self {
        Self { refresh: 3600, retry: 600, expire: 86400, min_ttl: 0 }
    }
}

/// `dns_config` and what goes with it; defaults as in Consul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The agent's own datacenter.
    pub datacenter: String,
    /// The zone, without a dot at its end.
    pub domain: String,
    /// A second name of the zone; empty: none.
    pub alt_domain: String,
    /// The agent's node name.
    pub node_name: String,
    /// Where to listen, UDP and TCP; port 0: any.
    pub listen: Vec<SocketAddr>,
    /// TTL of answers about nodes.
    pub node_ttl: Duration,
    /// TTL of answers about services: by name, `prefix*`, or `*`. The exact name wins, then the longest prefix.
    pub service_ttl: BTreeMap<String, Duration>,
    /// Leaves out instances with a warning.
    pub only_passing: bool,
    /// Answers in a UDP packet at most, where the client sent no EDNS; never more than 8.
    pub udp_answer_limit: usize,
    /// Addresses in an answer at most, by any transport; 0: no limit.
    pub a_record_limit: usize,
    /// Sets the TC bit where an answer was cut.
    pub enable_truncate: bool,
    /// Who answers for names outside the zone.
    pub recursors: Vec<SocketAddr>,
    /// How long each of them may take.
    pub recursor_timeout: Duration,
    /// In which order they are asked.
    pub recursor_strategy: RecursorStrategy,
    /// Numbers of the SOA record.
    pub soa: Soa,
    /// Spells every name in full.
    pub disable_compression: bool,
    /// Adds the nodes' metadata as TXT records to the additional section.
    pub enable_additional_node_meta_txt: bool,
    /// Whether answers may be older than the leader's state. Views are; where this is off, a view whose stream is down is not
    /// used.
    pub allow_stale: bool,
    /// Oldest answer that may be given while a stream is down.
    pub max_stale: Duration,
    /// Whether answers about other datacenters give the `wan` addresses.
    pub translate_wan_addrs: bool,
    /// Bounds of connections.
    pub tcp: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            datacenter: "dc1".into(),
            domain: "consul".into(),
            alt_domain: String::new(),
            node_name: String::new(),
            listen: Vec::new(),
            node_ttl: Duration::ZERO,
            service_ttl: BTreeMap::new(),
            only_passing: false,
            udp_answer_limit: 3,
            a_record_limit: 0,
            enable_truncate: false,
            recursors: Vec::new(),
            recursor_timeout: Duration::from_secs(2),
            recursor_strategy: RecursorStrategy::Sequential,
            soa: Soa::default(),
            disable_compression: false,
            enable_additional_node_meta_txt: true,
            allow_stale: true,
            max_stale: Duration::from_secs(87600 * 3600),
            translate_wan_addrs: false,
            tcp: Limits::default(),
        }
    }
}

impl Config {
    /// TTL, seconds, of answers about this service.
    pub fn ttl_of(&self, service: &str) -> u32 {
        let exact = self.service_ttl.get(service);
        let ttl = exact.or_else(|| {
            self.service_ttl
                .iter()
                .filter(|(k, _)| k.strip_suffix('*').is_some_and(|prefix| service.starts_with(prefix)))
                .max_by_key(|(k, _)| k.len())
                .map(|(_, ttl)| ttl)
        });
        seconds(ttl.copied().unwrap_or_default())
    }

    /// TTL, seconds, of answers about nodes.
    pub fn node_ttl(&self) -> u32 {
        seconds(self.node_ttl)
    }
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_ttls() {
        let ttl = |n| Duration::from_secs(n);
        let service_ttl =
            [("web", 1), ("web*", 2), ("we*", 3), ("*", 4)].map(|(k, n)| (k.to_owned(), ttl(n))).into_iter().collect();
        let config = Config { service_ttl, ..Config::default() };
        for (name, want) in [("web", 1), ("web-a", 2), ("wet", 3), ("db", 4)] {
            assert_eq!(config.ttl_of(name), want, "{name}");
        }
        assert_eq!(Config::default().ttl_of("web"), 0);
    }
}
