use causeway_proto::snapshot::RestoreRequest;

use super::snapshot::full;
use super::*;

fn piece(id: &str, offset: usize, bytes: &[u8], last: bool) -> command::Command {
    command::Command::Restore(RestoreRequest { id: id.into(), offset: offset as u64, bytes: bytes.to_vec(), last })
}

/// Puts it back in pieces of this size; what the last one gave.
fn restore(log: &mut Log, saved: &[u8], size: usize) -> Applied {
    let count = saved.len().div_ceil(size);
    let mut last = None;
    for (i, bytes) in saved.chunks(size).enumerate() {
        let before = log.state();
        let applied = log.apply(piece("r", i * size, bytes, i + 1 == count));
        if i + 1 < count {
            assert!(applied.outcome.done && applied.events.is_empty());
            assert_eq!(log.state().kv_get("mine"), before.kv_get("mine"), "nothing changes before the last piece");
        }
        last = Some(applied);
    }
    last.unwrap()
}

#[test]
fn the_last_piece_swaps_all_of_it() {
    let source = full();
    let saved = bytes(&source.state());
    for size in [1, 100, saved.len()] {
        let mut log = Log::new();
        log.ok(register(node("old"), None, vec![]));
        log.ok(command::Command::SessionCreate(session(&uuid(9), "old")));
        log.kv(kv(Verb::Set, "mine", "v"));
        let mut watch = log.store.watch(&[super::super::Topic::Key("mine".into())]);
        let applied = restore(&mut log, &saved, size);
        assert!(applied.outcome.done, "{applied:?}");
        let state = log.state();
        assert_eq!(state.kv_get("mine").0, None);
        assert_eq!(state.services(&any()).0, source.state().services(&any()).0);
        assert_eq!(state.kv_get("lock").0, source.state().kv_get("lock").0, "with its index");
        // Timers follow.
        assert!(applied.events.contains(&Event::SessionDestroyed { id: uuid(9) }));
        assert!(applied.events.contains(&Event::SessionCreated { id: uuid(1), ttl_ms: 0 }));
        assert_eq!(applied.events.len(), 2);
        let woken = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        woken.block_on(async {
            tokio::time::timeout(std::time::Duration::from_secs(5), watch.changed()).await.expect("all watchers wake");
        });
    }
}

#[test]
fn an_index_that_no_log_gets_to_is_refused() {
    let mut source = full();
    source.index = 1 << 61;
    source.kv(kv(Verb::Set, "late", "v"));
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "mine", "v"));
    let applied = restore(&mut log, &bytes(&source.state()), 1 << 20);
    assert!(applied.outcome.error.contains("no log gets to"), "{applied:?}");
    assert!(log.state().kv_get("mine").0.is_some(), "nothing changed");
}

/// A state of a longer log: indexes go on from its own.
#[test]
fn indexes_never_go_back() {
    let mut source = full();
    source.index = 1_000_000;
    source.kv(kv(Verb::Set, "late", "v"));
    let saved = bytes(&source.state());
    let mut log = Log::new();
    let applied = restore(&mut log, &saved, 64);
    assert_eq!(applied.outcome.index, 1_000_002);
    assert_eq!(log.state().index(), 1_000_002);
    let applied = log.apply(command::Command::Kv(kv(Verb::Set, "new", "v")));
    assert_eq!(applied.outcome.index, 1_000_003);
    assert_eq!(log.state().kv_get("new").1, 1_000_003);
    log.store.advance(log.index + 1);
    assert_eq!(log.state().index(), 1_000_004);
    // Through a snapshot of its own as well.
    let again = Store::new();
    again.restore(&mut bytes(&log.state()).as_slice()).unwrap();
    again.advance(log.index + 2);
    assert_eq!(again.state().index(), 1_000_005);
    // One from before brings no index back either.
    let old = bytes(&full().state());
    let applied = restore(&mut log, &old, 4096);
    assert!(applied.outcome.done && applied.outcome.index > 1_000_003, "{applied:?}");
}

#[test]
fn what_is_not_sound_changes_nothing() {
    let saved = bytes(&full().state());
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "mine", "v"));
    let mut altered = saved.clone();
    altered[saved.len() / 2] ^= 1;
    let refused = |applied: Applied| {
        assert!(!applied.outcome.done && applied.events.is_empty());
        assert!(applied.outcome.error.starts_with("the snapshot was not restored, and nothing changed: "));
        applied.outcome.error
    };
    refused(restore(&mut log, &altered, 64));
    let short = refused(restore(&mut log, &saved[..saved.len() - 1], 64));
    assert!(short.contains("cut short"), "{short}");
    // Out of order, doubled, of another restore.
    assert!(log.apply(piece("a", 0, &saved[..10], false)).outcome.done);
    assert!(refused(log.apply(piece("a", 20, &saved[20..30], false))).contains("missing"));
    assert!(log.apply(piece("a", 0, &saved[..10], false)).outcome.done);
    assert!(refused(log.apply(piece("b", 10, &saved[10..20], false))).contains("another restore"));
    assert!(log.apply(piece("a", 10, &saved[10..], true)).outcome.done, "which it did not harm");
    // Too large a piece; one that nobody goes on with.
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "mine", "v"));
    refused(log.apply(piece("a", 0, &vec![0; super::super::MAX_PIECE + 1], false)));
    assert!(log.apply(piece("a", 0, &saved[..10], false)).outcome.done);
    log.index += 20_000;
    refused(log.apply(piece("a", 10, &saved[10..], true)));
    assert!(log.state().kv_get("mine").0.is_some());
}

/// A server that falls behind gets a snapshot in the middle of a restore, and must end where the others do.
#[test]
fn a_restore_under_way_is_part_of_a_snapshot() {
    let saved = bytes(&full().state());
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "mine", "v"));
    let half = saved.len() / 2;
    assert!(log.apply(piece("a", 0, &saved[..10], false)).outcome.done);
    assert!(log.apply(piece("a", 10, &saved[10..half], false)).outcome.done);
    let other = Log { store: Store::new(), index: log.index };
    other.store.restore(&mut bytes(&log.state()).as_slice()).unwrap();
    let mut both = [log, other];
    for log in &mut both {
        assert!(log.apply(piece("a", half, &saved[half..], true)).outcome.done);
    }
    assert_eq!(bytes(&both[0].state()), bytes(&both[1].state()));
}
