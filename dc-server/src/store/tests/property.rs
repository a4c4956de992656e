//! Random commands applied one by one, in batches, and over a snapshot and a restore give the same bytes.

use causeway_proto::command::{Call, ReapTombstones};
use causeway_proto::kv::Entry;
use causeway_proto::txn::{self, KvOp, NodeOp, ServiceOp, TxnRequest, op};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn pick<'a>(rng: &mut StdRng, of: &[&'a str]) -> &'a str {
    of[rng.random_range(0..of.len())]
}

const NODES: [&str; 5] = ["a", "A", "b", "c", "d"];
const SERVICES: [&str; 4] = ["web", "Web", "db", "x"];
const IDS: [&str; 3] = ["1", "2", ""];
const CHECKS: [&str; 4] = ["serfHealth", "c1", "c2", "c3"];
const STATES: [&str; 3] = ["passing", "warning", "critical"];
const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "a/c", "b", "ä"];

fn random_node(rng: &mut StdRng) -> Node {
    let id = if rng.random_bool(0.3) { uuid(rng.random_range(1..4)) } else { String::new() };
    Node { id, address: format!("10.0.0.{}", rng.random_range(0..3)), ..node(pick(rng, &NODES)) }
}

fn random_service(rng: &mut StdRng) -> Service {
    let tags: &[&str] = [&["t"][..], &["t", "u"], &[]][rng.random_range(0..3)];
    service(pick(rng, &IDS), pick(rng, &SERVICES), tags)
}

fn random_command(rng: &mut StdRng) -> command::Command {
    use command::Command as C;
    match rng.random_range(0..12) {
        0..=2 => {
            let node = random_node(rng);
            let service = rng.random_bool(0.7).then(|| random_service(rng));
            let checks = (0..rng.random_range(0..3))
                .map(|_| check(pick(rng, &CHECKS), pick(rng, &["", "", "1", "2", "web"]), pick(rng, &STATES)))
                .collect();
            C::Register(RegisterRequest { node: Some(node), service, checks, skip_node_update: rng.random_bool(0.2) })
        }
        3 => {
            let (service, check) = (pick(rng, &["", "1", "2", "web"]), pick(rng, &["", "serfHealth", "c1"]));
            deregister(pick(rng, &NODES), service, check)
        }
        4..=7 => C::Kv(ApplyRequest {
            verb: rng.random_range(0..8),
            index: rng.random_range(0..3) * rng.random_range(0..100),
            flags: rng.random_range(0..2),
            session: if rng.random_bool(0.7) { uuid(rng.random_range(1..5)) } else { String::new() },
            ..kv(Verb::Set, pick(rng, &KEYS), pick(rng, &["1", "2"]))
        }),
        8 => C::SessionCreate(Session {
            behavior: pick(rng, &["", "release", "delete"]).into(),
            node_checks: if rng.random_bool(0.5) { vec![pick(rng, &CHECKS).into()] } else { vec![] },
            ..session(&uuid(rng.random_range(1..5)), pick(rng, &NODES))
        }),
        9 => C::SessionDestroy(DestroyRequest { id: uuid(rng.random_range(1..5)) }),
        10 => {
            let ops = (0..rng.random_range(1..4)).map(|_| random_op(rng)).collect();
            C::Txn(TxnRequest { ops })
        }
        _ => C::ReapTombstones(ReapTombstones { through_index: rng.random_range(0..50) }),
    }
}

fn random_op(rng: &mut StdRng) -> txn::Op {
    let op = match rng.random_range(0..3) {
        0 => {
            let verb = pick(rng, &["set", "lock", "unlock", "delete", "delete-tree", "get", "check-not-exists"]).into();
            let session = uuid(rng.random_range(1..5));
            op::Op::Kv(KvOp { verb, entry: Some(Entry { key: pick(rng, &KEYS).into(), session, ..Entry::default() }) })
        }
        1 => op::Op::Node(NodeOp { verb: pick(rng, &["set", "delete", "get"]).into(), node: Some(random_node(rng)) }),
        _ => op::Op::Service(ServiceOp {
            verb: pick(rng, &["set", "delete", "get"]).into(),
            node: pick(rng, &NODES).into(),
            service: Some(random_service(rng)),
        }),
    };
    txn::Op { op: Some(op) }
}

fn random_call(rng: &mut StdRng) -> Option<Call> {
    let id = rng.random::<u128>().to_be_bytes().to_vec();
    rng.random_bool(0.6).then(|| Call { id, age_ms: rng.random_range(0..5), elapsed_ms: rng.random_range(0..2000) })
}

