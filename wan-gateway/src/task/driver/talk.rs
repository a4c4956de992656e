#![allow(clippy::disallowed_methods, reason = "part of the gateway's one task")]
//! Gossip with the other sites: what we tell, what we hear, and what of it is news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{Gateway, GossipFrame, Server, Site};

use super::{Brain, GATHER, SAVE};
use crate::link::driver as links;
use crate::link::{CloseCode, ConnId, Event, State};
use crate::relay::ways::cheaper;
use crate::task::gossip;

/// Ways are weighed anew at most this often because a round trip changed.
const WEIGH: Duration = Duration::from_millis(200);

impl Brain {
    pub(super) fn send_whole(&mut self, now: Instant, id: ConnId) {
        let mut frame = self.frame_of(self.directory.sites());
        frame.notices = self.parts.roll.notices();
        if let Some(held) = self.held.get_mut(&id) {
            held.told.whole(now);
            self.parts.tasks.spawn(links::tell(Arc::clone(&held.link), frame));
        }
    }

    pub(super) fn frame_of(&self, sites: Vec<Site>) -> GossipFrame {
        GossipFrame {
            from_datacenter: self.parts.config.datacenter.clone(),
            from_gateway: self.parts.config.node_name.clone(),
            sent_unix_ms: links::unix_ms(),
            sites,
            notices: Vec::new(),
        }
    }

    pub(super) fn frame(&mut self, now: Instant, id: ConnId, frame: GossipFrame) {
        let Some(held) = self.held.get(&id) else { return };
        if frame.from_datacenter != held.link.datacenter || causeway_proto::name::node(&frame.from_gateway).is_err() {
            let (datacenter, says) = (&held.link.datacenter, &frame.from_datacenter);
            tracing::warn!(datacenter, says, "a peer says what its certificate does not");
            held.link.close(CloseCode::Identity);
            return;
        }
        let from = held.link.datacenter.clone();
        if !frame.notices.is_empty() && self.parts.roll.take(&frame.notices) {
            let roll = Arc::clone(&self.parts.roll);
            // What is news is told by `tell_removals`; it counts from now on, whatever the disk says.
            self.parts.tasks.spawn_blocking(move || roll.save_or_tell());
        }
        // News as a datagram may overtake the first frame, which is the one that says which life speaks.
        if let Some(life) = gossip::life(&frame) {
            if self.links.state(id) == State::Greeting {
                tracing::info!(datacenter = from, gateway = frame.from_gateway, link = id, "a link is up");
            }
            self.links.handle(now, Event::Hello { conn: id, gateway: frame.from_gateway.clone(), life });
        }
        let merged = self.directory.merge(now, frame.sites);
        self.directory.linked(now, &from, &frame.from_gateway);
        if merged.ways || merged.own {
            self.save_at.get_or_insert(now + SAVE);
            (self.directory_changed, self.ways) = (now, None);
        }
        if !merged.news.is_empty() {
            self.gather(now, Some(id), merged.news);
        }
        if merged.own {
            self.gather(now, None, vec![self.directory.own().clone()]);
        }
    }

    /// Takes up news that is to be told to those who do not hear it from its author.
    pub(super) fn gather(&mut self, now: Instant, from: Option<ConnId>, news: Vec<Site>) {
        self.changed = true;
        for site in news {
            self.news.insert((site.datacenter.clone(), site.gateway.clone()), (from, site));
        }
        self.news_at.get_or_insert(now + GATHER);
    }

    /// Tells what was gathered.
    pub(super) fn tell_news(&mut self) {
        self.news_at = None;
        let news = std::mem::take(&mut self.news);
        for (id, held) in self.held.iter().filter(|(id, _)| self.links.state(**id) == State::Up) {
            let others: Vec<Site> = news
                .values()
                .filter(|(from, _)| from.is_some_and(|from| from != *id))
                .map(|(_, s)| s.clone())
                .collect();
            let mut theirs = gossip::passed_on(&others, &held.link.datacenter);
            theirs.extend(news.values().filter(|(from, _)| from.is_none()).map(|(_, site)| site.clone()));
            if !theirs.is_empty() {
                tracing::trace!(link = id, records = theirs.len(), "telling news");
                self.parts.tasks.spawn(links::news(Arc::clone(&held.link), self.frame_of(theirs)));
            }
        }
    }

    pub(super) fn heard(&mut self, now: Instant, id: ConnId) {
        let Some(rtt) = self.held.get(&id).map(|held| held.link.cost()) else { return };
        let known = self.links.up().find(|(up, ..)| *up == id).map(|(.., rtt)| rtt);
        self.links.handle(now, Event::Heard { conn: id, rtt });
        // Another way may be the better one now. On a busy machine all links seem to change at once: not more often than it matters.
        let jumped = known.is_some_and(|known| !known.is_zero() && (cheaper(known, rtt) || cheaper(rtt, known)));
        if jumped && now >= self.weighed + WEIGH {
            self.weighed = now;
            self.ways = None;
            self.speak_of_ourselves();
        }
    }

    pub(super) fn probed(&mut self, now: Instant, id: ConnId, digest: u64, their_ms: u64, our_ms: u64) {
        let ours = self.directory.digest();
        let Some(held) = self.held.get_mut(&id) else { return };
        let half = i64::try_from(held.link.conn.rtt().as_millis() / 2).unwrap_or(0);
        let skew = their_ms.cast_signed().wrapping_add(half).wrapping_sub(our_ms.cast_signed());
        held.link.set_skew_ms(skew);
        let datacenter = &held.link.datacenter;
        if self.skew_warnings.due(now, datacenter, skew) {
            tracing::warn!(
                datacenter = %datacenter,
                clock_skew_ms = skew,
                "the clocks of this site and of that one differ; nothing depends on it, but their logs and certificates do: check NTP"
            );
        }
        let rtt = held.link.conn.rtt();
        if held.told.compare(now, digest == ours, self.directory_changed, rtt) {
            self.send_whole(now, id);
        }
    }

    /// Brings what we say of ourselves up to date.
    pub(super) fn speak_of_ourselves(&mut self) {
        let members = Arc::clone(&self.parts.members.borrow_and_update());
        let alive = || members.iter().filter(|m| m.is_alive());
        let servers = alive()
            .filter(|m| m.is_server())
            .map(|m| Server { name: m.name.clone(), address: m.rpc_addr().map_or_else(String::new, |a| a.to_string()) })
            .collect();
        let colleagues = alive()
            .filter(|m| m.gateway_addr().is_some())
            .map(|m| Gateway { name: m.name.clone(), addresses: m.gateway_wan().map(str::to_owned).collect() })
            .collect();
        let neighbours = self.links.neighbours();
        let mut news = self.directory.update(servers, neighbours);
        news |= self.directory.colleagues(colleagues);
        news |= self.directory.measured(Instant::now(), &self.round_trips());
        if news {
            (self.directory_changed, self.ways) = (Instant::now(), None);
            self.gather(Instant::now(), None, vec![self.directory.own().clone()]);
        }
    }
}
