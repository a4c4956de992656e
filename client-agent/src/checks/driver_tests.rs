use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;
use crate::checks::Policy;
use crate::registry::{CheckTls, ScriptCheck, ServiceDefinition, Source, Status};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    registry: Registry,
    checks: Checks,
    stop: CancellationToken,
}

fn bench(settings: Settings) -> Bench {
    let policy = Policy { enable_script_checks: true, ..Policy::default() };
    let registry = Registry::open(None, "n1", policy).unwrap();
    let stop = CancellationToken::new();
    let checks = Checks::start(registry.clone(), settings, stop.clone()).unwrap();
    Bench { registry, checks, stop }
}

impl Bench {
    async fn until(&self, id: &str, status: Status) -> String {
        let start = std::time::Instant::now();
        loop {
            if let Some(check) = self.registry.snapshot().checks.get(id).filter(|c| c.status == status) {
                return check.check.output.clone();
            }
            assert!(
                start.elapsed() < 20 * SECOND,
                "{id} never was {status}: {:?}",
                self.registry.snapshot().checks.get(id)
            );
            sleep(Duration::from_millis(2)).await;
        }
    }
}

fn every_second(id: &str, kind: CheckKind) -> CheckDefinition {
    CheckDefinition { id: id.into(), name: id.into(), interval: SECOND, kind, ..CheckDefinition::default() }
}

#[tokio::test]
async fn a_tcp_check_follows_its_server() {
    let bench = bench(Settings::new("n1"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    bench
        .registry
        .add_check(
            every_second("t", CheckKind::Tcp { address: addr.to_string(), tls: CheckTls::default() }),
            Source::Api,
        )
        .await
        .unwrap();
    assert_eq!(bench.until("t", Status::Passing).await, format!("TCP connect {addr}: Success"));
    drop(listener);
    assert_eq!(bench.until("t", Status::Critical).await, format!("dial tcp {addr}: connect: connection refused"));
    bench.stop.cancel();
    bench.checks.stopped().await;
}

#[tokio::test]
async fn scripts_run_and_end_with_the_agent() {
    let bench = bench(Settings::new("n1"));
    let script = |line: &str| CheckKind::Script(ScriptCheck::Shell(line.into()));
    bench.registry.add_check(every_second("warn", script("echo hm; exit 1")), Source::Api).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let hang = script(&format!("echo $$ > {}; sleep 600", file.path().display()));
    bench.registry.add_check(every_second("hang", hang), Source::Api).await.unwrap();
    assert_eq!(bench.until("warn", Status::Warning).await, "hm\n");
    let start = std::time::Instant::now();
    let pid = loop {
        let text = std::fs::read_to_string(file.path()).unwrap();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        assert!(start.elapsed() < 20 * SECOND);
        sleep(Duration::from_millis(2)).await;
    };
    bench.stop.cancel();
    let stopping = std::time::Instant::now();
    bench.checks.stopped().await;
    assert!(stopping.elapsed() < 2 * SECOND);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z")) {
        assert!(stopping.elapsed() < 10 * SECOND, "the script lives on");
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ttl_checks_expire_again_and_again() {
    let bench = bench(Settings::new("n1"));
    let ttl = CheckDefinition { id: "t".into(), name: "t".into(), ttl: 10 * SECOND, ..CheckDefinition::default() };
    bench.registry.add_check(ttl, Source::Api).await.unwrap();
    for round in 0..3 {
        for _ in 0..5 {
            bench.registry.update_ttl("t", Status::Passing, "ok").unwrap();
            sleep(9 * SECOND).await;
            assert_eq!(bench.registry.snapshot().checks["t"].status, Status::Passing, "round {round}");
        }
        sleep(Duration::from_millis(1100)).await;
        assert_eq!(bench.registry.snapshot().checks["t"].status, Status::Critical, "round {round}");
        sleep(7 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_critical_goes() {
    let bench = bench(Settings::new("n1"));
    let ttl = CheckDefinition {
        ttl: 5 * SECOND,
        deregister_critical_service_after: 10 * SECOND,
        ..CheckDefinition::default()
    };
    let web = ServiceDefinition { name: "web".into(), checks: vec![ttl], ..ServiceDefinition::default() };
    bench.registry.add_service(web, Source::Api, false).await.unwrap();
    sleep(55 * SECOND).await;
    assert_eq!(bench.registry.snapshot().services.len(), 1);
    sleep(40 * SECOND).await;
    assert_eq!(bench.registry.snapshot().services.len(), 0);
    assert_eq!(bench.registry.snapshot().checks.len(), 0);
}

#[tokio::test]
async fn an_alias_follows_at_once() {
    let bench = bench(Settings::new("n1"));
    let ttl = CheckDefinition { ttl: 600 * SECOND, ..CheckDefinition::default() };
    let web = ServiceDefinition { name: "web".into(), checks: vec![ttl], ..ServiceDefinition::default() };
    let alias = CheckDefinition {
        name: "alias".into(),
        kind: CheckKind::Alias { node: String::new(), service: "web".into() },
        ..CheckDefinition::default()
    };
    bench.registry.add_check(alias, Source::Api).await.unwrap();
    bench.until("alias", Status::Critical).await;
    bench.registry.add_service(web, Source::Api, false).await.unwrap();
    bench.registry.update_ttl("service:web", Status::Passing, "").unwrap();
    assert_eq!(bench.until("alias", Status::Passing).await, "All checks passing.");
    bench.registry.update_ttl("service:web", Status::Warning, "slow").unwrap();
    let output = bench.until("alias", Status::Warning).await;
    assert_eq!(output, "Aliased check \"Service 'web' check\" failing: slow");
}
