use super::*;
use crate::store::CheckStatus;

fn health(log: &Log, name: &str) -> Vec<(String, Vec<(String, String)>)> {
    let (instances, _) = log.state().service_health(name, &[], &any());
    let checks = |i: &causeway_proto::catalog::ServiceHealth| {
        i.checks.iter().map(|c| (c.id.clone(), c.status.clone())).collect::<Vec<_>>()
    };
    instances.iter().map(|i| (i.service.as_ref().map(|s| s.id.clone()).unwrap_or_default(), checks(i))).collect()
}

#[test]
fn a_registration_is_one_step() {
    let mut log = Log::new();
    log.ok(register(
        node("a"),
        Some(service("w", "web", &["v1"])),
        vec![check("n", "", "passing"), check("s", "w", "warning")],
    ));
    let state = log.state();
    let (instances, index) = state.service_health("web", &[], &any());
    assert_eq!((instances.len(), index), (1, 1));
    let i = &instances[0];
    assert_eq!(i.node.as_ref().unwrap().modify_index, 1);
    assert_eq!(i.checks.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["n", "s"], "the node's come first");
    assert_eq!(
        (i.checks[1].service_name.as_str(), i.checks[1].service_tags.as_slice()),
        ("web", &["v1".to_owned()][..])
    );
    assert_eq!(i.checks[1].node, "a");
    assert_eq!(state.index(), 1);
}

#[test]
fn the_same_again_moves_nothing() {
    let mut log = Log::new();
    let command = register(node("a"), Some(service("w", "web", &[])), vec![check("n", "", "passing")]);
    log.ok(command.clone());
    log.ok(command);
    let state = log.state();
    assert_eq!(state.service_index("web"), 1);
    assert_eq!(state.nodes(&any()).1, 1);
    assert_eq!(state.services(&any()).1, 1);
    assert_eq!(state.checks_in_state(&CheckStatus::Any, &any()).1, 1);
    assert_eq!(state.node("a").unwrap().node().modify_index, 1);
}

#[test]
fn the_index_of_a_service_moves_with_what_bears_on_it_only() {
    let mut log = Log::new();
    log.ok(register(node("a"), Some(service("w", "web", &[])), vec![]));
    log.ok(register(node("b"), Some(service("d", "db", &[])), vec![]));
    let index = |log: &Log| (log.state().service_index("web"), log.state().service_index("db"));
    assert_eq!(index(&log), (1, 2));
    log.ok(register(node("b"), None, vec![check("n", "", "passing")]));
    assert_eq!(index(&log), (1, 3), "a check of the node");
    log.ok(register(Node { address: "10.0.0.9".into(), ..node("a") }, None, vec![]));
    assert_eq!(index(&log), (4, 3), "the node's address");
    log.ok(register(node("b"), None, vec![check("d1", "d", "passing")]));
    assert_eq!(index(&log), (4, 5), "a check of the service");
    log.ok(deregister("b", "", "n"));
    assert_eq!(index(&log), (4, 6));
    log.kv(kv(Verb::Set, "k", "v"));
    assert_eq!(index(&log), (4, 6));
}

#[test]
fn an_index_outlives_its_service() {
    let mut log = Log::new();
    assert_eq!(log.state().service_index("web"), 1, "never 0");
    log.ok(register(node("a"), Some(service("w", "web", &[])), vec![]));
    log.ok(register(node("a"), Some(service("d", "db", &[])), vec![]));
    log.ok(deregister("a", "w", ""));
    assert_eq!(log.state().service_index("web"), 3);
    assert!(log.state().service("web").is_none());
    assert_eq!(log.state().services(&any()).0.keys().collect::<Vec<_>>(), ["db"]);
}

#[test]
fn names_have_no_case_and_tags_neither() {
    let mut log = Log::new();
    log.ok(register(node("NodeA"), Some(service("", "Web", &["Prim"])), vec![]));
    let state = log.state();
    let find = |name: &str, tags: &[&str]| {
        let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
        state.service_nodes(name, &tags, &any()).0.len()
    };
    assert_eq!((find("web", &[]), find("WEB", &["prim"]), find("web", &["prim", "x"])), (1, 1, 0));
    assert_eq!(state.node("nodea").unwrap().node().name, "NodeA");
    assert_eq!(state.services(&any()).0.keys().collect::<Vec<_>>(), ["Web"]);
    assert_eq!(state.service("web").unwrap().name().as_ref(), "Web");
    assert_eq!(state.node("nodea").unwrap().services().next().unwrap().id, "Web", "the ID is the name by default");
}

