use causeway_proto::command::ReapTombstones;

use super::*;

fn index(log: &Log, prefix: &str) -> u64 {
    log.state().kv_list(prefix).1
}

#[test]
fn indexes_of_an_entry() {
    let mut log = Log::new();
    assert_eq!(log.state().kv_get("k"), (None, 1));
    log.kv(kv(Verb::Set, "k", "1"));
    log.kv(kv(Verb::Set, "k", "2"));
    log.kv(kv(Verb::Set, "k", "2"));
    let (entry, index) = log.state().kv_get("k");
    let entry = entry.unwrap();
    assert_eq!((entry.create_index, entry.modify_index, index), (1, 2, 2), "the same again is no change");
}

#[test]
fn compare_and_set() {
    let mut log = Log::new();
    let cas = |key: &str, index| ApplyRequest { index, ..kv(Verb::Cas, key, "v") };
    assert!(!log.kv(cas("k", 5)), "must exist");
    assert!(log.kv(cas("k", 0)));
    assert!(!log.kv(cas("k", 0)), "must not exist");
    assert!(!log.kv(cas("k", 1)));
    assert!(log.kv(cas("k", 2)));
    let delete = |key: &str, index| ApplyRequest { index, ..kv(Verb::DeleteCas, key, "") };
    assert!(log.kv(delete("none", 5)), "what is not there is deleted, as in Consul");
    assert!(!log.kv(delete("k", 1)));
    let current = log.state().kv_get("k").1;
    assert!(log.kv(delete("k", current)));
    assert!(log.state().kv_get("k").0.is_none());
}

#[test]
fn the_index_of_a_prefix_moves_on_deletion() {
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "d/x", "1"));
    log.kv(kv(Verb::Set, "d/y", "1"));
    log.kv(kv(Verb::Set, "e", "1"));
    assert_eq!((index(&log, "d/"), index(&log, "e"), index(&log, ""), index(&log, "zz")), (2, 3, 3, 3));
    log.kv(kv(Verb::Delete, "d/x", ""));
    assert_eq!((index(&log, "d/"), index(&log, "e"), index(&log, "")), (4, 3, 4));
    log.kv(kv(Verb::Delete, "d/x", ""));
    assert_eq!(index(&log, ""), 4, "nothing was there");
    log.kv(kv(Verb::DeleteTree, "d/", ""));
    assert_eq!((index(&log, "d/"), index(&log, "d/y"), index(&log, "d"), index(&log, "e")), (6, 6, 6, 3));
    assert_eq!(log.state().tombstones(), 2);
    log.ok(command::Command::ReapTombstones(ReapTombstones { through_index: 5 }));
    assert_eq!(log.state().tombstones(), 1);
    log.ok(command::Command::ReapTombstones(ReapTombstones { through_index: 6 }));
    assert_eq!(log.state().tombstones(), 0);
    assert_eq!(index(&log, "d/"), 6, "the table's index is not below what was answered");
}

#[test]
fn a_deleted_tree_does_not_let_an_inner_prefix_fall_back() {
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "a/b/x", "1"));
    log.kv(kv(Verb::Delete, "a/b/x", ""));
    log.kv(kv(Verb::Set, "a/b/y", "1"));
    assert_eq!(index(&log, "a/b/"), 3);
    log.kv(kv(Verb::DeleteTree, "a/", ""));
    assert_eq!(index(&log, "a/b/"), 4);
}

#[test]
fn listing_and_keys() {
    let mut log = Log::new();
    for key in ["a/b/1", "a/b/2", "a/c", "ab", "b", "ä/ö"] {
        log.kv(kv(Verb::Set, key, key));
    }
    let state = log.state();
    let list: Vec<_> = state.kv_list("a/").0.iter().map(|e| e.key.clone()).collect();
    assert_eq!(list, ["a/b/1", "a/b/2", "a/c"]);
    assert_eq!(state.kv_keys("a", "/").0, ["a/", "ab"]);
    assert_eq!(state.kv_keys("a/", "/").0, ["a/b/", "a/c"]);
    assert_eq!(state.kv_keys("", "").0.len(), 6);
    assert_eq!(state.kv_keys("", "/").0, ["a/", "ab", "b", "ä/"]);
    assert_eq!(state.kv_keys("ä", "/").0, ["ä/"]);
    assert!(state.kv_keys("zz", "/").0.is_empty());
}

#[test]
fn locks() {
    let mut log = Log::new();
    log.ok(register(node("a"), None, vec![]));
    for n in [1, 2] {
        log.ok(command::Command::SessionCreate(session(&uuid(n), "a")));
    }
    let lock = |n, value| ApplyRequest { session: uuid(n), ..kv(Verb::Lock, "l", value) };
    let unlock = |n, value| ApplyRequest { session: uuid(n), ..kv(Verb::Unlock, "l", value) };
    let entry = |log: &Log| log.state().kv_get("l").0.unwrap();
    assert!(!log.kv(unlock(1, "")), "nothing to unlock");
    assert!(log.kv(lock(1, "a")));
    assert!(log.kv(lock(1, "b")), "again by its holder");
    assert_eq!((entry(&log).lock_index, entry(&log).value.as_slice()), (1, b"b".as_slice()));
    assert!(!log.kv(lock(2, "c")) && !log.kv(unlock(2, "c")));
    assert!(log.kv(unlock(1, "d")));
    assert_eq!(
        (entry(&log).lock_index, entry(&log).session.as_str(), entry(&log).value.as_slice()),
        (1, "", b"d".as_slice())
    );
    assert!(log.kv(lock(2, "e")));
    assert_eq!(entry(&log).lock_index, 2);
    // A plain write goes through, keeps the holder and loses the count (measured on Consul 1.8.7).
    assert!(log.kv(kv(Verb::Set, "l", "f")));
    assert_eq!((entry(&log).lock_index, entry(&log).session.clone()), (0, uuid(2)));
    for (request, text) in [
        (kv(Verb::Lock, "l", ""), "missing session"),
        (kv(Verb::Unlock, "l", ""), "missing session"),
        (
            ApplyRequest { session: "zz".into(), ..kv(Verb::Lock, "l", "") },
            "failed session lookup: index error: UUID must be 36 characters",
        ),
        (lock(9, ""), "invalid session \"00000009-0000-4000-8000-000000000000\""),
        (kv(Verb::Unspecified, "l", ""), "Invalid KVS operation"),
    ] {
        assert_eq!(log.refused(command::Command::Kv(request)), text);
    }
}
