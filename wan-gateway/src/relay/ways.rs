//! Which sites are linked through others, through which, and when that changes.
//!
//! A machine: [`Relays::look`] is shown the links there are and the ways there would be, and says what to dial and what to give up.
//! One relayed link to a site is enough. The end with the lesser name dials it; the other end does so only when that does not come
//! about. Where both did, the end with the lesser name says which one stays: were each to judge by what it measures, both might go, or
//! neither. It is dialled anew, over another way, at once when its way breaks, and when another way is cheaper by a margin; such
//! changes of mind become rarer the more of them there were. A direct link that lasts ends it.
//!
//! What is to be re-routed within a second can't wait until a link is surely bad. As soon as a sign of life is overdue, on a relayed link
//! or on the only direct one, a way that avoids it is made beside it; what is not needed after all is given up like any surplus.
//!
//! Few sites are linked ahead of need. Where there are more than [`READY`], as between the spokes of a large hub, a link is made when a
//! call asks for it and given up when it carried nothing for [`IDLE`]: all pairs of fifty sites would be 1,225 links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use crate::link::{ConnId, State};
use crate::path::{Table, Way};

/// Who has the greater name waits so long for the other end to dial.
const POLITE: Duration = Duration::from_millis(300);
/// A direct link has lasted after this; until then the relayed one stays beside it.
const LASTING: Duration = Duration::from_secs(3);
/// A way that failed is avoided for so long; doubles up to [`AVOID_MAX`].
const AVOID_MIN: Duration = Duration::from_millis(200);
const AVOID_MAX: Duration = Duration::from_secs(10);
/// Time for a dial, besides four round trips.
const DEADLINE: Duration = Duration::from_millis(1000);
/// A dial whose end was never told is given up this long after its deadline.
const SLACK: Duration = Duration::from_secs(1);
/// Between two changes of mind; doubles up to [`HOLD_MAX`], and begins anew after as long a rest.
const HOLD_MIN: Duration = Duration::from_secs(2);
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Of two links one is given up when both have worked for so long.
const SETTLED: Duration = Duration::from_secs(1);
/// Up to so many sites are linked through others ahead of need.
pub const READY: usize = 16;
/// Beyond them, a link that carries nothing for so long is given up.
pub const IDLE: Duration = Duration::from_secs(300);
/// Sites that may be linked through others at once.
pub const MAX_TARGETS: usize = 256;
/// Numbers of attempts begin here, apart from those of direct dials.
const FIRST_ATTEMPT: u64 = 1 << 63;

/// A relayed link that there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The connection.
    pub conn: ConnId,
    /// The site at its far end.
    pub datacenter: String,
    /// Our neighbour on its way.
    pub via: String,
    /// Whether we dialled it.
    pub ours: bool,
    /// How it is.
    pub state: State,
    /// Round trip, once one was measured.
    pub rtt: Option<Duration>,
    /// Since when it carried no call.
    pub idle: Duration,
    /// Links that it was made of when we dialled it; `None`: the other end did.
    pub hops: Option<u32>,
    /// Whether a sign of life is overdue.
    pub silent: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Ask the neighbour `via` for a stream to `target`, and say how it went.
    Dial {
        /// The site to link to.
        target: String,
        /// The next hop.
        via: String,
        /// To tell a late answer from a current one.
        attempt: u64,
        /// Time for all of it.
        deadline: Duration,
    },
    /// Take nothing new on this link, let what is under way finish, and close it.
    Retire(ConnId),
}

/// Whether another way is worth the change.
pub fn cheaper(new: Duration, old: Duration) -> bool {
    new + new / 4 + Duration::from_millis(10) < old
}

#[derive(Debug)]
struct Attempt {
    number: u64,
    via: String,
    hops: u32,
    until: Instant,
}

#[derive(Debug)]
struct Aim {
    attempt: Option<Attempt>,
    /// Since when no relayed link works; `None`: one does.
    missing: Option<Instant>,
    /// Whether one that we dialled broke: then nobody need wait for the other end.
    broke: bool,
    /// Ways that failed: until when they are avoided, how long that was, and why.
    avoid: BTreeMap<String, (Instant, Duration, String)>,
    /// No change of mind before this.
    hold: Instant,
    pause: Duration,
    /// No way beside a silent one before this, and for how long not after the next.
    ahead: (Instant, Duration),
    /// Since when a direct link works.
    direct: Option<Instant>,
    /// Since when there are two relayed links.
    double: Option<Instant>,
    /// When a call asked for it last.
    asked: Option<Instant>,
    /// Whether there are ways through other sites, and none without.
    relayed: bool,
}

