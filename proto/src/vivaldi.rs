//! Network coordinates: the round trip between any two nodes, estimated from few that were measured.
//!
//! Vivaldi (Dabek and others, SIGCOMM 2004) with height, as Serf runs it, whose constants these are: a window of what estimates were off by
//! (Ledlie and others, NSDI 2007), a median of the last round trips to each node, and a weak pull to the origin, so that all
//! coordinates together do not drift. Pure: round trips come in, and chance is the caller's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::coordinate::Coordinate;

/// Dimensions of the space; heights come on top.
pub const DIMENSIONS: usize = 8;
/// An error of this says that nothing is known.
const ERROR_MAX: f64 = 1.5;
/// How much a measurement moves the error at most.
const CE: f64 = 0.25;
/// How much it moves the coordinate at most.
const CC: f64 = 0.25;
/// Measurements that the adjustment is made from.
const WINDOW: usize = 20;
/// No height is less: an access link takes some time.
const HEIGHT_MIN: f64 = 10e-6;
/// Round trips to a node of which the median counts.
const LATENCIES: usize = 3;
/// Weakness of the pull to the origin.
const GRAVITY_RHO: f64 = 150.0;
/// Less than this is nothing, in seconds.
const ZERO: f64 = 1e-6;
/// A round trip that is longer is no measurement.
const LONGEST: Duration = Duration::from_secs(10);
/// Nodes whose last round trips are remembered at most.
const NODES: usize = 32_768;

/// Why a measurement did not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The other's coordinate has other dimensions.
    #[error("the coordinate has other dimensions")]
    Dimensions,
    /// Not all of it is a number.
    #[error("the coordinate is not made of numbers")]
    Invalid,
    /// Longer than any round trip.
    #[error("a round trip of more than 10 s is no measurement")]
    TooLong,
}

/// Whether the estimates that are made with it make sense.
pub fn check(coord: &Coordinate) -> Result<(), Refused> {
    if coord.vec.len() != DIMENSIONS {
        return Err(Refused::Dimensions);
    }
    let rest = [coord.error, coord.adjustment, coord.height];
    if coord.vec.iter().chain(&rest).all(|n| n.is_finite()) { Ok(()) } else { Err(Refused::Invalid) }
}

/// Where a node is of which nothing is known.
pub fn unknown() -> Coordinate {
    Coordinate { vec: vec![0.0; DIMENSIONS], error: ERROR_MAX, adjustment: 0.0, height: HEIGHT_MIN }
}

fn straight(a: &Coordinate, b: &Coordinate) -> f64 {
    a.vec.iter().zip(&b.vec).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt() + a.height + b.height
}

/// The estimated round trip in seconds; `None`: the two are not of the same space.
pub fn distance(a: &Coordinate, b: &Coordinate) -> Option<f64> {
    if a.vec.len() != b.vec.len() {
        return None;
    }
    let raw = straight(a, b);
    let adjusted = raw + a.adjustment + b.adjustment;
    Some(if adjusted > 0.0 { adjusted } else { raw })
}

/// The coordinate of one node as it learns of round trips to others.
#[derive(Debug, Clone)]
pub struct Vivaldi {
    coord: Coordinate,
    /// What estimates were off by, a ring.
    off: [f64; WINDOW],
    at: usize,
    latencies: HashMap<Arc<str>, VecDeque<f64>>,
    resets: u64,
}

impl Default for Vivaldi {
    fn default() -> Self {
        Self { coord: unknown(), off: [0.0; WINDOW], at: 0, latencies: HashMap::new(), resets: 0 }
    }
}

impl Vivaldi {
    /// Where the node is.
    pub fn coordinate(&self) -> &Coordinate {
        &self.coord
    }

