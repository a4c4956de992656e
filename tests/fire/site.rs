//! The servers of a datacenter as real processes, and what can be done to them. As root each has a network namespace of its own behind one
//! router, whose firewall cuts; with a C compiler each has a disk that loses what was not synced, and clocks that can be moved.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{self, Federation, Node, Part, wait};
use crate::http::{Answer, Client};
use crate::lab::{self, Space};

/// What is dropped on its way between the servers: pairs of source and destination.
const FIREWALL: &str = "
table ip cut {
    set pairs { type ipv4_addr . ipv4_addr; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr . ip daddr @pairs drop
    }
}
";

/// The numbers of shim.c, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knob {
    /// Nanoseconds that the clock of the day is ahead.
    Day = 0,
    /// Nanoseconds that the clock which only goes forward is ahead.
    Monotonic = 1,
    /// 1: what is not synced goes with the process.
    Lose = 2,
    /// Percent of the sectors that reach the file before they are synced.
    Torn = 3,
    /// Microseconds that a sync takes longer, at most.
    Slow = 4,
    /// `errno` of all writes and syncs.
    Error = 5,
}

/// `ENOSPC` and `EROFS` of Linux.
pub const FULL: i64 = 28;
pub const READ_ONLY: i64 = 30;

struct Net {
    hub: Space,
    spaces: Vec<Space>,
}

pub struct Site {
    pub federation: Federation,
    net: Option<Net>,
    shim: Option<PathBuf>,
    /// Which life each server is in; shared with the clients.
    pub lives: Arc<Vec<AtomicUsize>>,
}

/// What a client needs to reach a server.
#[derive(Clone)]
pub struct Way {
    pub server: usize,
    pub addr: SocketAddr,
    space: Option<String>,
    lives: Arc<Vec<AtomicUsize>>,
}

impl Way {
    /// To be called once by the thread that asks.
    pub fn enter(&self) {
        if let Some(space) = &self.space {
            lab::enter(space);
        }
    }

    pub fn client(&self, patience: Duration) -> Client {
        Client::new(self.addr, patience)
    }

    /// Counts its starts.
    pub fn life(&self) -> usize {
        self.lives[self.server].load(Ordering::SeqCst)
    }
}

/// Why there are no namespaces; found out once, by a probe of one name.
static LACKING: LazyLock<Option<String>> = LazyLock::new(lab::lacking);

/// The library that stands between a server and its kernel; the reason where it cannot be built.
fn shim(dir: &Path) -> Result<PathBuf, String> {
    if !cfg!(target_env = "gnu") {
        return Err("not glibc".into());
    }
    let library = dir.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fire/shim.c");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .output();
    match made {
        Ok(out) if out.status.success() => Ok(library),
        Ok(out) => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        Err(error) => Err(format!("cc: {error}")),
    }
}

