use super::*;

fn lock(log: &mut Log, n: u32, key: &str) {
    assert!(log.kv(ApplyRequest { session: uuid(n), ..kv(Verb::Lock, key, "v") }));
}

fn setup() -> Log {
    let mut log = Log::new();
    log.ok(register(
        node("a"),
        Some(service("w", "web", &[])),
        vec![check("serfHealth", "", "passing"), check("s", "w", "warning")],
    ));
    log
}

fn create(log: &mut Log, session: Session) -> Vec<Event> {
    log.ok(command::Command::SessionCreate(session))
}

#[test]
fn creation() {
    let mut log = setup();
    let events =
        create(&mut log, Session { ttl_ms: 10_000, node_checks: vec!["serfHealth".into()], ..session(&uuid(1), "A") });
    assert_eq!(events, [Event::SessionCreated { id: uuid(1), ttl_ms: 10_000 }]);
    let state = log.state();
    let (found, index) = state.session(&uuid(1));
    let found = found.unwrap();
    assert_eq!((found.behavior.as_str(), found.create_index, index), ("release", 2, 2));
    assert_eq!(
        (state.sessions(None).0.len(), state.sessions(Some("a")).0.len(), state.sessions(Some("b")).0.len()),
        (1, 1, 0)
    );
    assert_eq!(state.session("none"), (None, 2));
}

#[test]
fn refusals() {
    let mut log = setup();
    log.ok(register(node("a"), None, vec![check("bad", "", "critical")]));
    let with = |checks: &[&str]| Session {
        node_checks: checks.iter().map(ToString::to_string).collect(),
        ..session(&uuid(1), "a")
    };
    for (session, text) in [
        (session(&uuid(1), "nosuch"), "Missing node registration"),
        (with(&["x"]), "Missing check 'x' registration"),
        (Session { service_checks: vec!["zz".into()], ..session(&uuid(1), "a") }, "Missing check 'zz' registration"),
        (with(&["serfHealth", "bad"]), "Check 'bad' is in critical state"),
        (Session { behavior: "x".into(), ..session(&uuid(1), "a") }, "Invalid session behavior: x"),
        (Session { id: String::new(), ..session("", "a") }, "Missing session ID"),
    ] {
        assert_eq!(log.refused(command::Command::SessionCreate(session)), text);
    }
    let destroy = command::Command::SessionDestroy(DestroyRequest { id: "nosuch".into() });
    assert_eq!(log.refused(destroy), "failed session lookup: index error: UUID must be 36 characters");
    assert!(log.destroy(&uuid(9)).is_empty(), "an unknown one is gone already");
}

#[test]
fn its_end_releases_its_locks_and_delays_them() {
    let mut log = setup();
    create(&mut log, Session { lock_delay_ms: 100_000, ..session(&uuid(1), "a") });
    lock(&mut log, 1, "k2");
    lock(&mut log, 1, "k1");
    let events = log.destroy(&uuid(1));
    let delay = |key: &str| Event::LockDelay { key: key.into(), delay_ms: 60_000 };
    assert_eq!(events, [delay("k1"), delay("k2"), Event::SessionDestroyed { id: uuid(1) }]);
    let (entry, index) = log.state().kv_get("k1");
    assert_eq!((entry.unwrap().session.as_str(), index), ("", log.index));
}

#[test]
fn its_end_deletes_its_keys_where_it_says_so() {
    let mut log = setup();
    create(&mut log, Session { behavior: "delete".into(), lock_delay_ms: 0, ..session(&uuid(1), "a") });
    lock(&mut log, 1, "d/k");
    lock(&mut log, 1, "given back");
    assert!(log.kv(ApplyRequest { session: uuid(1), ..kv(Verb::Unlock, "given back", "v") }));
    assert_eq!(log.destroy(&uuid(1)), [Event::SessionDestroyed { id: uuid(1) }]);
    let state = log.state();
    assert!(state.kv_get("d/k").0.is_none() && state.kv_get("given back").0.is_some());
    assert_eq!(state.kv_list("d/").1, log.index, "a tombstone");
}

#[test]
fn it_ends_with_what_it_hangs_on() {
    let cases: [(&str, command::Command, bool); 7] = [
        ("the check turns critical", register(node("a"), None, vec![check("serfHealth", "", "critical")]), true),
        ("the check turns warning", register(node("a"), None, vec![check("serfHealth", "", "warning")]), false),
        ("another check turns critical", register(node("a"), None, vec![check("x", "", "critical")]), false),
        ("the check goes", deregister("a", "", "serfHealth"), true),
        ("the service's check turns critical", register(node("a"), None, vec![check("s", "w", "critical")]), true),
        ("the service goes", deregister("a", "w", ""), true),
        ("the node goes", deregister("a", "", ""), true),
    ];
    for (what, command, ends) in cases {
        let mut log = setup();
        create(
            &mut log,
            Session {
                node_checks: vec!["serfHealth".into()],
                service_checks: vec!["s".into()],
                ..session(&uuid(1), "a")
            },
        );
        lock(&mut log, 1, "k");
        let events = log.ok(command);
        assert_eq!(log.state().session(&uuid(1)).0.is_none(), ends, "{what}");
        assert_eq!(events.contains(&Event::SessionDestroyed { id: uuid(1) }), ends, "{what}");
        assert_eq!(log.state().kv_get("k").0.unwrap().session.is_empty(), ends, "{what}");
        assert_eq!(log.state().sessions(Some("a")).0.is_empty(), ends, "{what}");
    }
}