impl Aim {
    fn new(now: Instant) -> Self {
        Self {
            attempt: None,
            missing: None,
            broke: false,
            avoid: BTreeMap::new(),
            hold: now,
            pause: HOLD_MIN,
            ahead: (now, HOLD_MIN),
            direct: None,
            double: None,
            asked: None,
            relayed: false,
        }
    }

    /// A way around what is silent, if there was none made for it lately.
    fn around<'a>(&mut self, now: Instant, ways: &[&'a Way], silent: impl Fn(&str) -> bool) -> Option<&'a Way> {
        let (since, pause) = self.ahead;
        let ways: Vec<&Way> = ways.iter().filter(|w| !silent(&w.via)).copied().collect();
        let way = self.way(now, &ways).filter(|_| now >= since)?;
        let pause = if now.saturating_duration_since(since) > HOLD_MAX { HOLD_MIN } else { (pause * 2).min(HOLD_MAX) };
        self.ahead = (now + pause, pause);
        Some(way)
    }

    /// The cheapest way that did not fail just now; where all did, the one that is to be tried again first, once it is time.
    fn way<'a>(&self, now: Instant, ways: &[&'a Way]) -> Option<&'a Way> {
        ways.iter().find(|w| self.avoid.get(&w.via).is_none_or(|(until, _, _)| *until <= now)).copied()
    }
}

/// The machine.
#[derive(Debug)]
pub struct Relays {
    own: String,
    aims: BTreeMap<String, Aim>,
    attempts: u64,
    rng: StdRng,
}

impl Relays {
    /// For a gateway of this datacenter.
    pub fn new(own: &str, rng: StdRng) -> Self {
        Self { own: own.to_owned(), aims: BTreeMap::new(), attempts: FIRST_ATTEMPT, rng }
    }

    /// What is to be done now. `table`: ways over direct links that work; `links`: relayed links, in any state; `silent`: neighbours of
    /// whom a sign of life is overdue.
    pub fn look(&mut self, now: Instant, table: &Table, links: &[Relay], silent: &BTreeSet<String>) -> Vec<Do> {
        let linked = |dc: &str| links.iter().any(|l| l.datacenter == dc);
        self.aims.retain(|dc, _| table.contains_key(dc) || linked(dc));
        for (dc, ways) in table {
            let relayed = ways.iter().all(|w| w.hops > 1);
            if (relayed || linked(dc) || silent.contains(dc)) && self.aims.len() < MAX_TARGETS {
                self.aims.entry(dc.clone()).or_insert_with(|| Aim::new(now));
            }
        }
        let far = |ways: &Vec<Way>| !ways.is_empty() && ways.iter().all(|w| w.hops > 1);
        let ahead = table.values().filter(|ways| far(ways)).count() <= READY;
        let mut todo = Vec::new();
        for (target, aim) in &mut self.aims {
            aim.relayed = table.get(target).is_some_and(far);
            let all = table.get(target).map_or(&[][..], Vec::as_slice);
            let ways: Vec<&Way> = all.iter().filter(|w| w.hops > 1).collect();
            // Those that were given up are nobody's concern.
            let given_up = |l: &Relay| matches!(l.state, State::Draining | State::Closed);
            let mine: Vec<&Relay> = links.iter().filter(|l| l.datacenter == *target && !given_up(l)).collect();
            let up: Vec<&Relay> = mine.iter().filter(|l| l.state == State::Up).copied().collect();
            if all.iter().any(|w| w.hops == 1) {
                // Direct is better, if it lasts.
                let since = *aim.direct.get_or_insert(now);
                if silent.contains(target) {
                    aim.direct = Some(now);
                    let dial = mine.is_empty() && aim.attempt.is_none();
                    if let Some(way) = dial.then(|| aim.around(now, &ways, |via| silent.contains(via))).flatten() {
                        todo.push(begin(now, aim, &mut self.attempts, target, way));
                    }
                } else if now.saturating_duration_since(since) >= LASTING {
                    aim.attempt = None;
                    aim.missing = None;
                    todo.extend(up.iter().filter(|l| l.ours).map(|l| Do::Retire(l.conn)));
                }
                continue;
            }
            aim.direct = None;
            if aim.attempt.as_ref().is_some_and(|a| now >= a.until) {
                let number = aim.attempt.as_ref().map_or(0, |a| a.number);
                fail(aim, now, number, "no answer from the dialler".to_owned(), &mut self.rng);
            }
            // The neighbour that was asked is gone: there is nothing to wait for.
            if aim.attempt.as_ref().is_some_and(|a| ways.iter().all(|w| w.via != a.via)) {
                aim.attempt = None;
            }
            let lesser = self.own.as_str() < target.as_str();
            let asked = aim.asked.is_some_and(|at| now.saturating_duration_since(at) < IDLE);
            let idle = up.iter().all(|l| l.idle >= IDLE);
            if !ahead && !asked && idle {
                aim.missing = None;
                todo.extend(up.iter().filter(|l| l.ours).map(|l| Do::Retire(l.conn)));
                continue;
            }
            // Who is asked for it does not wait for the other end, which may not want it.
            aim.broke |= !ahead && asked;
            let wanted = wanted(now, aim, lesser, &ways, &up, silent, mine.iter().any(|l| l.ours));
            // One that is being set up is waited for, unless its neighbour is gone. The other end's is waited for by one end only.
            let coming = mine
                .iter()
                .any(|l| l.state == State::Greeting && (l.ours || !lesser) && ways.iter().any(|w| w.via == l.via));
            if let (Some(way), None, false) = (wanted, &aim.attempt, coming) {
                todo.push(begin(now, aim, &mut self.attempts, target, way));
            }
            if up.len() < 2 {
                aim.double = None;
            } else if now.saturating_duration_since(*aim.double.get_or_insert(now)) >= SETTLED {
                aim.double = None;
                if lesser {
                    todo.extend(surplus(&ways, &up).map(Do::Retire));
                }
            }
        }
        todo
    }

