//! What is told of each link, and what is remembered of the transports to each gateway: for people, nothing is decided by it.

pub(crate) mod driver;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{LinkStatus, LinkTraffic};

use crate::carrier::{Kind, Way};
use crate::link::State;

/// Calls that take a worse transport for less than this have not fallen back: links of a gateway that stops end one by one.
const HOLD: Duration = Duration::from_millis(500);
/// Gateways that are remembered; beyond that, those without a link are forgotten.
const MAX_GATEWAYS: usize = 4096;

/// What was read from a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// `ip:port` at the other end.
    pub remote: String,
    /// Smoothed round trip, once one was measured.
    pub rtt: Option<Duration>,
    /// What QUIC counts; `None`: the kernel keeps it.
    pub packets: Option<Packets>,
    /// Changes of an address under the living connection; `None`: the transport cannot do that.
    pub migrations: Option<u64>,
    /// Bytes of calls, sent and received.
    pub rpc: (u64, u64),
    /// Bytes of gossip and probes.
    pub gossip: (u64, u64),
    /// Bytes carried for other sites.
    pub relay: (u64, u64),
    /// Their clock minus ours, milliseconds.
    pub skew_ms: Option<i64>,
    /// Calls asked over it.
    pub calls: u64,
}

/// What QUIC counts of a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packets {
    /// Packets sent.
    pub sent: u64,
    /// Packets given up as lost.
    pub lost: u64,
    /// Times that the sender slowed down.
    pub congestion_events: u64,
    /// Times that large packets were found not to get through any more.
    pub black_holes: u64,
    /// Congestion window, bytes.
    pub cwnd: u64,
    /// Bytes of UDP payload that the path takes.
    pub mtu: u64,
}

/// A link as the gateway's task knows it.
#[derive(Debug, Clone)]
pub struct Shown<'a> {
    /// Its number.
    pub id: u64,
    /// The gateway at its far end; empty: not told yet.
    pub gateway: &'a str,
    /// What carries it.
    pub kind: Kind,
    /// Our neighbour on its way; `None`: it is direct.
    pub via: Option<&'a str>,
    /// Whether we dialled it.
    pub ours: bool,
    /// How it is.
    pub state: State,
    /// Since when it is so.
    pub since: Instant,
    /// When its handshake was done.
    pub born: Instant,
    /// How it came about.
    pub origin: &'a str,
    /// Whether calls take it, and why or why not.
    pub standing: (bool, String),
    /// What went wrong last with dialling that gateway.
    pub last_error: &'a str,
    /// What was read from it.
    pub figures: &'a Figures,
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn say(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// Why a dial was won by what won it. `errors`: what went wrong with the others; `before`: with the dial before it.
pub fn origin(won: Kind, ways: &[Way], took: Duration, errors: &BTreeMap<Kind, String>, before: &str) -> String {
    let name = if won == Kind::Quic { "UDP" } else { won.as_str() };
    let after = |kind| ways.iter().find(|w| w.kind == kind).map(|w| w.after);
    let text = match (won, after(Kind::Quic), after(Kind::Tcp)) {
        (Kind::Quic, _, None) => format!("UDP answers again, in {}", say(took)),
        (Kind::Quic, ..) => format!("UDP answered first, in {}", say(took)),
        (_, None, _) => format!("stands by for QUIC; {name} answered in {}", say(took)),
        _ => {
            // In an outage there are several tries of each kind.
            let first = |(i, way): &(usize, &Way)| ways.iter().position(|w| w.kind == way.kind) == Some(*i);
            let better = ways.iter().enumerate().filter(first).map(|(_, way)| way).filter(|w| w.kind < won);
            let why = better.map(|way| match errors.get(&way.kind) {
                Some(error) => format!("{}: {error}", way.kind.as_str()),
                None => {
                    format!("{}: no answer within {}", way.kind.as_str(), say(took.saturating_sub(way.after)))
                }
            });
            format!("{}; {name} answered", why.collect::<Vec<_>>().join("; "))
        }
    };
    if before.is_empty() { text } else { format!("{text}; the dial before: {before}") }
}

/// Why there is a link that the other end dialled.
pub fn accepted(kind: Kind) -> String {
    format!("the other gateway dialled it by {}", kind.as_str())
}

/// Calls to a gateway took a worse transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// What they took before, or should have.
    pub from: Kind,
    /// What they take now.
    pub to: Kind,
    /// Why.
    pub why: String,
    /// Since when.
    pub at: Instant,
}

