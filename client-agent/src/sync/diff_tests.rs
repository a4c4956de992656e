#![allow(clippy::disallowed_methods, reason = "tests start from the present")]

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::checks::Policy;
use crate::registry::state::State;
use crate::registry::{CheckDefinition, ServiceDefinition, Source, Status};

fn node() -> catalog::Node {
    catalog::Node { id: "u".into(), name: "n1".into(), address: "10.0.0.1".into(), ..catalog::Node::default() }
}

fn ttl(id: &str, service: &str) -> CheckDefinition {
    CheckDefinition {
        id: id.into(),
        name: id.into(),
        service_id: service.into(),
        ttl: Duration::from_secs(10),
        ..CheckDefinition::default()
    }
}

fn service(id: &str, checks: Vec<CheckDefinition>) -> ServiceDefinition {
    ServiceDefinition { id: id.into(), name: "web".into(), checks, ..ServiceDefinition::default() }
}

fn state() -> State {
    State::new("n1".into(), Policy::default())
}

fn add(state: &mut State, definition: ServiceDefinition) {
    state.add_service(definition, Source::Api, false, Instant::now()).unwrap();
}

/// As a server's catalog would do it; what it then says when read.
fn apply(remote: &mut Remote, action: &Action) {
    remote.done(action, &node());
    let services = remote.services.values().map(|k| match k {
        Known::Ours(s) => s.service.clone(),
        Known::Read(s) => s.clone(),
    });
    let checks = remote.checks.values().map(|k| match k {
        Known::Ours(c) => c.check.clone(),
        Known::Read(c) => c.clone(),
    });
    *remote = Remote::read(remote.node.clone(), services.collect(), checks.collect());
}

fn synced(state: &State) -> Remote {
    let mut remote = Remote::default();
    for action in diff(state.local(), &remote, &node(), |_| true).actions {
        remote.done(&action, &node());
    }
    remote
}

#[test]
fn an_empty_catalog_gets_node_then_services_with_their_checks() {
    let mut s = state();
    add(&mut s, service("a", vec![ttl("c", "")]));
    s.add_check(ttl("n", ""), Source::Api, Instant::now()).unwrap();
    let actions = diff(s.local(), &Remote::default(), &node(), |_| false).actions;
    assert_eq!(actions.len(), 3, "{actions:?}");
    assert_eq!(actions[0], Action::RegisterNode);
    assert!(matches!(&actions[1], Action::RegisterService { checks, .. } if checks.len() == 1));
    assert!(matches!(&actions[2], Action::RegisterCheck(c) if c.check.id == "n"));
    assert_eq!(diff(s.local(), &synced(&s), &node(), |_| true), Diff::default());
}

#[test]
fn a_status_is_sent_and_output_alone_may_wait() {
    let mut s = state();
    add(&mut s, service("a", vec![ttl("c", "")]));
    let remote = synced(&s);
    s.set_status("c", Status::Critical, "other words", Instant::now()).unwrap();
    let waiting = diff(s.local(), &remote, &node(), |_| false);
    assert_eq!((waiting.actions.len(), waiting.output_only), (0, vec!["c".to_owned()]));
    assert_eq!(diff(s.local(), &remote, &node(), |_| true).actions.len(), 1);
    s.set_status("c", Status::Passing, "other words", Instant::now()).unwrap();
    let now = diff(s.local(), &remote, &node(), |_| false);
    assert!(matches!(&now.actions[..], [Action::RegisterCheck(c)] if c.status == Status::Passing));
}

#[test]
fn what_is_not_ours_goes_except_the_leaders() {
    let named = |id: &str| catalog::Service { id: id.into(), ..catalog::Service::default() };
    let check = |id: &str, service: &str| catalog::Check {
        id: id.into(),
        service_id: service.into(),
        ..catalog::Check::default()
    };
    let remote = Remote::read(
        Some(node()),
        vec![named("consul"), named("old")],
        vec![check("serfHealth", ""), check("old:1", "old"), check("loose", ""), check("of-none", "gone")],
    );
    let actions = diff(state().local(), &remote, &node(), |_| true).actions;
    assert_eq!(
        actions,
        [
            Action::DeregisterService("old".into()),
            Action::DeregisterCheck("loose".into()),
            Action::DeregisterCheck("of-none".into())
        ]
    );
}

#[test]
fn checks_with_another_token_travel_apart() {
    let mut s = state();
    add(&mut s, service("a", vec![]));
    s.add_check(CheckDefinition { token: "other".into(), ..ttl("c", "a") }, Source::Api, Instant::now()).unwrap();
    let actions = diff(s.local(), &Remote::default(), &node(), |_| true).actions;
    assert!(matches!(&actions[1], Action::RegisterService { checks, .. } if checks.is_empty()));
    assert!(matches!(&actions[2], Action::RegisterCheck(_)), "after its service");
}

#[test]
fn tags_changed_in_the_catalog_are_put_back_or_adopted() {
    for (tag_override, expected) in [(false, "RegisterService"), (true, "AdoptTags")] {
        let mut s = state();
        add(&mut s, ServiceDefinition { enable_tag_override: tag_override, ..service("a", vec![]) });
        let mut there = s.local().services["a"].service.clone();
        there.tags = vec!["new".into()];
        let remote = Remote::read(Some(node()), vec![there], vec![]);
        let actions = diff(s.local(), &remote, &node(), |_| true).actions;
        assert_eq!(actions.len(), 1);
        assert!(format!("{:?}", actions[0]).starts_with(expected), "{actions:?}");
    }
}

#[test]
fn a_node_with_another_address_is_registered_again() {
    let there = catalog::Node { address: "10.0.0.9".into(), ..node() };
    let actions = diff(state().local(), &Remote::read(Some(there), vec![], vec![]), &node(), |_| true).actions;
    assert_eq!(actions, [Action::RegisterNode]);
    let there = catalog::Node { create_index: 5, modify_index: 6, ..node() };
    assert_eq!(diff(state().local(), &Remote::read(Some(there), vec![], vec![]), &node(), |_| true).actions, []);
}

/// Whatever happened here and there, one round of actions brings agreement, and a second has nothing to do.
#[test]
fn one_round_brings_agreement() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut s, mut remote) = (state(), Remote::default());
        let now = Instant::now();
        let ids = ["a", "b", "c", "consul2"];
        for _ in 0..20 {
            let id = *ids.choose(&mut rng).unwrap();
            match rng.random_range(0..6) {
                0 => add(&mut s, ServiceDefinition { port: rng.random_range(0..3), ..service(id, vec![]) }),
                1 => add(&mut s, service(id, vec![ttl(&format!("{id}1"), ""), ttl(&format!("{id}2"), "")])),
                2 => drop(s.remove_service(id)),
                3 => drop(s.remove_check(&format!("{id}1"))),
                4 => drop(s.set_status(&format!("{id}2"), Status::Passing, "x", now)),
                _ => {
                    let actions = diff(s.local(), &remote, &node(), |_| true).actions;
                    // A round that is cut short at any point.
                    let done = rng.random_range(0..=actions.len());
                    actions.iter().take(done).for_each(|a| apply(&mut remote, a));
                }
            }
        }
        for action in diff(s.local(), &remote, &node(), |_| true).actions {
            apply(&mut remote, &action);
        }
        assert_eq!(diff(s.local(), &remote, &node(), |_| true), Diff::default(), "seed {seed}");
        assert!(remote.services.keys().eq(s.local().services.keys()), "seed {seed}");
        assert!(remote.checks.keys().eq(s.local().checks.keys()), "seed {seed}");
    }
}
