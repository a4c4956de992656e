#![allow(clippy::disallowed_methods, reason = "keeps notices on disk and with the site's servers")]
//! Keeps who was removed, tells the other gateways of this site.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use causeway_certs::authority::Authority;
use causeway_certs::material::Material;
use causeway_certs::notice::{self, Signature};
use prost::Message;
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Membership, Notice, PURPOSE, body};
use crate::join::RemoveError;
use crate::join::driver::write_whole;
use crate::link::driver::unix_ms;
use crate::shelf::{Kept, ROOT, Shelf};

/// Notices of one frame that may turn out to be forged before the rest is left unread.
const FORGED: usize = 16;
/// The servers answer a question for news after this at the latest.
const WAIT: Duration = Duration::from_secs(60);
/// Pause after the servers did not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// Who was removed, as this gateway knows it.
pub(crate) struct Roll {
    material: Arc<Material>,
    authority: Option<Arc<Authority>>,
    dir: Option<PathBuf>,
    /// Never locked for long.
    all: Mutex<Membership>,
    /// Locked on threads that may block.
    disk: Mutex<()>,
    removed: Arc<ArcSwap<BTreeSet<String>>>,
    changes: watch::Sender<u64>,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Roll")
    }
}

/// Where it is.
pub(crate) fn file(dir: &Path) -> PathBuf {
    dir.join("federation").join("removed")
}

/// Reads it. One that cannot be read stops the start: a site that was removed must not be back by an accident.
pub(crate) fn load(dir: &Path) -> std::io::Result<Membership> {
    match std::fs::read(file(dir)) {
        Ok(bytes) => Membership::decode(bytes.as_slice()).map_err(std::io::Error::other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Membership::default()),
        Err(error) => Err(error),
    }
}

impl Roll {
    pub(crate) fn new(
        all: Membership,
        dir: Option<PathBuf>,
        material: Arc<Material>,
        authority: Option<Arc<Authority>>,
    ) -> Self {
        let removed = Arc::new(ArcSwap::from_pointee(all.removed()));
        let changes = watch::Sender::new(0);
        Self { material, authority, dir, all: Mutex::new(all), disk: Mutex::new(()), removed, changes }
    }

    /// Sites that are not let in.
    pub(crate) fn removed(&self) -> Arc<ArcSwap<BTreeSet<String>>> {
        Arc::clone(&self.removed)
    }

