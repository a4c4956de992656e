//! Prometheus finds its targets with `consul_sd_configs`. Debian 12 builds it without; Debian 11's has it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{free_port, http, wait};
use crate::subject::Subject;
use crate::tools::{Daemon, need};

const SOON: Duration = Duration::from_secs(30);

/// The targets of a job that are scraped.
fn targets(port: u16, job: &str) -> Result<Vec<Value>, String> {
    let all = http::request(port, "GET", "/api/v1/targets?state=active", b"").json()?;
    let all = all["data"]["activeTargets"].as_array().ok_or("no targets")?.clone();
    Ok(all.into_iter().filter(|t| t["discoveredLabels"]["job"] == job).collect())
}

/// The service ids of a job's targets, sorted.
fn ids(port: u16, job: &str) -> Result<Vec<String>, String> {
    let id = |t: &Value| t["discoveredLabels"]["__meta_consul_service_id"].as_str().unwrap_or_default().to_owned();
    let mut ids: Vec<String> = targets(port, job)?.iter().map(id).collect();
    ids.sort();
    Ok(ids)
}

fn become_so(port: u16, job: &str, wanted: &[&str]) {
    wait(&format!("targets of {job}: {wanted:?}"), SOON, || {
        let found = ids(port, job)?;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn targets_are_what_is_registered() {
    let brings = "Debian 11's: its package prometheus, unpacked into CLIENTS_DIR/bullseye";
    let Some([prometheus]) = need("prometheus", ["prometheus"], brings) else { return };
    let subject = Subject::start("prometheus");
    let agent = subject.node("agent");
    let dir = subject.federation.dir.0.join("prometheus");
    fs::create_dir_all(&dir).unwrap();
    let port = free_port();
    let config = format!(
        r#"
global: {{ scrape_interval: 1s }}
scrape_configs:
- job_name: everything
  consul_sd_configs: [ {{ server: "127.0.0.1:{http}", refresh_interval: 1s }} ]
- job_name: tagged
  consul_sd_configs:
  - {{ server: "127.0.0.1:{http}", datacenter: dc1, services: [shop], tags: [metrics], tag_separator: "|", node_meta: {{ env: prod }}, refresh_interval: 1s }}
  relabel_configs:
  - {{ source_labels: [__meta_consul_service_metadata_team], target_label: team }}
- job_name: agents
  metrics_path: /v1/agent/metrics
  params: {{ format: [prometheus] }}
  consul_sd_configs: [ {{ server: "127.0.0.1:{http}", services: [agent], allow_stale: false, refresh_interval: 1s }} ]
"#,
        http = agent.http
    );
    fs::write(dir.join("prometheus.yml"), config).unwrap();
    // Targets of one address and the same labels would be one target.
    let shop = |id: &str, tags: Value| {
        let address = format!("127.0.0.{}", &id[5..]);
        json!({"Name": "shop", "ID": id, "Address": address, "Port": port, "Tags": tags,
               "Meta": {"team": "tills"}, "Check": {"CheckID": id, "TTL": "600s", "Status": "passing"}})
        .to_string()
    };
    let register = |body: &str| assert_eq!(agent.put("/v1/agent/service/register", body).code, 200);
    register(&shop("shop-1", json!(["metrics", "v1"])));
    register(&json!({"Name": "agent", "Address": "127.0.0.1", "Port": agent.http}).to_string());

    let mut command = Command::new(prometheus);
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let _running = Daemon::start(command, &dir.join("prometheus.log"));

    become_so(port, "tagged", &["shop-1"]);
    become_so(port, "everything", &["agent", "consul", "shop-1"]);
    let target = targets(port, "tagged").unwrap().remove(0);
    for (label, wanted) in [
        ("__address__", format!("127.0.0.1:{port}")),
        ("__meta_consul_service", "shop".into()),
        ("__meta_consul_service_id", "shop-1".into()),
        ("__meta_consul_service_address", "127.0.0.1".into()),
        ("__meta_consul_service_port", port.to_string()),
        ("__meta_consul_service_metadata_team", "tills".into()),
        ("__meta_consul_tags", "|metrics|v1|".into()),
        ("__meta_consul_node", agent.name.clone()),
        ("__meta_consul_address", "127.0.0.1".into()),
        ("__meta_consul_dc", "dc1".into()),
        ("__meta_consul_health", "passing".into()),
        ("__meta_consul_metadata_env", "prod".into()),
        ("__meta_consul_tagged_address_lan", "127.0.0.1".into()),
    ] {
        assert_eq!(target["discoveredLabels"][label], json!(wanted), "{label} of {target}");
    }
    assert_eq!(target["labels"]["team"], "tills");
    wait("the target is scraped", SOON, || {
        let health = targets(port, "tagged")?.remove(0)["health"].clone();
        if health == "up" { Ok(()) } else { Err(health.to_string()) }
    });

    // What is registered, changed and taken out is followed, by blocking queries.
    register(&shop("shop-2", json!(["metrics"])));
    register(&shop("shop-3", json!(["other"])));
    become_so(port, "tagged", &["shop-1", "shop-2"]);
    become_so(port, "everything", &["agent", "consul", "shop-1", "shop-2", "shop-3"]);
    assert_eq!(agent.put("/v1/agent/check/fail/shop-1", "").code, 200);
    wait("the failed check is a label", SOON, || {
        let health = targets(port, "tagged")?.remove(0)["discoveredLabels"]["__meta_consul_health"].clone();
        if health == "critical" { Ok(()) } else { Err(health.to_string()) }
    });
    assert_eq!(agent.put("/v1/agent/service/deregister/shop-1", "").code, 200);
    become_so(port, "tagged", &["shop-2"]);
    for id in ["shop-2", "shop-3"] {
        assert_eq!(agent.put(&format!("/v1/agent/service/deregister/{id}"), "").code, 200);
    }
    become_so(port, "everything", &["agent", "consul"]);

    // Our own figures, as Prometheus reads them. (Consul's are off as the subject is configured.)
    if !subject.consul {
        wait("the agent's metrics are taken", SOON, || {
            let target = targets(port, "agents")?.pop().ok_or("no target")?;
            let path = "/api/v1/query?query=consul_runtime_num_goroutines";
            let answer = http::request(port, "GET", path, b"").json()?;
            let found = answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty());
            if target["health"] == "up" && found { Ok(()) } else { Err(format!("{target} {answer}")) }
        });
    }
}
