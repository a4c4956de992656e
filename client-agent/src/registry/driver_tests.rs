use super::*;
use crate::registry::definition::{CheckKind, HttpCheck, ScriptCheck};

fn ttl(id: &str, seconds: u64) -> CheckDefinition {
    CheckDefinition { id: id.into(), name: id.into(), ttl: Duration::from_secs(seconds), ..CheckDefinition::default() }
}

fn web(checks: Vec<CheckDefinition>) -> ServiceDefinition {
    ServiceDefinition { name: "web".into(), port: 80, token: "s".into(), checks, ..ServiceDefinition::default() }
}

fn open(dir: &tempfile::TempDir) -> Registry {
    Registry::open(Some(dir.path().to_owned()), "n1", Policy::default()).unwrap()
}

#[tokio::test]
async fn a_restart_finds_services_checks_and_ttl_states() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&dir);
    let http = CheckDefinition {
        interval: Duration::from_secs(5),
        kind: CheckKind::Http(HttpCheck { url: "http://a/".into(), ..HttpCheck::default() }),
        ..CheckDefinition::default()
    };
    registry.add_service(web(vec![ttl("t", 60), http]), Source::Api, false).await.unwrap();
    registry.add_check(ttl("node", 60), Source::Api).await.unwrap();
    registry.add_service(ServiceDefinition { name: "cfg".into(), ..web(vec![]) }, Source::Config, false).await.unwrap();
    registry.add_service(ServiceDefinition { name: "gone".into(), ..web(vec![]) }, Source::Api, false).await.unwrap();
    assert!(registry.remove_service("gone").await.unwrap());
    assert!(!registry.remove_service("gone").await.unwrap());
    registry.set_service_maintenance("web", true, "why", Secret::default()).await.unwrap();
    registry.update_ttl("t", Status::Passing, "fine").unwrap();
    registry.flush().await;
    let before = registry.snapshot();
    drop(registry);

    let after = open(&dir).snapshot();
    assert_eq!(after.services.keys().collect::<Vec<_>>(), ["web"]);
    assert_eq!(after.services["web"], before.services["web"]);
    assert_eq!(after.checks.keys().collect::<Vec<_>>(), ["_service_maintenance:web", "node", "service:web:2", "t"]);
    for (id, check) in &after.checks {
        let was = &before.checks[id];
        assert_eq!((&check.check, &check.definition), (&was.check, &was.definition), "{id}");
    }
    assert_eq!(after.checks["t"].status, Status::Passing);
    assert!(after.checks["t"].ttl_deadline.is_some());
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_others_load() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&dir);
    for name in ["a", "b"] {
        let service = ServiceDefinition { name: name.into(), ..web(vec![]) };
        registry.add_service(service, Source::Api, false).await.unwrap();
    }
    drop(registry);
    let path = dir.path().join("services").join(file::name("a"));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(path.with_extension("tmp"), "torn").unwrap();

    let registry = open(&dir);
    assert_eq!(registry.snapshot().services.keys().collect::<Vec<_>>(), ["b"]);
    assert!(!path.exists() && path.with_extension("damaged").exists() && !path.with_extension("tmp").exists());
    drop(registry);
    assert_eq!(open(&dir).snapshot().services.len(), 1, "what was set aside stays aside");
}

#[tokio::test]
async fn files_hold_tokens_and_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&dir);
    registry.add_service(web(vec![]), Source::Api, false).await.unwrap();
    let path = dir.path().join("services").join(file::name("web"));
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0);
}

#[tokio::test]
async fn changes_are_announced_and_repetitions_are_not() {
    let registry = Registry::open(None, "n1", Policy::default()).unwrap();
    let mut changed = registry.changed();
    registry.add_check(ttl("t", 60), Source::Api).await.unwrap();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    registry.update_ttl("t", Status::Passing, "x").unwrap();
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    registry.update_ttl("t", Status::Passing, "x").unwrap();
    assert!(!changed.has_changed().unwrap());
    assert!(registry.update_ttl("nope", Status::Passing, "").is_err());
}

#[tokio::test]
async fn a_disk_that_fails_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let registry = open(&dir);
    std::fs::remove_dir_all(dir.path().join("services")).unwrap();
    let error = registry.add_service(web(vec![]), Source::Api, false).await.unwrap_err();
    assert!(matches!(error, RegisterError::Disk(_)), "{error}");
}

#[tokio::test]
async fn scripts_saved_by_an_agent_that_allowed_them_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let allowing = Policy { enable_script_checks: true, ..Policy::default() };
    let registry = Registry::open(Some(dir.path().to_owned()), "n1", allowing).unwrap();
    let script = CheckDefinition {
        name: "s".into(),
        interval: Duration::from_secs(5),
        kind: CheckKind::Script(ScriptCheck::Shell("true".into())),
        ..CheckDefinition::default()
    };
    registry.add_check(script, Source::Api).await.unwrap();
    drop(registry);
    assert_eq!(open(&dir).snapshot().checks.len(), 0);
    let again = Registry::open(Some(dir.path().to_owned()), "n1", allowing).unwrap();
    assert_eq!(again.snapshot().checks.len(), 1, "its file is still there");
}
