//! User events: fired here or by another site, carried by gossip, kept by each agent for itself, the latest [`ring::KEPT`] that are
//! meant for it. Nothing of them outlives the process.
//!
//! Who fires checks the [`filter`]s, so that the user learns of a mistake; who hears applies them to its own name and services, as
//! they are at that moment. [`driver::Events`] is what the rest of the agent holds.

pub mod driver;
pub mod filter;
pub mod ring;

#[cfg(test)]
pub(crate) mod tests;

use causeway_proto::event::Event as Message;
use futures::future::BoxFuture;

pub use crate::gossip::{Event, FireError};
pub use driver::Events;
pub use filter::{FilterError, Filters};
pub use ring::Ring;

/// The format of events that we understand.
pub const VERSION: u8 = 1;
/// Consul's event for remote execution: it is for [`crate::exec`] and never shown.
const INTERNAL: &str = "_rexec";

/// What carries events: gossip, or a test's stand-in.
pub trait Air: Send + Sync + 'static {
    /// Tells all agents of the datacenter.
    fn fire(&self, event: Event) -> BoxFuture<'_, Result<(), FireError>>;
}

impl Air for crate::gossip::Gossip {
    fn fire(&self, event: Event) -> BoxFuture<'_, Result<(), FireError>> {
        Box::pin(self.fire(event))
    }
}

/// Why an event was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It has no name.
    #[error("User event missing name")]
    NoName,
    /// See there.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// See there.
    #[error(transparent)]
    Fire(#[from] FireError),
    /// The other side speaks another language.
    #[error("the event has a bad {0}")]
    Bad(&'static str),
}

/// A UUID as text.
pub fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    parts.join("-")
}

/// A UUID from text.
pub fn parse_uuid(text: &str) -> Option<u128> {
    let dashes = text.bytes().enumerate().all(|(i, b)| (b == b'-') == matches!(i, 8 | 13 | 18 | 23));
    if text.len() != 36 || !dashes || text.contains('+') {
        return None;
    }
    u128::from_str_radix(&text.replace('-', ""), 16).ok()
}

/// An event as it travels to another site.
pub fn to_message(event: &Event) -> Message {
    Message {
        id: uuid(event.id),
        name: event.name.clone(),
        payload: event.payload.clone(),
        node_filter: event.node_filter.clone(),
        service_filter: event.service_filter.clone(),
        tag_filter: event.tag_filter.clone(),
        version: event.version.into(),
        ltime: event.ltime,
    }
}

/// An event that came from another site.
pub fn from_message(message: Message) -> Result<Event, EventError> {
    Ok(Event {
        id: parse_uuid(&message.id).ok_or(EventError::Bad("id"))?,
        name: message.name,
        payload: message.payload,
        node_filter: message.node_filter,
        service_filter: message.service_filter,
        tag_filter: message.tag_filter,
        version: u8::try_from(message.version).map_err(|_| EventError::Bad("version"))?,
        ltime: 0,
    })
}