#[test]
fn tags_are_the_union_of_the_instances_and_go_with_them() {
    let mut log = Log::new();
    log.ok(register(node("a"), Some(service("1", "web", &["x", "y"])), vec![]));
    log.ok(register(node("a"), Some(service("2", "web", &["y", "z"])), vec![]));
    let tags = |log: &Log| log.state().services(&any()).0["web"].values.clone();
    assert_eq!(tags(&log), ["x", "y", "z"]);
    log.ok(register(node("a"), Some(service("2", "web", &["z"])), vec![]));
    log.ok(deregister("a", "1", ""));
    assert_eq!(tags(&log), ["z"]);
}

#[test]
fn node_meta_filters() {
    let mut log = Log::new();
    let meta = |env: &str| BTreeMap::from([("env".to_owned(), env.to_owned())]);
    log.ok(register(
        Node { meta: meta("prod"), ..node("a") },
        Some(service("w", "web", &["p"])),
        vec![check("c", "w", "critical")],
    ));
    log.ok(register(
        Node { meta: meta("test"), ..node("b") },
        Some(service("w", "web", &["t"])),
        vec![check("c", "", "critical")],
    ));
    let state = log.state();
    assert_eq!(state.nodes(&meta("prod")).0.len(), 1);
    assert_eq!(state.services(&meta("prod")).0["web"].values, ["p"]);
    assert_eq!(state.service_nodes("web", &[], &meta("test")).0.len(), 1);
    assert_eq!(state.service_health("web", &[], &meta("none")).0.len(), 0);
    assert_eq!(state.checks_in_state(&CheckStatus::parse("critical"), &meta("prod")).0.len(), 1);
    assert_eq!(state.service_checks("web", &any()).0.len(), 1, "without those of the nodes");
    assert_eq!(state.checks_in_state(&CheckStatus::parse("any"), &any()).0.len(), 2);
    assert_eq!(state.checks_in_state(&CheckStatus::parse("bogus"), &any()).0.len(), 0);
}

#[test]
fn deregistering_takes_what_hangs_on_it_and_is_idempotent() {
    let mut log = Log::new();
    let all = |log: &mut Log| {
        let checks = vec![check("n", "", "passing"), check("c1", "1", "passing"), check("c2", "2", "passing")];
        log.ok(register(node("a"), Some(service("1", "web", &[])), vec![]));
        log.ok(register(node("a"), Some(service("2", "web", &[])), checks));
    };
    all(&mut log);
    log.ok(deregister("a", "1", ""));
    assert_eq!(health(&log, "web").len(), 1);
    assert_eq!(log.state().node_checks("a").0.len(), 2);
    log.ok(deregister("a", "", "n"));
    assert_eq!(health(&log, "web"), [("2".to_owned(), vec![("c2".to_owned(), "passing".to_owned())])]);
    log.ok(deregister("a", "", ""));
    assert!(log.state().node("a").is_none() && health(&log, "web").is_empty());
    assert_eq!(log.state().checks_in_state(&CheckStatus::Any, &any()).0.len(), 0);
    for command in [deregister("a", "", ""), deregister("a", "1", ""), deregister("a", "", "n")] {
        log.ok(command);
    }
    assert_eq!(log.state().nodes(&any()).1, 5, "what was not there changed nothing");
}

#[test]
fn a_service_may_take_another_name() {
    let mut log = Log::new();
    log.ok(register(node("a"), Some(service("1", "web", &["t"])), vec![check("c", "1", "passing")]));
    log.ok(register(node("a"), Some(service("1", "www", &["t"])), vec![]));
    assert!(log.state().service("web").is_none());
    assert_eq!(health(&log, "www").len(), 1);
    assert_eq!(log.state().service_index("web"), 2);
}