impl Site {
    /// So many servers, not started.
    pub fn prepare(name: &str, servers: usize, more: &Value) -> Self {
        let mut federation = Federation::prepare(name, 1, servers);
        federation.nodes.retain(|n| n.part == Part::Server);
        let shim = shim(&federation.dir.0).inspect_err(|why| crate::skip("disks and clocks", why)).ok();
        // Apart, nobody else takes a port while its server is dead.
        let net = match &*LACKING {
            None => Some(Net::new(name, servers)),
            Some(why) => {
                crate::skip("servers that are cut off (needs root, ip and nft)", why);
                None
            }
        };
        let lives = Arc::new((0..servers).map(|_| AtomicUsize::new(0)).collect());
        let site = Self { federation, net, shim, lives };
        let serfs: Vec<String> =
            site.federation.nodes.iter().enumerate().map(|(i, n)| format!("{}:{}", site.ip(i), n.serf)).collect();
        site.federation.configure(|node| {
            let at = site.federation.nodes.iter().position(|n| n.name == node.name).unwrap();
            let join: Vec<&String> = serfs.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, s)| s).collect();
            let mut config = json!({
                "bind_addr": site.ip(at), "client_addr": site.ip(at), "retry_join": join, "session_ttl_min": "1s",
                "raft_snapshot_threshold": 60, "raft_trailing_logs": 5,
                "limits": {"http_max_conns_per_client": 5000},
                "autopilot": {"server_stabilization_time": "1s"},
            });
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        });
        let mut site = site;
        let shim = site.shim.clone();
        for node in &mut site.federation.nodes {
            let Some(shim) = &shim else { break };
            let control = node.dir.join("control");
            fs::write(&control, [0; 48]).unwrap();
            for (name, value) in [
                ("LD_PRELOAD", shim.clone()),
                ("FIRE_CONTROL", control),
                ("FIRE_DIR", fs::canonicalize(&node.dir).unwrap().join("data")),
            ] {
                node.env.push((name.to_owned(), value.to_string_lossy().into_owned()));
            }
        }
        site
    }

    pub fn servers(&self) -> usize {
        self.federation.nodes.len()
    }

    pub fn node(&self, i: usize) -> &Node {
        &self.federation.nodes[i]
    }

    pub fn can_cut(&self) -> bool {
        self.net.is_some()
    }

    pub fn has_shim(&self) -> bool {
        self.shim.is_some()
    }

    fn ip(&self, i: usize) -> String {
        if self.net.is_some() { format!("10.77.{}.2", i + 1) } else { "127.0.0.1".to_owned() }
    }

    pub fn way(&self, i: usize) -> Way {
        let addr = format!("{}:{}", self.ip(i), self.node(i).http).parse().unwrap();
        let space = self.net.as_ref().map(|net| net.hub.name.clone());
        Way { server: i, addr, space, lives: Arc::clone(&self.lives) }
    }

    pub fn is_up(&self, i: usize) -> bool {
        self.node(i).child.is_some()
    }

    pub fn start(&mut self, i: usize) {
        self.lives[i].fetch_add(1, Ordering::SeqCst);
        let node = &mut self.federation.nodes[i];
        match &self.net {
            Some(net) => net.spaces[i].within(|| node.launch("info")),
            None => node.launch("info"),
        }
    }

    pub fn kill(&mut self, i: usize) {
        self.federation.nodes[i].kill();
    }

    pub fn pause(&self, i: usize, pause: bool) {
        if let Some(child) = &self.node(i).child {
            harness::signal(child, if pause { "STOP" } else { "CONT" });
        }
    }

    /// What `from` sends to `to` vanishes from now on.
    pub fn cut(&self, from: usize, to: usize) {
        if let Some(net) = &self.net {
            net.hub.nft(&format!("add element ip cut pairs {{ {} . {} }}", self.ip(from), self.ip(to)));
        }
    }

    /// All passes again.
    pub fn heal(&self) {
        if let Some(net) = &self.net {
            net.hub.nft("flush set ip cut pairs");
        }
    }

    pub fn turn(&self, i: usize, knob: Knob, value: i64) {
        use std::os::unix::fs::FileExt as _;
        if self.shim.is_some() {
            let file = fs::File::options().write(true).open(self.node(i).dir.join("control")).unwrap();
            file.write_all_at(&value.to_ne_bytes(), knob as u64 * 8).unwrap();
        }
    }

    /// Adds to what a knob is at.
    pub fn advance(&self, i: usize, knob: Knob, more: i64) {
        let at = knob as usize * 8;
        let control = fs::read(self.node(i).dir.join("control")).unwrap_or_default();
        let now = control.get(at..at + 8).map_or(0, |b| i64::from_ne_bytes(b.try_into().unwrap()));
        self.turn(i, knob, now + more);
    }

    /// Asks a server, as a client does.
    pub fn ask(&self, i: usize, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        self.ask_within(i, Duration::from_secs(1), method, path, body)
    }

    /// The same, of what takes longer.
    pub fn ask_within(
        &self,
        i: usize,
        patience: Duration,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, String> {
        let way = self.way(i);
        let asked = || {
            way.enter();
            way.client(patience).ask(method, path, body).map_err(|e| format!("{e:?}"))
        };
        std::thread::scope(|scope| scope.spawn(asked).join()).unwrap()
    }

    /// Who leads, as most of the servers say.
    pub fn leader(&self) -> Option<usize> {
        let mut votes = vec![0; self.servers()];
        for i in (0..self.servers()).filter(|i| self.is_up(*i)) {
            let said = self.ask(i, "GET", "/v1/status/leader", b"").map(|a| a.text()).unwrap_or_default();
            let said = said.trim().trim_matches('"').to_owned();
            let at = (0..self.servers()).find(|i| said == format!("{}:{}", self.ip(*i), self.node(*i).rpc));
            at.into_iter().for_each(|at| votes[at] += 1);
        }
        (0..self.servers()).max_by_key(|i| votes[*i]).filter(|i| votes[*i] * 2 > self.servers())
    }

    /// Waits until all that run vote and a write is acknowledged.
    pub fn settle(&self, within: Duration) {
        wait("a leader and all that run among its voters", within, || {
            let at = self.leader().ok_or("no leader")?;
            let answer = self.ask(at, "GET", "/v1/operator/raft/configuration", b"")?.json();
            let voters: BTreeSet<String> = answer["Servers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|s| s["Voter"] == true)
                .filter_map(|s| Some(s["Node"].as_str()?.to_owned()))
                .collect();
            let up: BTreeSet<String> =
                (0..self.servers()).filter(|i| self.is_up(*i)).map(|i| self.node(i).name.clone()).collect();
            if !up.is_subset(&voters) {
                return Err(format!("{up:?} run, {voters:?} vote"));
            }
            let written = self.ask(at, "PUT", "/v1/kv/settled", b"yes")?;
            if written.code == 200 { Ok(()) } else { Err(written.text()) }
        });
    }
}

impl Net {
    fn new(name: &str, servers: usize) -> Self {
        let hub = Space::router(&format!("{name}-hub"));
        hub.nft(FIREWALL);
        let spaces = (1..=servers)
            .map(|n| {
                let space = Space::new(&format!("{name}-{n}"));
                lab::cable(
                    &space,
                    "lan",
                    &format!("10.77.{n}.2/24"),
                    &hub,
                    &format!("s{n}"),
                    &format!("10.77.{n}.1/24"),
                );
                space.ip(&format!("route add default via 10.77.{n}.1"));
                space
            })
            .collect();
        Self { hub, spaces }
    }
}