    /// How often it began anew, because what came out was no number.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Forgets the round trips to all nodes but these.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.latencies.retain(|name, _| keep(name));
    }

    /// A round trip to a node with that coordinate. `chance`: numbers from 0 to 1, for a direction where two are at one place.
    pub fn update(
        &mut self,
        node: &Arc<str>,
        other: &Coordinate,
        rtt: Duration,
        mut chance: impl FnMut() -> f64,
    ) -> Result<(), Refused> {
        check(other)?;
        if rtt > LONGEST {
            return Err(Refused::TooLong);
        }
        let rtt = self.filtered(node, rtt.as_secs_f64());
        self.pull(other, rtt, &mut chance);
        // The adjustment is about what the space alone does not explain.
        self.off[self.at] = rtt - straight(&self.coord, other);
        self.at = (self.at + 1) % WINDOW;
        self.coord.adjustment = self.off.iter().sum::<f64>() / (2.0 * WINDOW as f64);
        let origin = unknown();
        let away = distance(&origin, &self.coord).unwrap_or_default();
        self.push(-(away / GRAVITY_RHO).powi(2), &origin, &mut chance);
        if check(&self.coord).is_err() {
            self.resets += 1;
            self.coord = unknown();
            self.off = [0.0; WINDOW];
        }
        Ok(())
    }

    /// The median of the last round trips to a node.
    fn filtered(&mut self, node: &Arc<str>, rtt: f64) -> f64 {
        if self.latencies.len() >= NODES && !self.latencies.contains_key(node) {
            return rtt;
        }
        let last = self.latencies.entry(Arc::clone(node)).or_default();
        last.push_back(rtt);
        if last.len() > LATENCIES {
            last.pop_front();
        }
        let mut sorted: Vec<f64> = last.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(rtt)
    }

    fn pull(&mut self, other: &Coordinate, rtt: f64, chance: &mut impl FnMut() -> f64) {
        let estimate = distance(&self.coord, other).unwrap_or_default();
        let rtt = rtt.max(ZERO);
        let wrong = (estimate - rtt).abs() / rtt;
        // Who is surer than the other moves less.
        let weight = self.coord.error / (self.coord.error + other.error.max(0.0)).max(ZERO);
        let error = CE * weight * wrong + self.coord.error * (1.0 - CE * weight);
        self.coord.error = error.min(ERROR_MAX);
        self.push(CC * weight * (rtt - estimate), other, chance);
    }

    /// Away from the other with this force, or (negative) towards it.
    fn push(&mut self, force: f64, other: &Coordinate, chance: &mut impl FnMut() -> f64) {
        let mut away: Vec<f64> = self.coord.vec.iter().zip(&other.vec).map(|(a, b)| a - b).collect();
        let length = |v: &[f64]| v.iter().map(|n| n * n).sum::<f64>().sqrt();
        let apart = length(&away);
        let mut size = apart;
        if apart <= ZERO {
            // At one place: any direction is as good.
            away = (0..DIMENSIONS).map(|_| chance() - 0.5).collect();
            size = length(&away);
        }
        if size > ZERO {
            for (own, unit) in self.coord.vec.iter_mut().zip(&away) {
                *own += unit / size * force;
            }
        } else if let Some(first) = self.coord.vec.first_mut() {
            *first += force;
        }
        if apart > ZERO {
            let height = (self.coord.height + other.height) * force / apart + self.coord.height;
            self.coord.height = height.max(HEIGHT_MIN);
        }
    }
}

