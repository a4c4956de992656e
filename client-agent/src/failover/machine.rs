//! From which site a service is answered. No clock, no tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a view says of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Nothing is known yet, or there is no instance that would do.
    No,
    /// There is one, as far as was known when the site could still be asked.
    Old,
    /// There is one.
    Yes,
}

/// A site as it is seen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The site; `None`: the own.
    pub site: Option<Arc<str>>,
    /// Whether it would do.
    pub fit: Fit,
    /// The lower, the sooner. The own site comes before all.
    pub cost: u64,
}

/// One service's (or one kind of question's) choice.
#[derive(Debug, Default)]
pub struct Machine {
    /// The site that answers; `None`: the own.
    current: Option<Arc<str>>,
    begun: bool,
    /// Since when sites that are better than the current one would do.
    better_since: BTreeMap<Option<Arc<str>>, Instant>,
}

/// Whether `a` comes before `b`. Round trips must differ by a tenth and a millisecond, or two sites at about the same distance
/// would take turns.
fn is_better(a: &Seen, b: &Seen, measured: bool) -> bool {
    match (&a.site, &b.site) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(_)) if measured => a.cost.saturating_add(a.cost / 10).saturating_add(1000) < b.cost,
        (Some(_), Some(_)) => a.cost < b.cost,
    }
}

impl Machine {
    /// The site that answers; `None`: the own.
    pub fn current(&self) -> Option<&Arc<str>> {
        self.current.as_ref()
    }

    /// Takes in what is seen now. When the site that answers does no more, another takes its place at once; a better one that
    /// does again must go on doing so for `hysteresis` first. Gives the time to look again even if nothing changes.
    pub fn step(&mut self, now: Instant, hysteresis: Duration, measured: bool, seen: &[Seen]) -> Option<Instant> {
        let order = |s: &&Seen| (s.fit != Fit::Yes, s.site.is_some(), s.cost);
        let best = seen.iter().filter(|s| s.fit != Fit::No).min_by_key(order);
        let current = seen.iter().find(|s| s.site == self.current);
        let stays = match current {
            _ if !self.begun => None,
            // What is old is left for what is current; our own site is trusted as long as nothing better is known.
            Some(s) if s.fit == Fit::Yes || (s.fit == Fit::Old && best.is_none_or(|b| b.fit == Fit::Old)) => Some(s),
            _ => None,
        };
        self.begun = true;
        let Some(current) = stays else {
            self.better_since.clear();
            self.current = best.and_then(|s| s.site.clone());
            // What is better than that begins its time now.
            let current = seen.iter().find(|s| s.site == self.current)?;
            return self.watch(now, hysteresis, measured, seen, current);
        };
        let wakeup = self.watch(now, hysteresis, measured, seen, current);
        let due = |s: &&Seen| {
            let since = self.better_since.get(&s.site);
            since.is_some_and(|since| now.saturating_duration_since(*since) >= hysteresis)
        };
        if let Some(next) = seen.iter().filter(due).min_by_key(order) {
            self.current = next.site.clone();
            self.better_since.clear();
            return self.watch(now, hysteresis, measured, seen, next);
        }
        wakeup
    }

