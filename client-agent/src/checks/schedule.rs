//! When each check runs next, and when its outcome counts. A machine: it is told the time and says what is due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;

use super::Outcome;
use crate::registry::{CheckDefinition, CheckKind, Local, Status};

/// An alias of another node is asked for this often.
const ALIAS_INTERVAL: Duration = Duration::from_secs(10);

/// One run of one check; a check that is defined anew gets another number, so that late outcomes of the old one do not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// The check's id.
    pub id: String,
    /// Which definition of it.
    pub number: u64,
}

#[derive(Debug)]
struct Entry {
    definition: Arc<CheckDefinition>,
    number: u64,
    running: bool,
    passed: u32,
    failed: u32,
}

/// What to do with an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Tell the registry.
    Tell(Outcome),
    /// The threshold is not reached: the status stays as it is.
    Wait,
    /// The check is gone or is another now.
    Stale,
}

/// All checks of this agent, by when they are due.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: HashMap<String, Entry>,
    due: BinaryHeap<Reverse<(Instant, Run)>>,
    numbers: u64,
}

impl Schedule {
    /// Takes up the definitions as they are now. Gives the runs that must be stopped: of checks that are gone or defined anew.
    pub fn update(&mut self, local: &Local, now: Instant, rng: &mut impl Rng) -> Vec<Run> {
        let mut stopped = Vec::new();
        self.entries.retain(|id, entry| {
            let stays = local
                .checks
                .get(id)
                .is_some_and(|c| Arc::ptr_eq(&c.definition, &entry.definition) || c.definition == entry.definition);
            if !stays {
                stopped.push(Run { id: id.clone(), number: entry.number });
            }
            stays
        });
        for (id, check) in &local.checks {
            let definition = &check.definition;
            if self.entries.contains_key(id) {
                continue;
            }
            let first = match &definition.kind {
                CheckKind::Maintenance => continue,
                CheckKind::Alias { node, .. } if node.is_empty() || *node == check.check.node => continue,
                CheckKind::Ttl => check.ttl_deadline.unwrap_or(now + definition.ttl),
                // Somewhere within the interval, so that a hundred checks of one file do not all run together.
                _ => now + interval(definition).mul_f64(rng.random_range(0.0..1.0)),
            };
            self.numbers += 1;
            let number = self.numbers;
            let entry = Entry { definition: definition.clone(), number, running: false, passed: 0, failed: 0 };
            self.entries.insert(id.clone(), entry);
            self.due.push(Reverse((first, Run { id: id.clone(), number })));
        }
        stopped
    }

