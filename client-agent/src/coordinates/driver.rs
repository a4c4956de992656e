//! The task that tells.
#![allow(clippy::disallowed_methods, reason = "driver: clock and chance")]

use std::time::Duration;

use causeway_proto::coordinate::coordinates_client::CoordinatesClient;
use causeway_proto::coordinate::{NodeCoordinate, UpdateRequest};
use causeway_proto::door::Door;
use causeway_proto::meta::Meta;
use tokio_util::sync::CancellationToken;

use super::Pace;
use crate::gossip::Gossip;
use crate::registry::Secret;

/// A telling takes no longer; the next one says it anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the servers behind `door` where this node is, now and then, until `stop`. Returns at once where coordinates are off.
pub async fn tell(door: Door, gossip: Gossip, node: String, token: Secret, pace: Pace, stop: CancellationToken) {
    let mut told = None;
    while let Some(coord) = gossip.coordinate() {
        let members = gossip.members().borrow().len();
        let pause = tokio::time::sleep(pace.next(members, rand::random()));
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let coord = gossip.coordinate().unwrap_or(coord);
        if told.as_ref() == Some(&coord) {
            continue;
        }
        let update = NodeCoordinate { node: node.clone(), segment: String::new(), coord: Some(coord.clone()) };
        let meta = Meta { token: Some(token.0.clone()).filter(|t| !t.is_empty()), ..Meta::default() };
        let mut client = CoordinatesClient::new(door.clone());
        let asked = client.update(meta.request(UpdateRequest { update: Some(update) }));
        match stop.run_until_cancelled(tokio::time::timeout(PATIENCE, asked)).await {
            None => return,
            Some(Ok(Ok(_))) => told = Some(coord),
            Some(Ok(Err(status))) => tracing::debug!(error = status.message(), "the coordinate could not be told"),
            Some(Err(_)) => tracing::debug!("the coordinate could not be told in time"),
        }
    }
}
