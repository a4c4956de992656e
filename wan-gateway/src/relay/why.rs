//! Which way to a site was chosen, and why none of the others: for people.

use std::time::Duration;

use causeway_proto::federation::v1::Candidate;

use crate::carrier::Kind;
use crate::link::State;
use crate::path::Way;

/// Ways that are told of one site.
const MAX_SHOWN: usize = 24;

/// A link to the site, relayed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What carries it.
    pub kind: Kind,
    /// As `SiteStatus.path` says it.
    pub path: String,
    /// The gateway at its far end; empty: not told yet.
    pub gateway: String,
    /// Our neighbour on its way; `None`: it is direct.
    pub via: Option<String>,
    /// How it is.
    pub state: State,
    /// Smoothed round trip.
    pub rtt: Duration,
}

/// What is known of the ways to one site.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Links there are.
    pub links: Vec<Seen>,
    /// Ways through others, cheapest first, with what went wrong with them last.
    pub ways: Vec<(&'a Way, Option<String>)>,
    /// Neighbours of ours.
    pub neighbours: Vec<&'a str>,
    /// Whether it tells an address to dial.
    pub dialable: bool,
    /// What went wrong with dialling it directly.
    pub direct_error: &'a str,
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn show(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The link that calls take.
fn chosen(links: &[Seen]) -> Option<&Seen> {
    let usable = |l: &&Seen| l.state == State::Up;
    let class = links.iter().filter(usable).map(|l| l.kind.class()).min();
    links.iter().filter(usable).filter(|l| Some(l.kind.class()) == class).min_by_key(|l| l.rtt)
}

/// Of each link whether calls take it, and why or why not.
pub fn standings(links: &[Seen]) -> Vec<(bool, String)> {
    let usable = links.iter().filter(|l| l.state == State::Up).count();
    let chosen = chosen(links);
    let standing = |link: &Seen| {
        let is_chosen = chosen.is_some_and(|c| std::ptr::eq(c, link));
        let reason = match (link.state, chosen) {
            (State::Up, Some(c)) if is_chosen => match (c.kind, usable) {
                (Kind::Quic, 1) => "the direct link".to_owned(),
                (Kind::Quic, _) => "a direct link by QUIC, and the nearest".to_owned(),
                (Kind::Tcp | Kind::Proxy, _) => "a direct link; none by QUIC works".to_owned(),
                (Kind::Relay, _) => "no direct link works; this way has the least round trip".to_owned(),
            },
            (State::Up, Some(c)) if c.kind.class() < link.kind.class() && c.kind == Kind::Quic => {
                "stands by: a direct link by QUIC works".to_owned()
            }
            (State::Up, Some(c)) if c.kind.class() < link.kind.class() => "stands by: a direct link works".to_owned(),
            (State::Up, Some(c)) if link.rtt > c.rtt + c.rtt / 4 + Duration::from_millis(2) => {
                format!("farther: {} against {}", show(link.rtt), show(c.rtt))
            }
            (State::Up, _) => "about as near: takes calls when the other is busy".to_owned(),
            (State::Greeting, _) => "being set up".to_owned(),
            (State::Draining, _) => "given up: what is under way on it may finish".to_owned(),
            (State::Suspected | State::Lost | State::Closed, _) => "does not answer".to_owned(),
        };
        (is_chosen, reason)
    };
    links.iter().map(standing).collect()
}

/// All candidates, the chosen one first.
pub fn candidates(facts: &Facts<'_>) -> Vec<Candidate> {
    let chosen = chosen(&facts.links);
    let mut out: Vec<Candidate> = Vec::new();
    for (link, (is_chosen, reason)) in facts.links.iter().zip(standings(&facts.links)) {
        let hops = facts.ways.iter().find(|(w, _)| Some(&w.via) == link.via.as_ref()).map_or(2, |(w, _)| w.hops);
        out.push(Candidate {
            path: link.path.clone(),
            via: link.via.clone().unwrap_or_default(),
            gateway: link.gateway.clone(),
            rtt_us: us(link.rtt),
            links: if link.via.is_some() { hops } else { 1 },
            chosen: is_chosen,
            reason,
        });
    }
    if facts.links.iter().all(|l| l.via.is_some()) {
        let reason = match (facts.dialable, facts.direct_error) {
            (false, _) => "it tells no address that could be dialled, and has not dialled us".to_owned(),
            (true, "") => "not linked".to_owned(),
            (true, why) => why.to_owned(),
        };
        out.push(Candidate { path: "direct".to_owned(), links: 1, reason, ..Candidate::default() });
    }
    for (way, error) in &facts.ways {
        if facts.links.iter().any(|l| l.via.as_ref() == Some(&way.via)) {
            continue;
        }
        let reason = match (error, chosen) {
            (Some(why), _) => format!("failed: {why}"),
            (None, Some(c)) if c.via.is_none() => "not dialled: a direct link works".to_owned(),
            (None, Some(c)) => format!("not dialled: {} against {}", show(way.cost), show(c.rtt)),
            (None, None) => "being dialled".to_owned(),
        };
        out.push(Candidate {
            path: format!("relay via {}", way.via),
            via: way.via.clone(),
            rtt_us: us(way.cost),
            links: way.hops,
            reason,
            ..Candidate::default()
        });
    }
    for neighbour in &facts.neighbours {
        let known = facts.ways.iter().any(|(w, _)| w.via == *neighbour)
            || facts.links.iter().any(|l| l.via.as_deref() == Some(*neighbour));
        if !known {
            out.push(Candidate {
                path: format!("relay via {neighbour}"),
                via: (*neighbour).to_owned(),
                reason: format!("{neighbour} tells of no way to it, or carries nothing for others"),
                ..Candidate::default()
            });
        }
    }
    out.sort_by_key(|c| !c.chosen);
    out.truncate(MAX_SHOWN);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn seen(kind: Kind, via: Option<&str>, state: State, rtt: u64) -> Seen {
        let path = via.map_or_else(|| kind.as_str().to_owned(), |v| format!("relay via {v}"));
        Seen { kind, path, gateway: "g".into(), via: via.map(str::to_owned), state, rtt: ms(rtt) }
    }

    #[test]
    fn every_way_has_a_reason_and_one_is_chosen() {
        let b = Way { conn: 1, via: "b".into(), cost: ms(20), hops: 2 };
        let c = Way { conn: 2, via: "c".into(), cost: ms(60), hops: 2 };
        let facts = Facts {
            links: vec![seen(Kind::Relay, Some("b"), State::Up, 21)],
            ways: vec![(&b, None), (&c, None)],
            neighbours: vec!["b", "c", "d"],
            dialable: false,
            direct_error: "",
        };
        let shown = candidates(&facts);
        let lines: Vec<_> = shown.iter().map(|c| (c.path.as_str(), c.chosen, c.reason.as_str())).collect();
        assert_eq!(
            lines,
            [
                ("relay via b", true, "no direct link works; this way has the least round trip"),
                ("direct", false, "it tells no address that could be dialled, and has not dialled us"),
                ("relay via c", false, "not dialled: 60.0 ms against 21.0 ms"),
                ("relay via d", false, "d tells of no way to it, or carries nothing for others"),
            ]
        );
    }

    #[test]
    fn direct_links_come_before_relayed_ones() {
        let b = Way { conn: 1, via: "b".into(), cost: ms(20), hops: 2 };
        let links = vec![
            seen(Kind::Relay, Some("b"), State::Up, 5),
            seen(Kind::Tcp, None, State::Up, 9),
            seen(Kind::Quic, None, State::Suspected, 9),
        ];
        let facts = Facts { links, ways: vec![(&b, None)], neighbours: vec!["b"], dialable: true, direct_error: "x" };
        let shown = candidates(&facts);
        let lines: Vec<_> = shown.iter().map(|c| (c.path.as_str(), c.reason.as_str())).collect();
        assert_eq!(
            lines,
            [
                ("tcp", "a direct link; none by QUIC works"),
                ("relay via b", "stands by: a direct link works"),
                ("quic", "does not answer"),
            ]
        );
    }

    #[test]
    fn without_any_link_each_way_says_what_is_wrong() {
        let b = Way { conn: 1, via: "b".into(), cost: ms(20), hops: 2 };
        let facts = Facts {
            ways: vec![(&b, Some("b carries no links of other sites (gateway.relay)".to_owned()))],
            neighbours: vec!["b"],
            dialable: true,
            direct_error: "quic: timed out",
            ..Facts::default()
        };
        let shown = candidates(&facts);
        assert!(shown.iter().all(|c| !c.chosen));
        assert_eq!(shown[0].reason, "quic: timed out");
        assert_eq!(shown[1].reason, "failed: b carries no links of other sites (gateway.relay)");
    }
}