    /// When something is due next.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next check that is due; it counts as running until it is [`Schedule::finished`] or [`Schedule::again`].
    pub fn pop_due(&mut self, now: Instant) -> Option<(Run, Arc<CheckDefinition>)> {
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, run)) = self.due.pop()?;
            if let Some(entry) = self.entries.get_mut(&run.id)
                && entry.number == run.number
                && !entry.running
            {
                entry.running = true;
                return Some((run, entry.definition.clone()));
            }
        }
        None
    }

    /// A TTL check is to be looked at again at this time.
    pub fn again(&mut self, run: Run, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&run.id).filter(|e| e.number == run.number) {
            entry.running = false;
            self.due.push(Reverse((at, run)));
        }
    }

    /// A run has ended: the next is one interval from now, and the outcome counts where its threshold is reached.
    pub fn finished(&mut self, run: Run, outcome: Outcome, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get_mut(&run.id).filter(|e| e.number == run.number) else {
            return Verdict::Stale;
        };
        entry.running = false;
        self.due.push(Reverse((now + interval(&entry.definition), run)));
        if outcome.status == Status::Critical {
            entry.passed = 0;
            entry.failed = entry.failed.saturating_add(1);
            let critical = entry.definition.failures_before_critical;
            let warning = match entry.definition.failures_before_warning {
                0 => critical,
                n => n,
            };
            return if entry.failed >= critical {
                Verdict::Tell(outcome)
            } else if entry.failed >= warning {
                Verdict::Tell(Outcome { status: Status::Warning, ..outcome })
            } else {
                Verdict::Wait
            };
        }
        entry.failed = 0;
        entry.passed = entry.passed.saturating_add(1);
        if entry.passed >= entry.definition.success_before_passing { Verdict::Tell(outcome) } else { Verdict::Wait }
    }

    /// Checks that are followed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn interval(definition: &CheckDefinition) -> Duration {
    if definition.interval.is_zero() { ALIAS_INTERVAL } else { definition.interval }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests start from the present")]

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::checks::Policy;
    use crate::registry::state::State;
    use crate::registry::{CheckTls, Source};

    const SECOND: Duration = Duration::from_secs(1);

    fn tcp(id: &str) -> CheckDefinition {
        CheckDefinition {
            id: id.into(),
            name: id.into(),
            interval: 10 * SECOND,
            kind: CheckKind::Tcp { address: "a:1".into(), tls: CheckTls::default() },
            ..CheckDefinition::default()
        }
    }

    fn state(checks: impl IntoIterator<Item = CheckDefinition>, now: Instant) -> State {
        let mut state = State::new("n".into(), Policy::default());
        for check in checks {
            state.add_check(check, Source::Api, now).unwrap();
        }
        state
    }

    fn outcome(status: Status) -> Outcome {
        Outcome::new(status, "")
    }

    #[test]
    fn a_hundred_checks_do_not_run_together() {
        let t0 = Instant::now();
        let state = state((0..100).map(|i| tcp(&i.to_string())), t0);
        let mut schedule = Schedule::default();
        schedule.update(state.local(), t0, &mut StdRng::seed_from_u64(3));
        for second in 1..=10u32 {
            let n = std::iter::from_fn(|| schedule.pop_due(t0 + second * SECOND)).count();
            assert!((1..30).contains(&n), "second {second}: {n}");
        }
    }

    #[test]
    fn a_check_never_overlaps_itself_and_runs_an_interval_after_its_end() {
        let t0 = Instant::now();
        let state = state([tcp("a")], t0);
        let mut schedule = Schedule::default();
        let mut rng = StdRng::seed_from_u64(3);
        schedule.update(state.local(), t0, &mut rng);
        let (run, _) = schedule.pop_due(t0 + 10 * SECOND).unwrap();
        schedule.update(state.local(), t0, &mut rng);
        assert_eq!(schedule.pop_due(t0 + 1000 * SECOND), None);
        let end = t0 + 30 * SECOND;
        assert_eq!(schedule.finished(run, outcome(Status::Passing), end), Verdict::Tell(outcome(Status::Passing)));
        assert_eq!(schedule.next_wakeup(), Some(end + 10 * SECOND));
    }

    #[test]
    fn what_is_removed_or_defined_anew_is_stopped_and_its_outcome_ignored() {
        let t0 = Instant::now();
        let mut state = state([tcp("a"), tcp("b"), tcp("c")], t0);
        let mut schedule = Schedule::default();
        let mut rng = StdRng::seed_from_u64(3);
        schedule.update(state.local(), t0, &mut rng);
        let runs: Vec<_> = std::iter::from_fn(|| schedule.pop_due(t0 + 10 * SECOND)).map(|(run, _)| run).collect();
        state.remove_check("a");
        state.add_check(CheckDefinition { interval: 5 * SECOND, ..tcp("b") }, Source::Api, t0).unwrap();
        let mut stopped = schedule.update(state.local(), t0, &mut rng);
        stopped.sort();
        assert_eq!(stopped.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        for run in runs {
            let stale = schedule.finished(run.clone(), outcome(Status::Passing), t0) == Verdict::Stale;
            assert_eq!(stale, run.id != "c");
        }
    }

    #[test]
    fn thresholds() {
        use Status::{Critical as C, Passing as P, Warning as W};
        let t0 = Instant::now();
        let check = CheckDefinition { success_before_passing: 2, failures_before_critical: 3, ..tcp("a") };
        let state = state([check], t0);
        let mut schedule = Schedule::default();
        schedule.update(state.local(), t0, &mut StdRng::seed_from_u64(3));
        let mut now = t0;
        for (step, (status, counts)) in [
            (P, false),
            (C, false),
            (P, false),
            (W, true),
            (C, false),
            (C, false),
            (C, true),
            (C, true),
            (P, false),
            (P, true),
        ]
        .into_iter()
        .enumerate()
        {
            now += 10 * SECOND;
            let (run, _) = schedule.pop_due(now).unwrap();
            let told = schedule.finished(run, outcome(status), now) != Verdict::Wait;
            assert_eq!(told, counts, "step {step}");
        }
    }

    #[test]
    fn failures_warn_first() {
        use Status::{Critical as C, Passing as P, Warning as W};
        let t0 = Instant::now();
        let check = CheckDefinition { failures_before_warning: 2, failures_before_critical: 4, ..tcp("a") };
        let state = state([check], t0);
        let mut schedule = Schedule::default();
        schedule.update(state.local(), t0, &mut StdRng::seed_from_u64(3));
        let mut now = t0;
        for (step, (status, told)) in
            [(C, None), (C, Some(W)), (C, Some(W)), (C, Some(C)), (C, Some(C)), (P, Some(P)), (C, None), (C, Some(W))]
                .into_iter()
                .enumerate()
        {
            now += 10 * SECOND;
            let (run, _) = schedule.pop_due(now).unwrap();
            let verdict = schedule.finished(run, outcome(status), now);
            assert_eq!(verdict, told.map_or(Verdict::Wait, |s| Verdict::Tell(outcome(s))), "step {step}");
        }
    }

    #[test]
    fn ttl_checks_wait_for_their_deadline() {
        let t0 = Instant::now();
        let ttl = CheckDefinition { name: "t".into(), ttl: 7 * SECOND, ..CheckDefinition::default() };
        let state = state([ttl], t0);
        let mut schedule = Schedule::default();
        schedule.update(state.local(), t0, &mut StdRng::seed_from_u64(3));
        assert_eq!(schedule.next_wakeup(), Some(t0 + 7 * SECOND));
        let (run, _) = schedule.pop_due(t0 + 7 * SECOND).unwrap();
        schedule.again(run, t0 + 9 * SECOND);
        assert_eq!(schedule.next_wakeup(), Some(t0 + 9 * SECOND));
    }
}