#[test]
fn a_check_may_move_to_another_service() {
    let mut log = Log::new();
    log.ok(register(node("a"), Some(service("1", "web", &[])), vec![check("c", "1", "passing")]));
    log.ok(register(node("a"), Some(service("2", "db", &[])), vec![check("c", "2", "passing")]));
    assert_eq!(health(&log, "web"), [("1".to_owned(), vec![])]);
    assert_eq!(health(&log, "db")[0].1.len(), 1);
}

#[test]
fn refusals_read_as_consuls_and_change_nothing() {
    let mut log = Log::new();
    log.ok(register(node("n3"), None, vec![]));
    let table = [
        (register(Node::default(), None, vec![]), "Must provide node"),
        (register(node("n3"), Some(service("q", "", &[])), vec![]), "Must provide service name with ID"),
        (
            register(node("n3"), Some(service("q", "q", &[])), vec![check("c", "nope", "passing")]),
            "failed inserting check: Missing service registration on node \"n3\"",
        ),
        (
            register(node("n4"), None, vec![Check { node: "other".into(), ..check("c", "", "passing") }]),
            "check node \"other\" does not match node \"n4\"",
        ),
        (
            register(node("n3"), None, vec![check("", "", "passing")]),
            "failed inserting check: failed inserting check: object missing primary index on node \"n3\"",
        ),
    ];
    for (command, text) in table {
        assert_eq!(log.refused(command), text);
    }
}

#[test]
fn the_id_of_a_node() {
    let mut log = Log::new();
    let with_id = |name: &str, id: u32| Node { id: uuid(id), ..node(name) };
    log.ok(register(with_id("a", 1), Some(service("w", "web", &[])), vec![check("serfHealth", "", "passing")]));
    assert_eq!(log.state().node_or_id(&uuid(1)).unwrap().node().name, "a");
    let text = "failed inserting node: Error while renaming Node ID: \"00000002-0000-4000-8000-000000000000\": \
                Node name A is reserved by node 00000001-0000-4000-8000-000000000000 with name a (10.0.0.1)";
    assert_eq!(log.refused(register(with_id("A", 2), None, vec![])), text);
    log.ok(register(with_id("b", 2), None, vec![]));
    let text = "failed inserting node: Error while renaming Node ID: \"00000002-0000-4000-8000-000000000000\" (10.0.0.1): \
                Node name a is reserved by node 00000001-0000-4000-8000-000000000000 with name a (10.0.0.1)";
    assert_eq!(log.refused(register(with_id("a", 2), None, vec![])), text);
    // The machine has a new name.
    log.ok(register(with_id("c", 1), None, vec![]));
    let state = log.state();
    assert!(state.node("a").is_none() && state.service("web").is_none());
    let moved = state.node("c").unwrap().node();
    assert_eq!((moved.create_index, moved.modify_index), (1, log.index));
    // Whose gossip check is critical may be replaced.
    log.ok(register(with_id("c", 1), None, vec![check("serfHealth", "", "critical")]));
    log.ok(register(with_id("c", 3), None, vec![]));
    assert!(log.state().node_or_id(&uuid(1)).is_none() && log.state().node_or_id(&uuid(3)).is_some());
}

#[test]
fn skipping_the_node_update_keeps_the_node_and_makes_a_missing_one() {
    let mut log = Log::new();
    log.ok(register(node("a"), None, vec![]));
    let skip = |name: &str| {
        let node = Some(Node { address: String::new(), ..node(name) });
        let service = Some(service("w", "web", &[]));
        command::Command::Register(RegisterRequest {
            node,
            service,
            skip_node_update: true,
            ..RegisterRequest::default()
        })
    };
    log.ok(skip("a"));
    log.ok(skip("b"));
    assert_eq!(log.state().node("a").unwrap().node().address, "10.0.0.1");
    assert!(log.state().node("b").is_some());
}

#[test]
fn a_command_of_a_newer_version_is_refused_not_guessed() {
    let store = Store::new();
    let applied = store.apply(7, &Command { call: None, command: None });
    assert!(!applied.outcome.done && applied.outcome.error.contains("upgrade"));
    assert_eq!(store.state().index(), 7, "the entry counts as applied");
}
