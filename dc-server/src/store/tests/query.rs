use causeway_proto::query::{ApplyRequest, PreparedQuery, Template, Verb};

use super::*;

fn query(n: u32, name: &str, template: bool, session: &str) -> PreparedQuery {
    let kind = Template { r#type: "name_prefix_match".into(), ..Template::default() };
    PreparedQuery {
        id: uuid(n),
        name: name.into(),
        session: session.into(),
        template: template.then_some(kind),
        ..PreparedQuery::default()
    }
}

fn apply(verb: Verb, query: PreparedQuery) -> command::Command {
    command::Command::Query(ApplyRequest { verb: verb.into(), query: Some(query) })
}

fn resolved(log: &Log, name: &str) -> Option<String> {
    log.state().resolve_query(name).map(|query| query.name.clone())
}

#[test]
fn names_and_templates_are_found() {
    let mut log = Log::new();
    for (n, name, template) in [(1, "web", false), (2, "we", true), (3, "web-", true), (4, "Geo", true)] {
        log.ok(apply(Verb::Create, query(n, name, template, "")));
    }
    for (name, wanted) in [
        ("web", Some("web")),
        ("WEB", Some("web")),
        ("web-a", Some("web-")),
        ("webx", Some("we")),
        ("geo-é", Some("Geo")),
        ("w", None),
        ("", None),
    ] {
        assert_eq!(resolved(&log, name).as_deref(), wanted, "{name}");
    }
    assert_eq!(resolved(&log, &uuid(1)).as_deref(), Some("web"));
    // A template without a name takes all the rest.
    log.ok(apply(Verb::Create, query(5, "", true, "")));
    assert_eq!(resolved(&log, "w").as_deref(), Some(""));
    assert_eq!(log.state().queries().0.len(), 5);
}

/// The texts are those of Consul 1.8.7.
#[test]
fn names_are_not_taken_twice() {
    let mut log = Log::new();
    log.ok(apply(Verb::Create, query(1, "w", false, "")));
    log.ok(apply(Verb::Create, query(2, "", true, "")));
    for (query, text) in [
        (query(3, "W", false, ""), "name 'W' aliases an existing query name".to_owned()),
        (query(3, "w", true, ""), "name 'w' aliases an existing query name".to_owned()),
        (query(3, "", true, ""), "a query template with an empty name already exists".to_owned()),
        (query(3, &uuid(1), false, ""), format!("name '{}' aliases an existing query ID", uuid(1))),
        (query(3, "s", false, "nope"), "invalid session: index error: UUID must be 36 characters".to_owned()),
        (query(3, "s", false, &uuid(9)), format!("invalid session {:?}", uuid(9))),
    ] {
        assert_eq!(log.refused(apply(Verb::Create, query)), text);
    }
    let text = log.refused(apply(Verb::Update, query(3, "x", false, "")));
    assert_eq!(text, format!("Cannot modify non-existent prepared query: '{}'", uuid(3)));
    // A renamed query gives its name free.
    log.ok(apply(Verb::Update, query(1, "x", false, "")));
    assert_eq!(resolved(&log, "x").as_deref(), Some("x"));
    log.ok(apply(Verb::Create, query(3, "w", false, "")));
    let (found, index) = log.state().query(&uuid(1));
    assert_eq!((found.map(|q| (q.create_index, q.modify_index)), index), (Some((1, log.index - 1)), log.index));
}

#[test]
fn a_query_ends_with_its_session_and_survives_a_snapshot() {
    let mut log = Log::new();
    log.ok(register(node("n"), None, vec![]));
    log.ok(command::Command::SessionCreate(session(&uuid(7), "n")));
    log.ok(apply(Verb::Create, query(1, "bound", false, &uuid(7))));
    log.ok(apply(Verb::Create, query(2, "free", true, "")));
    let snapshot = bytes(&log.state());
    let other = Store::new();
    other.restore(&mut snapshot.as_slice()).unwrap();
    assert_eq!(bytes(&other.state()), snapshot);
    assert!(other.state().resolve_query("freedom").is_some());

    for (store, index) in [(&log.store, log.index + 1), (&other, log.index + 1)] {
        let end = command::Command::SessionDestroy(DestroyRequest { id: uuid(7) });
        store.apply(index, &Command { call: None, command: Some(end) });
        assert!(store.state().resolve_query("bound").is_none());
        assert_eq!((store.state().queries().0.len(), store.state().queries().1), (1, index));
    }
    log.index += 1;
    log.ok(apply(Verb::Delete, query(2, "", false, "")));
    assert!(log.state().resolve_query("free").is_none());
}