    /// Tells when something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// All signed notices.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).notices.clone()
    }

    fn became(&self, all: &Membership) {
        self.removed.store(Arc::new(all.removed()));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Takes up what others told; whether something was news. What is news is to be [`Roll::save`]d.
    pub(crate) fn take(&self, told: &[Notice]) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut news, mut forged) = (false, 0);
        for notice in told {
            if forged >= FORGED {
                break;
            }
            let believed = |n: &Notice| {
                let scheme = u16::try_from(n.scheme).unwrap_or(0);
                let signature = Signature { scheme, bytes: n.signature.clone() };
                let good = notice::verify(&self.material, PURPOSE, &body(n), &signature);
                forged += usize::from(!good);
                good
            };
            if all.take(notice, believed) {
                news = true;
                tracing::warn!(
                    datacenter = notice.datacenter,
                    removed = notice.removed,
                    "the sites of the federation were changed by one who holds the authority's key"
                );
            }
        }
        if forged > 0 {
            metrics::counter!("causeway_gateway_notices_refused_total").increment(u64::try_from(forged).unwrap_or(0));
        }
        if news {
            self.became(&all);
        }
        news
    }

    /// Writes it to disk. Blocks.
    pub(crate) fn save(&self) -> std::io::Result<()> {
        let _one = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.write(&all)
    }

    fn write(&self, all: &Membership) -> std::io::Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        write_whole(&file(dir), &all.encode_to_vec())
    }

    /// As [`Roll::save`], for what others told: a disk that fails is told and does not undo it.
    pub(crate) fn save_or_tell(&self) {
        if let Err(error) = self.save() {
            tracing::error!(%error, "the list of removed sites cannot be written; after a restart it must be heard again");
        }
    }

    /// An operator's word, on disk before it counts; `true`: it is signed and counts for all sites, `false`: for this gateway.
    /// Blocks.
    pub(crate) fn set(&self, datacenter: &str, remove: bool, known: bool) -> Result<bool, RemoveError> {
        let _one = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let was = next.removed().contains(datacenter);
        if !was && (!remove || !known) {
            return Err(RemoveError::Unknown(datacenter.to_owned()));
        }
        let local = next.set_local(datacenter, remove && self.authority.is_none());
        let mut signed = false;
        match &self.authority {
            Some(authority) if next.removed().contains(datacenter) != remove || local => {
                let version = unix_ms().max(next.version(datacenter) + 1);
                let mut notice =
                    Notice { datacenter: datacenter.to_owned(), removed: remove, version, ..Notice::default() };
                let made =
                    notice::sign(authority, PURPOSE, &body(&notice)).map_err(|e| RemoveError::Disk(e.to_string()))?;
                (notice.scheme, notice.signature) = (u32::from(made.scheme), made.bytes);
                signed = next.take(&notice, |_| true);
            }
            Some(_) => signed = true,
            None => {}
        }
        if next.removed().contains(datacenter) != remove {
            return Err(RemoveError::Signed(datacenter.to_owned()));
        }
        self.write(&next)
            .map_err(|e| RemoveError::Disk(format!("the list of removed sites cannot be written: {e}")))?;
        tracing::warn!(datacenter, remove, signed, "the sites of the federation were changed by an operator");
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *all = next;
        self.became(&all);
        Ok(signed)
    }
}

fn place(datacenter: &str) -> String {
    format!("{ROOT}sites/{datacenter}")
}

/// Hands notices to and takes them from the other gateways of this site, by way of its servers, until stopped.
pub(crate) async fn share(roll: Arc<Roll>, shelf: Shelf, stop: CancellationToken) {
    let mut changes = roll.changes();
    let mut after = 0;
    loop {
        changes.mark_unchanged();
        let round = async {
            let (kept, index) = shelf.list(&place(""), after, WAIT).await?;
            exchange(&roll, &shelf, kept).await.map(|()| index)
        };
        let result = tokio::select! {
            () = stop.cancelled() => return,
            // Ours is news: to be told at once.
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                after = 0;
                continue;
            }
            result = round => result,
        };
        match result {
            Ok(index) => after = index,
            Err(error) => {
                tracing::debug!(error, "the servers of this site cannot be asked who was removed");
                after = 0;
                let pause = PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn exchange(roll: &Arc<Roll>, shelf: &Shelf, kept: Vec<Kept>) -> Result<(), String> {
    let told: Vec<(Notice, Kept)> =
        kept.into_iter().filter_map(|k| Some((Notice::decode(k.value.as_slice()).ok()?, k))).collect();
    let mine = |(n, k): &&(Notice, Kept)| place(&n.datacenter) == k.key;
    let notices: Vec<Notice> = told.iter().filter(mine).map(|(n, _)| n.clone()).collect();
    if roll.take(&notices) {
        let saved = Arc::clone(roll);
        // A thread that dies has said why.
        let _ = tokio::task::spawn_blocking(move || saved.save_or_tell()).await;
    }
    for ours in roll.notices() {
        let key = place(&ours.datacenter);
        let there = told.iter().find(|(_, k)| k.key == key);
        // Two of one version: either does.
        if there.is_some_and(|(n, _)| n.version == ours.version) {
            continue;
        }
        // Another gateway may be faster: then its word is heard next.
        shelf.put(&key, ours.encode_to_vec(), there.map_or(0, |(_, k)| k.index)).await?;
    }
    Ok(())
}
