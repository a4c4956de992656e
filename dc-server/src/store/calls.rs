//! Which writes were done, by the names that their callers gave them: a write that comes again gets the first one's answer.
//!
//! What is remembered is bounded by number, size and age. Age is counted in the log's own time, which passes with the commands
//! themselves, so that every server forgets the same. A write that may have been forgotten is refused, never done again.

use std::sync::Arc;

use causeway_proto::command::{Call, CallRecord, CallTime, Outcome};
use imbl::OrdMap;
use prost::Message as _;

/// Calls remembered at most.
pub(super) const MOST: usize = 16_384;
/// Bytes of answers remembered at most.
const MOST_BYTES: usize = 16 << 20;
/// Longest answer that is remembered whole.
const LONG: usize = 16 << 10;
/// Calls are remembered for this long at most, in milliseconds of the log's time.
pub(super) const KEEP_MS: u64 = 300_000;
/// What one command moves the log's time at most, in milliseconds.
const STEP_MS: u64 = 1000;

/// A write whose name is not known, and might have been forgotten.
pub(crate) const FORGOTTEN: &str = "this write was asked for before, and so many others came since that nobody knows whether it was done; look before you repeat it";
/// A transaction that was done before.
pub(crate) const CUT: &str = "this transaction was carried out; its answer was too long to be kept for a second time";

type Id = [u8; 16];

#[derive(Debug, Clone)]
struct Done {
    index: u64,
    at_ms: u64,
    outcome: Outcome,
    cut: bool,
}

impl Done {
    fn bytes(&self) -> usize {
        self.outcome.encoded_len()
    }
}

/// The writes that were done. A clone costs a few reference counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    now_ms: u64,
    /// Calls of this time and earlier may be missing.
    forgot_ms: Option<u64>,
    bytes: usize,
    by_id: OrdMap<Id, Arc<Done>>,
    /// By entry of the log.
    order: OrdMap<u64, Id>,
}

/// What is to be done with a call.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Do it, and tell [`Calls::note`].
    New(Id),
    /// It has no name: do it.
    Nameless,
    /// It was done; this is the answer.
    Known(Outcome),
    /// Nobody knows.
    Forgotten,
}

impl Calls {
    /// Moves the log's time on and decides.
    pub(super) fn enter(&mut self, call: Option<&Call>) -> Verdict {
        let Some(call) = call else { return Verdict::Nameless };
        let Ok(id) = Id::try_from(call.id.as_slice()) else { return Verdict::Nameless };
        self.now_ms = self.now_ms.saturating_add(call.elapsed_ms.min(STEP_MS));
        if let Some(done) = self.by_id.get(&id) {
            let mut outcome = done.outcome.clone();
            if done.cut {
                outcome.error = CUT.to_owned();
            }
            return Verdict::Known(outcome);
        }
        match self.forgot_ms {
            // The log's time is never faster than a clock: what is older than it goes back may have been there.
            Some(forgot) if call.age_ms >= self.now_ms - forgot => Verdict::Forgotten,
            _ => Verdict::New(id),
        }
    }

    /// The call was done, or refused, as this entry of the log.
    pub(super) fn note(&mut self, id: Id, index: u64, outcome: &Outcome) {
        let cut = outcome.encoded_len() > LONG;
        let mut outcome = outcome.clone();
        if cut {
            outcome.txn = None;
            outcome.error.clear();
        }
        self.insert(id, Done { index, at_ms: self.now_ms, outcome, cut });
        while self.order.len() > MOST || self.bytes > MOST_BYTES || self.oldest_is_old() {
            self.forget();
        }
    }

    /// Whether a call of this name was done.
    pub(super) fn knows(&self, id: u128) -> bool {
        self.by_id.contains_key(&id.to_be_bytes())
    }

    /// For a snapshot.
    pub(super) fn records(&self) -> impl Iterator<Item = CallRecord> {
        self.order.values().filter_map(|id| {
            let done = self.by_id.get(id)?;
            Some(CallRecord {
                id: id.to_vec(),
                index: done.index,
                at_ms: done.at_ms,
                outcome: Some(done.outcome.clone()),
                cut: done.cut,
            })
        })
    }

    /// For a snapshot; `None` where no call ever came.
    pub(super) fn time(&self) -> Option<CallTime> {
        let time = CallTime {
            now_ms: self.now_ms,
            forgot_ms: self.forgot_ms.unwrap_or_default(),
            forgot: self.forgot_ms.is_some(),
        };
        (time != CallTime::default()).then_some(time)
    }

    /// From a snapshot; whether it makes sense.
    pub(super) fn restore(&mut self, record: CallRecord) -> bool {
        let CallRecord { id, index, at_ms, outcome, cut } = record;
        let (Ok(id), Some(outcome)) = (Id::try_from(id.as_slice()), outcome) else { return false };
        self.insert(id, Done { index, at_ms, outcome, cut });
        true
    }

    /// From a snapshot.
    pub(super) fn restore_time(&mut self, time: &CallTime) {
        self.now_ms = time.now_ms;
        self.forgot_ms = time.forgot.then_some(time.forgot_ms);
    }

