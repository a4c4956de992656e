use super::*;
use crate::store::RestoreError;

/// Something in each table.
pub(super) fn full() -> Log {
    let mut log = Log::new();
    let node = Node { id: uuid(7), meta: BTreeMap::from([("k".into(), "v".into())]), ..node("Alpha") };
    log.ok(register(
        node,
        Some(service("w", "Web", &["t"])),
        vec![check("n", "", "passing"), check("c", "w", "passing")],
    ));
    log.ok(register(super::node("b"), Some(service("x", "gone", &[])), vec![]));
    log.ok(deregister("b", "x", ""));
    log.ok(command::Command::SessionCreate(session(&uuid(1), "alpha")));
    log.kv(ApplyRequest { session: uuid(1), ..kv(Verb::Lock, "lock", "v") });
    log.kv(kv(Verb::Set, "a/b", "v"));
    log.kv(kv(Verb::Delete, "a/b", ""));
    log.kv(kv(Verb::Set, "t/b", "v"));
    log.kv(kv(Verb::DeleteTree, "t/", ""));
    log
}

#[test]
fn it_brings_everything_back() {
    let log = full();
    let before = log.state();
    let saved = bytes(&before);
    let store = Store::new();
    store.restore(&mut saved.as_slice()).unwrap();
    let after = store.state();
    assert_eq!(bytes(&after), saved);
    assert_eq!(after.service_health("web", &[], &any()), before.service_health("web", &[], &any()));
    assert_eq!(after.services(&any()), before.services(&any()));
    assert_eq!(after.service_index("gone"), before.service_index("gone"));
    assert_eq!(after.service_names().1, before.service_names().1);
    assert_eq!(after.service_names().0, before.service_names().0);
    assert_eq!(after.kv_list("t/b").1, before.kv_list("t/b").1);
    assert_eq!(after.index(), log.index);
    // What is not in the records but made from them works on.
    let command = command::Command::SessionDestroy(DestroyRequest { id: uuid(1) });
    let applied = store.apply(100, &Command { call: None, command: Some(command) });
    assert_eq!(applied.events.len(), 2, "the lock is known to hang on the session");
    assert!(store.state().node_or_id(&uuid(7)).is_some());
}

#[test]
fn short_or_altered_ones_are_refused_and_the_state_stays() {
    let saved = bytes(&full().state());
    let mut log = Log::new();
    log.kv(kv(Verb::Set, "mine", "v"));
    let own = bytes(&log.state());
    for length in 0..saved.len() {
        let error = log.store.restore(&mut &saved[..length]).unwrap_err();
        assert!(matches!(error, RestoreError::Short { .. }), "{length}: {error}");
    }
    for at in 0..saved.len() {
        for bit in [0, 3, 7] {
            let mut altered = saved.clone();
            altered[at] ^= 1 << bit;
            assert!(log.store.restore(&mut altered.as_slice()).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut longer = saved.clone();
    longer.push(0);
    assert!(log.store.restore(&mut longer.as_slice()).is_err());
    assert_eq!(bytes(&log.state()), own);
    log.store.restore(&mut saved.as_slice()).unwrap();
}

#[test]
fn an_empty_one() {
    let store = Store::new();
    let saved = bytes(&store.state());
    store.restore(&mut saved.as_slice()).unwrap();
    assert_eq!(bytes(&store.state()), saved);
}