    /// A call wants a link to a site, and there is none.
    pub fn asked(&mut self, now: Instant, target: &str) {
        if let Some(aim) = self.aims.get_mut(target) {
            aim.asked = Some(now);
        }
    }

    /// Sites without a direct link to which there may be one through another site in a moment, and whether nothing ever spoke against
    /// it: no dial failed since the last one that did not.
    pub fn promising(&self, now: Instant) -> impl Iterator<Item = (&str, bool)> {
        let open = move |aim: &Aim| aim.attempt.is_some() || aim.avoid.values().all(|(until, _, _)| *until <= now);
        let far = self.aims.iter().filter(|(_, aim)| aim.relayed);
        far.filter(move |(_, aim)| open(aim)).map(|(target, aim)| (target.as_str(), aim.avoid.is_empty()))
    }

    /// A dial ended without a link.
    pub fn failed(&mut self, now: Instant, target: &str, attempt: u64, why: String) {
        if let Some(aim) = self.aims.get_mut(target) {
            fail(aim, now, attempt, why, &mut self.rng);
        }
    }

    /// A dial brought a connection, which is shown to [`Relays::look`] from now on. Gives the links that its way is made of, where
    /// that is still known.
    pub fn connected(&mut self, target: &str, attempt: u64) -> Option<u32> {
        let aim = self.aims.get_mut(target)?;
        let made = aim.attempt.take_if(|a| a.number == attempt)?;
        aim.avoid.remove(&made.via);
        Some(made.hops)
    }

    /// Why the last dial through a neighbour failed, for as long as it is avoided.
    pub fn error(&self, now: Instant, target: &str, via: &str) -> Option<&str> {
        let (until, _, why) = self.aims.get(target)?.avoid.get(via)?;
        (*until > now).then_some(why.as_str())
    }

    /// The last error of any way to a site.
    pub fn last_error(&self, target: &str) -> Option<&str> {
        self.aims.get(target)?.avoid.values().max_by_key(|(until, _, _)| *until).map(|(_, _, why)| why.as_str())
    }

    /// When [`Relays::look`] is due at the latest.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let pause = |aim: &Aim| {
            let missing = aim.missing?;
            let polite = missing + POLITE;
            let again = aim.avoid.values().map(|(until, _, _)| *until).min();
            [Some(polite), again].into_iter().flatten().filter(|at| *at > now).min()
        };
        self.aims.values().filter(|aim| aim.attempt.is_none()).filter_map(pause).min()
    }
}

