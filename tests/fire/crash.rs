//! Crashes, again and again on the same data: `kill -9` while writes are under way, on a disk that then lacks what was not synced; a flipped
//! bit, a disk that is full or read-only, a directory that is gone. What was acknowledged is there afterwards, damage is named, and who
//! lost its log does not vote for who it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::harness::{self, wait};
use crate::site::{FULL, Knob, READ_ONLY, Site, Way};

const SOON: Duration = Duration::from_secs(30);
/// An old server of the configuration is taken out 10 s after another took its place.
const TAKEN_IN: Duration = Duration::from_secs(90);

/// Keys with the values that were acknowledged.
type Acknowledged = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Writes keys of its own until the server is gone or `stop`; notes what was acknowledged.
fn writer(way: &Way, name: &str, seed: u64, stop: &AtomicBool, acknowledged: &Acknowledged) {
    way.enter();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut http = way.client(Duration::from_secs(3));
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let key = format!("{name}/{n}");
        let len = if rng.random_range(0..4) == 0 { rng.random_range(500..6000) } else { rng.random_range(1..60) };
        let mut value = vec![0_u8; len];
        // Zeros too: on the disk they look like what was never written.
        if rng.random_range(0..4) > 0 {
            rng.fill(&mut value[..]);
        }
        match http.ask("PUT", &format!("/v1/kv/{key}"), &value) {
            Ok(answer) if answer.code == 200 => drop(acknowledged.lock().unwrap().insert(key, value)),
            Ok(_) => harness::pause(),
            Err(_) => return,
        }
    }
}

/// Keys below a prefix, as a server has them.
fn below(site: &Site, server: usize, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let path = format!("/v1/kv/{prefix}?recurse");
    let answer = site.ask_within(server, Duration::from_secs(10), "GET", &path, b"")?;
    match answer.code {
        200 => {
            let json = answer.json();
            let entries = json.as_array().ok_or("no list")?.iter();
            let pair = |e: &serde_json::Value| {
                let value =
                    e["Value"].as_str().map_or(Ok(Vec::new()), |v| BASE64.decode(v)).map_err(|e| e.to_string())?;
                Ok((e["Key"].as_str().ok_or("no key")?.to_owned(), value))
            };
            entries.map(pair).collect()
        }
        404 => Ok(BTreeMap::new()),
        code => Err(format!("{code} {}", answer.text())),
    }
}

/// Everything that was acknowledged is there, with its value.
fn verify(site: &Site, server: usize, prefix: &str, acknowledged: &BTreeMap<String, Vec<u8>>, after: &str) {
    let found = wait("a read of what was written", SOON, || below(site, server, prefix));
    for (key, value) in acknowledged {
        let has = found.get(key);
        assert!(
            has == Some(value),
            "after {after}: {key} was acknowledged with {} bytes, and is {:?}; {} of {} keys are there; the log of {}:\n{}",
            value.len(),
            has.map(Vec::len),
            found.len(),
            acknowledged.len(),
            site.node(server).name,
            site.node(server).log(),
        );
    }
}

/// Of a round's keys one value is kept for good; the others go.
fn keep(
    site: &Site,
    server: usize,
    name: &str,
    acknowledged: &BTreeMap<String, Vec<u8>>,
    kept: &mut BTreeMap<String, Vec<u8>>,
) {
    let Some(value) = acknowledged.values().next() else { return };
    let key = format!("kept/{name}");
    if site.ask(server, "PUT", &format!("/v1/kv/{key}"), value).is_ok_and(|a| a.code == 200) {
        kept.insert(key, value.clone());
    }
    let _ = site.ask(server, "DELETE", &format!("/v1/kv/{name}/?recurse"), b"");
}

/// Used bytes of a file that ends in zeros.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1)
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let mut files: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// Flips one bit of the log or a snapshot, where something is written; gives the file and how it was.
fn flip(raft: &Path, rng: &mut StdRng) -> (PathBuf, usize, Vec<u8>) {
    let all = [files(&raft.join("wal"), "wal"), files(&raft.join("snapshots"), "snap")].concat();
    let path = all.choose(rng).unwrap().clone();
    let good = std::fs::read(&path).unwrap();
    let at = rng.random_range(0..used(&good));
    let mut bad = good.clone();
    bad[at] ^= 1 << rng.random_range(0..8);
    std::fs::write(&path, &bad).unwrap();
    (path, at, good)
}