    /// Keeps since when better sites would do; gives when the first has done so long enough.
    fn watch(
        &mut self,
        now: Instant,
        hysteresis: Duration,
        measured: bool,
        seen: &[Seen],
        current: &Seen,
    ) -> Option<Instant> {
        let better: Vec<_> =
            seen.iter().filter(|s| s.fit == Fit::Yes && is_better(s, current, measured)).map(|s| &s.site).collect();
        self.better_since.retain(|site, _| better.contains(&site));
        for site in better {
            self.better_since.entry(site.clone()).or_insert(now);
        }
        self.better_since.values().min().map(|since| *since + hysteresis)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test's clock")]
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const HYST: Duration = Duration::from_secs(10);

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn seen(own: Fit, others: &[(&str, Fit, u64)]) -> Vec<Seen> {
        let others = others.iter().map(|(dc, fit, cost)| Seen { site: Some(Arc::from(*dc)), fit: *fit, cost: *cost });
        std::iter::once(Seen { site: None, fit: own, cost: 0 }).chain(others).collect()
    }

    fn at(machine: &Machine) -> &str {
        machine.current().map_or("own", |dc| dc)
    }

    #[test]
    fn falls_over_at_once_and_comes_back_after_a_while() {
        let (mut m, t) = (Machine::default(), Instant::now());
        let others = [("dc2", Fit::Yes, 2_000), ("dc3", Fit::Yes, 80_000)];
        let mut step = |after: u64, own| {
            let wakeup = m.step(t + s(after), HYST, true, &seen(own, &others));
            (at(&m).to_owned(), wakeup.map(|w| w - t))
        };
        assert_eq!(step(0, Fit::Yes), ("own".into(), None));
        assert_eq!(step(1, Fit::No), ("dc2".into(), None));
        assert_eq!(step(2, Fit::Yes), ("dc2".into(), Some(s(12))));
        // It fails again before its time: that begins anew.
        assert_eq!(step(9, Fit::No), ("dc2".into(), None));
        assert_eq!(step(10, Fit::Yes), ("dc2".into(), Some(s(20))));
        assert_eq!(step(19, Fit::Yes), ("dc2".into(), Some(s(20))));
        assert_eq!(step(20, Fit::Yes), ("own".into(), None));
    }

    #[test]
    fn the_nearest_of_three_by_round_trip() {
        let (mut m, t) = (Machine::default(), Instant::now());
        let step = |m: &mut Machine, after: u64, dc2: (Fit, u64), dc3: (Fit, u64)| {
            m.step(t + s(after), HYST, true, &seen(Fit::No, &[("dc2", dc2.0, dc2.1), ("dc3", dc3.0, dc3.1)]));
            at(m).to_owned()
        };
        assert_eq!(step(&mut m, 0, (Fit::Yes, 80_000), (Fit::Yes, 9_000)), "dc3");
        // About as far: stays. Clearly nearer: only after the time.
        assert_eq!(step(&mut m, 30, (Fit::Yes, 8_000), (Fit::Yes, 9_000)), "dc3");
        assert_eq!(step(&mut m, 60, (Fit::Yes, 2_000), (Fit::Yes, 9_000)), "dc3");
        assert_eq!(step(&mut m, 71, (Fit::Yes, 2_000), (Fit::Yes, 9_000)), "dc2");
        // Cut off: what is current comes before what was known, however near.
        assert_eq!(step(&mut m, 72, (Fit::Old, 2_000), (Fit::Yes, 9_000)), "dc3");
        // All cut off: what was known of the one that answers goes on.
        assert_eq!(step(&mut m, 73, (Fit::Old, 2_000), (Fit::Old, 9_000)), "dc3");
        assert_eq!(step(&mut m, 74, (Fit::Old, 2_000), (Fit::No, 9_000)), "dc2");
        // Nobody has it: back here, where it is said that there is none.
        assert_eq!(step(&mut m, 75, (Fit::No, 2_000), (Fit::No, 9_000)), "own");
    }

    #[test]
    fn a_list_is_in_its_order() {
        let (mut m, t) = (Machine::default(), Instant::now());
        m.step(t, HYST, false, &seen(Fit::No, &[("b", Fit::No, 0), ("a", Fit::Yes, 1)]));
        assert_eq!(at(&m), "a");
        m.step(t, HYST, false, &seen(Fit::No, &[("b", Fit::Yes, 0), ("a", Fit::Yes, 1)]));
        assert_eq!(at(&m), "a");
        m.step(t + HYST, HYST, false, &seen(Fit::No, &[("b", Fit::Yes, 0), ("a", Fit::Yes, 1)]));
        assert_eq!(at(&m), "b");
    }

    #[test]
    fn without_hysteresis_the_best_always() {
        let (mut m, t) = (Machine::default(), Instant::now());
        m.step(t, s(0), true, &seen(Fit::No, &[("dc2", Fit::Yes, 5)]));
        assert_eq!(at(&m), "dc2");
        m.step(t, s(0), true, &seen(Fit::Yes, &[("dc2", Fit::Yes, 5)]));
        assert_eq!(at(&m), "own");
    }

    /// Whatever happens: a site that does not do is never answered from while another does; the own site never takes over
    /// sooner than its time; and once everything has been well for that long, the own site answers.
    #[test]
    fn seeded() {
        for seed in 0..300_u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut m = Machine::default();
            let mut now = Instant::now();
            let measured = rng.random_bool(0.5);
            let fits = [Fit::No, Fit::Old, Fit::Yes];
            let mut well_since: Option<Instant> = None;
            for step in 0..80 {
                now += Duration::from_millis(rng.random_range(0..4000));
                let own = fits[rng.random_range(0..3)];
                let others = [
                    ("a", fits[rng.random_range(0..3)], rng.random_range(0..100_000)),
                    ("b", fits[rng.random_range(0..3)], rng.random_range(0..100_000)),
                ];
                let view = seen(own, &others);
                let before = m.current().cloned();
                let wakeup = m.step(now, HYST, measured, &view);
                let chosen = view.iter().find(|s| s.site.as_ref() == m.current()).unwrap();
                let best = view.iter().map(|s| s.fit).max().unwrap();
                assert!(chosen.fit == best || best == Fit::No, "seed {seed} step {step}: {chosen:?} of {view:?}");
                let before_fit = view.iter().find(|s| s.site == before).unwrap().fit;
                let came_home = step > 0 && before.is_some() && m.current().is_none() && before_fit == Fit::Yes;
                if came_home {
                    assert!(well_since.is_some_and(|since| now - since >= HYST), "seed {seed} step {step}: too soon");
                }
                well_since = if own == Fit::Yes { well_since.or(Some(now)) } else { None };
                assert!(wakeup.is_none_or(|w| w > now), "seed {seed} step {step}: a wake-up in the past");
            }
            let all = seen(Fit::Yes, &[("a", Fit::Yes, 1), ("b", Fit::Yes, 2)]);
            m.step(now, HYST, measured, &all);
            m.step(now + HYST, HYST, measured, &all);
            assert_eq!(at(&m), "own", "seed {seed}");
        }
    }
}
