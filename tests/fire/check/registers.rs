//! Two keys that are written one by one and together: the object whose histories are judged. Transactions span both, so the pair is the
//! smallest part that has a history of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::search::{self, Model, OPEN, Op, Time, Verdict};

/// What a key holds; each write writes one that no other writes.
pub type Value = u32;

/// A key of the pair: 0 or 1.
pub type Slot = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Put(Slot, Value),
    Get(Slot),
    Delete(Slot),
    /// Writes if the key holds what the caller saw there.
    Cas(Slot, Option<Value>, Value),
    /// A transaction that writes both.
    PutBoth([Value; 2]),
    /// A transaction that reads both.
    GetBoth,
    /// A transaction that writes both, if the first holds what the caller saw there.
    CasBoth(Option<Value>, [Value; 2]),
}

impl Call {
    /// What it would write.
    pub fn writes(&self) -> Vec<(Slot, Value)> {
        match self {
            Self::Put(slot, value) | Self::Cas(slot, _, value) => vec![(*slot, *value)],
            Self::PutBoth([a, b]) | Self::CasBoth(_, [a, b]) => vec![(0, *a), (1, *b)],
            Self::Get(_) | Self::Delete(_) | Self::GetBoth => Vec::new(),
        }
    }

    fn is_read(&self) -> bool {
        matches!(self, Self::Get(_) | Self::GetBoth)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done, or its condition did not hold.
    Done(bool),
    Value(Option<Value>),
    Both([Option<Value>; 2]),
    /// Surely nothing was done, said the server.
    Refused,
}

pub type Operation = Op<Call, Answer>;

impl Operation {
    /// The key that did not hold what was expected of it.
    fn missed(&self) -> Option<Slot> {
        match (&self.call, &self.answer) {
            (Call::Cas(slot, ..), Some(Answer::Done(false))) => Some(*slot),
            (Call::CasBoth(..), Some(Answer::Done(false))) => Some(0),
            _ => None,
        }
    }
}

pub struct Pair;

impl Model for Pair {
    type State = [Option<Value>; 2];
    type Call = Call;
    type Answer = Answer;

    fn start() -> Self::State {
        [None, None]
    }

    fn step(state: &Self::State, call: &Call, answer: Option<&Answer>) -> Option<Self::State> {
        let set = |slot: Slot, value| {
            let mut next = *state;
            next[slot] = value;
            next
        };
        let holds = match call {
            Call::Cas(slot, expected, _) => state[*slot] == *expected,
            Call::CasBoth(expected, _) => state[0] == *expected,
            _ => true,
        };
        match (call, answer) {
            (_, Some(Answer::Refused)) => Some(*state),
            (Call::Get(slot), Some(Answer::Value(value))) => (state[*slot] == *value).then_some(*state),
            (Call::GetBoth, Some(Answer::Both(values))) => (state == values).then_some(*state),
            (Call::Get(_) | Call::GetBoth, _) => answer.is_none().then_some(*state),
            // Where it is not known whether the condition held, it did or did not.
            (_, Some(Answer::Done(false)) | None) if !holds => Some(*state),
            (_, Some(Answer::Done(true)) | None) if holds => Some(match call {
                Call::Put(slot, value) | Call::Cas(slot, _, value) => set(*slot, Some(*value)),
                Call::Delete(slot) => set(*slot, None),
                Call::PutBoth(values) | Call::CasBoth(_, values) => values.map(Some),
                Call::Get(_) | Call::GetBoth => *state,
            }),
            _ => None,
        }
    }
}

/// Every value that was seen, with the moment by which the first who saw it had it.
fn seen(history: &[Operation]) -> BTreeMap<(Slot, Value), Time> {
    let mut seen = BTreeMap::new();
    let mut note = |slot: Slot, value: Option<Value>, end: Time| {
        if let Some(value) = value {
            let first = seen.entry((slot, value)).or_insert(end);
            *first = end.min(*first);
        }
    };
    for op in history {
        match (&op.call, &op.answer) {
            (Call::Get(slot), Some(Answer::Value(value))) => note(*slot, *value, op.end),
            (Call::GetBoth, Some(Answer::Both(values))) => {
                values.iter().enumerate().for_each(|(slot, v)| note(slot, *v, op.end));
            }
            (Call::Cas(slot, expected, _), Some(Answer::Done(true))) => note(*slot, *expected, op.end),
            (Call::CasBoth(expected, _), Some(Answer::Done(true))) => note(0, *expected, op.end),
            _ => {}
        }
    }
    seen
}

/// Judges the history of one pair; the error says what cannot have been.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let seen = seen(history);
    let written: BTreeSet<(Slot, Value)> = history.iter().flat_map(|op| op.call.writes()).collect();
    if let Some(((slot, value), _)) = seen.iter().find(|(what, _)| !written.contains(what)) {
        return Err(format!("key {slot} held {value}, which nobody wrote"));
    }
    let mut certain = Vec::new();
    let mut unseen = Vec::new();
    for op in history {
        if op.answer == Some(Answer::Refused) || (op.answer.is_none() && op.call.is_read()) {
            if let Some((slot, value)) = op.call.writes().into_iter().find(|w| seen.contains_key(w)) {
                return Err(format!("key {slot} held {value}, whose write was refused: {op:?}"));
            }
            continue;
        }
        let mut op = op.clone();
        if op.answer.is_none() {
            match op.call.writes().iter().filter_map(|w| seen.get(w)).min() {
                // Who saw it knows that it was done, and by when.
                Some(first) => (op.end, op.answer) = (*first, Some(Answer::Done(true))),
                None => {
                    op.end = OPEN;
                    unseen.push(op);
                    continue;
                }
            }
        }
        certain.push(op);
    }
    // Most of what nobody saw makes no difference, and trying it all takes long.
    let without = search::check::<Pair>(&certain);
    if without == Verdict::Linearizable {
        return Ok(());
    }
    let quick = certain.len();
    // A write that nobody saw can only be the reason why a condition did not hold; a deletion is seen by what is missing.
    let failed: BTreeSet<Slot> = history.iter().filter_map(Operation::missed).collect();
    unseen.retain(|op| match &op.call {
        Call::Delete(_) => true,
        call => call.writes().iter().any(|(slot, _)| failed.contains(slot)),
    });
    certain.append(&mut unseen);
    let with = if certain.len() == quick { without } else { search::check::<Pair>(&certain) };
    match with {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided => Err(format!("not judged: too many orders of {} operations are possible", certain.len())),
        Verdict::Broken { order, stuck } => Err(explain(&certain, &order, stuck)),
    }
}

