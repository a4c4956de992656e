#![allow(clippy::disallowed_methods, reason = "reads live connections, sets metrics")]
//! Reads links and sets their metrics.

use std::net::SocketAddr;

use super::{Change, Figures, Packets};
use crate::carrier::Kind;
use crate::link::driver::Link;

impl Figures {
    /// As they are now. `moved`: changes of the other end's address that were seen from here.
    pub(crate) fn read(link: &Link, moved: u64) -> Self {
        let (counts, remote) = (link.conn.counts(), link.conn.remote());
        Self {
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()).to_string(),
            rtt: link.conn.measured(),
            packets: counts.map(|c| Packets {
                sent: c.sent_packets,
                lost: c.lost_packets,
                congestion_events: c.congestion_events,
                black_holes: c.black_holes,
                cwnd: c.cwnd,
                mtu: c.mtu,
            }),
            migrations: counts.map(|c| c.proven_paths + moved),
            rpc: link.traffic.rpc.read(),
            gossip: link.traffic.gossip.read(),
            relay: link.traffic.relay.read(),
            skew_ms: link.skew_ms(),
            calls: link.calls.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

type Labels = [(&'static str, String); 3];

fn labels(datacenter: &str, gateway: &str, kind: Kind) -> Labels {
    [("datacenter", datacenter.to_owned()), ("gateway", gateway.to_owned()), ("path", kind.as_str().to_owned())]
}

/// Says whether there is a link of this kind that works. Without one its other figures stand still.
pub(crate) fn up(datacenter: &str, gateway: &str, kind: Kind, up: bool) {
    metrics::gauge!("causeway_gateway_link_up", &labels(datacenter, gateway, kind)).set(if up { 1.0 } else { 0.0 });
}

/// The metrics of a link that works.
#[allow(clippy::cast_precision_loss, reason = "gauges; exact to 2^53")]
pub(crate) fn gauges(datacenter: &str, gateway: &str, kind: Kind, figures: &Figures) {
    let labels = labels(datacenter, gateway, kind);
    if let Some(rtt) = figures.rtt {
        metrics::gauge!("causeway_gateway_link_rtt_seconds", &labels).set(rtt.as_secs_f64());
    }
    // What is not known is not set: over TCP the kernel counts packets.
    if let Some(packets) = figures.packets {
        metrics::gauge!("causeway_gateway_link_lost_packets", &labels).set(packets.lost as f64);
        metrics::gauge!("causeway_gateway_link_black_holes", &labels).set(packets.black_holes as f64);
        metrics::gauge!("causeway_gateway_link_sent_packets", &labels).set(packets.sent as f64);
        metrics::gauge!("causeway_gateway_link_congestion_events", &labels).set(packets.congestion_events as f64);
        metrics::gauge!("causeway_gateway_link_cwnd_bytes", &labels).set(packets.cwnd as f64);
        metrics::gauge!("causeway_gateway_link_mtu_bytes", &labels).set(packets.mtu as f64);
    }
    if let Some(migrations) = figures.migrations {
        metrics::gauge!("causeway_gateway_link_migrations", &labels).set(migrations as f64);
    }
    if let Some(skew) = figures.skew_ms {
        metrics::gauge!("causeway_gateway_link_clock_skew_seconds", &labels).set(skew as f64 / 1000.0);
    }
    for (class, (sent, received)) in [("rpc", figures.rpc), ("gossip", figures.gossip), ("relay", figures.relay)] {
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            let mut labels = labels.to_vec();
            labels.push(("class", class.to_owned()));
            labels.push(("direction", direction.to_owned()));
            metrics::gauge!("causeway_gateway_link_bytes", &labels).set(bytes as f64);
        }
    }
    metrics::gauge!("causeway_gateway_link_calls", &labels).set(figures.calls as f64);
}

/// Counts and logs that calls to a gateway take another transport.
pub(crate) fn changed(datacenter: &str, gateway: &str, change: &Change) {
    match change {
        Change::Fallback(fallback) => {
            let labels = [
                ("datacenter", datacenter.to_owned()),
                ("gateway", gateway.to_owned()),
                ("from", fallback.from.as_str().to_owned()),
                ("to", fallback.to.as_str().to_owned()),
            ];
            metrics::counter!("causeway_gateway_fallbacks_total", &labels).increment(1);
            let (from, to) = (fallback.from.as_str(), fallback.to.as_str());
            tracing::warn!(datacenter, gateway, from, to, why = fallback.why, "calls take a worse transport");
        }
        Change::Return { from, to } => {
            let (from, to) = (from.as_str(), to.as_str());
            tracing::info!(datacenter, gateway, from, to, "calls take a better transport again");
        }
    }
}
