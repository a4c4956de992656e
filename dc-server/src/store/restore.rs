//! Putting a saved state back: its pieces come through the log, and the last one swaps the whole state, on every server alike.
//!
//! Nothing changes before. Pieces that are out of order, too many, damaged or of a newer version are refused, and what was staged is
//! dropped. A restore that nobody went on with is forgotten once the log went on for [`FORGOTTEN`] entries.

use std::sync::Arc;

use causeway_proto::snapshot::RestoreRequest;

use super::Event;
use super::snapshot;
use super::state::{Refusal, State};

/// Longest piece, bytes.
pub const MAX_PIECE: usize = 512 << 10;
/// Longest state that can be put back, bytes: it is held whole in memory, twice for a moment.
pub const MAX_STATE: u64 = 1 << 30;
/// Highest index of a state that is put back: the log goes on from there.
pub(super) const MAX_INDEX: u64 = 1 << 61;
/// Entries of the log after which an unfinished restore is forgotten.
const FORGOTTEN: u64 = 16_384;

/// A restore under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Staged {
    pub(super) id: String,
    pub(super) pieces: Vec<Arc<[u8]>>,
    pub(super) bytes: u64,
    /// Index of the last piece.
    pub(super) index: u64,
}

/// Reads the pieces one after the other.
struct Chain<'a> {
    pieces: &'a [Arc<[u8]>],
    at: usize,
}

impl std::io::Read for Chain<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while let Some((first, rest)) = self.pieces.split_first() {
            let left = first.get(self.at..).unwrap_or_default();
            if left.is_empty() {
                (self.pieces, self.at) = (rest, 0);
                continue;
            }
            let n = left.len().min(out.len());
            if let (Some(to), Some(from)) = (out.get_mut(..n), left.get(..n)) {
                to.copy_from_slice(from);
            }
            self.at += n;
            return Ok(n);
        }
        Ok(0)
    }
}

/// Forgets a restore that nobody goes on with.
pub(super) fn forget(state: &mut State) {
    if state.staged.as_ref().is_some_and(|s| state.index.saturating_sub(s.index) > FORGOTTEN) {
        state.staged = None;
    }
}

/// Takes one piece; `Ok(Some(..))`: it was the last, and the state is another now. `index`: of the log entry, shifted.
pub(super) fn take(state: &mut State, index: u64, piece: &RestoreRequest) -> Result<Option<Vec<Event>>, Refusal> {
    let mut staged = match state.staged.take() {
        _ if piece.offset == 0 => Staged { id: piece.id.clone(), ..Staged::default() },
        Some(staged) if staged.id == piece.id => Staged::clone(&staged),
        other => {
            // Another restore is none of this one's business.
            state.staged = other;
            return Err(Refusal::Restore("another restore began since; start again".to_owned()));
        }
    };
    if staged.bytes != piece.offset {
        let why = format!("a piece is missing: {} bytes came, the next begins at {}", staged.bytes, piece.offset);
        return Err(Refusal::Restore(why));
    }
    staged.bytes += piece.bytes.len() as u64;
    if piece.bytes.len() > MAX_PIECE || staged.bytes > MAX_STATE {
        return Err(Refusal::Restore(format!("it is too large: {} MiB are allowed", MAX_STATE >> 20)));
    }
    staged.pieces.push(piece.bytes.as_slice().into());
    staged.index = index;
    if !piece.last {
        state.staged = Some(Arc::new(staged));
        return Ok(None);
    }
    let mut new = snapshot::read(&mut Chain { pieces: &staged.pieces, at: 0 })
        .map_err(|error| Refusal::Restore(error.to_string()))?;
    if new.index > MAX_INDEX {
        return Err(Refusal::Restore(format!("its index {} is one that no log gets to", new.index)));
    }
    // Indexes never go back: what is saved may come from a log that was far ahead of this one.
    let ahead = (new.index + 1).saturating_sub(index);
    (new.index, new.shift, new.staged) = (index + ahead, state.shift + ahead, None);
    // What was asked of this log stays known: a copy of it that comes late must not be done again.
    new.calls = std::mem::take(&mut state.calls);
    // Agents that run have certificates of the authority that is here.
    new.authority = state.authority.take().or(new.authority);
    let gone = state.sessions.keys().filter(|id| !new.sessions.contains_key(*id));
    let mut events: Vec<Event> = gone.map(|id| Event::SessionDestroyed { id: id.as_ref().to_owned() }).collect();
    events.extend(new.sessions.values().map(|s| Event::SessionCreated { id: s.id.clone(), ttl_ms: s.ttl_ms }));
    *state = new;
    Ok(Some(events))
}
