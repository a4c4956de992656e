//! Locks and sessions: at most one holds a lock; nobody gets it before the lock delay of who lost it is over; a session that is renewed
//! lives for its time.
//!
//! Two ways of looking. Where sessions end only when they are destroyed, all that happens to a lock is in the history and
//! [`linearizable`] judges it whole. Where they may also expire, [`exclusive`] compares what each holder surely had.

use std::collections::BTreeMap;

use super::search::{self, Model, OPEN, Op, Time, Verdict};

/// A session, as the clients number them; a lock has at most 64.
pub type Session = u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Create(Session),
    Renew(Session),
    Acquire(Session),
    Release(Session),
    Destroy(Session),
    /// Who holds it?
    Holder,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done(bool),
    /// There is no such session.
    NoSession,
    Holder(Option<Session>),
    /// Surely nothing was done, said the server.
    Refused,
}

pub type Operation = Op<Call, Answer>;

/// One lock.
pub struct Lock;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    holder: Option<Session>,
    /// Sessions that were destroyed, a bit each.
    dead: u64,
    /// A holder was destroyed, so that a lock delay may be running: that it is over is not in this state.
    delayed: bool,
}

impl State {
    fn is_dead(&self, session: Session) -> bool {
        self.dead & (1 << (session % 64)) != 0
    }
}

impl Model for Lock {
    type State = State;
    type Call = Call;
    type Answer = Answer;

    fn start() -> State {
        State::default()
    }

    fn step(state: &State, call: &Call, answer: Option<&Answer>) -> Option<State> {
        let same = || Some(state.clone());
        match (call, answer) {
            (_, Some(Answer::Refused)) => same(),
            (Call::Holder, Some(Answer::Holder(holder))) => (state.holder == *holder).then(|| state.clone()),
            (Call::Acquire(session), answer) => {
                let free = state.holder.is_none_or(|holder| holder == *session);
                match answer {
                    Some(Answer::Done(true)) if state.is_dead(*session) || !free => None,
                    Some(Answer::Done(true)) => Some(State { holder: Some(*session), ..state.clone() }),
                    Some(Answer::Done(false)) => (!free || state.delayed).then(|| state.clone()),
                    Some(_) => state.is_dead(*session).then(|| state.clone()),
                    None if free && !state.is_dead(*session) => Some(State { holder: Some(*session), ..state.clone() }),
                    None => same(),
                }
            }
            (Call::Release(session), answer) => {
                let held = state.holder == Some(*session);
                match answer {
                    Some(Answer::Done(done)) if *done != held => None,
                    Some(Answer::NoSession) | Some(Answer::Holder(_)) => None,
                    _ if held => Some(State { holder: None, ..state.clone() }),
                    _ => same(),
                }
            }
            (Call::Destroy(session), _) => {
                let held = state.holder == Some(*session);
                let holder = state.holder.filter(|_| !held);
                let dead = state.dead | 1 << (session % 64);
                Some(State { holder, dead, delayed: state.delayed || held })
            }
            (Call::Renew(session), Some(Answer::Done(true))) => (!state.is_dead(*session)).then(|| state.clone()),
            (Call::Renew(session), Some(Answer::NoSession)) => state.is_dead(*session).then(|| state.clone()),
            (Call::Create(_) | Call::Renew(_) | Call::Holder, _) => same(),
        }
    }
}

/// Judges the history of a lock whose sessions end only when they are destroyed.
pub fn linearizable(history: &[Operation]) -> Result<(), String> {
    let told = |op: &&Operation| {
        let unknown = op.answer.is_none() && matches!(op.call, Call::Holder | Call::Renew(_) | Call::Create(_));
        !unknown && op.answer != Some(Answer::Refused)
    };
    let mut history: Vec<Operation> = history.iter().filter(told).cloned().collect();
    for op in history.iter_mut().filter(|op| op.answer.is_none()) {
        op.end = OPEN;
    }
    match search::check::<Lock>(&history) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided => Err(format!("not judged: too many orders of {} operations are possible", history.len())),
        Verdict::Broken { order, stuck } => {
            let state = order.iter().fold(State::default(), |state, op| {
                Lock::step(&state, &history[*op].call, history[*op].answer.as_ref()).unwrap_or(state)
            });
            let last: Vec<_> = order.iter().rev().take(8).rev().map(|op| &history[*op]).collect();
            Err(format!("the lock is at {state:?} after {last:#?}, and this cannot come next: {:#?}", history[stuck]))
        }
    }
}

