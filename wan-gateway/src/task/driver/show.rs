#![allow(clippy::disallowed_methods, reason = "part of the gateway's one task")]
//! The table that calls look at, and what the sites look like: for calls, for people, for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{Candidate, LinkStatus};

use super::{Brain, Held, SAVE, SHOW};
use crate::carrier::Kind;
use crate::directory::LinkView;
use crate::link::driver::Link;
use crate::link::{ConnId, State};
use crate::path;
use crate::relay::why::{self, Facts, Seen};
use crate::sight::driver as gauges;
use crate::sight::{Figures, Shown};
use crate::task::routes::{self, Sources};

impl Brain {
    pub(super) fn publish(&mut self, now: Instant) {
        (self.changed, self.published) = (false, now);
        self.look_at_transports(now);
        let own = self.parts.config.datacenter.clone();
        let removed = self.parts.removed.load_full();
        let ways = self.ways(now);
        let up: Vec<Arc<Link>> =
            self.links.up().filter_map(|(id, ..)| self.held.get(&id).map(|h| Arc::clone(&h.link))).collect();
        let mut known = self.directory.datacenters();
        known.retain(|dc, _| !removed.contains(*dc));
        let suspected = self.links.suspected();
        let calls = self.parts.config.limits.calls_out;
        let promising: BTreeMap<String, bool> =
            self.relays.promising(now).map(|(dc, sound)| (dc.to_owned(), sound)).collect();
        let sources = Sources {
            own: &own,
            known: &known,
            up: &up,
            suspected: &suspected,
            promising: &promising,
            wish: &self.parts.notes,
            direct: ways.direct.clone(),
            graph: ways.graph.clone(),
            calls,
        };
        let mut routes = routes::build(sources, &mut self.permits);
        routes.mark_cut(&self.parts.routes.load(), now);
        self.parts.routes.swap(Arc::new(routes)).retire();
        self.unshown = true;
        if now >= self.shown_at + SHOW {
            self.show(now);
        }
    }

    /// What the sites look like, for people and for whoever chooses among them: less often than the table that calls need.
    pub(super) fn show(&mut self, now: Instant) {
        (self.unshown, self.shown_at) = (false, now);
        let own = self.parts.config.datacenter.clone();
        let removed = self.parts.removed.load_full();
        let ways = self.ways(now);
        let table = &ways.table;
        let up: Vec<Arc<Link>> =
            self.links.up().filter_map(|(id, ..)| self.held.get(&id).map(|h| Arc::clone(&h.link))).collect();
        let mut known = self.directory.datacenters();
        known.retain(|dc, _| !removed.contains(*dc));
        let mut grouped: BTreeMap<&str, Vec<(ConnId, &Held)>> = BTreeMap::new();
        for (id, held) in &self.held {
            grouped.entry(&held.link.datacenter).or_default().push((*id, held));
        }
        let mut views: BTreeMap<String, LinkView> = BTreeMap::new();
        for dc in known.keys() {
            let links = grouped.get(dc).map_or(&[][..], Vec::as_slice);
            let seen: Vec<Seen> = links.iter().map(|(id, held)| self.seen(*id, held)).collect();
            let links = self.shown(now, dc, links, &seen);
            let candidates = self.candidates(now, dc, table, seen);
            let mut last_error = self.links.last_error(dc).to_owned();
            if last_error.is_empty() {
                last_error = self.relays.last_error(dc).unwrap_or_default().to_owned();
            }
            views.insert((*dc).to_owned(), LinkView { last_error, candidates, links, ..LinkView::default() });
        }
        let mut best: BTreeMap<&str, (Kind, Duration)> = BTreeMap::new();
        for link in &up {
            let mine = (link.conn.kind(), link.conn.rtt());
            if best.get(link.datacenter.as_str()).is_some_and(|other| *other <= mine) {
                continue;
            }
            best.insert(&link.datacenter, mine);
            let view = views.entry(link.datacenter.clone()).or_default();
            view.rtt = mine.1;
            view.skew_ms = link.skew_ms().unwrap_or(0);
            view.up = true;
            view.path = link.conn.path();
            view.last_error.clear();
        }
        // Linked when it is asked for.
        for (dc, _) in self.relays.promising(now).filter(|(_, sound)| *sound) {
            let Some(way) = table.get(dc).and_then(|ways| ways.first()) else { continue };
            let view = views.entry(dc.to_owned()).or_default();
            if !view.up {
                (view.up, view.rtt, view.path) = (true, way.cost, format!("relay via {}, when asked for", way.via));
                view.last_error.clear();
            }
        }
        // A configured peer that never answered belongs to no site that is known yet; our own says so.
        views.entry(own).or_default().last_error = self.links.unplaced_error().to_owned();
        let mut shown = self.status.show(now, &self.directory, &views);
        shown.retain(|s| s.site.as_ref().is_none_or(|site| !removed.contains(&site.datacenter)));
        self.parts.sites.send_replace(Arc::new(shown));
    }

