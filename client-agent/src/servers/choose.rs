//! The order in which servers are tried, and what may be tried again. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use causeway_proto::door::Broken;
use causeway_proto::meta;
use causeway_proto::method::{self, Kind};
use causeway_proto::rejection::Reason;
use http::{HeaderMap, Uri};
use rand::Rng;
use rand::seq::SliceRandom;

/// Tries of one call, the first included.
pub const TRIES: usize = 4;
/// A read that waits for nothing and has no answer by then is asked of another server too.
pub const HEDGE_AFTER: Duration = Duration::from_secs(2);
/// A call's time where it names none.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// What a blocking read may take beyond the time it waits.
pub const BEYOND_WAIT: Duration = Duration::from_secs(5);

/// The servers in the order of preference: the first is stuck to until it breaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    servers: Vec<SocketAddr>,
}

impl Order {
    /// Takes up the servers that are there now. Those known keep their places; new ones come in at random places behind the one
    /// that is used, so that many agents spread over all servers and none changes without need. Says whether anything changed.
    pub fn update(&mut self, mut alive: Vec<SocketAddr>, rng: &mut impl Rng) -> bool {
        alive.sort();
        alive.dedup();
        let before = self.servers.clone();
        self.servers.retain(|s| alive.contains(s));
        alive.retain(|s| !self.servers.contains(s));
        if self.servers.is_empty() {
            alive.shuffle(rng);
            self.servers = alive;
        } else {
            for server in alive {
                let at = rng.random_range(1..=self.servers.len());
                self.servers.insert(at, server);
            }
        }
        self.servers != before
    }

    /// A server broke: it goes behind all others. Says whether anything changed; who reports late about a server that is no longer
    /// the first changes nothing, so that a burst of failures does not turn the order about.
    pub fn broke(&mut self, server: SocketAddr) -> bool {
        if self.servers.first() != Some(&server) || self.servers.len() < 2 {
            return false;
        }
        self.servers.rotate_left(1);
        true
    }

    /// The order.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }
}

/// How a call may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether it may be repeated though it may have been done.
    pub repeatable: bool,
    /// When a second server is asked while the first is silent; `None`: never.
    pub hedge: Option<Duration>,
    /// When the answer must have begun; after that the call is refused.
    pub deadline: Duration,
}

/// The plan of a call.
pub fn plan(uri: &Uri, headers: &HeaderMap) -> Plan {
    let kind = method::find(uri.path()).map(|m| m.kind);
    let said = meta::Meta::read(headers);
    // The servers know a write with a name again.
    let named = kind == Some(Kind::Write) && said.call.is_some();
    let repeatable = named || matches!(kind, Some(Kind::Read | Kind::Stream | Kind::Local));
    let blocking = said.min_index > 0;
    let asked = headers.get(meta::GRPC_TIMEOUT).and_then(|v| v.to_str().ok()).and_then(grpc_timeout);
    let deadline = match (asked, blocking) {
        // Drawn long: the server adds up to a sixteenth.
        (None, true) => said.wait_time(1.0) + BEYOND_WAIT,
        (None, false) => DEFAULT_DEADLINE,
        (Some(asked), _) => asked,
    };
    // What is silent about another datacenter may well be that datacenter; asking three more servers would triple its calls.
    let away = said.datacenter.is_some();
    let hedge = (matches!(kind, Some(Kind::Read | Kind::Local)) && !blocking && !away).then_some(HEDGE_AFTER);
    Plan { repeatable, hedge, deadline }
}

/// Reads gRPC's `grpc-timeout`: up to eight digits and a unit.
pub fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Whether the transport broke before it was connected, so that surely nothing was sent: the dialer's texts then begin with
/// `connect` (see `causeway_certs::dial::Dialer::door`).
pub fn never_sent(broken: &Broken) -> bool {
    broken.0.starts_with("connect")
}

/// Whether this answer says that another server should be asked: it drains, and has done nothing.
pub fn is_draining(headers: &HeaderMap) -> bool {
    headers.get(meta::REASON).is_some_and(|v| v.as_bytes() == Reason::Draining.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 8300))
    }

    #[test]
    fn agents_spread_over_all_servers() {
        let mut firsts = [0; 3];
        for seed in 0..300 {
            let mut order = Order::default();
            order.update(vec![addr(0), addr(1), addr(2)], &mut StdRng::seed_from_u64(seed));
            let first = order.servers()[0];
            let at = (0..3).find(|n| addr(*n) == first).unwrap();
            firsts[usize::from(at)] += 1;
        }
        assert!(firsts.iter().all(|n| *n > 60), "{firsts:?}");
    }

    #[test]
    fn the_one_in_use_stays_until_it_breaks_or_goes() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut order = Order::default();
        assert!(order.update(vec![addr(1)], &mut rng));
        for n in 2..9 {
            order.update((1..=n).map(addr).collect(), &mut rng);
            assert_eq!(order.servers()[0], addr(1));
        }
        assert!(!order.update((1..9).map(addr).collect(), &mut rng), "nothing new");
        assert!(order.broke(addr(1)));
        let next = order.servers()[0];
        assert_ne!(next, addr(1));
        assert!(!order.broke(addr(1)), "a late report");
        assert_eq!(order.servers()[0], next);
        assert_eq!(order.servers().len(), 8);
        order.update(vec![addr(1)], &mut rng);
        assert!(!order.broke(addr(1)), "there is no other");
        order.update(vec![], &mut rng);
        assert!(order.servers().is_empty());
    }

    #[test]
    fn plans() {
        let plan_of = |path: &str, headers: &[(http::HeaderName, &str)]| {
            let headers: HeaderMap = headers.iter().map(|(k, v)| (k.clone(), v.parse().unwrap())).collect();
            plan(&format!("http://x{path}").parse().unwrap(), &headers)
        };
        let read = "/causeway.kv.v1.Kv/Get";
        let ten = DEFAULT_DEADLINE;
        assert_eq!(plan_of(read, &[]), Plan { repeatable: true, hedge: Some(HEDGE_AFTER), deadline: ten });
        let blocking = plan_of(read, &[(meta::INDEX, "7"), (meta::WAIT, "16000")]);
        assert_eq!(blocking, Plan { repeatable: true, hedge: None, deadline: Duration::from_secs(17 + 5) });
        assert_eq!(plan_of(read, &[(meta::GRPC_TIMEOUT, "500m")]).deadline, Duration::from_millis(500));
        let write = plan_of("/causeway.kv.v1.Kv/Apply", &[]);
        assert_eq!(write, Plan { repeatable: false, hedge: None, deadline: ten });
        assert!(!plan_of("/unknown/Method", &[]).repeatable);
        let stream = plan_of("/causeway.view.v1.Views/Subscribe", &[]);
        assert_eq!((stream.repeatable, stream.hedge), (true, None));
    }

    #[test]
    fn timeouts_of_grpc() {
        for (text, expected) in
            [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("4m", 4), ("99999999S", 99_999_999_000)]
        {
            assert_eq!(grpc_timeout(text), Some(Duration::from_millis(expected)), "{text}");
        }
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad:?}");
        }
    }
}