/// What a holder surely had, from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    session: Session,
    /// The acquisition was asked for.
    asked: Time,
    /// It was answered: from here on.
    from: Time,
    until: Time,
}

/// Compares what the holders surely had. `ttl`: a session lives for so long after each renewal that was answered (none: until it is
/// destroyed). `delay`: nobody may have the lock for so long after its holder was destroyed.
pub fn exclusive(history: &[Operation], ttl: Option<Time>, delay: Time) -> Result<usize, String> {
    let mut renewed: BTreeMap<Session, Vec<Time>> = BTreeMap::new();
    let mut ends: BTreeMap<Session, Vec<Time>> = BTreeMap::new();
    // Destroyed while it surely held: when that was asked for and answered.
    let mut lost: Vec<(Session, Time, Time)> = Vec::new();
    for op in history {
        match (&op.call, &op.answer) {
            (Call::Create(session) | Call::Renew(session), Some(Answer::Done(true))) => {
                renewed.entry(*session).or_default().push(op.start);
            }
            // From the moment they are asked for, whatever came of it.
            (Call::Release(session) | Call::Destroy(session), answer) if *answer != Some(Answer::Refused) => {
                ends.entry(*session).or_default().push(op.start);
            }
            _ => {}
        }
    }
    let alive_until = |session: Session, at: Time| {
        let Some(ttl) = ttl else { return OPEN };
        // Each renewal gives so much more, if the one before had not run out.
        let mut until = 0;
        for start in renewed.get(&session).into_iter().flatten() {
            if until == 0 || *start <= until.max(at) {
                until = until.max(start + ttl);
            }
        }
        until
    };
    for op in history {
        let (Call::Renew(session) | Call::Acquire(session), Some(Answer::NoSession)) = (&op.call, &op.answer) else {
            continue;
        };
        let last = renewed.get(session).into_iter().flatten().filter(|start| **start < op.start).max();
        let until = last.map_or(0, |last| ttl.map_or(OPEN, |ttl| last + ttl));
        if op.end < until && ends_before(history, *session, op.end).is_none() {
            return Err(format!("session {session} was alive until {until}, and was gone: {op:?}"));
        }
    }
    let mut holds: Vec<Hold> = Vec::new();
    for op in history {
        let (Call::Acquire(session), Some(Answer::Done(true))) = (&op.call, &op.answer) else { continue };
        let end =
            ends.get(session).into_iter().flatten().filter(|end| **end >= op.start).min().copied().unwrap_or(OPEN);
        let until = end.min(alive_until(*session, op.end));
        holds.push(Hold { session: *session, asked: op.start, from: op.end, until });
    }
    for op in history {
        let (Call::Destroy(session), Some(Answer::Done(true))) = (&op.call, &op.answer) else { continue };
        let alive = alive_until(*session, op.start) >= op.end;
        // Nothing but this destruction ended it.
        if alive && holds.iter().any(|h| h.session == *session && h.from <= op.start && h.until == op.start) {
            lost.push((*session, op.start, op.end));
        }
    }
    for (i, a) in holds.iter().enumerate() {
        for b in holds[i + 1..].iter().filter(|b| b.session != a.session) {
            let (from, until) = (a.from.max(b.from), a.until.min(b.until));
            // It was acquired, for however short a time, while another surely had it.
            let within = |a: &Hold, b: &Hold| a.from <= b.asked && b.from <= a.until;
            if from < until || within(a, b) || within(b, a) {
                return Err(format!("two had the lock from {from} to {until}: {a:?} and {b:?}"));
            }
        }
        for (session, asked, answered) in lost.iter().filter(|(session, ..)| *session != a.session) {
            if a.asked > *answered && a.from < asked + delay {
                return Err(format!(
                    "session {session} lost the lock between {asked} and {answered}, and within its lock delay of {delay} had: {a:?}"
                ));
            }
        }
    }
    Ok(holds.len())
}