/// What changed for the calls to a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// For the worse.
    Fallback(Fallback),
    /// For the better.
    Return {
        /// What they took before.
        from: Kind,
        /// What they take now.
        to: Kind,
    },
}

#[derive(Debug, Default)]
struct Transport {
    /// What calls take, or took last.
    kind: Option<Kind>,
    /// Something worse since then.
    worse: Option<Fallback>,
    /// Why links of a kind are in use no more.
    left: BTreeMap<Kind, String>,
    fallbacks: u64,
    last: Option<Fallback>,
    linked: bool,
}

/// The transports to each gateway of other sites.
#[derive(Debug, Default)]
pub struct Transports {
    gateways: BTreeMap<(String, String), Transport>,
}

impl Transports {
    fn of(&mut self, datacenter: &str, gateway: &str) -> &mut Transport {
        self.gateways.entry((datacenter.to_owned(), gateway.to_owned())).or_default()
    }

    /// A link is not in use any more.
    pub fn ended(&mut self, datacenter: &str, gateway: &str, kind: Kind, why: String) {
        self.of(datacenter, gateway).left.entry(kind).or_insert(why);
    }

    /// Takes up what links there are that work, with how each came about.
    pub fn look(&mut self, now: Instant, datacenter: &str, gateway: &str, up: &[(Kind, &str)]) -> Option<Change> {
        let transport = self.of(datacenter, gateway);
        transport.linked = !up.is_empty();
        // Why a link was left is told until one of its kind works again.
        transport.left.retain(|kind, _| !up.iter().any(|(k, _)| k == kind));
        let Some((best, origin)) = up.iter().min() else {
            transport.worse = None;
            return None;
        };
        let before = match transport.kind {
            Some(kind) => kind,
            // A site that is reached through others from the first has not fallen back: it may be that it cannot be dialled.
            None if matches!(best, Kind::Tcp | Kind::Proxy) => Kind::Quic,
            None => *best,
        };
        if best.class() <= before.class() {
            transport.worse = None;
            transport.kind = Some(*best);
            return (best.class() < before.class()).then_some(Change::Return { from: before, to: *best });
        }
        let why = transport.left.get(&before).map_or(*origin, String::as_str);
        let worse = match transport.worse.take() {
            Some(worse) if worse.to == *best => worse,
            _ => Fallback { from: before, to: *best, why: why.to_owned(), at: now },
        };
        if now.saturating_duration_since(worse.at) < HOLD {
            transport.worse = Some(worse);
            return None;
        }
        transport.kind = Some(*best);
        transport.fallbacks += 1;
        transport.last = Some(worse.clone());
        Some(Change::Fallback(worse))
    }

    /// Takes up which gateways have no link at all.
    pub fn unlinked(&mut self, has_link: impl Fn(&str, &str) -> bool) {
        for ((datacenter, gateway), transport) in &mut self.gateways {
            if !has_link(datacenter, gateway) {
                transport.linked = false;
                transport.worse = None;
            }
        }
    }

    /// Forgets the gateways of sites that are not known any more.
    pub fn retain(&mut self, known: impl Fn(&str) -> bool) {
        let many = self.gateways.len() > MAX_GATEWAYS;
        self.gateways.retain(|(dc, _), t| known(dc) && (t.linked || !many));
    }

    /// Why calls take a link of this kind.
    fn reason<'a>(transport: Option<&'a Transport>, kind: Kind, origin: &'a str) -> &'a str {
        let Some(transport) = transport else { return origin };
        let fallen = match &transport.worse {
            Some(worse) => Some(worse),
            None => transport.last.as_ref().filter(|_| transport.kind == Some(kind)),
        };
        fallen.filter(|f| f.to == kind).map_or(origin, |f| f.why.as_str())
    }

