//! Who belongs to the federation: which sites were removed from it, and by whose word.
//!
//! The rule: a removal (or its undoing) counts everywhere if it is signed with the key of an authority that the hearer trusts, which
//! is the key that lets sites in at all. Gateways with that key sign ([`Notice`]), every gateway checks, and who carries a notice
//! does not matter: gossip between sites, the site's own store, a file. Of two notices about a site the one with the higher version
//! counts. A gateway without the key can shut a site out for itself alone.

pub(crate) mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use causeway_proto::federation::v1::Notice;
use prost::Message;

/// What the signature is for.
pub(crate) const PURPOSE: &str = "membership";
/// Sites that notices are kept of.
pub(crate) const MAX_NOTICES: usize = 4096;
/// Something that happens over and over is told this often.
const REPEAT: Duration = Duration::from_secs(60);

/// What of a notice is signed.
pub(crate) fn body(notice: &Notice) -> Vec<u8> {
    Notice { scheme: 0, signature: Vec::new(), ..notice.clone() }.encode_to_vec()
}

/// All that is known. As a message it is the file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Membership {
    /// Shut out by this gateway for itself.
    #[prost(string, repeated, tag = "1")]
    pub local: Vec<String>,
    /// Signed.
    #[prost(message, repeated, tag = "2")]
    pub notices: Vec<Notice>,
}

impl Membership {
    /// Sites that are not let in.
    pub fn removed(&self) -> BTreeSet<String> {
        let signed = self.notices.iter().filter(|n| n.removed).map(|n| &n.datacenter);
        self.local.iter().chain(signed).cloned().collect()
    }

    /// The version of the notice about a site; 0: there is none.
    pub fn version(&self, datacenter: &str) -> u64 {
        self.notices.iter().find(|n| n.datacenter == datacenter).map_or(0, |n| n.version)
    }

    /// Takes a notice up if it is newer and believed; whether it did.
    pub fn take(&mut self, notice: &Notice, believed: impl FnOnce(&Notice) -> bool) -> bool {
        let named = causeway_proto::name::datacenter(&notice.datacenter).is_ok_and(|name| name == notice.datacenter);
        if !named || notice.version <= self.version(&notice.datacenter) {
            return false;
        }
        let place = self.notices.iter().position(|n| n.datacenter == notice.datacenter);
        if place.is_none() && self.notices.len() >= MAX_NOTICES || !believed(notice) {
            return false;
        }
        match place.and_then(|at| self.notices.get_mut(at)) {
            Some(old) => *old = notice.clone(),
            None => self.notices.push(notice.clone()),
        }
        true
    }

    /// Shuts a site out here, or no more; whether that is a change.
    pub fn set_local(&mut self, datacenter: &str, removed: bool) -> bool {
        let before = self.local.len();
        self.local.retain(|dc| dc != datacenter);
        if removed {
            self.local.push(datacenter.to_owned());
        }
        before != self.local.len()
    }
}

/// Lets one word about a thing through each minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom(BTreeMap<String, Instant>);

impl Seldom {
    /// Whether it may be told now.
    pub(crate) fn due(&mut self, now: Instant, about: &str) -> bool {
        self.0.retain(|_, told| now.saturating_duration_since(*told) < REPEAT);
        if self.0.len() >= MAX_NOTICES || self.0.contains_key(about) {
            return false;
        }
        self.0.insert(about.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(dc: &str, removed: bool, version: u64) -> Notice {
        Notice { datacenter: dc.into(), removed, version, ..Notice::default() }
    }

    #[test]
    fn the_newest_believed_word_counts_in_any_order() {
        let told = [notice("b", true, 1), notice("b", false, 2), notice("b", true, 3), notice("c", true, 7)];
        for turn in 0..told.len() {
            let mut all = Membership::default();
            for i in 0..told.len() {
                all.take(&told[(i + turn) % told.len()], |_| true);
            }
            assert_eq!(all.removed(), BTreeSet::from(["b".to_owned(), "c".to_owned()]), "{turn}");
            assert!(!all.take(&told[2], |_| panic!("not new")));
            assert!(!all.take(&notice("b", false, 9), |_| false));
            assert!(all.take(&notice("b", false, 9), |_| true) && !all.removed().contains("b"));
        }
        assert!(!Membership::default().take(&notice("A.b", true, 1), |_| true));
    }

    #[test]
    fn what_one_gateway_shuts_out_stays_out_until_it_says_so() {
        let mut all = Membership::default();
        assert!(all.set_local("b", true) && !all.set_local("b", true));
        all.take(&notice("b", false, 5), |_| true);
        assert!(all.removed().contains("b"));
        let all = Membership::decode(all.encode_to_vec().as_slice()).unwrap();
        let mut all = all;
        assert!(all.set_local("b", false) && all.removed().is_empty());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn a_word_a_minute() {
        let now = Instant::now();
        let mut seldom = Seldom::default();
        assert!(seldom.due(now, "b") && !seldom.due(now + REPEAT / 2, "b") && seldom.due(now, "c"));
        assert!(seldom.due(now + REPEAT, "b"));
    }
}
