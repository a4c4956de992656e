//! Tests of the store, a file a subject.

mod catalog;
mod kv;
mod property;
mod query;
mod restore;
mod session;
mod snapshot;
mod txn;
mod watch;

use std::collections::BTreeMap;

use causeway_proto::catalog::{Check, DeregisterRequest, Node, RegisterRequest, Service};
use causeway_proto::command::{Command, Outcome, command};
use causeway_proto::kv::{ApplyRequest, Verb};
use causeway_proto::session::{DestroyRequest, Session};

use super::{Applied, Event, State, Store};

/// A UUID that tells tests apart.
pub(super) fn uuid(n: u32) -> String {
    format!("{n:08}-0000-4000-8000-000000000000")
}

pub(super) fn node(name: &str) -> Node {
    Node { name: name.into(), address: "10.0.0.1".into(), ..Node::default() }
}

pub(super) fn service(id: &str, name: &str, tags: &[&str]) -> Service {
    Service {
        id: id.into(),
        name: name.into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        port: 80,
        ..Service::default()
    }
}

pub(super) fn check(id: &str, service: &str, status: &str) -> Check {
    Check { id: id.into(), service_id: service.into(), status: status.into(), ..Check::default() }
}

pub(super) fn register(node: Node, service: Option<Service>, checks: Vec<Check>) -> command::Command {
    command::Command::Register(RegisterRequest { node: Some(node), service, checks, skip_node_update: false })
}

pub(super) fn deregister(node: &str, service: &str, check: &str) -> command::Command {
    command::Command::Deregister(DeregisterRequest {
        node: node.into(),
        service_id: service.into(),
        check_id: check.into(),
    })
}

pub(super) fn kv(verb: Verb, key: &str, value: &str) -> ApplyRequest {
    ApplyRequest { verb: verb.into(), key: key.into(), value: value.into(), ..ApplyRequest::default() }
}

pub(super) fn session(id: &str, node: &str) -> Session {
    Session { id: id.into(), node: node.into(), lock_delay_ms: 15_000, ..Session::default() }
}

pub(super) fn any() -> BTreeMap<String, String> {
    BTreeMap::new()
}

/// A store that counts its own index.
pub(super) struct Log {
    pub(super) store: Store,
    pub(super) index: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { store: Store::new(), index: 0 }
    }

    pub(super) fn apply(&mut self, command: command::Command) -> Applied {
        self.index += 1;
        self.store.apply(self.index, &Command { call: None, command: Some(command) })
    }

    /// Applies and demands success.
    pub(super) fn ok(&mut self, command: command::Command) -> Vec<Event> {
        let applied = self.apply(command);
        assert_eq!(applied.outcome, Outcome { index: self.index, done: true, ..Outcome::default() });
        applied.events
    }

    /// Applies and gives the refusal.
    pub(super) fn refused(&mut self, command: command::Command) -> String {
        let before = bytes(&self.state());
        let applied = self.apply(command);
        assert!(!applied.outcome.done && applied.events.is_empty(), "{applied:?}");
        let (mut after, mut expected) = (self.state().as_ref().clone(), before);
        after.index -= 1;
        let after = bytes(&after);
        assert_eq!(after, expected, "a refused command changed something");
        expected.clear();
        applied.outcome.error
    }

    /// Applies a key/value verb; whether it was done.
    pub(super) fn kv(&mut self, request: ApplyRequest) -> bool {
        let applied = self.apply(command::Command::Kv(request));
        assert_eq!(applied.outcome.error, "");
        applied.outcome.done
    }

    pub(super) fn destroy(&mut self, id: &str) -> Vec<Event> {
        self.ok(command::Command::SessionDestroy(DestroyRequest { id: id.into() }))
    }

    pub(super) fn state(&self) -> std::sync::Arc<State> {
        self.store.state()
    }
}

/// The snapshot's bytes.
pub(super) fn bytes(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    let written = Store::write_snapshot(state, &mut out).expect("memory takes all");
    assert_eq!(written, out.len() as u64);
    out
}