/// Coordinates for places between which round trips in seconds are known: each place learns of all of its round trips, again and
/// again. The same input gives the same coordinates anywhere. Places without any round trip stay where nothing is known.
pub fn embed(places: usize, rtts: &[(usize, usize, f64)]) -> Vec<Coordinate> {
    let mut all = vec![Vivaldi::default(); places];
    let names: Vec<Arc<str>> = (0..places).map(|n| n.to_string().into()).collect();
    // A few hundred rounds settle a handful of places; a hundred places have measurements enough in a few dozen.
    let rounds = (100_000 / rtts.len().max(1)).clamp(20, 400);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chance = || {
        // xorshift64: any direction will do.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as f64 / (1_u64 << 53) as f64
    };
    for _ in 0..rounds {
        for (a, b, rtt) in rtts {
            for (own, other) in [(*a, *b), (*b, *a)] {
                let Some(to) = all.get(other).map(|v| v.coord.clone()) else { continue };
                let (Some(place), Some(name)) = (all.get_mut(own), names.get(other)) else { continue };
                // A round trip that is no measurement is as good as none.
                let _ = place.update(name, &to, Duration::try_from_secs_f64(*rtt).unwrap_or_default(), &mut chance);
            }
        }
    }
    all.into_iter().map(|v| v.coord).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    /// Nodes on a plane, each behind an access link of its own, with jitter on each round trip: the median estimate comes close.
    #[test]
    fn a_grid_is_found_again() {
        for seed in 1..=8 {
            let mut dice = Dice(seed);
            let nodes: Vec<(f64, f64, f64)> = (0..25)
                .map(|n| (f64::from(n % 5) * 0.01, f64::from(n / 5) * 0.01, 0.000_2 + dice.roll() * 0.002))
                .collect();
            let truth = |a: usize, b: usize| {
                let ((ax, ay, ah), (bx, by, bh)) = (nodes[a], nodes[b]);
                ((ax - bx).powi(2) + (ay - by).powi(2)).sqrt() + ah + bh
            };
            let mut all = vec![Vivaldi::default(); nodes.len()];
            let names: Vec<Arc<str>> = (0..nodes.len()).map(|n| n.to_string().into()).collect();
            for _ in 0..400 {
                for own in 0..nodes.len() {
                    let other = (dice.roll() * nodes.len() as f64) as usize;
                    if own == other {
                        continue;
                    }
                    let jitter = if dice.roll() < 0.02 { 3.0 } else { 1.0 + dice.roll() * 0.05 };
                    let to = all[other].coordinate().clone();
                    let rtt = Duration::from_secs_f64(truth(own, other) * jitter);
                    all[own].update(&names[other], &to, rtt, || dice.roll()).unwrap();
                }
            }
            let mut wrong = Vec::new();
            for a in 0..nodes.len() {
                for b in 0..a {
                    let estimate = distance(all[a].coordinate(), all[b].coordinate()).unwrap();
                    wrong.push((estimate - truth(a, b)).abs() / truth(a, b));
                }
            }
            wrong.sort_by(f64::total_cmp);
            let (median, most) = (wrong[wrong.len() / 2], wrong[wrong.len() * 95 / 100]);
            println!("seed {seed}: median error {median:.3}, 95 % below {most:.3}");
            assert!(median < 0.10 && most < 0.35, "seed {seed}: median error {median:.3}, 95 % {most:.3}");
            assert!(all.iter().all(|v| v.resets() == 0 && v.coordinate().error < 0.3), "seed {seed}");
        }
    }

    /// Whatever comes, what goes out are numbers, and heights are heights.
    #[test]
    fn nothing_that_is_told_does_harm() {
        let mut dice = Dice(11);
        let mut own = Vivaldi::default();
        let strange = [0.0, -1.0, 1e300, -1e300, 1e-300, f64::NAN, f64::INFINITY, f64::MAX];
        for n in 0..100_000 {
            let mut number = || {
                let roll = dice.roll();
                if roll < 0.2 { strange[(dice.roll() * 8.0) as usize] } else { (roll - 0.5) * 4.0 }
            };
            let other = Coordinate {
                vec: (0..DIMENSIONS).map(|_| number()).collect(),
                error: number(),
                adjustment: number(),
                height: number(),
            };
            let rtt = Duration::from_secs_f64(dice.roll() * 12.0);
            let _ = own.update(&format!("{}", n % 7).into(), &other, rtt, || dice.roll());
            assert_eq!(check(own.coordinate()), Ok(()), "{n}: {other:?}");
            assert!(own.coordinate().height >= HEIGHT_MIN && own.coordinate().error <= ERROR_MAX);
        }
    }

    #[test]
    fn distances_are_those_of_serf() {
        let at = |x: f64, adjustment: f64| {
            let mut coord = Coordinate { height: 0.001, adjustment, ..unknown() };
            coord.vec[0] = x;
            coord
        };
        let close = |a: &Coordinate, b: &Coordinate, wanted: f64| {
            let found = distance(a, b).unwrap();
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        };
        close(&at(0.1, 0.0), &at(0.5, 0.0), 0.402);
        close(&at(0.1, 0.0), &at(0.1, 0.0), 0.002);
        close(&at(0.1, 0.01), &at(0.5, 0.02), 0.432);
        // An adjustment never makes a time negative.
        close(&at(0.1, -0.3), &at(0.5, -0.3), 0.402);
        assert_eq!(distance(&at(0.1, 0.0), &Coordinate::default()), None);
    }

    #[test]
    fn what_is_refused() {
        let mut own = Vivaldi::default();
        let ms = Duration::from_millis(1);
        let mut update = |coord: &Coordinate, rtt| own.update(&"a".into(), coord, rtt, || 0.3);
        assert_eq!(update(&Coordinate::default(), ms), Err(Refused::Dimensions));
        assert_eq!(update(&Coordinate { height: f64::NAN, ..unknown() }, ms), Err(Refused::Invalid));
        assert_eq!(update(&unknown(), Duration::from_secs(11)), Err(Refused::TooLong));
        assert_eq!(update(&unknown(), ms), Ok(()));
        assert_eq!(own.latencies.len(), 1);
        own.retain(|_| false);
        assert!(own.latencies.is_empty());
    }

    #[test]
    fn one_slow_answer_is_no_distance() {
        let mut own = Vivaldi::default();
        let name = "a".into();
        let taken: Vec<f64> = [0.01, 0.9, 0.011, 0.012, 5.0].iter().map(|rtt| own.filtered(&name, *rtt)).collect();
        assert_eq!(taken, [0.01, 0.9, 0.011, 0.012, 0.012]);
    }

    #[test]
    fn sites_are_put_where_their_round_trips_say() {
        // Two near each other and a third far from both; a fourth that nobody measured.
        let rtts = [(0, 1, 0.010), (0, 2, 0.080), (1, 2, 0.085)];
        let coords = embed(4, &rtts);
        assert_eq!(embed(4, &rtts), coords, "the same anywhere");
        for (a, b, rtt) in rtts {
            let found = distance(&coords[a], &coords[b]).unwrap();
            assert!((found - rtt).abs() < rtt * 0.1, "{a} {b}: {found} instead of {rtt}");
        }
        assert_eq!(coords[3], unknown());
        assert!(embed(0, &[]).is_empty());
        let two = embed(2, &[(0, 1, 0.2)]);
        assert!((distance(&two[0], &two[1]).unwrap() - 0.2).abs() < 0.01);
    }
}