fn begin(now: Instant, aim: &mut Aim, attempts: &mut u64, target: &str, way: &Way) -> Do {
    *attempts += 1;
    let deadline = DEADLINE + way.cost * 4;
    let (number, until) = (*attempts, now + deadline + SLACK);
    aim.attempt = Some(Attempt { number, via: way.via.clone(), hops: way.hops, until });
    Do::Dial { target: target.to_owned(), via: way.via.clone(), attempt: number, deadline }
}

/// The way to dial now, if any.
fn wanted<'a>(
    now: Instant,
    aim: &mut Aim,
    lesser: bool,
    ways: &[&'a Way],
    up: &[&Relay],
    silent: &BTreeSet<String>,
    ours: bool,
) -> Option<&'a Way> {
    let way_of = |link: &Relay| ways.iter().find(|w| w.via == link.via).copied();
    let sound: Vec<&&Relay> = up.iter().filter(|l| way_of(l).is_some()).collect();
    let best = aim.way(now, ways);
    if sound.is_empty() {
        // None works, or what works has lost its way and will break: at once, but not from both ends.
        let since = *aim.missing.get_or_insert(now);
        aim.broke |= ours;
        let wait = !(lesser || aim.broke) && now.saturating_duration_since(since) < POLITE;
        return best.filter(|_| !wait);
    }
    aim.missing = None;
    aim.broke = false;
    if sound.iter().all(|l| l.silent || silent.contains(&l.via)) {
        if !(lesser || ours) {
            return None;
        }
        return aim.around(now, ways, |via| silent.contains(via) || sound.iter().any(|l| l.via == via));
    }
    let best = best?;
    let cost = |l: &Relay| {
        let told = way_of(l).map_or(Duration::ZERO, |w| w.cost);
        l.rtt.map_or(told, |rtt| rtt.max(told))
    };
    let current = sound.iter().map(|l| cost(l)).min()?;
    if !lesser || !cheaper(best.cost, current) || now < aim.hold {
        return None;
    }
    // A link of two hops is as short as its neighbour makes it: what it seems to take more is the work at its ends.
    if sound.iter().any(|l| l.via == best.via && l.hops == Some(2)) {
        return None;
    }
    let rest = now.saturating_duration_since(aim.hold);
    aim.pause = if rest > HOLD_MAX { HOLD_MIN } else { (aim.pause * 2).min(HOLD_MAX) };
    aim.hold = now + aim.pause;
    Some(best)
}

