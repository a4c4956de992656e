//! Clients on every server while leaders are killed, paused and cut off, disks fill and clocks jump; then the checkers have their say.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::check::stale::{Index, Sighting};
use crate::check::{locks, registers, stale, watch};
use crate::clients::{DELAY, KeyClient, LOCKS, Last, LockId, PAIRS, PairId, Registers, TTL, World, locker, watcher};
use crate::harness::{self, wait};
use crate::site::{FULL, Knob, Site};

/// How much a stale answer may be older than it says: a server that is told what is committed has yet to apply it, and may have to wait
/// for a core.
const GRACE: Duration = Duration::from_millis(1000);
/// Within this everything is well again after a fault.
const WELL: Duration = Duration::from_secs(40);

/// What is done to the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    KillAll,
    KillFollower,
    Pause,
    PauseFollower,
    /// Cut off from all, both ways.
    Cut,
    /// Nothing that it sends arrives.
    Mute,
    /// Nothing arrives at it.
    Deaf,
    /// Cut off from one other, both ways.
    Partial,
    CutFollower,
    Full,
    Slow,
    /// The clock of the day jumps.
    Day,
    /// The other clock jumps, as in a machine that slept.
    Monotonic,
    Transfer,
    Nothing,
}

use Fault::*;

fn possible(site: &Site) -> Vec<Fault> {
    let mut faults = vec![Kill, KillAll, Pause, KillFollower, PauseFollower, Transfer, Nothing];
    if site.can_cut() {
        faults.extend([Cut, Mute, Deaf, Partial, CutFollower]);
    }
    if site.has_shim() {
        faults.extend([Full, Slow, Day, Monotonic]);
    }
    // Some of them only.
    if let Ok(wanted) = std::env::var("FAULTS") {
        faults.retain(|fault| wanted.split(',').any(|name| name == format!("{fault:?}")));
    }
    assert!(!faults.is_empty(), "none of the wanted faults is possible here");
    faults
}

/// Does it, and gives who has to be started again at its end.
fn begin(site: &mut Site, fault: Fault, leader: usize, rng: &mut StdRng) -> Vec<usize> {
    let others: Vec<usize> = (0..site.servers()).filter(|i| *i != leader).collect();
    let other = others[rng.random_range(0..others.len())];
    let mut dead = Vec::new();
    match fault {
        Kill => dead.push(leader),
        KillFollower => dead.push(other),
        KillAll => dead.extend(0..site.servers()),
        Pause => site.pause(leader, true),
        PauseFollower => site.pause(other, true),
        Cut => others.iter().for_each(|i| [(leader, *i), (*i, leader)].iter().for_each(|(a, b)| site.cut(*a, *b))),
        CutFollower => {
            (0..site.servers()).filter(|i| *i != other).for_each(|i| {
                site.cut(i, other);
                site.cut(other, i);
            });
        }
        Mute => others.iter().for_each(|i| site.cut(leader, *i)),
        Deaf => others.iter().for_each(|i| site.cut(*i, leader)),
        Partial => {
            site.cut(leader, other);
            site.cut(other, leader);
        }
        Full => site.turn(leader, Knob::Error, FULL),
        Slow => site.turn(leader, Knob::Slow, 200_000),
        Day => {
            let minutes = rng.random_range(10..50) * if rng.random_range(0..2) == 0 { 1 } else { -1 };
            site.turn(leader, Knob::Day, minutes * 60_000_000_000);
        }
        // Less than a session lives beyond its time, which is as long again.
        Monotonic => site.advance(leader, Knob::Monotonic, rng.random_range(200..1500) * 1_000_000),
        Transfer => {
            let _ = site.ask(other, "PUT", "/v1/operator/raft/transfer-leader", b"");
        }
        Nothing => {}
    }
    dead.iter().for_each(|i| site.kill(*i));
    dead
}

/// All is put right.
fn end(site: &mut Site, fault: Fault, leader: usize, mut dead: Vec<usize>) {
    site.heal();
    (0..site.servers()).for_each(|i| site.pause(i, false));
    for i in 0..site.servers() {
        site.turn(i, Knob::Error, 0);
        site.turn(i, Knob::Slow, 3000);
    }
    if fault == Full {
        // A log that could not be written is not trusted again by a server that runs.
        site.kill(leader);
        dead.push(leader);
    }
    dead.into_iter().for_each(|i| site.start(i));
}