fn explain(history: &[Operation], order: &[usize], stuck: usize) -> String {
    let state = order.iter().fold(Pair::start(), |state, op| {
        Pair::step(&state, &history[*op].call, history[*op].answer.as_ref()).unwrap_or(state)
    });
    let line = |op: &Operation| {
        let end = if op.end == OPEN { "open".to_owned() } else { format!("{:.3} ms", op.end as f64 / 1e6) };
        let start = op.start as f64 / 1e6;
        format!("  client {:2} {start:.3} ms .. {end}: {:?} -> {:?}", op.client, op.call, op.answer)
    };
    let last = order.len().saturating_sub(8);
    let before: Vec<String> = order[last..].iter().map(|i| line(&history[*i])).collect();
    let stuck = &history[stuck];
    let beside = history.iter().enumerate().filter(|(i, op)| !order.contains(i) && op.start <= stuck.end);
    let beside: Vec<String> = beside.take(12).map(|(_, op)| line(op)).collect();
    format!(
        "not linearizable. In an order of {} operations that ends so:\n{}\nthe keys hold {state:?}, and this cannot come next:\n{}\nnot \
         in the order yet, of what began before its end:\n{}",
        order.len(),
        before.join("\n"),
        line(stuck),
        beside.join("\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    fn op(client: usize, start: Time, end: Time, call: Call, answer: Answer) -> Operation {
        Op { client, start, end, call, answer: Some(answer) }
    }

    fn open(client: usize, start: Time, call: Call) -> Operation {
        Op { client, start, end: OPEN, call, answer: None }
    }

    fn put(start: Time, end: Time, value: Value) -> Operation {
        op(0, start, end, Call::Put(0, value), Answer::Done(true))
    }

    fn get(start: Time, end: Time, value: Option<Value>) -> Operation {
        op(1, start, end, Call::Get(0), Answer::Value(value))
    }

    #[test]
    fn good_histories() {
        check(&[]).unwrap();
        check(&[put(0, 10, 1), get(11, 20, Some(1))]).unwrap();
        // Beside a write, a reader sees the old or the new.
        check(&[put(0, 10, 1), put(20, 40, 2), get(21, 25, Some(1)), get(26, 30, Some(2)), get(41, 50, Some(2))])
            .unwrap();
        // What is open may have happened late, or never.
        check(&[put(0, 10, 1), open(2, 11, Call::Put(0, 2)), get(12, 20, Some(1)), get(21, 30, Some(2))]).unwrap();
        check(&[put(0, 10, 1), open(2, 11, Call::Put(0, 2)), get(12, 20, Some(1))]).unwrap();
        // Nobody saw it, and yet it must have been there: the condition did not hold.
        let failed = op(3, 30, 40, Call::Cas(0, Some(1), 9), Answer::Done(false));
        check(&[put(0, 10, 1), open(2, 11, Call::Put(0, 2)), failed]).unwrap();
        let refused = op(2, 11, 15, Call::Put(0, 2), Answer::Refused);
        check(&[put(0, 10, 1), refused, get(16, 20, Some(1))]).unwrap();
    }

    #[test]
    fn bad_histories() {
        for (name, history) in [
            ("a stale read", vec![put(0, 10, 1), put(11, 20, 2), get(21, 30, Some(1))]),
            ("a lost write", vec![put(0, 10, 1), get(11, 20, None)]),
            ("backwards", vec![put(0, 10, 1), put(20, 40, 2), get(21, 25, Some(2)), get(26, 30, Some(1))]),
            ("out of thin air", vec![get(0, 10, Some(7))]),
            (
                "two winners",
                vec![
                    put(0, 10, 1),
                    op(1, 11, 20, Call::Cas(0, Some(1), 2), Answer::Done(true)),
                    op(2, 11, 20, Call::Cas(0, Some(1), 3), Answer::Done(true)),
                ],
            ),
            (
                "no winner",
                vec![put(0, 10, 1), op(1, 11, 20, Call::Cas(0, Some(1), 2), Answer::Done(false)), get(21, 30, Some(1))],
            ),
            (
                "half of a transaction",
                vec![
                    op(1, 0, 10, Call::PutBoth([1, 2]), Answer::Done(true)),
                    op(1, 11, 30, Call::PutBoth([3, 4]), Answer::Done(true)),
                    op(2, 12, 20, Call::GetBoth, Answer::Both([Some(3), Some(2)])),
                ],
            ),
            (
                "a refused write that happened",
                vec![op(0, 0, 10, Call::Put(0, 1), Answer::Refused), get(11, 20, Some(1))],
            ),
            (
                "an open write that happened and went away",
                vec![put(0, 5, 1), open(2, 6, Call::Put(0, 2)), get(10, 20, Some(2)), get(21, 30, Some(1))],
            ),
        ] {
            assert!(check(&history).is_err(), "{name} passed");
        }
    }

    /// Tries every order.
    fn by_hand(history: &[Operation], state: &[Option<Value>; 2], left: &[usize]) -> bool {
        if left.iter().all(|i| history[*i].end == OPEN) {
            return true;
        }
        left.iter().any(|i| {
            let first = &history[*i];
            // Nothing that ended before it began may come later.
            let waits = left.iter().any(|j| history[*j].end < first.start);
            let rest: Vec<usize> = left.iter().copied().filter(|j| j != i).collect();
            let step = || Pair::step(state, &first.call, first.answer.as_ref());
            !waits && step().is_some_and(|next| by_hand(history, &next, &rest))
        })
    }

    #[test]
    fn agrees_with_trying_everything() {
        let seed = 7;
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..4000 {
            let history: Vec<Operation> = (0..rng.random_range(1..7_u32))
                .map(|n| {
                    let start = rng.random_range(0..20);
                    let (slot, seen) = (rng.random_range(0..2), rng.random_range(0..3));
                    let call = match rng.random_range(0..6) {
                        0 => Call::Put(slot, n),
                        1 => Call::Cas(slot, Some(seen), n),
                        2 => Call::PutBoth([n, n]),
                        3 => Call::GetBoth,
                        _ => Call::Get(slot),
                    };
                    let mut value = || (rng.random_range(0..3) > 0).then(|| rng.random_range(0..4));
                    let answer = match call {
                        Call::Get(_) => Answer::Value(value()),
                        Call::GetBoth => Answer::Both([value(), value()]),
                        Call::Cas(..) => Answer::Done(n % 2 == 0),
                        _ => Answer::Done(true),
                    };
                    let open = !call.is_read() && rng.random_range(0..5) == 0;
                    let end = if open { OPEN } else { start + rng.random_range(1..15) };
                    Op { client: 0, start, end, call, answer: (!open).then_some(answer) }
                })
                .collect();
            let all: Vec<usize> = (0..history.len()).collect();
            let expected = by_hand(&history, &Pair::start(), &all);
            assert_eq!(search::check::<Pair>(&history) == Verdict::Linearizable, expected, "{history:?}");
            // What is known besides (nobody writes it, who saw it had it) changes nothing.
            assert_eq!(check(&history).is_ok(), expected, "{history:?}");
            if expected { good += 1 } else { bad += 1 }
        }
        println!("{good} good, {bad} bad");
        assert!(good > 200 && bad > 200);
    }

    #[test]
    fn a_long_history_is_judged_soon() {
        let mut history = Vec::new();
        let mut rng = StdRng::seed_from_u64(1);
        let mut value = 0;
        for n in 0..3000_u64 {
            let client = usize::try_from(n % 10).unwrap();
            let (start, end) = (n * 10, n * 10 + 1 + rng.random_range(0..8));
            if n % 3 == 0 {
                value += 1;
                history.push(op(client, start, end, Call::Put(0, value), Answer::Done(true)));
                if n % 60 == 0 {
                    history.push(open(client, start, Call::Put(1, value)));
                }
            } else {
                history.push(op(client, start, end, Call::Get(0), Answer::Value(Some(value))));
            }
        }
        check(&history).unwrap();
        history.push(op(1, 40_000, 40_001, Call::Get(0), Answer::Value(Some(value - 1))));
        assert!(check(&history).is_err());
    }
}