/// Of several links that work, all but one: the oldest of those that have their way still and are about as near as the nearest.
fn surplus<'a>(ways: &[&Way], up: &'a [&'a Relay]) -> impl Iterator<Item = ConnId> + 'a {
    let sound = |l: &&&Relay| ways.iter().any(|w| w.via == l.via);
    let rtt = |l: &Relay| l.rtt.unwrap_or(Duration::MAX);
    let any_sound = up.iter().any(|l| sound(&l));
    let fit: Vec<&&Relay> = up.iter().filter(|l| sound(l) || !any_sound).collect();
    let nearest = fit.iter().map(|l| rtt(l)).min().unwrap_or_default();
    let stays = fit.iter().filter(|l| rtt(l) == nearest || !cheaper(nearest, rtt(l))).map(|l| l.conn).min();
    up.iter().map(|l| l.conn).filter(move |conn| Some(*conn) != stays)
}

fn fail(aim: &mut Aim, now: Instant, attempt: u64, why: String, rng: &mut StdRng) {
    let Some(failed) = aim.attempt.take_if(|a| a.number == attempt) else { return };
    let before = aim.avoid.get(&failed.via).map_or(Duration::ZERO, |(_, pause, _)| *pause);
    let pause = (before * 2).clamp(AVOID_MIN, AVOID_MAX);
    let until = now + pause.mul_f64(rng.random_range(0.6..1.0));
    aim.avoid.insert(failed.via, (until, pause, why));
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn relays(own: &str) -> Relays {
        Relays::new(own, StdRng::seed_from_u64(1))
    }

    fn table(ways: &[(&str, u64, u32)]) -> Table {
        let way =
            |(via, cost, hops): &(&str, u64, u32)| Way { conn: 1, via: (*via).into(), cost: ms(*cost), hops: *hops };
        Table::from([("m".to_owned(), ways.iter().map(way).collect())])
    }

    fn relay(conn: ConnId, via: &str, ours: bool, rtt: u64) -> Relay {
        let rtt = Some(ms(rtt));
        let hops = ours.then_some(3);
        let silent = false;
        Relay { conn, datacenter: "m".into(), via: via.into(), ours, state: State::Up, rtt, idle: ms(0), hops, silent }
    }

    fn nobody() -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn dials(todo: &[Do]) -> Vec<&str> {
        todo.iter().filter_map(|d| if let Do::Dial { via, .. } = d { Some(via.as_str()) } else { None }).collect()
    }

    #[test]
    fn the_lesser_dials_at_once_and_the_greater_only_when_that_does_not_come_about() {
        let now = start();
        let ways = table(&[("b", 20, 2), ("c", 40, 2)]);
        let mut lesser = relays("a");
        assert_eq!(dials(&lesser.look(now, &ways, &[], &nobody())), ["b"]);
        assert_eq!(lesser.look(now, &ways, &[], &nobody()), [], "one at a time");
        let mut greater = relays("z");
        assert_eq!(greater.look(now, &ways, &[], &nobody()), []);
        assert_eq!(greater.next_wakeup(now), Some(now + POLITE));
        assert_eq!(dials(&greater.look(now + POLITE, &ways, &[], &nobody())), ["b"]);
    }

    #[test]
    fn a_way_that_fails_is_passed_by_and_tried_again_later() {
        let mut now = start();
        let ways = table(&[("b", 20, 2), ("c", 40, 2)]);
        let mut a = relays("a");
        for round in 0..20 {
            let todo = a.look(now, &ways, &[], &nobody());
            for d in &todo {
                let Do::Dial { attempt, via, .. } = d else { panic!("{d:?}") };
                a.failed(now, "m", *attempt, format!("{via} says no"));
            }
            if round == 0 {
                assert_eq!(dials(&todo), ["b"]);
            } else if round == 1 {
                assert_eq!(dials(&todo), ["c"]);
                assert_eq!(a.error(now, "m", "b"), Some("b says no"));
            } else {
                assert!(todo.len() <= 1);
            }
            now += ms(50);
        }
        assert_eq!(dials(&a.look(now + AVOID_MAX, &ways, &[], &nobody())), ["b"]);
    }

    #[test]
    fn a_broken_way_is_left_at_once_and_a_dear_one_when_it_pays() {
        let now = start();
        let mut a = relays("a");
        let both = table(&[("b", 20, 2), ("c", 40, 2)]);
        // What is measured decides, and what is told where it says more.
        assert_eq!(a.look(now, &both, &[relay(1, "b", true, 22)], &nobody()), []);
        let near = table(&[("b", 20, 2), ("c", 33, 2)]);
        assert_eq!(a.look(now, &near, &[relay(1, "c", true, 33)], &nobody()), [], "within the margin");
        let direct = Relay { hops: Some(2), ..relay(1, "b", true, 500) };
        assert_eq!(a.look(now, &table(&[("b", 20, 2), ("c", 490, 2)]), &[direct], &nobody()), [], "b has no other way");
        assert_eq!(
            dials(&a.look(now, &both, &[relay(1, "b", true, 500)], &nobody())),
            ["b"],
            "it may go another way behind b"
        );
        let mut a = relays("a");
        assert_eq!(
            dials(&a.look(now, &table(&[("c", 40, 2), ("b", 300, 2)]), &[relay(1, "b", true, 20)], &nobody())),
            ["c"]
        );
        let mut a = relays("a");
        assert_eq!(dials(&a.look(now, &table(&[("c", 40, 2)]), &[relay(1, "b", true, 20)], &nobody())), ["c"]);
        // Its state says so too.
        let mut z = relays("z");
        let broken = Relay { state: State::Suspected, ..relay(1, "b", true, 20) };
        assert_eq!(dials(&z.look(now, &both, &[broken], &nobody())), ["b"]);
    }

    #[test]
    fn changes_of_mind_become_rare() {
        let begin = start();
        let mut a = relays("a");
        let mut changes = 0;
        for tick in 0..1200_u64 {
            let now = begin + ms(250) * u32::try_from(tick).unwrap();
            // Whichever way it takes turns out to be dear.
            let todo = a.look(now, &table(&[("c", 20, 2), ("b", 30, 2)]), &[relay(tick, "b", true, 400)], &nobody());
            for d in todo {
                if let Do::Dial { attempt, .. } = d {
                    changes += 1;
                    a.connected("m", attempt);
                }
            }
        }
        assert!((5..=12).contains(&changes), "{changes} in five minutes");
    }

    #[test]
    fn a_direct_link_that_lasts_ends_it_and_one_that_flaps_does_not() {
        let now = start();
        let mut a = relays("a");
        let link = [relay(1, "b", true, 20)];
        let direct = table(&[("m", 5, 1), ("b", 20, 2)]);
        let none = table(&[("b", 20, 2)]);
        assert_eq!(a.look(now, &direct, &link, &nobody()), []);
        assert_eq!(a.look(now + ms(2900), &none, &link, &nobody()), []);
        assert_eq!(a.look(now + ms(3100), &direct, &link, &nobody()), []);
        assert_eq!(a.look(now + ms(6200), &direct, &link, &nobody()), [Do::Retire(1)]);
        assert_eq!(a.look(now + ms(6300), &direct, &[], &nobody()), []);
        // The other end's is the other end's to end.
        let theirs = [relay(1, "b", false, 20)];
        assert_eq!(a.look(now + ms(9300), &direct, &theirs, &nobody()), []);
    }

    #[test]
    fn of_several_links_one_stays_and_one_end_says_which() {
        for (theirs, ours) in [(20, 20), (20, 22), (22, 20), (20, 500), (500, 20), (100, 130), (130, 100), (40, 55)] {
            let now = start();
            let told = theirs.min(ours);
            let ways = table(&[("b", told, 2), ("c", told, 2)]);
            let mut gone = Vec::new();
            for (own, mine, other) in [("a", ours, theirs), ("z", theirs, ours)] {
                let mut end = relays(own);
                let links = [relay(1, "b", own == "a", mine), relay(2, "c", own == "z", other)];
                assert_eq!(end.look(now, &ways, &links, &nobody()), []);
                gone.extend(end.look(now + SETTLED, &ways, &links, &nobody()));
            }
            let goes = if cheaper(ms(theirs), ms(ours)) { 1 } else { 2 };
            assert_eq!(gone, [Do::Retire(goes)], "{ours} {theirs}");
        }
        // The one that has lost its way goes, however near it was.
        let now = start();
        let mut a = relays("a");
        let links = [relay(1, "b", true, 5), relay(2, "c", false, 60), relay(3, "c", false, 50)];
        let ways = table(&[("c", 60, 2)]);
        a.look(now, &ways, &links, &nobody());
        assert_eq!(a.look(now + SETTLED, &ways, &links, &nobody()), [Do::Retire(1), Do::Retire(3)]);
        // What was given up neither counts nor is given up again.
        let draining = Relay { state: State::Draining, ..relay(1, "c", true, 5) };
        let mut z = relays("z");
        for i in 0..10 {
            assert_eq!(z.look(now + ms(500) * i, &ways, &[draining.clone(), relay(2, "c", false, 60)], &nobody()), []);
        }
    }

    #[test]
    fn who_waits_for_the_other_end_sees_its_link_come() {
        let now = start();
        let ways = table(&[("b", 20, 2)]);
        let coming = Relay { state: State::Greeting, ..relay(1, "b", false, 20) };
        assert_eq!(relays("z").look(now + POLITE, &ways, std::slice::from_ref(&coming), &nobody()), []);
        let mut z = relays("z");
        z.look(now, &ways, &[], &nobody());
        assert_eq!(z.look(now + POLITE, &ways, std::slice::from_ref(&coming), &nobody()), [], "nearly there");
        assert_eq!(dials(&relays("a").look(now, &ways, &[coming], &nobody())), ["b"], "one end waits for none");
    }

    #[test]
    fn a_site_that_is_gone_is_forgotten() {
        let now = start();
        let mut a = relays("a");
        a.look(now, &table(&[("b", 20, 2)]), &[], &nobody());
        assert_eq!(a.look(now, &Table::new(), &[], &nobody()), []);
        assert!(a.aims.is_empty());
    }

    #[test]
    fn of_many_sites_only_those_asked_for_are_linked() {
        let t0 = start();
        let mut relays = relays("z");
        let way = |dc: usize| (format!("s{dc}"), vec![Way { conn: 1, via: "hub".into(), cost: ms(20), hops: 2 }]);
        let few: Table = (0..READY).map(way).collect();
        assert_eq!(relays.look(t0 + POLITE, &few, &[], &nobody()).len(), 0, "the other end has the lesser name");
        assert_eq!(relays.look(t0 + POLITE * 2, &few, &[], &nobody()).len(), READY);
        let many: Table = (0..50).map(way).collect();
        let mut relays = super::Relays::new("z", StdRng::seed_from_u64(1));
        for i in 0..10 {
            assert!(relays.look(t0 + ms(i * 500), &many, &[], &nobody()).is_empty());
        }
        let now = t0 + ms(5000);
        let promising: Vec<(&str, bool)> = relays.promising(now).collect();
        assert!(promising.len() == 50 && promising.iter().all(|(_, sound)| *sound));
        relays.asked(now, "s7");
        let todo = relays.look(now, &many, &[], &nobody());
        let [Do::Dial { target, attempt, .. }] = todo.as_slice() else { panic!("{todo:?}") };
        assert_eq!(target, "s7", "at once, whoever has the lesser name");
        let attempt = *attempt;
        relays.failed(now, "s7", attempt, "no".into());
        assert_eq!(relays.promising(now).count(), 49, "nobody waits for what failed just now");
        relays.look(now + ms(200), &many, &[], &nobody());
        relays.connected("s7", attempt + 1);
        // It stays while it is used, whoever made it, and for a while after that.
        let link = |idle| Relay { datacenter: "s7".into(), via: "hub".into(), idle, ..relay(9, "hub", true, 20) };
        assert!(relays.look(now + IDLE * 2, &many, &[link(IDLE / 2)], &nobody()).is_empty());
        assert_eq!(relays.look(now + IDLE * 3, &many, &[link(IDLE)], &nobody()), [Do::Retire(9)]);
    }

    #[test]
    fn a_way_is_made_beside_what_is_silent_and_not_over_and_over() {
        let now = start();
        let both = table(&[("b", 20, 2), ("c", 40, 2)]);
        let silent = Relay { silent: true, ..relay(1, "b", true, 20) };
        let mut a = relays("a");
        assert_eq!(dials(&a.look(now, &both, std::slice::from_ref(&silent), &nobody())), ["c"]);
        let number = a.attempts;
        a.connected("m", number);
        let beside = [silent.clone(), relay(2, "c", true, 40)];
        assert_eq!(a.look(now + ms(100), &both, &beside, &nobody()), []);
        let back = [relay(1, "b", true, 20), relay(2, "c", true, 40)];
        assert_eq!(a.look(now + ms(200), &both, &back, &nobody()), []);
        assert_eq!(a.look(now + ms(1300), &both, &back, &nobody()), [Do::Retire(2)]);
        assert_eq!(
            a.look(now + ms(1400), &both, std::slice::from_ref(&silent), &nobody()),
            [],
            "rarer the more there were"
        );
        assert_eq!(dials(&a.look(now + ms(4400), &both, std::slice::from_ref(&silent), &nobody())), ["c"]);
        // The neighbour's own link says so as well, and there may be no other.
        let b = BTreeSet::from(["b".to_owned()]);
        assert_eq!(dials(&relays("a").look(now, &both, &[relay(1, "b", true, 20)], &b)), ["c"]);
        assert_eq!(relays("a").look(now, &table(&[("b", 20, 2)]), &[silent], &nobody()), []);
        assert_eq!(relays("z").look(now, &both, &[Relay { silent: true, ..relay(1, "b", false, 20) }], &nobody()), []);
    }

    #[test]
    fn a_way_is_made_beside_a_direct_link_that_is_silent() {
        let now = start();
        let ways = table(&[("m", 20, 1), ("c", 40, 2)]);
        let m = BTreeSet::from(["m".to_owned()]);
        let mut a = relays("z");
        assert_eq!(a.look(now, &ways, &[], &nobody()), []);
        assert_eq!(dials(&a.look(now + ms(100), &ways, &[], &m)), ["c"]);
        let number = a.attempts;
        a.connected("m", number);
        let relayed = [relay(2, "c", true, 40)];
        assert_eq!(a.look(now + ms(200), &ways, &relayed, &m), []);
        assert_eq!(a.look(now + ms(3000), &ways, &relayed, &nobody()), [], "it must last");
        assert_eq!(a.look(now + ms(3300), &ways, &relayed, &nobody()), [Do::Retire(2)]);
    }
}
