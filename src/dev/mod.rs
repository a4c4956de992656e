//! `causeway dev`: a federation on this machine. Every node is a process of its own, started from a configuration file that lies
//! beside its state, so that each can be looked at, killed and started again by hand.

mod layout;
mod samples;
mod watch;

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::command::Input;
use layout::{Layout, Node};

/// Longest time the federation may take to come up.
const START: Duration = Duration::from_secs(60);
/// Children end when this variable is set and their standard input is closed; so they never outlive us.
pub const END_WITH_STDIN: &str = "CAUSEWAY_END_WITH_STDIN";

/// What the user asked for.
pub struct Setup {
    datacenters: usize,
    data_dir: Option<PathBuf>,
    port_base: u16,
    http_port: u16,
    dns_port: u16,
    quiet: bool,
}

impl Setup {
    /// Reads the flags.
    pub fn read(input: &Input) -> Result<Self, String> {
        let number = |name: &str, default: u16, most: u16| -> Result<u16, String> {
            let Some(text) = input.value(name) else { return Ok(default) };
            let n = text.parse().ok().filter(|n| (1..=most).contains(n));
            n.ok_or_else(|| format!("flag -{name} is {text:?}; it must be a number from 1 to {most}"))
        };
        Ok(Self {
            datacenters: usize::from(number("datacenters", 2, 9)?),
            data_dir: input.value("data-dir").map(PathBuf::from),
            port_base: number("port-base", 21_000, 60_000)?,
            http_port: number("http-port", 8500, 65_000)?,
            dns_port: number("dns-port", 8600, 65_000)?,
            quiet: input.on("quiet"),
        })
    }
}

/// Runs until Ctrl-C.
pub fn main(setup: Setup) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("==> cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let (dir, temporary) = match &setup.data_dir {
        Some(dir) => (std::path::absolute(dir).unwrap_or_else(|_| dir.clone()), false),
        None => (std::env::temp_dir().join(format!("causeway-dev-{}", std::process::id())), true),
    };
    let outcome = runtime.block_on(run(&setup, dir.clone(), temporary));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if temporary && outcome.is_ok() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("==> {e}");
            ExitCode::FAILURE
        }
    }
}

/// One node's process.
struct Running {
    node: Node,
    child: tokio::process::Child,
    gone: bool,
}

/// Prints one line, with the seconds since the start.
fn say(began: Instant, who: &str, what: &str) {
    crate::command::print_out(&format!("{:>6.2}s  {who:<9}  {what}\n", began.elapsed().as_secs_f64()));
}

async fn run(setup: &Setup, dir: PathBuf, temporary: bool) -> Result<(), String> {
    let began = Instant::now();
    let layout = Layout::make(setup.datacenters, &dir, setup.port_base, setup.http_port, setup.dns_port)?;
    for node in layout.nodes() {
        node.check_ports()?;
    }
    layout.write()?;
    let kept = if temporary { "removed at the end; -data-dir keeps it" } else { "kept" };
    say(began, "dev", &format!("state in {} ({kept})", dir.display()));

    let mut running = Vec::new();
    for node in layout.nodes() {
        running.push(start(node)?);
    }
    let dcs = layout.names();
    say(began, "dev", &format!("{} processes started: per datacenter 3 servers, 1 gateway, 1 agent", running.len()));

    let mut interrupt = Box::pin(interrupted());
    let up = tokio::select! {
        up = come_up(&layout, &mut running, began) => up,
        () = &mut interrupt => {
            stop(running).await;
            return Ok(());
        }
    };
    if let Err(e) = up {
        stop(running).await;
        return Err(e);
    }
    let samples = samples::register(&layout).await?;
    say(began, "dev", &format!("{samples} sample services registered in each: web (2 instances), db, cache"));
    print_hints(&layout, &running, &dcs);

    let mut watchers = tokio::task::JoinSet::new();
    if !setup.quiet {
        for site in &layout.sites {
            watchers.spawn(watch::health(site.name.clone(), site.agent().http, began));
        }
    }
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            () = &mut interrupt => break,
            _ = tick.tick() => report_ends(&mut running, began),
        }
    }
    watchers.shutdown().await;
    say(began, "dev", "stopping");
    stop(running).await;
    say(began, "dev", "all processes ended");
    Ok(())
}

fn start(node: &Node) -> Result<Running, String> {
    let exe = std::env::current_exe().map_err(|e| format!("cannot find the causeway executable: {e}"))?;
    let log_path = node.dir.join("log");
    let log = std::fs::File::create(&log_path).map_err(|e| format!("{}: {e}", log_path.display()))?;
    let errors = log.try_clone().map_err(|e| format!("{}: {e}", log_path.display()))?;
    let child = tokio::process::Command::new(exe)
        .arg("agent")
        .arg("-config-file")
        .arg(node.config_path())
        .env(END_WITH_STDIN, "1")
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{} cannot be started: {e}", node.name))?;
    Ok(Running { node: node.clone(), child, gone: false })
}

