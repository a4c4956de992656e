//! Whether the history of one object is linearizable: Wing and Gong's search with Lowe's memory of what was tried.
//!
//! Each operation took effect at one moment between its call and its answer, and what it answered is what an object that does one
//! thing at a time would have answered in that order. An operation whose outcome is unknown stays open: it took effect at some moment
//! after its call, or never.

use std::collections::HashSet;
use std::hash::Hash;

/// Nanoseconds since the run began, on the one clock of the process that asks.
pub type Time = u64;

/// The end of an operation whose outcome is not known.
pub const OPEN: Time = Time::MAX;

/// Tried orders that are remembered at most; a history that needs more is not judged.
const MOST: usize = 1_000_000;

/// What an object that does one thing at a time does.
pub trait Model {
    type State: Clone + Eq + Hash;
    type Call;
    type Answer;

    fn start() -> Self::State;

    /// The state after this call where it may give this answer; no answer: any may have been given.
    fn step(state: &Self::State, call: &Self::Call, answer: Option<&Self::Answer>) -> Option<Self::State>;
}

/// One operation of a client.
#[derive(Debug, Clone)]
pub struct Op<C, A> {
    pub client: usize,
    pub start: Time,
    /// [`OPEN`] where it never ended.
    pub end: Time,
    pub call: C,
    pub answer: Option<A>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// The longest order that was found, and the operation that had to come next and could not.
    Broken {
        order: Vec<usize>,
        stuck: usize,
    },
    /// Too much was to be tried.
    Undecided,
}

const HEAD: usize = 0;
const NONE: usize = usize::MAX;

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// The calls and returns that are not in the order yet, by time.
struct Rest {
    next: Vec<usize>,
    prev: Vec<usize>,
    events: Vec<Event>,
    calls: Vec<usize>,
    returns: Vec<usize>,
}

impl Rest {
    fn of<C, A>(ops: &[Op<C, A>]) -> Self {
        let mut events = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            // Of the same moment, calls come first: then neither was before the other.
            events.push((op.start, 0, Event::Call(i)));
            if op.end != OPEN {
                events.push((op.end, 1, Event::Return(i)));
            }
        }
        events.sort_by_key(|(time, kind, _)| (*time, *kind));
        let events: Vec<Event> = std::iter::once(Event::Call(NONE)).chain(events.into_iter().map(|e| e.2)).collect();
        let (mut calls, mut returns) = (vec![NONE; ops.len()], vec![NONE; ops.len()]);
        for (at, event) in events.iter().enumerate().skip(1) {
            match event {
                Event::Call(op) => calls[*op] = at,
                Event::Return(op) => returns[*op] = at,
            }
        }
        let count = events.len();
        let next = (0..count).map(|i| if i + 1 < count { i + 1 } else { NONE }).collect();
        let prev = (0..count).map(|i| i.wrapping_sub(1)).collect();
        Self { next, prev, events, calls, returns }
    }

    fn out(&mut self, at: usize) {
        if at != NONE {
            let (before, after) = (self.prev[at], self.next[at]);
            self.next[before] = after;
            if after != NONE {
                self.prev[after] = before;
            }
        }
    }

    fn back(&mut self, at: usize) {
        if at != NONE {
            let (before, after) = (self.prev[at], self.next[at]);
            self.next[before] = at;
            if after != NONE {
                self.prev[after] = at;
            }
        }
    }
}

/// Judges a history.
pub fn check<M: Model>(ops: &[Op<M::Call, M::Answer>]) -> Verdict {
    let mut rest = Rest::of(ops);
    let mut state = M::start();
    let mut done = vec![0_u64; ops.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, M::State)> = HashSet::new();
    let mut order: Vec<(usize, M::State)> = Vec::new();
    let (mut longest, mut stuck) = (Vec::new(), NONE);
    let mut at = rest.next[HEAD];
    loop {
        // No return is left: whatever is still there is open, and need not have happened.
        if at == NONE {
            return Verdict::Linearizable;
        }
        match rest.events[at] {
            Event::Call(op) => {
                at = rest.next[at];
                let Some(after) = M::step(&state, &ops[op].call, ops[op].answer.as_ref()) else { continue };
                done[op / 64] ^= 1 << (op % 64);
                if tried.insert((done.clone(), after.clone())) {
                    order.push((op, std::mem::replace(&mut state, after)));
                    rest.out(rest.calls[op]);
                    rest.out(rest.returns[op]);
                    at = rest.next[HEAD];
                    if tried.len() > MOST {
                        return Verdict::Undecided;
                    }
                } else {
                    done[op / 64] ^= 1 << (op % 64);
                }
            }
            Event::Return(late) => {
                if stuck == NONE || order.len() > longest.len() {
                    longest = order.iter().map(|(op, _)| *op).collect();
                    stuck = late;
                }
                let Some((op, before)) = order.pop() else { return Verdict::Broken { order: longest, stuck } };
                state = before;
                done[op / 64] ^= 1 << (op % 64);
                rest.back(rest.returns[op]);
                rest.back(rest.calls[op]);
                at = rest.next[rest.calls[op]];
            }
        }
    }
}