    /// A link as it is shown.
    pub fn show(&self, now: Instant, datacenter: &str, link: Shown<'_>) -> LinkStatus {
        let transport = self.gateways.get(&(datacenter.to_owned(), link.gateway.to_owned()));
        let figures = link.figures;
        let (chosen, standing) = link.standing;
        let reason = if chosen { Self::reason(transport, link.kind, link.origin) } else { link.origin };
        let last = transport.and_then(|t| t.last.as_ref());
        let packets = figures.packets;
        let traffic = |(sent, received)| Some(LinkTraffic { sent, received });
        LinkStatus {
            id: link.id,
            gateway: link.gateway.to_owned(),
            transport: link.kind.as_str().to_owned(),
            via: link.via.unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
            remote: figures.remote.clone(),
            dialled: link.ours,
            state: link.state.as_str().to_owned(),
            chosen,
            standing,
            since_ms: ms(now.saturating_duration_since(link.since)),
            age_ms: ms(now.saturating_duration_since(link.born)),
            rtt_us: figures.rtt.map(us),
            sent_packets: packets.map(|p| p.sent),
            lost_packets: packets.map(|p| p.lost),
            congestion_events: packets.map(|p| p.congestion_events),
            black_holes: packets.map(|p| p.black_holes),
            cwnd: packets.map(|p| p.cwnd),
            mtu: packets.map(|p| p.mtu),
            migrations: figures.migrations,
            rpc: traffic(figures.rpc),
            gossip: traffic(figures.gossip),
            relay: traffic(figures.relay),
            clock_skew_ms: figures.skew_ms,
            calls: figures.calls,
            fallbacks: transport.map_or(0, |t| t.fallbacks),
            fallback_reason: last.map(|f| f.why.clone()).unwrap_or_default(),
            fallback_ms: last.map(|f| ms(now.saturating_duration_since(f.at))),
            last_error: link.last_error.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIC: (Kind, &str) = (Kind::Quic, "UDP answered first");
    const TCP: (Kind, &str) = (Kind::Tcp, "stands by for QUIC");
    const RELAY: (Kind, &str) = (Kind::Relay, "through b");

    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn fallbacks(t: &Transports) -> u64 {
        t.gateways.values().map(|t| t.fallbacks).sum()
    }

    fn reason<'a>(t: &'a Transports, (kind, origin): (Kind, &'a str)) -> &'a str {
        Transports::reason(t.gateways.values().next(), kind, origin)
    }

    #[test]
    fn a_fallback_is_counted_once_with_its_reason_and_left_again() {
        let (t0, mut t) = (start(), Transports::default());
        let at = |s: f64| t0 + Duration::from_secs_f64(s);
        assert_eq!(t.look(at(0.0), "b", "g", &[QUIC]), None);
        assert_eq!(t.look(at(1.0), "b", "g", &[TCP, QUIC]), None);
        t.ended("b", "g", Kind::Quic, "quic: no answer to 2 probes in a row".into());
        // What is told afterwards is a consequence, not the cause.
        t.ended("b", "g", Kind::Quic, "quic: timed out".into());
        assert_eq!(t.look(at(2.0), "b", "g", &[TCP]), None, "may be over in a moment");
        assert_eq!(reason(&t, TCP), "quic: no answer to 2 probes in a row", "told at once");
        let told = t.look(at(3.0), "b", "g", &[TCP]);
        let wanted = Fallback { from: Kind::Quic, to: Kind::Tcp, why: reason(&t, TCP).to_owned(), at: at(2.0) };
        assert_eq!(told, Some(Change::Fallback(wanted)));
        assert_eq!(t.look(at(9.0), "b", "g", &[TCP]), None);
        assert_eq!(fallbacks(&t), 1);
        let back = Change::Return { from: Kind::Tcp, to: Kind::Quic };
        assert_eq!(t.look(at(10.0), "b", "g", &[TCP, QUIC]), Some(back));
        assert_eq!(reason(&t, QUIC), "UDP answered first");
        assert_eq!(reason(&t, TCP), "stands by for QUIC", "the old reason is over");
        assert_eq!(fallbacks(&t), 1);
    }

    #[test]
    fn what_ends_one_by_one_is_no_fallback_and_a_gap_hides_none() {
        let (t0, mut t) = (start(), Transports::default());
        let at = |ms: u64| t0 + Duration::from_millis(ms);
        t.look(at(0), "b", "g", &[QUIC, TCP]);
        t.look(at(100), "b", "g", &[TCP]);
        t.look(at(110), "b", "g", &[]);
        t.look(at(5000), "b", "g", &[QUIC]);
        t.look(at(9000), "b", "g", &[QUIC]);
        assert_eq!(fallbacks(&t), 0);
        // Nothing for a while, and then TCP only.
        t.look(at(10_000), "b", "g", &[]);
        t.look(at(20_000), "b", "g", &[(Kind::Proxy, "quic: no answer within 0.3 s")]);
        let told = t.look(at(21_000), "b", "g", &[(Kind::Proxy, "quic: no answer within 0.3 s")]);
        assert!(matches!(told, Some(Change::Fallback(f)) if f.why == "quic: no answer within 0.3 s"));
        // From there through another site.
        t.look(at(30_000), "b", "g", &[RELAY]);
        assert!(matches!(t.look(at(31_000), "b", "g", &[RELAY]), Some(Change::Fallback(_))));
        assert_eq!(fallbacks(&t), 2);
    }

    #[test]
    fn tcp_from_the_first_is_a_fallback_and_a_relayed_link_is_none() {
        let (t0, mut t) = (start(), Transports::default());
        for s in 0..3 {
            t.look(t0 + Duration::from_secs(s), "b", "g", &[(Kind::Tcp, "quic: blocked; tcp answered")]);
            t.look(t0 + Duration::from_secs(s), "c", "g", &[RELAY]);
        }
        assert_eq!(fallbacks(&t), 1);
        assert_eq!(reason(&t, TCP), "quic: blocked; tcp answered");
        t.retain(|dc| dc == "c");
        assert_eq!(t.gateways.len(), 1);
    }

    #[test]
    fn who_won_and_why() {
        let way = |kind, after| Way { kind, after: Duration::from_millis(after) };
        let race = [way(Kind::Quic, 0), way(Kind::Tcp, 300), way(Kind::Proxy, 500)];
        let none = BTreeMap::new();
        let refused = BTreeMap::from([(Kind::Tcp, "10.0.0.1:443: refused".to_owned())]);
        let ms = Duration::from_millis;
        for (won, ways, took, errors, before, wanted) in [
            (Kind::Quic, &race[..], ms(3), &none, "", "UDP answered first, in 3.0 ms"),
            (Kind::Quic, &race[..1], ms(3), &none, "", "UDP answers again, in 3.0 ms"),
            (Kind::Tcp, &race[1..], ms(9), &none, "", "stands by for QUIC; tcp answered in 9.0 ms"),
            (Kind::Tcp, &race[..], ms(1500), &none, "", "quic: no answer within 1.5 s; tcp answered"),
            (
                Kind::Proxy,
                &race[..],
                ms(700),
                &refused,
                "quic: timed out",
                "quic: no answer within 700.0 ms; tcp: 10.0.0.1:443: refused; proxy answered; the dial before: quic: timed out",
            ),
        ] {
            assert_eq!(origin(won, ways, took, errors, before), wanted);
        }
    }

    #[test]
    fn what_is_not_known_is_missing() {
        let (now, t) = (start(), Transports::default());
        let figures = Figures { rpc: (1, 2), ..Figures::default() };
        let link = Shown {
            id: 7,
            gateway: "g",
            kind: Kind::Tcp,
            via: None,
            ours: true,
            state: State::Up,
            since: now,
            born: now,
            origin: "o",
            standing: (true, "s".into()),
            last_error: "",
            figures: &figures,
        };
        let shown = t.show(now + Duration::from_secs(2), "b", link);
        assert_eq!((shown.lost_packets, shown.mtu, shown.migrations, shown.rtt_us), (None, None, None, None));
        assert_eq!((shown.clock_skew_ms, shown.fallback_ms, shown.age_ms), (None, None, 2000));
        assert_eq!(shown.rpc, Some(LinkTraffic { sent: 1, received: 2 }));
    }
}