/// Starts a server that may refuse to: what it said last, or `None` where it runs and answers.
fn start(site: &mut Site, i: usize) -> Option<String> {
    site.start(i);
    let refused = wait("a start, or its refusal", SOON, || {
        let child = site.federation.nodes[i].child.as_mut().unwrap();
        if child.try_wait().unwrap().is_some() {
            return Ok(true);
        }
        match site.ask(i, "GET", "/v1/status/leader", b"") {
            Ok(answer) if answer.code == 200 => Ok(false),
            other => Err(format!("{other:?}")),
        }
    });
    refused.then(|| {
        site.kill(i);
        site.node(i).log()
    })
}

/// A refusal names the file and, of the log, the byte.
fn is_named(refusal: &str, path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let snapshot = path.extension().is_some_and(|e| e == "snap");
    (refusal.contains(&name) || snapshot && refusal.contains("snapshots")) && (snapshot || refusal.contains("at byte"))
}

fn write_for_a_while(site: &Site, name: &str, rng: &mut StdRng, then: impl FnOnce()) -> BTreeMap<String, Vec<u8>> {
    let (acknowledged, stop) = (Acknowledged::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for w in 0..4 {
            let (way, seed, acknowledged, stop) = (site.way(w % site.servers()), rng.random(), &acknowledged, &stop);
            let name = format!("{name}/{w}");
            scope.spawn(move || writer(&way, &name, seed, stop, acknowledged));
        }
        wait("a write", SOON, || (!acknowledged.lock().unwrap().is_empty()).then_some(()).ok_or("none".to_owned()));
        harness::beat(Instant::now() + Duration::from_millis(rng.random_range(0..250)));
        then();
        stop.store(true, Ordering::SeqCst);
    });
    std::mem::take(&mut *acknowledged.lock().unwrap())
}

fn prepare(name: &str, servers: usize) -> Site {
    let mut site = Site::prepare(name, servers, &json!({"raft_snapshot_threshold": 300, "raft_trailing_logs": 50}));
    for i in 0..servers {
        site.turn(i, Knob::Lose, 1);
        site.turn(i, Knob::Torn, 40);
        site.turn(i, Knob::Slow, 2000);
        site.start(i);
    }
    site.settle(SOON);
    site
}

