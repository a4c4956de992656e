//! What a server knows: the catalog, keys and values, sessions.
//!
//! A [`State`] is immutable and cheap to clone; [`Store`] publishes the newest one, and readers never wait for the writer. Only
//! [`Store::apply`] and [`Store::restore`] change it. There is no clock, no chance and no configuration here: the same commands
//! give the same bytes on every server.

mod acl;
mod autopilot;
mod calls;
mod catalog;
mod config;
mod coordinate;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod health;
mod kv;
pub(crate) mod query;
mod restore;
mod session;
mod signing;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod txn;
mod watch;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use causeway_proto::command::{self, Outcome};
use causeway_proto::kv::Verb;

pub(crate) use acl::{reference as acl_reference, same as same_acl};
pub(crate) use calls::{CUT, FORGOTTEN};
pub(crate) use config::same as same_config;
pub use health::CheckStatus;
pub use restore::{MAX_PIECE, MAX_STATE};
pub use snapshot::RestoreError;
pub(crate) use state::fold;
pub use state::{NodeRow, Refusal, Reserved, ServiceRow, State};
pub use watch::{Topic, Watch};

use calls::Verdict;
use state::{Touched, Writer};
use watch::Watches;

/// The longest lock delay, in milliseconds (Consul's `MaxLockDelay`, 60 s).
pub const MAX_LOCK_DELAY_MS: u64 = 60_000;

/// What the leader's timers need to know of an applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A lock was lost with its session: the key must not be acquired for this long.
    LockDelay {
        /// The key.
        key: String,
        /// Milliseconds, 1 to [`MAX_LOCK_DELAY_MS`].
        delay_ms: u64,
    },
    /// A session began.
    SessionCreated {
        /// Its UUID.
        id: String,
        /// Its time to live in milliseconds; 0: none.
        ttl_ms: u64,
    },
    /// A session ended.
    SessionDestroyed {
        /// Its UUID.
        id: String,
    },
}

/// What applying a command gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The answer to whoever proposed the command.
    pub outcome: Outcome,
    /// What the leader's timers need.
    pub events: Vec<Event>,
}

/// The newest [`State`], and who waits for the next.
#[derive(Debug)]
pub struct Store {
    state: ArcSwap<State>,
    watches: Arc<Watches>,
    /// Held while a state is made from the last; one writer at a time.
    writer: Mutex<()>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            state: ArcSwap::from_pointee(State::default()),
            watches: Arc::new(Watches::default()),
            writer: Mutex::new(()),
        }
    }

    /// The newest state. Lock-free; the writer never waits for whoever holds it.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Applies one command as entry `index` of the log and wakes who watches what it changed.
    pub fn apply(&self, index: u64, command: &command::Command) -> Applied {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state.load());
        let mut touched = Touched::default();
        let applied = apply(&mut state, index, command, &mut touched);
        self.publish(state, &touched);
        applied
    }

    /// Applies commands in order, with one publication and one wake-up a topic.
    pub fn apply_batch(&self, commands: &[(u64, command::Command)]) -> Vec<Applied> {
        if commands.is_empty() {
            return Vec::new();
        }
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state.load());
        let mut touched = Touched::default();
        let applied =
            commands.iter().map(|(index, command)| apply(&mut state, *index, command, &mut touched)).collect();
        self.publish(state, &touched);
        applied
    }

    /// A log entry that carries no command was applied.
    pub fn advance(&self, index: u64) {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.state.load());
        state.index = state.index.max(index + state.shift);
        self.state.store(Arc::new(state));
    }

    /// Writes a state; gives the number of bytes. Blocks on `out`.
    pub fn write_snapshot(state: &State, out: &mut impl std::io::Write) -> std::io::Result<u64> {
        snapshot::write(state, out)
    }

    /// Replaces the state by a snapshot and wakes every watcher. A short or altered snapshot is refused, and the state stays.
    pub fn restore(&self, input: &mut impl std::io::Read) -> Result<(), RestoreError> {
        let state = snapshot::read(input)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(Arc::new(state));
        self.watches.wake_all();
        Ok(())
    }

    /// Registers for changes of any of the topics. Register first, then read [`Store::state`]: whatever changes after the
    /// reading is then reported by [`Watch::changed`].
    pub fn watch(&self, topics: &[Topic]) -> Watch {
        watch::register(&self.watches, topics)
    }

    /// How many topics are watched, for statistics.
    pub fn watched(&self) -> usize {
        self.watches.len()
    }

    fn publish(&self, state: State, touched: &Touched) {
        self.state.store(Arc::new(state));
        self.watches.wake(touched);
    }
}

