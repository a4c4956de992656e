//! Federations in virtual time: the real machines of every gateway ([`crate::link`], [`crate::directory`], [`crate::path`] and the
//! decisions of gossip), a network that delays, loses, doubles, reorders and breaks, and a seed that decides all of it.
//!
//! `SEED=7` runs one seed, `SEEDS=5000` so many, of which each prints what it was where it fails.
#![allow(clippy::disallowed_methods, reason = "reads SEED and SEEDS, and says how long it took")]

mod station;
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_proto::federation::v1::Server;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use station::Plan;
use world::World;

/// After the last fault, every site knows every other within this.
const BOUND: Duration = Duration::from_secs(20);
/// A site that died is known to be dead everywhere within this.
const DEATH: Duration = Duration::from_secs(3);

fn plan(i: usize, peers: &[usize], dialable: bool) -> Plan {
    Plan {
        datacenter: format!("dc{i:02}"),
        gateway: "g".into(),
        peers: peers.iter().map(usize::to_string).collect(),
        addresses: if dialable { vec![i.to_string()] } else { Vec::new() },
    }
}

/// Sites that dial out only, and one or two that they dial.
fn hub(sites: usize, hubs: usize) -> Vec<Plan> {
    let all: Vec<usize> = (0..hubs).collect();
    (0..sites).map(|i| if i < hubs { plan(i, &all[..i], true) } else { plan(i, &all, false) }).collect()
}

/// A graph that is connected and holds few or many links, with walls where it holds none.
fn random(rng: &mut StdRng, sites: usize) -> (Vec<Plan>, BTreeSet<(usize, usize)>) {
    let mut walls = BTreeSet::new();
    let density = rng.random_range(0.0..1.0);
    let mut plans = Vec::new();
    for i in 0..sites {
        let parent = if i == 0 { 0 } else { rng.random_range(0..i) };
        let mut peers = Vec::new();
        for j in 0..i {
            if j == parent {
                peers.push(j);
            } else if !rng.random_bool(density) {
                walls.insert((j, i));
            }
        }
        plans.push(plan(i, &peers, rng.random_bool(0.7) || i == 0));
    }
    // Whom somebody is configured to dial can be dialled.
    for i in 0..sites {
        let dialled = plans.iter().any(|p| p.peers.contains(&i.to_string()));
        if dialled && plans[i].addresses.is_empty() {
            plans[i].addresses.push(i.to_string());
        }
    }
    (plans, walls)
}

fn settle(world: &mut World, within: Duration, when: &str) -> Duration {
    let began = world.now;
    let mut why = None;
    let done = world.run(within, |w| {
        w.check_circles();
        why = w.unsettled();
        why.is_none()
    });
    assert!(done, "{}: not settled {within:?} after {when}: {}", world.at(), why.unwrap_or_default());
    world.now - began
}

fn fault(world: &mut World) {
    let n = world.stations.len();
    let i = world.rng.random_range(0..n);
    let j = (i + world.rng.random_range(1..n)) % n;
    let mut time = |from: u64, to: u64| Duration::from_millis(world.rng.random_range(from..to));
    let (short, long) = (time(200, 4000), time(500, 12_000));
    match world.rng.random_range(0..12) {
        0 | 1 => world.kill(i, Some(short)),
        2 => world.kill(i, Some(long)),
        3 => world.stop(i, false, Some(short)),
        4 => world.stop(i, true, Some(short)),
        5 | 6 => world.cut(i, j, long),
        7 => world.block_udp(i, j, long),
        8 => world.storm(short),
        9 => {
            // A whole site is cut off.
            for other in (0..n).filter(|o| *o != i) {
                world.cut(i, other, short);
            }
        }
        10 => {
            let servers: Vec<Server> = (0..world.rng.random_range(0..4_u32))
                .map(|s| Server { name: format!("s{s}"), address: String::new() })
                .collect();
            let now = world.now;
            if world.stations[i].alive {
                world.stations[i].set_servers(now, servers);
                world.settle(i);
            }
        }
        // The wall clock jumps; what is born later has another number for its life, and nothing else may depend on it.
        _ => world.stations[i].clock += world.rng.random_range(-3_600_000..3_600_000),
    }
}

/// What a seed showed.
struct Shown {
    first: Duration,
    last: Duration,
    happenings: u64,
    turned: u64,
}

