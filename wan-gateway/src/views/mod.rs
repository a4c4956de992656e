//! Views of other sites: however many subscribers of this site follow a remote topic, one stream of it crosses the WAN.
//!
//! [`driver`] follows the remote stream once; [`topic`] keeps its last snapshot and what came after; each local subscriber is sent
//! that from memory, at its own pace. What is kept are the events' bytes: of each, [`wire`] reads no more than whether a snapshot
//! begins or ends there. A subscriber has no queue of its own, only a place in what is kept, so a slow one costs nothing.

pub(crate) mod driver;
pub mod topic;
pub mod wire;

use bytes::Bytes;
use causeway_proto::meta::Meta;

/// Which remote stream serves a subscription. Two with the same key see the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) datacenter: String,
    /// Another token may see other things.
    token: Option<String>,
    /// What is asked, as it came: the topic.
    ask: Bytes,
}

impl Key {
    /// `None`: this call is not to be shared, as it is no whole message of gRPC or names no datacenter.
    pub(crate) fn of(meta: &Meta, ask: &Bytes) -> Option<Self> {
        let datacenter = meta.datacenter.clone()?;
        (ask.len() >= wire::PREFIX).then(|| Self { datacenter, token: meta.token.clone(), ask: ask.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_and_what_is_not() {
        let meta = |dc: Option<&str>, token: Option<&str>| Meta {
            datacenter: dc.map(str::to_owned),
            token: token.map(str::to_owned),
            ..Meta::default()
        };
        let ask = |name: &str| Bytes::from(format!("\0\0\0\0\0{name}"));
        let of = |dc, token, name| Key::of(&meta(dc, token), &ask(name));
        let web = of(Some("dc2"), Some("t"), "web");
        assert!(web.is_some() && web == of(Some("dc2"), Some("t"), "web"));
        for other in [
            of(Some("dc3"), Some("t"), "web"),
            of(Some("dc2"), Some("u"), "web"),
            of(Some("dc2"), None, "web"),
            of(Some("dc2"), Some("t"), "db"),
        ] {
            assert!(other.is_some() && other != web);
        }
        assert!(of(None, None, "web").is_none());
        assert!(Key::of(&meta(Some("dc2"), None), &Bytes::new()).is_none());
    }
}