/// A log in which named commands come again and again does what it does without the later ones.
#[test]
fn a_command_that_comes_again_does_nothing_and_gets_the_same_answer() {
    let mut again = 0;
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (with, without) = (Store::new(), Store::new());
        let mut first: Vec<(Command, Applied)> = Vec::new();
        for index in 1..150 {
            if !first.is_empty() && rng.random_bool(0.3) {
                let (command, applied) = &first[rng.random_range(0..first.len())];
                let repeated = with.apply(index, command);
                assert_eq!(repeated.outcome, applied.outcome, "seed {seed}");
                assert!(repeated.events.is_empty());
                without.advance(index);
                again += 1;
                continue;
            }
            let call = random_call(&mut rng).unwrap_or_else(|| Call { id: vec![7; 15], ..Call::default() });
            let named = call.id.len() == 16;
            let command =
                Command { call: Some(Call { elapsed_ms: 0, ..call }), command: Some(random_command(&mut rng)) };
            let applied = with.apply(index, &command);
            assert_eq!(without.apply(index, &command), applied, "seed {seed}");
            if named {
                first.push((command, applied));
            }
        }
        assert_eq!(bytes(&with.state()), bytes(&without.state()), "seed {seed}");
    }
    assert!(again > 1000);
}

#[test]
fn the_same_commands_give_the_same_bytes() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut commands: Vec<(u64, Command)> = Vec::new();
        for index in 1..=rng.random_range(1..150) {
            // A tenth come again.
            let command = match commands.len() {
                n if n > 0 && rng.random_bool(0.1) => commands[rng.random_range(0..n)].1.clone(),
                _ => Command { call: random_call(&mut rng), command: Some(random_command(&mut rng)) },
            };
            commands.push((index, command));
        }

        let one_by_one = Store::new();
        let applied: Vec<_> = commands.iter().map(|(index, command)| one_by_one.apply(*index, command)).collect();
        let expected = bytes(&one_by_one.state());

        let batched = Store::new();
        let mut from_batches = Vec::new();
        let mut rest = commands.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rng.random_range(1..=rest.len()));
            from_batches.extend(batched.apply_batch(batch));
            rest = later;
        }
        assert_eq!(from_batches, applied, "seed {seed}: outcomes and events");
        assert_eq!(bytes(&batched.state()), expected, "seed {seed}: batches");

        let (early, late) = commands.split_at(rng.random_range(0..commands.len()));
        let first = Store::new();
        first.apply_batch(early);
        let second = Store::new();
        second.restore(&mut bytes(&first.state()).as_slice()).unwrap();
        let after: Vec<_> = late.iter().map(|(index, command)| second.apply(*index, command)).collect();
        assert_eq!(after, applied[early.len()..], "seed {seed}: outcomes after a restore");
        assert_eq!(bytes(&second.state()), expected, "seed {seed}: over a snapshot");

        for state in [one_by_one.state(), batched.state(), second.state()] {
            consistent(&state, seed);
        }
    }
}

/// The tables agree with each other.
fn consistent(state: &State, seed: u64) {
    let mut instances = 0;
    for (key, row) in &state.nodes {
        assert_eq!(&*crate::store::fold(&row.node.name), &**key, "seed {seed}");
        for (id, service) in &row.services {
            let joined = &state.service(&service.name).expect("a row").instances[&(key.clone(), id.clone())];
            assert_eq!(joined.service.as_ref(), Some(service.as_ref()), "seed {seed}");
            assert_eq!(joined.node.as_ref(), Some(row.node.as_ref()), "seed {seed}");
            let checks: Vec<_> = row.checks_of("").chain(row.checks_of(id)).map(|c| Check::clone(c)).collect();
            assert_eq!(joined.checks, checks, "seed {seed}");
            instances += 1;
        }
        assert_eq!(row.checks_of.values().map(imbl::OrdSet::len).sum::<usize>(), row.checks.len(), "seed {seed}");
        for id in &row.sessions {
            assert!(state.sessions.contains_key(id), "seed {seed}");
        }
    }
    assert_eq!(state.services.values().map(|row| row.instances.len()).sum::<usize>(), instances, "seed {seed}");
    assert!(state.services.keys().eq(state.names.keys()), "seed {seed}");
    assert_eq!(state.nodes.values().map(|row| row.sessions.len()).sum::<usize>(), state.sessions.len(), "seed {seed}");
    for (key, id) in &state.node_ids {
        assert_eq!(&*state.nodes[id].node.id, &**key, "seed {seed}");
    }
    for entry in state.kv.values().filter(|entry| !entry.session.is_empty()) {
        assert!(state.sessions.contains_key(entry.session.as_str()), "seed {seed}: a lock without its session");
        assert!(state.held[entry.session.as_str()].contains(entry.key.as_str()), "seed {seed}");
    }
    let held = state.kv.values().filter(|entry| !entry.session.is_empty()).count();
    assert_eq!(state.held.values().map(imbl::OrdSet::len).sum::<usize>(), held, "seed {seed}");
}
