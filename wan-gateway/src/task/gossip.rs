//! Gossip between sites: what is told to whom, when a whole directory is sent again, and what is dialled for what was learnt.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::{GossipFrame, Site};

use crate::directory::Directory;
use crate::link::Target;

/// A whole directory goes to the same link at most this often.
const RESEND: Duration = Duration::from_secs(1);
/// News needs a round trip, and this, until the other end's probe can show that it has it.
const SETTLE: Duration = Duration::from_millis(100);

/// What was told over one link, and how the other end's directory compared.
#[derive(Debug, Default)]
pub(crate) struct Told {
    whole: Option<Instant>,
    /// Digests in a row that differed from ours; one may differ because news is under way.
    differs: u32,
}

impl Told {
    /// The whole directory is sent now.
    pub(crate) fn whole(&mut self, now: Instant) {
        self.whole = Some(now);
        self.differs = 0;
    }

    /// The other end told its digest; whether the whole directory is to be sent. `changed`: when ours changed last.
    pub(crate) fn compare(&mut self, now: Instant, same: bool, changed: Instant, rtt: Duration) -> bool {
        if same {
            self.differs = 0;
            return false;
        }
        self.differs = self.differs.saturating_add(1);
        let news_is_over = now.saturating_duration_since(changed) > rtt + SETTLE;
        (self.differs >= 2 || news_is_over) && self.whole.is_none_or(|sent| now >= sent + RESEND)
    }
}

/// Which life of the gateway at the other end speaks, in a frame that holds its own record.
pub(crate) fn life(frame: &GossipFrame) -> Option<u64> {
    let author = |s: &&Site| s.datacenter == frame.from_datacenter && s.gateway == frame.from_gateway;
    frame.sites.iter().find(author).map(|s| s.incarnation)
}

/// What of the news a link to this datacenter is to hear: what it does not hear from the author.
pub(crate) fn passed_on(news: &[Site], datacenter: &str) -> Vec<Site> {
    let hears = |s: &&Site| s.datacenter != datacenter && !s.neighbours.iter().any(|n| n == datacenter);
    news.iter().filter(hears).cloned().collect()
}

/// What is dialled: configured peers, and whom gossip names. `own`: datacenter and gateway; `dialable`: whether others can dial us.
pub(crate) fn targets(
    own: (&str, &str),
    dialable: bool,
    peers: &[String],
    directory: &Directory,
    removed: &BTreeSet<String>,
) -> Vec<Target> {
    let configured = peers.iter().map(|address| Target {
        key: address.clone(),
        addresses: vec![address.clone()],
        learnt: None,
        patient: false,
    });
    let learnt =
        directory.dialable().filter(|(dc, _, _)| !removed.contains(*dc)).map(|(dc, gateway, addresses)| Target {
            key: format!("{dc}/{gateway}"),
            addresses: addresses.to_vec(),
            learnt: Some((dc.to_owned(), gateway.to_owned())),
            // Both sides learn of each other at once; one of them waits, unless it is the only one that can dial.
            patient: own > (dc, gateway) && dialable,
        });
    configured.chain(learnt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn a_directory_is_sent_again_once_news_had_its_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let rtt = Duration::from_millis(80);
        let mut told = Told::default();
        assert!(!told.compare(at(100), false, at(0), rtt), "news may be under way");
        assert!(told.compare(at(150), false, at(0), rtt), "twice");
        told.whole(at(150));
        assert!(!told.compare(at(900), false, at(0), rtt), "not again so soon");
        assert!(!told.compare(at(1200), true, at(0), rtt));
        assert!(told.compare(at(1300), false, at(0), rtt), "news was over long ago");
    }

    #[test]
    fn who_hears_it_from_the_author_is_not_told() {
        let site = |dc: &str, near: &[&str]| Site {
            datacenter: dc.into(),
            neighbours: near.iter().map(|n| (*n).to_owned()).collect(),
            ..Site::default()
        };
        let told = passed_on(&[site("a", &["b"]), site("b", &[]), site("c", &["a"])], "b");
        assert_eq!(told.iter().map(|s| s.datacenter.as_str()).collect::<Vec<_>>(), ["c"]);
    }
}