fn weather(seed: u64) -> Shown {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let sites = rng.random_range(3..=9);
    let (plans, walls) = match seed % 4 {
        0 => (hub(sites, 1), BTreeSet::new()),
        1 => (hub(sites, 2), BTreeSet::new()),
        _ => random(&mut rng, sites),
    };
    run(seed, plans, walls, Duration::from_secs(rng.random_range(5..30)))
}

fn run(seed: u64, plans: Vec<Plan>, walls: BTreeSet<(usize, usize)>, faults: Duration) -> Shown {
    let mut world = World::new(seed, plans, walls);
    let first = settle(&mut world, BOUND, "the start");
    let mut next = world.now;
    world.run(faults, |w| {
        if w.now >= next {
            next = w.now + Duration::from_millis(w.rng.random_range(100..3000));
            fault(w);
        }
        w.check_circles();
        false
    });
    world.heal_all();
    let last = settle(&mut world, BOUND, "the last fault");
    // Connections that a fault broke may be given up only now. Once they are, nothing changes any more.
    let quiet = |w: &mut World| {
        w.check_circles();
        false
    };
    world.run(Duration::from_secs(8), quiet);
    settle(&mut world, BOUND, "what was broken was given up");
    let digest = world.stations[0].digest();
    world.run(Duration::from_secs(3), quiet);
    assert_eq!(world.unsettled(), None, "{}: it did not stay settled", world.at());
    assert_eq!(world.stations[0].digest(), digest, "{}: news without a cause", world.at());
    Shown { first, last, happenings: world.count, turned: world.turned }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(usual),
    }
}

#[test]
fn after_any_weather_everyone_knows_everyone() {
    let began = Instant::now();
    let (mut first, mut last, mut happenings, mut turned, mut n) = (Duration::ZERO, Duration::ZERO, 0, 0, 0);
    for seed in seeds(24) {
        let shown = weather(seed);
        first = first.max(shown.first);
        last = last.max(shown.last);
        happenings += shown.happenings;
        turned += shown.turned;
        n += 1;
    }
    println!(
        "{n} seeds, {happenings} happenings in {:?}: settled within {first:?} of the start, {last:?} of the last fault; {turned} times \
         only what was passed before kept a call from turning back",
        began.elapsed()
    );
}

#[test]
fn fifty_sites_on_a_hub() {
    for seed in seeds(2) {
        let began = Instant::now();
        let shown = run(seed, hub(50, 1), BTreeSet::new(), Duration::from_secs(15));
        println!(
            "seed {seed}: {} happenings in {:?}: settled within {:?} of the start, {:?} of the last fault",
            shown.happenings,
            began.elapsed(),
            shown.first,
            shown.last
        );
    }
}

/// G3: a site that dies is known to be dead at all others within 3 s, at 5 % loss, without their having links to it.
#[test]
fn a_death_is_known_everywhere_within_three_seconds() {
    let mut worst = Duration::ZERO;
    for seed in seeds(10) {
        let sites = if seed == 0 { 50 } else { 12 };
        let mut world = World::new(seed, hub(sites, 1 + usize::from(seed % 2 == 1)), BTreeSet::new());
        settle(&mut world, BOUND, "the start");
        world.loss = 0.05;
        world.run(Duration::from_secs(5), |_| false);
        let dead = world.rng.random_range(2..sites);
        world.kill(dead, None);
        let began = world.now;
        let known = world.run(DEATH, |w| w.who_reaches(dead).is_empty());
        assert!(known, "{}: {:?} still have a way to {dead}", world.at(), world.who_reaches(dead));
        worst = worst.max(world.now - began);
    }
    println!("known everywhere after {worst:?} at the latest");
}

/// G3: at 5 % loss nobody is thought dead for an hour.
#[test]
fn nobody_is_falsely_dead_for_an_hour_at_five_percent_loss() {
    let sites = usize::try_from(number("SITES").unwrap_or(6)).unwrap();
    let began = Instant::now();
    let mut world = World::new(number("SEED").unwrap_or(1), hub(sites, 1), BTreeSet::new());
    settle(&mut world, BOUND, "the start");
    world.loss = 0.05;
    let mut suspicions = 0;
    world.run(Duration::from_secs(3600), |w| {
        for i in 0..sites {
            let reached = w.who_reaches(i);
            suspicions += usize::from(reached.len() < sites - 1);
            assert_eq!(reached.len(), sites - 1, "{}: {i} is thought dead by some", w.at());
        }
        false
    });
    println!("{sites} sites, {} happenings in {:?}, {suspicions} false deaths", world.count, began.elapsed());
}
