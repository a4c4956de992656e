#![allow(clippy::disallowed_methods, reason = "tests start from the present")]

use super::*;
use crate::registry::definition::ScriptCheck;

const SECOND: Duration = Duration::from_secs(1);

fn state() -> State {
    State::new("n1".into(), Policy::default())
}

fn ttl(id: &str) -> CheckDefinition {
    CheckDefinition { id: id.into(), name: id.into(), ttl: 10 * SECOND, ..CheckDefinition::default() }
}

fn web(checks: Vec<CheckDefinition>) -> ServiceDefinition {
    ServiceDefinition { name: "web".into(), checks, ..ServiceDefinition::default() }
}

fn ids(state: &State) -> Vec<String> {
    state.local.checks.keys().cloned().collect()
}

#[test]
fn ids_default_as_in_consul() {
    let (mut s, now) = (state(), Instant::now());
    s.add_service(web(vec![ttl("")]), Source::Api, false, now).unwrap();
    assert_eq!(ids(&s), ["service:web"]);
    let two = ServiceDefinition { id: "w2".into(), ..web(vec![ttl(""), ttl("own"), ttl("")]) };
    s.add_service(two, Source::Api, false, now).unwrap();
    assert_eq!(ids(&s), ["own", "service:w2:1", "service:w2:3", "service:web"]);
    let check = &s.local.checks["service:w2:1"];
    assert_eq!((check.check.service_id.as_str(), check.check.service_name.as_str()), ("w2", "web"));
    let unnamed = CheckDefinition { name: String::new(), ..ttl("") };
    s.add_service(web(vec![unnamed]), Source::Api, false, now).unwrap();
    assert_eq!(s.local.checks["service:web"].check.name, "Service 'web' check");
}

#[test]
fn a_service_registered_again_keeps_its_status_and_its_other_checks() {
    let (mut s, now) = (state(), Instant::now());
    s.add_service(web(vec![ttl("a"), ttl("b")]), Source::Api, false, now).unwrap();
    s.update_ttl("a", Status::Passing, "fine", now).unwrap();
    s.add_service(web(vec![ttl("a")]), Source::Api, false, now).unwrap();
    assert_eq!(ids(&s), ["a", "b"]);
    assert_eq!(s.local.checks["a"].status, Status::Passing);
    assert_eq!(s.local.checks["a"].check.output, "fine");
    let effects = s.add_service(web(vec![ttl("a")]), Source::Api, true, now).unwrap();
    assert_eq!(ids(&s), ["a"]);
    assert!(effects.contains(&Effect::RemoveCheck("b".into())));
}

#[test]
fn tags_of_a_service_reach_its_checks() {
    let (mut s, now) = (state(), Instant::now());
    s.add_service(web(vec![ttl("a")]), Source::Api, false, now).unwrap();
    let tagged = ServiceDefinition { tags: vec!["t".into()], ..web(vec![]) };
    s.add_service(tagged, Source::Api, false, now).unwrap();
    assert_eq!(s.local.checks["a"].check.service_tags, ["t"]);
}

#[test]
fn refusals_change_nothing() {
    let (mut s, now) = (state(), Instant::now());
    let script = CheckDefinition {
        interval: SECOND,
        kind: CheckKind::Script(ScriptCheck::Shell("true".into())),
        ..CheckDefinition::default()
    };
    let refused = s.add_service(web(vec![script]), Source::Api, false, now).unwrap_err();
    assert_eq!(refused, RegisterError::Refused(crate::checks::policy::REFUSED_REMOTE.into()));
    let lost = CheckDefinition { service_id: "nope".into(), ..ttl("x") };
    let refused = s.add_check(lost, Source::Api, now).unwrap_err();
    assert_eq!(refused.to_string(), "ServiceID \"nope\" does not exist");
    let refused = s.add_check(CheckDefinition::default(), Source::Api, now).unwrap_err();
    assert_eq!(refused, RegisterError::Invalid("Missing check name".into()));
    assert_eq!((s.local.services.len(), s.local.checks.len(), s.local.version), (0, 0, 0));
}

#[test]
fn a_ttl_check_lives_on_what_it_is_told() {
    let (mut s, t0) = (state(), Instant::now());
    s.add_check(ttl("c"), Source::Api, t0).unwrap();
    assert_eq!(s.local.checks["c"].status, Status::Critical);
    let (changed, effect) = s.update_ttl("c", Status::Passing, "ok", t0 + 5 * SECOND).unwrap();
    assert!(changed && matches!(effect, Effect::WriteState(_)));
    let (changed, _) = s.update_ttl("c", Status::Passing, "ok", t0 + 6 * SECOND).unwrap();
    assert!(!changed, "the catalog need not hear the same again");
    assert_eq!(s.expire_ttl("c", t0 + 15 * SECOND), Some(t0 + 16 * SECOND));
    assert_eq!(s.expire_ttl("c", t0 + 16 * SECOND), None);
    let check = &s.local.checks["c"];
    assert_eq!(check.status, Status::Critical);
    assert_eq!(check.check.output, "TTL expired (last output before timeout follows): ok");
    assert_eq!(check.critical_since, Some(t0 + 16 * SECOND));
    assert_eq!(s.expire_ttl("c", t0 + 60 * SECOND), None, "it expires once");
    assert_eq!(
        s.update_ttl("d", Status::Passing, "", t0).unwrap_err().to_string(),
        "CheckID \"d\" does not have associated TTL"
    );
}

#[test]
fn a_ttl_check_nobody_tells_anything_expires_too() {
    let (mut s, t0) = (state(), Instant::now());
    s.add_check(CheckDefinition { status: Some(Status::Passing), ..ttl("c") }, Source::Api, t0).unwrap();
    assert_eq!(s.local.checks["c"].status, Status::Passing);
    assert_eq!(s.expire_ttl("c", t0 + 10 * SECOND), None);
    assert_eq!(s.local.checks["c"].check.output, "TTL expired");
}