/// Writes to the watched keys by whichever server takes it; `None` where none does.
fn mark(site: &Site, name: &str, within: Duration) -> Option<()> {
    let began = Instant::now();
    let mut tries = 0;
    for key in ["watch/a", "watch/b"] {
        loop {
            let server = tries % site.servers();
            tries += 1;
            let text = format!("{name}.{tries}");
            let taken = site.is_up(server)
                && site.ask(server, "PUT", &format!("/v1/kv/{key}"), text.as_bytes()).is_ok_and(|a| a.code == 200);
            if taken {
                break;
            }
            if began.elapsed() > within {
                return None;
            }
            harness::pause();
        }
    }
    Some(())
}

fn await_mark(watchers: &[(String, Last)], name: &str) {
    let wanted = {
        use base64::Engine as _;
        // So much of the text that no other begins with it, whole groups of three bytes.
        let text = format!("{name}.");
        base64::engine::general_purpose::STANDARD.encode(&text.as_bytes()[..text.len() / 3 * 3])
    };
    for (who, last) in watchers {
        wait(&format!("{who} to be told of {name}"), WELL, || {
            let last = last.lock().unwrap().clone();
            let all = !last.is_empty() && last.split_terminator(';').all(|entry| entry.contains(&wanted));
            if all { Ok(()) } else { Err(last) }
        });
    }
}

#[derive(Default)]
struct Harvest {
    keys: Vec<Registers>,
    locks: Vec<(LockId, locks::Operation)>,
    watches: BTreeMap<(String, bool), Vec<Vec<watch::Told>>>,
}

/// One run. Panics with all that cannot have been.
pub fn run(servers: usize, length: Duration, seed: u64) {
    println!("SEED={seed} SERVERS={servers} FIRE={}s", length.as_secs());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = Site::prepare(&format!("linear{servers}"), servers, &json!({}));
    for i in 0..servers {
        site.turn(i, Knob::Lose, 1);
        site.turn(i, Knob::Torn, 30);
        site.turn(i, Knob::Slow, 3000);
        site.start(i);
    }
    site.settle(WELL);
    mark(&site, "m:begin", WELL).expect("a write to each watched key");

    let world = World::new();
    let mut keys = Vec::new();
    let mut lockers = Vec::new();
    let mut watchers = Vec::new();
    let mut lasts: Vec<(String, Last)> = Vec::new();
    for server in 0..servers {
        let way = site.way(server);
        for n in 0..3 {
            let (client, seed) = (KeyClient::new(way.clone(), Arc::clone(&world), server * 10 + n), rng.random());
            keys.push(std::thread::spawn(move || client.run(seed)));
        }
        let (way_, world_, seed) = (way.clone(), Arc::clone(&world), rng.random());
        lockers.push(std::thread::spawn(move || locker(&way_, &world_, server, seed)));
        for path in ["/v1/kv/watch/a", "/v1/kv/watch/a?stale", "/v1/kv/watch/?recurse&stale"] {
            let last = Last::new(Mutex::default());
            lasts.push((format!("{path} at {}", site.node(server).name), Arc::clone(&last)));
            let (way, world) = (way.clone(), Arc::clone(&world));
            watchers.push((path, std::thread::spawn(move || watcher(&way, &world, path, &last))));
        }
    }

    let began = Instant::now();
    let mut done: BTreeMap<Fault, (usize, Duration)> = BTreeMap::new();
    let mut turn: Vec<Fault> = Vec::new();
    let mut last_reads = Vec::new();
    let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        while began.elapsed() < length {
            let round = world.round.load(Ordering::SeqCst);
            if turn.is_empty() {
                turn = possible(&site);
            }
            let leader = site.leader().unwrap_or(0);
            let fault = turn.swap_remove(rng.random_range(0..turn.len()));
            harness::beat(Instant::now() + Duration::from_millis(rng.random_range(100..600)));
            println!("{:7.3} round {round}: {fault:?} of {}", world.now() as f64 / 1e9, site.node(leader).name);
            let dead = begin(&mut site, fault, leader, &mut rng);
            let name = format!("m:{round:06}");
            // A mark while it lasts: who does not hear of it then has to hear of it afterwards, without another change.
            let patience = Duration::from_secs(if dead.len() == servers { 0 } else { 5 });
            let marked = mark(&site, &name, patience).is_some();
            harness::beat(Instant::now() + Duration::from_millis(rng.random_range(100..1200)));
            end(&mut site, fault, leader, dead);
            let healed = Instant::now();
            site.settle(WELL);
            let well = healed.elapsed();
            if !marked {
                mark(&site, &name, WELL).expect("a write to each watched key after everything was put right");
            }
            await_mark(&lasts, &name);
            let entry = done.entry(fault).or_default();
            *entry = (entry.0 + 1, entry.1.max(well));
            // What this round left behind, as each of the servers says.
            last_reads.extend((0..PAIRS).map(|pair| (round, pair)));
            world.round.fetch_add(1, Ordering::SeqCst);
            read_all(&site, &world, (0..PAIRS).map(|pair| (round, pair)), &mut keys);
        }
    }));
    if let Err(panic) = rounds {
        // Whoever waits for a change may wait long; what the others were told may say why.
        world.stop.store(true, Ordering::SeqCst);
        let keys = keys.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("{}", judge(&Harvest { keys, ..Harvest::default() }).join("\n\n"));
        std::panic::resume_unwind(panic);
    }
    // All that was ever acknowledged is still there.
    read_all(&site, &world, last_reads.into_iter(), &mut keys);
    world.stop.store(true, Ordering::SeqCst);
    mark(&site, "m:finished", WELL).expect("a last write to each watched key");
    let mut harvest = Harvest {
        keys: keys.into_iter().map(|thread| thread.join().unwrap()).collect(),
        locks: lockers.into_iter().flat_map(|thread| thread.join().unwrap()).collect(),
        ..Harvest::default()
    };
    for (path, thread) in watchers {
        let (path, stale) = (path.split('?').next().unwrap().to_owned(), path.contains("stale"));
        harvest.watches.entry((path, stale)).or_default().push(thread.join().unwrap());
    }
    println!("faults, how often, and the longest until all was well: {done:?}");
    let wrong = judge(&harvest);
    assert!(
        wrong.is_empty(),
        "SEED={seed}: {} things that cannot have been:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n\n")
    );
}

