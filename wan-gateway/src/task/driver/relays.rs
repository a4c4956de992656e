#![allow(clippy::disallowed_methods, reason = "part of the gateway's one task")]
//! Ways to the other sites, and the links that go through others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Brain, Held, LOOK, Ways};
use crate::carrier::Kind;
use crate::link::driver::{self as links, Note};
use crate::link::{ConnId, Event, State};
use crate::path::{self, DirectLink};
use crate::relay;
use crate::relay::ways::{Do, Relay};

/// A relayed link on which a call was made so lately is watched closely.
const LIVELY: Duration = Duration::from_secs(30);
/// A relayed link that was given up is closed once it carried nothing for this long, and two round trips: a call may be on its way.
const QUIET: Duration = Duration::from_millis(500);

impl Brain {
    /// Direct links that work: connection, datacenter, round trip.
    pub(super) fn direct(&self) -> Vec<(ConnId, String, Duration)> {
        let kind = |id: &ConnId| self.held.get(id).map(|h| h.link.conn.kind());
        let up = self.links.up().filter(|(id, ..)| kind(id).is_some_and(|k| k != Kind::Relay));
        up.map(|(id, dc, _, rtt)| (id, dc.to_owned(), rtt)).collect()
    }

    /// To each neighbour, on the link that calls take.
    pub(super) fn round_trips(&self) -> BTreeMap<String, Duration> {
        let mut best: BTreeMap<String, (Kind, Duration)> = BTreeMap::new();
        for (id, dc, _) in self.direct() {
            let Some(held) = self.held.get(&id) else { continue };
            let mine = (held.link.conn.kind(), held.link.cost());
            best.entry(dc).and_modify(|b| *b = mine.min(*b)).or_insert(mine);
        }
        best.into_iter().map(|(dc, (_, rtt))| (dc, rtt)).collect()
    }

    /// The graph without the sites that were removed.
    pub(super) fn graph(&self) -> path::Graph {
        let removed = self.parts.removed.load();
        let mut graph = self.directory.graph();
        graph.edges.retain(|dc, _| !removed.contains(dc));
        for near in graph.edges.values_mut() {
            near.retain(|dc, _| !removed.contains(dc));
        }
        graph
    }

    /// Computed anew when a link or the directory changed, and often enough for round trips that change.
    pub(super) fn ways(&mut self, now: Instant) -> Arc<Ways> {
        if let Some((until, ways)) = self.ways.as_ref()
            && now < *until
        {
            return Arc::clone(ways);
        }
        let (direct, graph) = (self.direct(), self.graph());
        let links: Vec<DirectLink<'_>> =
            direct.iter().map(|(conn, dc, rtt)| DirectLink { conn: *conn, datacenter: dc, rtt: *rtt }).collect();
        let table = path::ways(&self.parts.config.datacenter, &links, &graph, &[]);
        let ways = Arc::new(Ways { direct, graph, table });
        self.ways = Some((now + LOOK, Arc::clone(&ways)));
        ways
    }

    /// Neighbours of whom a sign of life is overdue on each link.
    fn silent(&self, ways: &Ways) -> BTreeSet<String> {
        let mut silent = BTreeMap::new();
        for (id, dc, _) in &ways.direct {
            *silent.entry(dc).or_insert(true) &= self.links.silent(*id);
        }
        silent.into_iter().filter(|(_, silent)| *silent).map(|(dc, _)| dc.clone()).collect()
    }

    /// Links through other sites: which there are to be.
    pub(super) fn relay(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        let mut links = Vec::new();
        for (id, held) in &mut self.held {
            let conn = &held.link.conn;
            let Some(via) = conn.via() else { continue };
            let calls = held.link.calls.load(Ordering::Relaxed);
            if calls != held.calls.0 || held.link.busy.load(Ordering::Relaxed) > 0 {
                held.calls = (calls, now);
            }
            let (sent, received) = held.link.traffic.rpc.read();
            if sent + received != held.used.0 {
                held.used = (sent + received, now);
            }
            self.links.lively(now, *id, now.saturating_duration_since(held.calls.1) < LIVELY);
            links.push(Relay {
                conn: *id,
                datacenter: held.link.datacenter.clone(),
                via: via.to_owned(),
                ours: held.ours,
                state: self.links.state(*id),
                rtt: conn.measured(),
                idle: now.saturating_duration_since(held.used.1),
                hops: held.hops,
                silent: self.links.silent(*id),
            });
        }
        self.close_drained(now);
        let ways = self.ways(now);
        let silent = self.silent(&ways);
        for todo in self.relays.look(now, &ways.table, &links, &silent) {
            match todo {
                Do::Dial { target, via, attempt, deadline } => self.dial_relay(target, via, attempt, deadline),
                Do::Retire(id) => {
                    let Some(held) = self.held.get_mut(&id) else { continue };
                    held.retired = true;
                    tracing::debug!(
                        link = id,
                        datacenter = held.link.datacenter,
                        "a relayed link is not needed any more"
                    );
                    self.parts.tasks.spawn(links::drain(Arc::clone(&held.link), None));
                    self.links.handle(now, Event::Drain { conn: id });
                }
            }
        }
    }

    /// Closes relayed links of ours, or given up by us, on which nothing is under way any more.
    pub(super) fn close_drained(&mut self, now: Instant) {
        let over = |(id, held): (&ConnId, &Held)| {
            let link = &held.link;
            let quiet = || {
                let rest = QUIET + link.conn.rtt() * 2;
                link.busy.load(Ordering::Relaxed) == 0
                    && link.serving.load(Ordering::Relaxed) == 0
                    && self.links.since(*id).is_some_and(|at| now.saturating_duration_since(at) >= rest)
            };
            let ours = link.conn.via().is_some() && (held.ours || held.retired);
            (ours && self.links.state(*id) == State::Draining && quiet()).then_some(*id)
        };
        let over: Vec<ConnId> = self.held.iter().filter_map(over).collect();
        for id in over {
            self.links.handle(now, Event::Drained { conn: id });
        }
    }

    pub(super) fn dial_relay(&self, target: String, via: String, attempt: u64, deadline: Duration) {
        let (dialler, notes, stop) = (self.parts.dialler.clone(), self.parts.notes.clone(), self.parts.stop.clone());
        tracing::debug!(target, via, "dialling through another site");
        let link = self.parts.routes.load().neighbour(&via);
        self.parts.tasks.spawn(async move {
            let result = match link {
                None => Err(format!("no link to {via}")),
                Some(link) => {
                    let work = tokio::time::timeout(deadline, Box::pin(relay::driver::dial(&dialler, &link, &target)));
                    tokio::select! {
                        () = stop.cancelled() => return,
                        result = work => result.unwrap_or_else(|_| Err(format!("no answer within {deadline:?}"))),
                    }
                }
            };
            // Fails when the gateway stops.
            let _ = notes.send(Note::Relayed { target, attempt, result }).await;
        });
    }
}