    fn insert(&mut self, id: Id, done: Done) {
        self.bytes += done.bytes();
        self.order.insert(done.index, id);
        self.by_id.insert(id, Arc::new(done));
    }

    fn oldest_is_old(&self) -> bool {
        let oldest = self.order.get_min().and_then(|(_, id)| self.by_id.get(id));
        oldest.is_some_and(|done| self.now_ms - done.at_ms.min(self.now_ms) > KEEP_MS)
    }

    fn forget(&mut self) {
        let Some((index, id)) = self.order.get_min().copied() else { return };
        self.order.remove(&index);
        if let Some(done) = self.by_id.remove(&id) {
            self.bytes -= done.bytes().min(self.bytes);
            self.forgot_ms = Some(done.at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn call(id: u128, age_ms: u64, elapsed_ms: u64) -> Call {
        Call { id: id.to_be_bytes().to_vec(), age_ms, elapsed_ms }
    }

    fn outcome(index: u64) -> Outcome {
        Outcome { index, done: true, ..Outcome::default() }
    }

    /// Whatever the rates, ages and repeats: nothing is done twice, what is refused was really old, the table stays small.
    #[test]
    fn nothing_is_done_twice() {
        for seed in 0..6 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut calls, mut done) = (Calls::default(), BTreeMap::new());
            let (mut clock_ms, mut seen, mut refused) = (0_u64, Vec::<(u128, u64)>::new(), 0);
            // No log takes more than [`MOST`] writes a millisecond, so that there is always some time.
            let gap = [1, 2, 40, 400][seed as usize % 4];
            for index in 1..60_000_u64 {
                let elapsed = rng.random_range(0..=gap);
                clock_ms += elapsed;
                let (id, drawn) = match seen.len() {
                    n if n > 0 && rng.random_bool(0.3) => {
                        let far = [5, 1000, 30_000][rng.random_range(0..3)];
                        let back = rng.random_range(1..=n.min(far));
                        seen[n - back]
                    }
                    _ => (rng.random(), clock_ms),
                };
                // Who repeats knows the age by a clock of its own.
                match calls.enter(Some(&call(id, clock_ms - drawn, elapsed))) {
                    Verdict::New(key) => {
                        assert!(done.insert(id, index).is_none(), "seed {seed}: {index} is done twice");
                        seen.push((id, drawn));
                        calls.note(key, index, &outcome(index));
                    }
                    Verdict::Known(answer) => assert_eq!(Some(&answer.index), done.get(&id), "seed {seed}"),
                    Verdict::Forgotten => {
                        refused += 1;
                        assert!(done.contains_key(&id), "seed {seed}: refused though it is new");
                    }
                    Verdict::Nameless => panic!("it has a name"),
                }
                assert!(calls.order.len() <= MOST && calls.order.len() == calls.by_id.len(), "seed {seed}");
            }
            println!("seed {seed}: {} done, {refused} refused, {} remembered", done.len(), calls.order.len());
        }
    }

    #[test]
    fn a_new_call_is_done_in_a_flood() {
        let mut calls = Calls::default();
        for n in 0..40_000_u64 {
            // Ten a millisecond, each on its way for up to 300 ms.
            let Verdict::New(id) = calls.enter(Some(&call(u128::from(n), n % 300, u64::from(n % 10 == 0)))) else {
                panic!("{n} is refused")
            };
            calls.note(id, n, &outcome(n));
        }
        assert_eq!(calls.order.len(), MOST);
        assert_eq!(calls.enter(Some(&call(1, 3999, 0))), Verdict::Forgotten);
        assert!(matches!(calls.enter(Some(&call(39_000, 100, 0))), Verdict::Known(o) if o.index == 39_000));
    }

    #[test]
    fn old_calls_go_and_time_is_bounded() {
        let mut calls = Calls::default();
        let Verdict::New(id) = calls.enter(Some(&call(1, 0, u64::MAX))) else { panic!("new") };
        calls.note(id, 1, &outcome(1));
        assert_eq!(calls.now_ms, STEP_MS, "a clock that leaps moves it a second");
        for n in 2..=KEEP_MS / STEP_MS + 3 {
            let Verdict::New(id) = calls.enter(Some(&call(u128::from(n), 0, STEP_MS))) else { panic!("new") };
            calls.note(id, n, &outcome(n));
        }
        assert!(!calls.knows(1) && calls.knows(9));
    }

    #[test]
    fn a_long_answer_is_not_kept() {
        let mut calls = Calls::default();
        let Verdict::New(id) = calls.enter(Some(&call(1, 0, 0))) else { panic!("new") };
        let what = "x".repeat(LONG);
        let errors = vec![causeway_proto::txn::OpError { op_index: 0, what }];
        let txn = Some(causeway_proto::txn::TxnReply { errors, ..Default::default() });
        calls.note(id, 1, &Outcome { txn, ..outcome(1) });
        assert!(calls.bytes < 100);
        assert!(matches!(calls.enter(Some(&call(1, 0, 0))), Verdict::Known(o) if o.error == CUT));
        assert_eq!(calls.enter(None), Verdict::Nameless);
        assert_eq!(calls.enter(Some(&Call { id: vec![1; 15], ..Call::default() })), Verdict::Nameless);
    }
}