    /// Notices when calls to a gateway take another transport.
    pub(super) fn look_at_transports(&mut self, now: Instant) {
        let mut gateways: BTreeMap<(&str, &str), Vec<(Kind, &str)>> = BTreeMap::new();
        for (id, held) in &self.held {
            let Some(gateway) = self.links.gateway(*id) else { continue };
            let up = gateways.entry((&held.link.datacenter, gateway)).or_default();
            if self.links.state(*id) == State::Up {
                up.push((held.link.conn.kind(), &held.origin));
            }
        }
        self.transports.unlinked(|datacenter, gateway| gateways.contains_key(&(datacenter, gateway)));
        for ((datacenter, gateway), up) in gateways {
            if let Some(change) = self.transports.look(now, datacenter, gateway, &up) {
                gauges::changed(datacenter, gateway, &change);
            }
        }
    }

    pub(super) fn seen(&self, id: ConnId, held: &Held) -> Seen {
        Seen {
            kind: held.link.conn.kind(),
            path: held.link.conn.path(),
            gateway: self.links.gateway(id).unwrap_or_default().to_owned(),
            via: held.link.conn.via().map(str::to_owned),
            state: self.links.state(id),
            rtt: held.link.conn.rtt(),
        }
    }

    /// Links to a site as they are shown, the one that takes calls first. `seen`: the same links.
    pub(super) fn shown(
        &self,
        now: Instant,
        datacenter: &str,
        links: &[(ConnId, &Held)],
        seen: &[Seen],
    ) -> Vec<LinkStatus> {
        let standings = why::standings(seen);
        let mut out: Vec<LinkStatus> = Vec::with_capacity(links.len());
        for (((id, held), seen), standing) in links.iter().zip(seen).zip(standings) {
            let link = Shown {
                id: *id,
                gateway: &seen.gateway,
                kind: seen.kind,
                via: seen.via.as_deref(),
                ours: held.ours,
                state: seen.state,
                since: self.links.since(*id).unwrap_or(now),
                born: held.born,
                origin: &held.origin,
                standing,
                last_error: self.links.gateway_error(datacenter, &seen.gateway),
                figures: &held.figures,
            };
            out.push(self.transports.show(now, datacenter, link));
        }
        out.sort_by_key(|l| !l.chosen);
        out
    }

    pub(super) fn candidates(
        &self,
        now: Instant,
        datacenter: &str,
        table: &path::Table,
        links: Vec<Seen>,
    ) -> Vec<Candidate> {
        let ways = table.get(datacenter).map_or(&[][..], Vec::as_slice).iter().filter(|w| w.hops > 1);
        let error = |via: &str| self.relays.error(now, datacenter, via).map(str::to_owned);
        let neighbours = self.links.neighbours();
        why::candidates(&Facts {
            links,
            ways: ways.map(|way| (way, error(&way.via))).collect(),
            neighbours: neighbours.iter().map(String::as_str).filter(|n| *n != datacenter).collect(),
            dialable: self.directory.can_dial(datacenter),
            direct_error: self.links.last_error(datacenter),
        })
    }

    /// What is done once a second.
    pub(super) fn second(&mut self, now: Instant) {
        let up: Vec<(ConnId, String, String)> =
            self.links.up().map(|(id, dc, gateway, _)| (id, dc.to_owned(), gateway.to_owned())).collect();
        let linked: BTreeSet<&str> = up.iter().map(|(_, dc, _)| dc.as_str()).collect();
        for dc in self.directory.datacenters().keys() {
            let value = if linked.contains(dc) { 1.0 } else { 0.0 };
            metrics::gauge!("causeway_gateway_site_linked", "datacenter" => (*dc).to_owned()).set(value);
        }
        for held in self.held.values_mut() {
            let remote = held.link.conn.remote();
            if remote != held.remote.0 {
                held.remote = (remote, held.remote.1 + 1);
            }
            held.figures = Figures::read(&held.link, held.remote.1);
        }
        for (id, dc, gateway) in &up {
            self.directory.linked(now, dc, gateway);
            if let Some(held) = self.held.get(id) {
                gauges::gauges(dc, gateway, held.link.conn.kind(), &held.figures);
            }
        }
        let kind = |id: &ConnId| self.held.get(id).map(|h| h.link.conn.kind());
        let carried: BTreeSet<(String, String, Kind)> =
            up.iter().filter_map(|(id, dc, gateway)| Some((dc.clone(), gateway.clone(), kind(id)?))).collect();
        for (dc, gateway, kind) in self.carried.difference(&carried) {
            gauges::up(dc, gateway, *kind, false);
        }
        for (dc, gateway, kind) in &carried {
            gauges::up(dc, gateway, *kind, true);
        }
        self.carried = carried;
        let known = self.directory.datacenters();
        self.transports.retain(|dc| known.contains_key(dc));
        if !self.parts.removed.load().is_empty() {
            self.shut_out();
        }
        if now >= self.review_at {
            self.review();
        }
        if self.directory.expire(now) {
            self.save_at.get_or_insert(now + SAVE);
        }
        self.changed = true;
    }

    pub(super) fn save(&mut self, now: Instant) {
        if self.saving.as_ref().is_some_and(|s| !s.is_finished()) {
            // One at a time; the disk is slow.
            self.save_at = Some(now + SAVE);
            return;
        }
        self.save_at = None;
        let Some(dir) = self.parts.config.data_dir.clone() else { return };
        let sites = self.directory.sites();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = crate::directory::driver::save(&dir, sites) {
                tracing::warn!(path = %dir.display(), %error, "known sites cannot be kept; a restart will need the configured peers");
            }
        }));
    }
}
