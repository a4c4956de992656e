#![allow(clippy::disallowed_methods, reason = "part of the gateway's one task")]
//! Whom we are linked with: sites that were removed, certificates that were renewed or are not believed any more.

use std::sync::Arc;
use std::time::Instant;

use causeway_certs::notice::still_gateway;
use causeway_proto::federation::v1::GossipFrame;

use super::{Brain, REVIEW};
use crate::carrier::Kind;
use crate::link::driver as links;
use crate::link::{CloseCode, Event, State};

impl Brain {
    /// Closes the links of sites that were removed.
    pub(super) fn shut_out(&mut self) {
        self.ways = None;
        let removed = self.parts.removed.load();
        for held in self.held.values().filter(|h| removed.contains(&h.link.datacenter)) {
            held.link.close(CloseCode::Removed);
        }
        self.changed = true;
    }

    /// Who was removed is another now: cuts their links, tells everyone else.
    pub(super) fn tell_removals(&mut self) {
        self.shut_out();
        let removed = self.parts.removed.load_full();
        let notices = self.parts.roll.notices();
        for (id, held) in &self.held {
            if self.links.state(*id) == State::Up && !removed.contains(&held.link.datacenter) {
                let frame = GossipFrame { notices: notices.clone(), ..self.frame_of(Vec::new()) };
                self.parts.tasks.spawn(links::tell(Arc::clone(&held.link), frame));
            }
        }
    }

    /// Our certificate or the authorities are others now.
    pub(super) fn certificates_changed(&mut self) {
        self.review();
        let shown = self.parts.tls.material().shown();
        if shown == self.shown {
            return;
        }
        self.shown = shown;
        tracing::info!(
            links = self.held.len(),
            "our certificate was renewed: links are made anew with it, the old ones drained"
        );
        self.renew(|_| true);
    }

    /// Links are to be traced: they are made anew, since a trace begins with the handshake.
    pub(super) fn qlog_changed(&mut self) {
        let on = self.parts.dialler.qlog.on();
        tracing::info!(on, "traces of QUIC connections (gateway.qlog_dir)");
        if on {
            self.renew(|kind| kind == Kind::Quic);
        }
    }

    /// Has links of these kinds made anew, the old ones drained.
    pub(super) fn renew(&mut self, wanted: impl Fn(Kind) -> bool) {
        let now = Instant::now();
        for (id, held) in self.held.iter().filter(|(_, h)| wanted(h.link.conn.kind())) {
            if self.links.dialled(*id) {
                self.links.handle(now, Event::Renew { conn: *id });
            } else {
                self.parts.tasks.spawn(links::ask_renewal(Arc::clone(&held.link)));
            }
        }
    }

    /// Cuts links whose other end would not be let in now: TLS looks at the handshake only.
    pub(super) fn review(&mut self) {
        self.review_at = Instant::now() + REVIEW;
        let now = links::certificate_time();
        for (id, held) in &self.held {
            let chain = held.link.conn.chain();
            if let Err(why) = still_gateway(self.parts.tls.material(), &chain, &held.link.datacenter, now) {
                tracing::warn!(
                    datacenter = held.link.datacenter,
                    link = id,
                    why,
                    "a link is cut: the certificate at its other end is not believed any more"
                );
                held.link.close(CloseCode::Distrusted);
            }
        }
    }
}