/// Kills by number: what is shared with the writers cannot be had for itself.
fn kill_now(site: &Site, servers: impl IntoIterator<Item = usize>) {
    for i in servers {
        if let Some(child) = &site.node(i).child {
            harness::signal(child, "KILL");
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    given.unwrap_or_else(|| rand::random::<u32>().into())
}

fn rounds(short: usize, share: fn(usize) -> usize) -> usize {
    let given = std::env::var("FIRE").ok().and_then(|rounds| rounds.parse::<usize>().ok());
    given.map_or(short, share)
}

/// One server, whose disk is all there is.
#[test]
fn crash_alone() {
    let (seed, rounds) = (seed(), rounds(7, |all| all * 4 / 5));
    println!("SEED={seed}: {rounds} rounds of one server");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = prepare("crash", 1);
    let raft = site.node(0).dir.join("data/raft");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut kept = BTreeMap::new();
    for round in 0..rounds {
        let name = format!("c{round}");
        let full = site.has_shim() && round % 7 == 5;
        let acknowledged = write_for_a_while(&site, &name, &mut rng, || {
            if full {
                // Some writes meet a full disk before the end.
                site.turn(0, Knob::Error, FULL);
                let refused = || site.ask(0, "PUT", "/v1/kv/full", b"x").is_ok_and(|a| a.code == 200);
                assert!(!refused(), "a write was acknowledged that no disk took");
            }
            kill_now(&site, [0]);
        });
        site.kill(0);
        site.turn(0, Knob::Error, 0);
        let what = match round % 7 {
            1 | 3 | 4 => {
                let (path, at, good) = flip(&raft, &mut rng);
                let bad = std::fs::read(&path).unwrap();
                match start(&mut site, 0) {
                    Some(refusal) => {
                        assert!(is_named(&refusal, &path), "byte {at} of {} was changed: {refusal}", path.display());
                        assert!(std::fs::read(&path).unwrap() == bad, "a damaged file was changed");
                        std::fs::write(&path, good).unwrap();
                        "a flipped bit, refused"
                    }
                    // Of what was never acknowledged, or of an older snapshot.
                    None => "a flipped bit where nothing was kept",
                }
            }
            6 if site.has_shim() => {
                site.turn(0, Knob::Error, READ_ONLY);
                let refusal = start(&mut site, 0).expect("a start on a disk that cannot be written");
                assert!(refusal.contains("Read-only file system") && refusal.contains("data"), "{refusal}");
                site.turn(0, Knob::Error, 0);
                "a read-only disk"
            }
            _ if full => "a full disk",
            _ => "kill -9",
        };
        *counts.entry(what).or_default() += 1;
        if !site.is_up(0)
            && let Some(refusal) = start(&mut site, 0)
        {
            panic!("round {round}, {what}: it does not start again: {refusal}");
        }
        verify(&site, 0, &format!("{name}/"), &acknowledged, &format!("round {round}, {what}"));
        keep(&site, 0, &name, &acknowledged, &mut kept);
        if round % 20 == 19 || round + 1 == rounds {
            verify(&site, 0, "kept/", &kept, "many rounds");
            println!("{:4} rounds: {counts:?}", round + 1);
        }
    }
}

/// Three, of which one at least has what was acknowledged.
#[test]
fn crash_of_three() {
    let (seed, rounds) = (seed(), rounds(3, |all| all / 5));
    println!("SEED={seed}: {rounds} rounds of three servers");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = prepare("crash3", 3);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut kept = BTreeMap::new();
    for round in 0..rounds {
        let name = format!("c{round}");
        let leader = wait("a leader", SOON, || site.leader().ok_or("none".to_owned()));
        let other = (leader + rng.random_range(1..3)) % 3;
        let (what, victims) = match round % 10 {
            0 | 5 => ("all killed", vec![0, 1, 2]),
            1 | 6 => ("the leader killed", vec![leader]),
            2 => ("a lost directory", vec![other]),
            3 | 7 => ("the leader's disk full", vec![leader]),
            4 => ("a flipped bit", vec![[leader, other][rng.random_range(0..2)]]),
            8 => ("the leader's disk read-only", vec![leader]),
            _ => ("two killed", vec![leader, other]),
        };
        let error = if what.contains("full") {
            FULL
        } else if what.contains("read-only") {
            READ_ONLY
        } else {
            0
        };
        let acknowledged = write_for_a_while(&site, &name, &mut rng, || {
            if error != 0 && site.has_shim() {
                site.turn(leader, Knob::Error, error);
                // The others go on without it.
                wait("a write without the leader's disk", SOON, || {
                    let answer = site.ask(other, "PUT", &format!("/v1/kv/{name}/on"), b"on")?;
                    if answer.code == 200 { Ok(()) } else { Err(answer.text()) }
                });
            }
            kill_now(&site, victims.iter().copied());
        });
        victims.iter().for_each(|i| site.kill(*i));
        victims.iter().for_each(|i| site.turn(*i, Knob::Error, 0));
        let raft = site.node(victims[0]).dir.join("data/raft");
        let mut gone = what == "a lost directory";
        if what == "a flipped bit" {
            let (path, at, _) = flip(&raft, &mut rng);
            if let Some(refusal) = start(&mut site, victims[0]) {
                assert!(is_named(&refusal, &path), "byte {at} of {} was changed: {refusal}", path.display());
                gone = true;
            }
        }
        if gone {
            // What the refusal says: move the directory away.
            std::fs::remove_dir_all(&raft).unwrap();
        }
        for i in victims.iter().copied().filter(|i| what != "a flipped bit" || gone && *i == victims[0]) {
            if let Some(refusal) = start(&mut site, i) {
                panic!("round {round}, {what}: {} does not start again: {refusal}", site.node(i).name);
            }
        }
        site.settle(SOON);
        if gone {
            taken_in_anew(&site, victims[0], round);
        }
        *counts.entry(what).or_default() += 1;
        let reader = rng.random_range(0..3);
        verify(&site, reader, &format!("{name}/"), &acknowledged, &format!("round {round}, {what}"));
        keep(&site, reader, &name, &acknowledged, &mut kept);
        if round % 20 == 19 || round + 1 == rounds {
            verify(&site, reader, "kept/", &kept, "many rounds");
            println!("{:4} rounds of three: {counts:?}", round + 1);
        }
    }
}

/// Waits until a server that lost its log has everything, and is one of three voters, under its new name alone.
fn taken_in_anew(site: &Site, i: usize, round: usize) {
    let key = format!("anew/{round}");
    wait("a write", SOON, || site.ask(i, "PUT", &format!("/v1/kv/{key}"), b"x").map(drop));
    wait("it to have what was written since", SOON, || {
        let answer = site.ask(i, "GET", &format!("/v1/kv/{key}?stale"), b"")?;
        if answer.code == 200 { Ok(()) } else { Err(answer.text()) }
    });
    wait("three voters", TAKEN_IN, || {
        let at = site.leader().ok_or("no leader")?;
        let servers = site.ask(at, "GET", "/v1/operator/raft/configuration", b"")?.json()["Servers"].clone();
        let servers = servers.as_array().cloned().unwrap_or_default();
        let names: BTreeSet<_> = servers.iter().filter(|s| s["Voter"] == true).map(|s| s["Node"].to_string()).collect();
        if servers.len() == 3 && names.len() == 3 { Ok(()) } else { Err(format!("{servers:?}")) }
    });
}