#[test]
fn a_saved_ttl_state_is_good_for_its_ttl_at_most() {
    let (mut s, t0) = (state(), Instant::now());
    s.add_check(ttl("c"), Source::Api, t0).unwrap();
    let saved = SavedState {
        check_id: "c".into(),
        status: Status::Passing,
        output: "ok".into(),
        left: Duration::from_secs(1_000_000),
    };
    assert!(s.restore_ttl(&saved, t0));
    assert_eq!(s.local.checks["c"].ttl_deadline, Some(t0 + 10 * SECOND));
    assert!(!s.restore_ttl(&SavedState { check_id: "gone".into(), ..saved }, t0));
}

#[test]
fn maintenance_comes_and_goes() {
    let (mut s, now) = (state(), Instant::now());
    assert_eq!(
        s.set_maintenance(Some("web"), true, "", Secret::default(), now).unwrap_err().to_string(),
        "No service registered with ID \"web\""
    );
    s.add_service(web(vec![]), Source::Config, false, now).unwrap();
    s.set_maintenance(Some("web"), true, "why", Secret::default(), now).unwrap();
    s.set_maintenance(None, true, "", Secret::default(), now).unwrap();
    let check = &s.local.checks["_service_maintenance:web"];
    assert_eq!((check.check.notes.as_str(), check.check.r#type.as_str()), ("why", "maintenance"));
    assert_eq!(check.status, Status::Critical);
    assert_eq!(s.local.service_status("web"), Status::Critical);
    let node = &s.local.checks[NODE_MAINTENANCE];
    assert!(node.check.notes.starts_with("Maintenance mode is enabled for this node, but no reason"));
    s.set_maintenance(Some("web"), false, "", Secret::default(), now).unwrap();
    s.set_maintenance(None, false, "", Secret::default(), now).unwrap();
    assert!(s.local.checks.is_empty());
}

#[test]
fn configuration_wins_over_what_was_saved() {
    let (mut s, now) = (state(), Instant::now());
    s.add_service(web(vec![ttl("a")]), Source::Api, false, now).unwrap();
    let effects = s.add_service(web(vec![ttl("a")]), Source::Config, false, now).unwrap();
    assert_eq!(effects, [Effect::RemoveService("web".into()), Effect::RemoveCheck("a".into())]);
    s.retain_config(&["web".into()], &[]);
    assert_eq!(s.local.services.len(), 1);
    s.retain_config(&[], &[]);
    assert_eq!((s.local.services.len(), s.local.checks.len()), (0, 0));
}

#[test]
fn definitions_count_only_when_a_check_is_another() {
    let (mut s, now) = (state(), Instant::now());
    s.add_check(ttl("c"), Source::Api, now).unwrap();
    let (definitions, version) = (s.local.definitions, s.local.version);
    s.add_check(ttl("c"), Source::Api, now).unwrap();
    s.update_ttl("c", Status::Passing, "", now).unwrap();
    assert_eq!(s.local.definitions, definitions);
    assert!(s.local.version > version);
    s.add_check(CheckDefinition { ttl: SECOND, ..ttl("c") }, Source::Api, now).unwrap();
    assert!(s.local.definitions > definitions);
}

#[test]
fn addresses_are_tagged_by_family() {
    let (mut s, now) = (state(), Instant::now());
    for (address, expected) in [
        ("10.0.0.1", vec!["lan_ipv4", "wan_ipv4"]),
        ("::1", vec!["lan_ipv6", "wan_ipv6"]),
        ("host", vec![]),
        ("", vec![]),
    ] {
        let service = ServiceDefinition { address: address.into(), port: 80, ..web(vec![]) };
        s.add_service(service, Source::Api, false, now).unwrap();
        let tagged = &s.local.services["web"].service.tagged_addresses;
        assert_eq!(tagged.keys().collect::<Vec<_>>(), expected);
        assert!(tagged.values().all(|a| a.port == 80 && a.address == address));
    }
}

#[test]
fn tags_are_adopted_only_where_allowed() {
    let (mut s, now) = (state(), Instant::now());
    s.add_service(web(vec![]), Source::Api, false, now).unwrap();
    assert_eq!(s.adopt_tags("web", vec!["t".into()]), None);
    s.add_service(ServiceDefinition { enable_tag_override: true, ..web(vec![]) }, Source::Api, false, now).unwrap();
    assert!(s.adopt_tags("web", vec!["t".into()]).is_some());
    assert_eq!(s.local.services["web"].service.tags, ["t"]);
}

#[test]
fn long_output_is_cut_from_its_front() {
    assert_eq!(bounded("short", 20), "short");
    assert_eq!(bounded(&"y\n".repeat(5000), 20), format!("Captured 20 of 10000 bytes\n...\n{}", "y\n".repeat(10)));
    assert_eq!(bounded("ééé", 3), "Captured 3 of 6 bytes\n...\né", "never inside a character");
}

#[test]
fn status_is_critical_since_it_first_was() {
    let (mut s, t0) = (state(), Instant::now());
    s.add_check(ttl("c"), Source::Api, t0).unwrap();
    s.set_status("c", Status::Critical, "a", t0 + SECOND).unwrap();
    assert_eq!(s.local.checks["c"].critical_since, Some(t0));
    s.set_status("c", Status::Warning, "a", t0 + SECOND).unwrap();
    assert_eq!(s.local.checks["c"].critical_since, None);
    assert!(!s.set_status("c", Status::Warning, "a", t0 + SECOND).unwrap());
    assert!(s.set_status("nope", Status::Warning, "a", t0).is_err());
}