/// Whether anyone asked before `at` that it be destroyed.
fn ends_before(history: &[Operation], session: Session, at: Time) -> Option<&Operation> {
    history.iter().find(|op| op.call == Call::Destroy(session) && op.start <= at && op.answer != Some(Answer::Refused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(start: Time, end: Time, call: Call, answer: Answer) -> Operation {
        Op { client: 0, start, end, call, answer: Some(answer) }
    }

    fn acquire(start: Time, end: Time, session: Session, got: bool) -> Operation {
        op(start, end, Call::Acquire(session), Answer::Done(got))
    }

    fn done(start: Time, end: Time, call: Call) -> Operation {
        op(start, end, call, Answer::Done(true))
    }

    fn open(start: Time, call: Call) -> Operation {
        Op { client: 0, start, end: OPEN, call, answer: None }
    }

    #[test]
    fn good_histories() {
        let passed_on = [
            acquire(0, 10, 1, true),
            acquire(5, 15, 2, false),
            op(16, 17, Call::Holder, Answer::Holder(Some(1))),
            done(20, 30, Call::Release(1)),
            acquire(21, 40, 2, true),
            done(50, 60, Call::Destroy(2)),
            op(61, 62, Call::Acquire(2), Answer::NoSession),
            acquire(63, 64, 3, false),
            acquire(170, 180, 3, true),
        ];
        linearizable(&passed_on).unwrap();
        assert_eq!(exclusive(&passed_on, None, 100), Ok(3));
        // Whether the release arrived is not known; somebody got it.
        let doubtful = [acquire(0, 10, 1, true), open(11, Call::Release(1)), acquire(20, 30, 2, true)];
        linearizable(&doubtful).unwrap();
        assert_eq!(exclusive(&doubtful, None, 100), Ok(2));
    }

    #[test]
    fn bad_histories() {
        let two = [acquire(0, 10, 1, true), acquire(11, 20, 2, true)];
        assert!(linearizable(&two).is_err() && exclusive(&two, None, 0).is_err());
        let free = [acquire(0, 10, 1, true), done(11, 20, Call::Release(1)), acquire(21, 30, 2, false)];
        assert!(linearizable(&free).is_err(), "a free lock was not given");
        let wrong = [acquire(0, 10, 1, true), op(11, 20, Call::Release(2), Answer::Done(true))];
        assert!(linearizable(&wrong).is_err(), "another's lock was released");
        let dead = [done(0, 10, Call::Destroy(1)), acquire(11, 20, 1, true)];
        assert!(linearizable(&dead).is_err(), "the dead have nothing");
        let unseen = [acquire(0, 10, 1, true), op(11, 20, Call::Holder, Answer::Holder(None))];
        assert!(linearizable(&unseen).is_err());
        let soon = [acquire(0, 10, 1, true), done(20, 30, Call::Destroy(1)), acquire(40, 50, 2, true)];
        assert!(exclusive(&soon, None, 100).is_err(), "within the lock delay");
        assert_eq!(exclusive(&soon, None, 10), Ok(2));
    }

    #[test]
    fn a_session_lives_for_its_time_after_each_renewal() {
        let mut history = vec![
            done(0, 1, Call::Create(1)),
            acquire(2, 3, 1, true),
            done(50, 51, Call::Renew(1)),
            acquire(120, 130, 2, true),
        ];
        assert!(exclusive(&history, Some(100), 0).is_err(), "it was renewed at 50");
        history[3] = acquire(140, 160, 2, true);
        assert_eq!(exclusive(&history, Some(100), 0), Ok(2));
        let gone = op(141, 142, Call::Renew(1), Answer::NoSession);
        let with = |more: Operation| [history.clone(), vec![more]].concat();
        assert!(exclusive(&with(gone), Some(100), 0).is_err(), "it was to live until 150");
        let gone = op(151, 152, Call::Renew(1), Answer::NoSession);
        assert_eq!(exclusive(&with(gone), Some(100), 0), Ok(2));
        // The renewal's answer never came, so it is no promise.
        history[2] = open(50, Call::Renew(1));
        history[3] = acquire(120, 130, 2, true);
        assert_eq!(exclusive(&history, Some(100), 0), Ok(2));
    }
}