/// Waits for leaders, members and links, and says each as it comes.
async fn come_up(layout: &Layout, running: &mut [Running], began: Instant) -> Result<(), String> {
    let mut lead = vec![false; layout.sites.len()];
    let mut joined = lead.clone();
    let mut linked = lead.clone();
    while !linked.iter().all(|done| *done) {
        if began.elapsed() > START {
            return Err(format!("not up after {} s; the log of each node lies beside its state", START.as_secs()));
        }
        for r in running.iter_mut() {
            if let Ok(Some(status)) = r.child.try_wait() {
                let log = std::fs::read_to_string(r.node.dir.join("log")).unwrap_or_default();
                let last = log.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("nothing in its log").to_owned();
                return Err(format!("{} ended at its start ({status}): {last}", r.node.name));
            }
        }
        for (i, site) in layout.sites.iter().enumerate() {
            let agent = site.agent().http;
            if !lead[i]
                && let Ok(answer) = get(agent, "/v1/status/leader").await
                && let Some(addr) = answer.json().as_str().filter(|a| !a.is_empty())
            {
                let port = addr.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
                let name = site.nodes.iter().find(|n| Some(n.rpc) == port).map_or(addr, |n| n.name.as_str());
                lead[i] = true;
                say(began, &site.name, &format!("leader elected: {name}"));
            }
            if !joined[i]
                && let Ok(answer) = get(agent, "/v1/agent/members").await
            {
                let alive = answer.json().as_array().map_or(0, |m| m.iter().filter(|m| m["Status"] == 1).count());
                if alive >= site.nodes.len() {
                    joined[i] = true;
                    say(began, &site.name, &format!("{alive} members joined"));
                }
            }
            if lead[i] && !linked[i] {
                let mut all = true;
                for other in layout.sites.iter().filter(|s| s.name != site.name) {
                    let path = format!("/v1/catalog/nodes?dc={}", other.name);
                    all &= get(agent, &path).await.is_ok_and(|a| a.code == 200);
                }
                if all && joined[i] {
                    linked[i] = true;
                    let others = layout.sites.len() - 1;
                    if others > 0 {
                        say(
                            began,
                            &site.name,
                            &format!("linked with {others} other site{}", if others == 1 { "" } else { "s" }),
                        );
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn print_hints(layout: &Layout, running: &[Running], dcs: &[String]) {
    let first = layout.sites[0].agent();
    let other = dcs.get(1).unwrap_or(&dcs[0]);
    let mut text = format!(
        "\nTry:\n  dig @127.0.0.1 -p {dns} web.service.{other}.consul SRV\n  dig @127.0.0.1 -p {dns} web.service.consul +short\n  curl 'http://127.0.0.1:{http}/v1/health/service/web?dc={other}&passing&pretty'\n  causeway members -http-addr 127.0.0.1:{http}; causeway members -wan -http-addr 127.0.0.1:{http}\n  causeway kv put -http-addr 127.0.0.1:{http} -datacenter {other} greeting hello\n  causeway maint -http-addr 127.0.0.1:{http} -service web-1 -enable    (and see the answers change)\n\n",
        dns = first.dns,
        http = first.http,
    );
    let mut rows = vec![["Process", "PID", "HTTP", "DNS", "Log"].map(str::to_owned).to_vec()];
    for r in running {
        let pid = r.child.id().map(|p| p.to_string()).unwrap_or_default();
        let dns = if r.node.dns > 0 { r.node.dns.to_string() } else { "-".into() };
        let log = r.node.dir.join("log").display().to_string();
        rows.push(vec![r.node.name.clone(), pid, r.node.http.to_string(), dns, log]);
    }
    text.push_str(&crate::command::columns(&rows));
    text.push_str("\nkill -9 any of them and ask again. Ctrl-C ends all.\n\n");
    crate::command::print_out(&text);
}

fn report_ends(running: &mut [Running], began: Instant) {
    for r in running {
        if r.gone {
            continue;
        }
        if let Ok(Some(status)) = r.child.try_wait() {
            r.gone = true;
            say(
                began,
                &r.node.datacenter,
                &format!(
                    "{} ended ({status}); start it again: causeway agent -config-file {}",
                    r.node.name,
                    r.node.config_path().display()
                ),
            );
        }
    }
}

/// Closes every child's input, which ends it, and waits; who is still there after 5 s is killed.
async fn stop(running: Vec<Running>) {
    let mut set = tokio::task::JoinSet::new();
    for mut r in running {
        drop(r.child.stdin.take());
        set.spawn(async move {
            if tokio::time::timeout(Duration::from_secs(5), r.child.wait()).await.is_err() {
                let _ = r.child.kill().await;
            }
        });
    }
    while set.join_next().await.is_some() {}
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
}

/// An answer of an agent's HTTP API.
struct Answer {
    code: u16,
    index: u64,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

async fn get(port: u16, path: &str) -> Result<Answer, String> {
    ask(port, "GET", path, String::new(), Duration::from_secs(3)).await
}

async fn ask(port: u16, method: &str, path: &str, body: String, within: Duration) -> Result<Answer, String> {
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "127.0.0.1")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = response.status().as_u16();
        let index = response.headers().get("x-consul-index").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0);
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Answer { code, index, body })
    };
    tokio::time::timeout(within, exchange).await.map_err(|_| "no answer in time".to_owned())?
}