/// Applies one command, all of it or nothing.
fn apply(state: &mut State, index: u64, command: &command::Command, all: &mut Touched) -> Applied {
    use command::command::Command as C;
    let index = index + state.shift;
    // A batch may hold an entry twice after a restart; the index never goes back.
    state.index = state.index.max(index);
    restore::forget(state);
    let name = match state.calls.enter(command.call.as_ref()) {
        Verdict::New(name) => Some(name),
        Verdict::Nameless => None,
        // What its timers needed they were told the first time.
        Verdict::Known(outcome) => return Applied { outcome, events: Vec::new() },
        Verdict::Forgotten => {
            let outcome = Outcome { index, error: FORGOTTEN.to_owned(), ..Outcome::default() };
            return Applied { outcome, events: Vec::new() };
        }
    };
    if let Some(C::Restore(piece)) = &command.command {
        let taken = restore::take(state, index, piece);
        let error = taken.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let outcome = Outcome { index: state.index, done: error.is_empty(), error, txn: None };
        let restored = taken.ok().flatten();
        all.everything |= restored.is_some();
        if let Some(name) = name {
            state.calls.note(name, state.index, &outcome);
        }
        return Applied { outcome, events: restored.unwrap_or_default() };
    }
    // Only these can fail half way; the others refuse before they change anything, and so need no copy to go back to (writing
    // beside a copy costs several times as much).
    let fallible = matches!(command.command, Some(C::Register(_) | C::Txn(_)));
    let before = fallible.then(|| state.clone());
    let mut writer = Writer::new(state, index);
    let mut outcome = Outcome { index, done: true, ..Outcome::default() };
    let result = match &command.command {
        // An entry of a newer version: nothing this server knows how to do.
        None => Err(Refusal::UnknownCommand),
        Some(C::Register(request)) => writer.register(request),
        Some(C::Deregister(request)) => {
            writer.deregister(request);
            Ok(())
        }
        Some(C::Kv(request)) => {
            let verb = Verb::try_from(request.verb).unwrap_or(Verb::Unspecified);
            writer.kv_apply(verb, request).map(|done| outcome.done = done)
        }
        Some(C::SessionCreate(session)) => writer.session_create(session),
        Some(C::SessionDestroy(request)) => writer.session_destroy_checked(&request.id),
        Some(C::Txn(request)) => {
            let reply = writer.txn(request);
            let refused = !reply.errors.is_empty();
            outcome.done = !refused;
            outcome.txn = Some(reply);
            if refused { Err(Refusal::Txn) } else { Ok(()) }
        }
        Some(C::Query(request)) => {
            let verb = causeway_proto::query::Verb::try_from(request.verb).unwrap_or_default();
            let query = request.query.clone().unwrap_or_default();
            writer.query_apply(verb, &query)
        }
        Some(C::Config(request)) => writer.config_apply(request).map(|done| outcome.done = done),
        Some(C::Autopilot(request)) => writer.autopilot_set(request).map(|done| outcome.done = done),
        Some(C::Authority(request)) => writer.authority_set(request).map(|done| outcome.done = done),
        Some(C::Coordinates(batch)) => {
            writer.coordinates_update(batch);
            Ok(())
        }
        Some(C::Acl(change)) => writer.acl_apply(change),
        Some(C::ReapTombstones(request)) => {
            writer.reap(request.through_index);
            Ok(())
        }
        // Was taken above: it replaces what a writer writes to.
        Some(C::Restore(_)) => Ok(()),
    };
    writer.flush();
    let Writer { touched, events, .. } = writer;
    let applied = match result {
        Ok(()) => {
            all.merge(touched);
            Applied { outcome, events }
        }
        Err(refusal) => {
            if let Some(before) = before {
                *state = before;
            }
            outcome.done = false;
            // A transaction's errors are in its reply.
            if refusal != Refusal::Txn {
                outcome.error = refusal.to_string();
            }
            Applied { outcome, events: Vec::new() }
        }
    };
    // A refusal too: a copy that comes later must not do what the caller was told is not done.
    if let Some(name) = name {
        state.calls.note(name, index, &applied.outcome);
    }
    applied
}