/// Reads these pairs, by the servers in turn, beside everybody else.
fn read_all(
    site: &Site,
    world: &Arc<World>,
    pairs: impl Iterator<Item = PairId>,
    keys: &mut Vec<std::thread::JoinHandle<Registers>>,
) {
    let pairs: Vec<PairId> = pairs.collect();
    let (ways, world, id) =
        ((0..site.servers()).map(|i| site.way(i)).collect::<Vec<_>>(), Arc::clone(world), 1000 + keys.len());
    let thread = std::thread::spawn(move || {
        ways[0].enter();
        let mut readers: Vec<KeyClient> =
            ways.into_iter().map(|way| KeyClient::new(way, Arc::clone(&world), id)).collect();
        for (n, pair) in pairs.into_iter().enumerate() {
            for slot in 0..2 {
                let at = n % readers.len();
                wait("a last read", WELL, || {
                    readers[at].read(pair, slot, "").0.then_some(()).ok_or("no answer".into())
                });
            }
        }
        let mut all = Registers::default();
        for reader in readers {
            all.history.extend(reader.log.history);
            all.indexes.extend(reader.log.indexes);
        }
        all
    });
    let read = thread.join().unwrap();
    keys.push(std::thread::spawn(move || read));
}

/// What cannot have been.
fn judge(harvest: &Harvest) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut pairs: BTreeMap<PairId, Vec<registers::Operation>> = BTreeMap::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (pair, op) in harvest.keys.iter().flat_map(|log| &log.history) {
        pairs.entry(*pair).or_default().push(op.clone());
        let what = match op.answer {
            None => "unknown",
            Some(registers::Answer::Refused) => "refused",
            Some(_) => "answered",
        };
        *counts.entry(what).or_default() += 1;
    }
    println!("operations on keys: {counts:?}, in {} histories", pairs.len());
    for (pair, history) in &mut pairs {
        history.sort_by_key(|op| op.start);
        if let Err(why) = registers::check(history) {
            wrong.push(format!("pair {pair:?}: {why}"));
        }
    }
    // Which index each value was written with, and when that was acknowledged.
    let mut indexes: BTreeMap<(PairId, usize), BTreeMap<Index, registers::Value>> = BTreeMap::new();
    for (at, index, value) in harvest.keys.iter().flat_map(|log| &log.indexes) {
        let known = indexes.entry(*at).or_default().entry(*index).or_insert(*value);
        if known != value {
            wrong.push(format!("{at:?}: index {index} was of {known} and of {value}"));
        }
    }
    let mut sightings: BTreeMap<(PairId, usize), Vec<Sighting>> = BTreeMap::new();
    let mut count = 0;
    for (at, sighting, value) in harvest.keys.iter().flat_map(|log| &log.stale) {
        count += 1;
        sightings.entry(*at).or_default().push(sighting.clone());
        let written = |value| {
            pairs.get(&at.0).is_some_and(|ops| {
                ops.iter().any(|op| op.start <= sighting.end && op.call.writes().contains(&(at.1, value)))
            })
        };
        if let Some(value) = value.filter(|value| !written(*value)) {
            wrong.push(format!("{at:?}: {value} was shown by {sighting:?}, and nobody had written it"));
        }
    }
    let mut oldest = 0;
    for (at, sightings) in &sightings {
        let acked: BTreeMap<registers::Value, u64> = pairs[&at.0]
            .iter()
            .filter(|op| op.answer == Some(registers::Answer::Done(true)))
            .flat_map(|op| op.call.writes().into_iter().filter(|w| w.0 == at.1).map(|w| (w.1, op.end)))
            .collect();
        let known = indexes.get(at).into_iter().flatten();
        let acknowledged = known.filter_map(|(index, value)| Some((*index, *acked.get(value)?))).collect();
        match stale::check(sightings, &acknowledged, u64::try_from(GRACE.as_nanos()).unwrap()) {
            Ok(age) => oldest = oldest.max(age),
            Err(why) => wrong.push(format!("stale, {at:?}: {why}")),
        }
    }
    println!("stale answers: {count}, the oldest {:.1} ms older than it said", oldest as f64 / 1e6);

    let mut by_lock: BTreeMap<LockId, Vec<locks::Operation>> = BTreeMap::new();
    for (lock, op) in &harvest.locks {
        by_lock.entry(*lock).or_default().push(op.clone());
    }
    let mut held = [0, 0];
    for (lock, history) in &mut by_lock {
        history.sort_by_key(|op| op.start);
        let expires = lock.1 == LOCKS;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap();
        match locks::exclusive(history, expires.then(|| nanos(TTL)), nanos(DELAY)) {
            Ok(count) => held[usize::from(expires)] += count,
            Err(why) => wrong.push(format!("lock {lock:?}: {why}")),
        }
        if !expires && let Err(why) = locks::linearizable(history) {
            wrong.push(format!("lock {lock:?}: {why}"));
        }
    }
    println!(
        "locks: {} operations; held {} times, with sessions that expire {} times",
        harvest.locks.len(),
        held[0],
        held[1]
    );

    let mut told = 0;
    for ((path, stale), readers) in &harvest.watches {
        let mut values = BTreeMap::new();
        for reader in readers {
            told += reader.len();
            if let Err(why) = watch::check(reader, *stale, &mut values) {
                wrong.push(format!("watch of {path}: {why}"));
            }
        }
    }
    println!("blocking readers were told {told} times");
    wrong
}

/// `10m`, `90s`.
fn length(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

#[test]
fn linear() {
    let var = |name: &str| std::env::var(name).ok();
    let seed = var("SEED").and_then(|s| s.parse().ok()).unwrap_or_else(|| rand::random::<u32>().into());
    let servers = var("SERVERS").and_then(|s| s.parse().ok()).unwrap_or(3);
    let length = var("FIRE").and_then(|text| length(&text)).unwrap_or(Duration::from_secs(6));
    run(servers, length, seed);
}
