//! The federation over network namespaces of Linux: sites behind two symmetric NATs each, one behind the other, with firewalls that
//! let out UDP and TCP to port 443 and nothing else, and 40 ms of way to the hub. Each figure is printed with its target's name
//! (`federation.md`, section 2); what is asserted leaves room for a machine that is busy with other things. Needs root, `ip` and
//! `nft`, and says when it skips.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[cfg(target_os = "linux")]
mod harness;
#[cfg(target_os = "linux")]
mod lab;

/// Past the capture of outputs: that nothing was tested must be seen.
fn skip(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIP namespaces: needs root, ip and nft ({why})");
}

#[cfg(not(target_os = "linux"))]
#[test]
fn sites_behind_two_nats_each() {
    skip("this is not Linux");
}

#[cfg(target_os = "linux")]
#[test]
fn sites_behind_two_nats_each() {
    match crate::lab::lacking() {
        Some(why) => skip(&why),
        None => suite::run(),
    }
}

#[cfg(target_os = "linux")]
mod suite {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::{Command, Output};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use hickory_proto::rr::RecordType;
    use serde_json::{Value, json};

    use crate::harness::http::Answer;
    use crate::harness::{Federation, Node, Part, causeway, http, pause, wait};
    use crate::lab::{Lab, Space, enter};

    const SOON: Duration = Duration::from_secs(30);
    const ONE_WAY: Duration = Duration::from_millis(40);
    /// Of the keys that are read: one that fits a packet, and one of many.
    const SMALL: &str = "small";
    const BIG: &str = "big";

    fn value(key: &str) -> String {
        if key == BIG { "0123456789".repeat(20_000) } else { "there".to_owned() }
    }

    fn right(key: &str, answer: &Answer) -> Result<(), String> {
        if answer.code == 200 && answer.body == value(key).as_bytes() {
            return Ok(());
        }
        let text: String = answer.text().chars().take(200).collect();
        Err(format!("{} {text}", answer.code))
    }

    /// Lets the load run for so long.
    fn pass(time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            pause();
        }
    }

    fn said(out: &Output) -> String {
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }

    /// By what a gateway that answered this reaches another site.
    fn path_in(sites: &Answer, other: &str) -> Result<String, String> {
        let sites = sites.json()?;
        let site = sites.as_array().and_then(|s| s.iter().find(|s| s["Datacenter"] == other));
        Ok(site.and_then(|s| s["Path"].as_str()).unwrap_or_default().to_owned())
    }

    /// The hub dc1 and the spokes dc2 and dc3. Of the spokes a server and a gateway run, with what joining wrote.
    struct World {
        // Before the namespaces that they are in.
        federation: Federation,
        lab: Lab,
        /// The token of each site that joined.
        tokens: Vec<(String, String)>,
        missed: Vec<String>,
    }

    impl World {
        fn new() -> Self {
            let begun = Instant::now();
            let lab = Lab::new(2, ONE_WAY);
            println!("the namespaces took {:?}", begun.elapsed());
            let federation = Federation::prepare("namespaces", 3, 1);
            let certs = federation.dir.0.join("certs");
            let gateway = federation.node("dc1-gateway");
            let mut config: Value = serde_json::from_slice(&fs::read(gateway.config_path()).unwrap()).unwrap();
            config["gateway"]["listen"] = json!(Lab::HUB);
            config["gateway"]["ca_key_file"] = json!(certs.join("consul-agent-ca-key.pem"));
            gateway.write_config(&config);
            let mut world = Self { federation, lab, tokens: Vec::new(), missed: Vec::new() };
            for part in ["server-1", "gateway", "agent"] {
                world.start(&format!("dc1-{part}"));
            }
            world.fill("dc1-agent");
            world
        }

        fn space(&self, node: &str) -> &Space {
            match &node[..3] {
                "dc1" => &self.lab.hub,
                "dc2" => &self.lab.spokes[0].site,
                _ => &self.lab.spokes[1].site,
            }
        }

        fn start(&mut self, node: &str) {
            let space = match &node[..3] {
                "dc1" => &self.lab.hub,
                "dc2" => &self.lab.spokes[0].site,
                _ => &self.lab.spokes[1].site,
            };
            let node = self.federation.node_mut(node);
            space.within(|| node.start());
        }

        fn get(&self, node: &str, path: &str) -> Answer {
            let at = self.federation.node(node);
            self.space(node).within(|| at.get(path))
        }

        /// The keys, once the site has a leader.
        fn fill(&self, node: &str) {
            let at = self.federation.node(node);
            for key in [SMALL, BIG] {
                let path = format!("/v1/kv/{key}");
                wait(&format!("{node} to write"), SOON, || {
                    self.space(node).within(|| at.put(&path, &value(key))).ok().map(|_| ())
                });
            }
        }

        fn command(&self, node: &str, args: &[&str]) -> String {
            let mut command = Command::new(causeway());
            command.args(args).env_remove("CONSUL_HTTP_ADDR");
            let out = self.space(node).within(|| command.output()).unwrap();
            assert!(out.status.success(), "{args:?}: {}", said(&out));
            said(&out).trim().to_owned()
        }

        /// By what the gateway of a site reaches another.
        fn path(&self, dc: &str, other: &str) -> Result<String, String> {
            path_in(&self.get(&format!("{dc}-gateway"), "/v1/federation/sites"), other)
        }

        fn await_path(&self, dc: &str, other: &str, path: &str, within: Duration) {
            wait(&format!("{dc} to reach {other} by {path}"), within, || match self.path(dc, other)? {
                found if found == path => Ok(()),
                found => Err(found),
            });
        }

        /// A figure; one that is beyond its limit is told at the end. The limit leaves room for a machine that is busy.
        fn show(&mut self, what: &str, took: Duration, target: Duration, limit: Duration) {
            println!("{what}: {took:?} (target: {target:?})");
            if took > limit {
                self.missed.push(format!("{what}: {took:?} (target: {target:?}, at most {limit:?})"));
            }
        }

        /// When the path from dc2 to dc1 is QUIC again, looked at from now on while other things go on.
        fn back_on_quic(&self) -> JoinHandle<Result<Duration, String>> {
            let begun = Instant::now();
            let (space, port) = (self.space("dc2").name.clone(), self.federation.node("dc2-gateway").http);
            std::thread::spawn(move || {
                enter(&space);
                loop {
                    let sites = http::request(port, "GET", "/v1/federation/sites", b"");
                    match path_in(&sites, "dc1") {
                        Ok(path) if path == "quic" => return Ok(begun.elapsed()),
                        other if begun.elapsed() > SOON * 2 => return Err(format!("still {other:?}")),
                        _ => pause(),
                    }
                }
            })
        }

        /// Who is asked in each site.
        fn asked(dc: &str) -> String {
            if dc == "dc1" { "dc1-agent".to_owned() } else { format!("{dc}-server-1") }
        }

        fn read(&self, from: &str, to: &str, key: &str) -> Result<(), String> {
            right(key, &self.get(&Self::asked(from), &format!("/v1/kv/{key}?raw&dc={to}")))
        }

        /// Until each of the two sites is asked by the other through the API and has its DNS.
        fn await_both_ways(&self, one: &str, other: &str) {
            for (from, to) in [(one, other), (other, one)] {
                wait(&format!("{from} to read at {to}"), SOON, || self.read(from, to, SMALL));
                let asked = Self::asked(from);
                let (at, name) = (self.federation.node(&asked), format!("{to}-server-1.node.{to}.consul."));
                wait(&format!("{from} to resolve names of {to}"), SOON, || {
                    match self.space(&asked).within(|| at.dig(&name, RecordType::A))?.answers.len() {
                        1 => Ok(()),
                        n => Err(format!("{n} answers")),
                    }
                });
            }
        }

        /// A new site, from one command to answers both ways; gives how long all took, and the part from the gateway's start on. The
        /// gateway is started after the site's server has a leader, or else at once with it.
        fn join(&mut self, dc: &str, one_after_another: bool) -> (Duration, Duration) {
            let hub = format!("-http-addr=127.0.0.1:{}", self.federation.node("dc1-gateway").http);
            let token =
                self.command("dc1", &["federation", "token", "create", &hub, "--datacenter", dc, "-format=json"]);
            let token: Value = serde_json::from_str(token.lines().collect::<String>().as_str()).unwrap();
            let token = token["Token"].as_str().unwrap();
            self.tokens.push((dc.to_owned(), token.to_owned()));
            let out = self.federation.dir.0.join(format!("{dc}-joined"));
            let begun = Instant::now();
            let joined = self.command(dc, &["federation", "join", token, &format!("-out={}", out.display())]);
            println!(
                "{dc}: `federation join` took {:?}: {}",
                begun.elapsed(),
                joined.lines().last().unwrap_or_default()
            );

            let serf = self.federation.node(&format!("{dc}-server-1")).serf;
            for (part, written) in [("server-1", "server/server.json"), ("gateway", "gateway.json")] {
                let name = format!("{dc}-{part}");
                let node = self.federation.node(&name);
                let mut config: Value = serde_json::from_slice(&fs::read(out.join(written)).unwrap()).unwrap();
                let own = json!({
                    "node_name": name, "data_dir": node.dir.join("data"), "bind_addr": "127.0.0.1",
                    "client_addr": "127.0.0.1", "retry_join": [format!("127.0.0.1:{serf}")], "leave_on_terminate": false,
                    "ports": {"serf_lan": node.serf, "http": node.http, "dns": node.dns, "server": node.rpc},
                    "limits": {"http_max_conns_per_client": 1000},
                });
                config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
                if part == "gateway" {
                    assert_eq!(config["gateway"]["listen"], "none", "{config}");
                    config["gateway"]["lan_port"] = json!(node.lan);
                } else {
                    config["server"] = json!(true);
                    config["bootstrap_expect"] = json!(1);
                }
                node.write_config(&config);
            }
            self.start(&format!("{dc}-server-1"));
            if one_after_another {
                self.fill(&format!("{dc}-server-1"));
            }
            let gateway = Instant::now();
            self.start(&format!("{dc}-gateway"));
            if !one_after_another {
                self.fill(&format!("{dc}-server-1"));
            }
            self.await_both_ways("dc1", dc);
            (begun.elapsed(), gateway.elapsed())
        }

        /// A read every 40 ms, by turns from each of the two sites.
        fn load(&self, one: &str, other: &str) -> Load {
            let stop = Arc::new(AtomicBool::new(false));
            let every = Duration::from_millis(40);
            let threads = [(one, other, Duration::ZERO), (other, one, every)].map(|(from, to, first)| {
                let from = Self::asked(from);
                let (space, port) = (self.space(&from).name.clone(), self.federation.node(&from).http);
                let (path, stop) = (format!("/v1/kv/{SMALL}?raw&dc={to}"), Arc::clone(&stop));
                std::thread::spawn(move || reads(&space, port, &path, first, every * 2, &stop))
            });
            Load { stop, threads }
        }

        /// Handshakes that the gateway of the hub refused.
        fn refused_handshakes(&self) -> f64 {
            let metrics = self.get("dc1-gateway", "/v1/agent/metrics?format=prometheus").text();
            let lines = metrics.lines().filter(|l| l.starts_with("causeway_gateway_handshakes_refused_total"));
            lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        }

        /// Only port 443 was spoken to, by anyone.
        fn only_one_port(&self) {
            for (n, spoke) in self.lab.spokes.iter().enumerate() {
                assert_eq!(spoke.refused(), 0, "dc{} tried something other than port 443", n + 2);
            }
            assert_eq!(self.lab.hub.counted("other"), 0, "the hub heard or said something on another port than 443");
        }
    }

    /// Calls this at a steady rate, whether or not those before are answered.
    fn reads(
        space: &str,
        port: u16,
        path: &str,
        first: Duration,
        every: Duration,
        stop: &AtomicBool,
    ) -> (Vec<Duration>, Vec<String>) {
        // What this starts is in there as well.
        enter(space);
        let begun = Instant::now();
        let mut calls = Vec::new();
        for n in 0_u32.. {
            pass((first + every * n).saturating_sub(begun.elapsed()));
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let path = path.to_owned();
            calls.push(std::thread::spawn(move || {
                let start = Instant::now();
                let outcome = right(SMALL, &http::request(port, "GET", &path, b""));
                let took = start.elapsed();
                (took, outcome.err().map(|e| format!("{path} at {:?} for {took:?}: {e}", start.duration_since(begun))))
            }));
        }
        let (took, failed): (Vec<_>, Vec<_>) = calls.into_iter().map(|call| call.join().unwrap()).unzip();
        (took, failed.into_iter().flatten().collect())
    }

    struct Load {
        stop: Arc<AtomicBool>,
        threads: [JoinHandle<(Vec<Duration>, Vec<String>)>; 2],
    }

    impl Load {
        /// None failed; the worst.
        fn unharmed(self, what: &str) -> Duration {
            self.stop.store(true, Ordering::SeqCst);
            let (mut took, mut failed) = (Vec::new(), Vec::new());
            for thread in self.threads {
                let (times, why) = thread.join().unwrap();
                took.extend(times);
                failed.extend(why);
            }
            took.sort();
            let n = took.len();
            let (p50, p99, worst) = (took[n / 2], took[n * 99 / 100], took[n - 1]);
            println!("{what}: {n} reads, {} failed (target: 0), p50 {p50:?}, p99 {p99:?}", failed.len());
            assert!(failed.is_empty(), "{what}: {failed:#?}");
            worst
        }
    }

    pub(crate) fn run() {
        let begun = Instant::now();
        let mut world = World::new();
        let seconds = Duration::from_secs;

        let (all, started) = world.join("dc2", false);
        world.show(
            "R2 both ways by API and DNS, from `federation join` on, with all of the site's starts",
            all,
            seconds(1),
            seconds(8),
        );
        println!("R2 of it since the site's server and gateway were started: {started:?}");
        assert_eq!(world.path("dc2", "dc1").unwrap(), "quic");
        world.only_one_port();
        println!("R3: {} packets of UDP to port 443 of the hub, none to another", world.lab.hub.counted("quic"));

        survives_the_end_of_udp(&mut world);
        let dead = Instant::now();
        joins_without_udp(&mut world);
        // So long that the gateway gives the connection up and must dial another.
        pass(seconds(13).saturating_sub(dead.elapsed()));
        world.lab.spokes[0].block_udp(false);
        let back = world.back_on_quic();
        asks_through_the_hub(&mut world);
        let back = back.join().unwrap().unwrap();
        world.show("S4 back on UDP after it was restored", back, seconds(30), seconds(45));
        survives_rebinding(&mut world);
        survives_a_blackout(&mut world);
        refuses_tokens_and_certificates(&mut world);
        survives_killed_gateways(&mut world);
        passes_a_black_hole(&mut world);

        world.only_one_port();
        counts_what_it_says(&world);
        println!("all took {:?}", begun.elapsed());
        assert!(world.missed.is_empty(), "missed: {:#?}", world.missed);
    }

    /// S4: UDP vanishes in mid-session; TCP takes over. It stays away.
    fn survives_the_end_of_udp(world: &mut World) {
        wait("a TCP link that stands by", SOON, || match world.lab.hub.counted("tls") {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        });
        pass(Duration::from_secs(1));
        let load = world.load("dc1", "dc2");
        pass(Duration::from_millis(600));
        world.lab.spokes[0].block_udp(true);
        let dead = Instant::now();
        world.await_path("dc2", "dc1", "tcp", SOON);
        world.show("S4 UDP dead, declared bad", dead.elapsed(), Duration::from_secs(2), Duration::from_secs(5));
        pass(Duration::from_millis(600));
        let worst = load.unharmed("S4 UDP dies in mid-session");
        world.show("S4 the worst read", worst, Duration::from_millis(2500), Duration::from_secs(5));
    }

    /// R4: UDP is dropped before the site dials for the first time.
    fn joins_without_udp(world: &mut World) {
        world.lab.spokes[1].block_udp(true);
        let (_, linking) = world.join("dc3", true);
        assert_eq!(world.path("dc3", "dc1").unwrap(), "tcp");
        let target = Duration::from_secs(1) + 6 * ONE_WAY;
        world.show(
            "R4 without UDP, both ways by API and DNS, from the gateway's start on",
            linking,
            target,
            Duration::from_secs(10),
        );
    }

    /// T1: two sites that both can reach the hub only.
    fn asks_through_the_hub(world: &mut World) {
        let begun = Instant::now();
        world.await_both_ways("dc2", "dc3");
        println!("T1: dc2 and dc3 ask each other by API and DNS, {:?} after both were linked", begun.elapsed());
        let median = |from: &str, to: &str| {
            let mut took: Vec<Duration> = (0..11)
                .map(|_| {
                    let start = Instant::now();
                    world.read(from, to, SMALL).unwrap();
                    start.elapsed()
                })
                .collect();
            took.sort();
            took[5]
        };
        let (first, second, whole) = (median("dc2", "dc1"), median("dc3", "dc1"), median("dc2", "dc3"));
        let path = world.path("dc2", "dc3").unwrap();
        println!("T1: dc2 to dc3 by {path}, in {whole:?}; {first:?} + {second:?} to the hub");
        assert_eq!(path, "relay via dc1");
        // The reads themselves take their time too, as that of the hub shows.
        let more = whole.saturating_sub(first + 2 * ONE_WAY);
        world.show(
            "T1 what the way through the hub adds to two round trips",
            more,
            Duration::from_millis(5),
            Duration::from_secs(1),
        );
    }

    /// S1: both NATs forget, three times; each connection goes on from another port.
    fn survives_rebinding(world: &mut World) {
        let callers = world.lab.callers();
        let load = world.load("dc1", "dc2");
        for _ in 0..3 {
            pass(Duration::from_millis(800));
            world.lab.spokes[0].rebind();
        }
        pass(Duration::from_millis(800));
        let worst = load.unharmed("S1 both NATs forget, three times");
        world.show("S1 the worst read", worst, Duration::from_millis(500), Duration::from_secs(3));
        assert_eq!(world.path("dc2", "dc1").unwrap(), "quic");
        let ports = world.lab.callers() - callers;
        assert!(ports >= 3, "the hub saw {ports} new ports");
    }

    /// S3: nothing passes for 3 s.
    fn survives_a_blackout(world: &mut World) {
        let load = world.load("dc1", "dc2");
        pass(Duration::from_millis(600));
        world.lab.spokes[0].blackout(true);
        pass(Duration::from_secs(3));
        world.lab.spokes[0].blackout(false);
        pass(Duration::from_secs(3));
        let worst = load.unharmed("S3 blackout of 3 s");
        world.show("S3 the worst read", worst, Duration::from_secs(5), Duration::from_secs(5));
    }

    /// R2, X1: a token that was used, or altered; a gateway with the certificate of another site, and one of another authority.
    fn refuses_tokens_and_certificates(world: &mut World) {
        let out = world.federation.dir.0.join("again");
        for (dc, token) in &world.tokens {
            let mut altered = token.clone().into_bytes();
            let middle = altered.len() / 2;
            altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            for (token, words) in [(token, "was used already"), (&altered, "altered or cut short")] {
                let mut command = Command::new(causeway());
                command.args(["federation", "join", token, &format!("-out={}", out.display())]);
                let outcome = world.space(dc).within(|| command.output()).unwrap();
                assert!(!outcome.status.success() && said(&outcome).contains(words), "{dc}: {}", said(&outcome));
                assert!(!out.exists(), "{} was left behind", out.display());
            }
        }
        println!("R2: tokens used a second time, or altered, joined nothing");

        let dir = world.federation.dir.0.clone();
        let foreign = dir.join("foreign");
        fs::create_dir_all(&foreign).unwrap();
        for args in [&["tls", "ca", "create"][..], &["tls", "cert", "create", "-gateway", "-dc", "dc2"]] {
            let out = Command::new(causeway()).args(args).current_dir(&foreign).output().unwrap();
            assert!(out.status.success(), "{}", said(&out));
        }
        let written = fs::read(world.federation.node("dc2-gateway").config_path()).unwrap();
        let base: Value = serde_json::from_slice(&written).unwrap();
        // One with the certificate of dc2 that says it is dc4; one of another authority that says it is dc2.
        for (name, dc) in [("liar", "dc4"), ("stranger", "dc2")] {
            let mut impostor = Node::new(name, dc, Part::Gateway, &dir);
            let mut config = base.clone();
            config["node_name"] = json!(name);
            config["datacenter"] = json!(dc);
            config["data_dir"] = json!(impostor.dir.join("data"));
            config["retry_join"] = json!([]);
            config["ports"] =
                json!({"serf_lan": impostor.serf, "http": impostor.http, "dns": impostor.dns, "server": impostor.rpc});
            config["gateway"]["lan_port"] = json!(impostor.lan);
            if name == "stranger" {
                let file = |name: &str| json!(foreign.join(name));
                let own = json!({
                    "ca_file": file("consul-agent-ca.pem"), "cert_file": file("dc2-gateway-consul-0.pem"),
                    "key_file": file("dc2-gateway-consul-0-key.pem"),
                });
                let gateway = config["gateway"].as_object_mut().unwrap();
                gateway.retain(|key, _| !own.as_object().unwrap().contains_key(key));
                config.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            }
            impostor.write_config(&config);
            let before = world.refused_handshakes();
            world.lab.spokes[0].site.within(|| impostor.start());
            // Either it does not start at all, or it dials over and over.
            wait(&format!("{name} to try"), SOON, || {
                let over = impostor.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_some());
                let refused = world.refused_handshakes() - before;
                if over || refused >= 3.0 { Ok(()) } else { Err(format!("{refused} handshakes were refused")) }
            });
            let seen = world.get("dc1-gateway", "/v1/federation/sites").text();
            assert!(seen.contains("dc2-gateway") && !seen.contains(name) && !seen.contains("dc4"), "{seen}");
            let unknown = world.get("dc1-agent", "/v1/catalog/nodes?dc=dc4");
            assert_eq!((unknown.code, unknown.text().as_str()), (500, "No path to datacenter"));
            println!("X1: {name} was not let in");
        }
        world.read("dc1", "dc2", SMALL).unwrap();
    }

    /// T2: the hub has two gateways; each in turn is killed with `kill -9`, so also the one that carries the reads.
    fn survives_killed_gateways(world: &mut World) {
        let first = world.federation.node("dc1-gateway");
        let mut config: Value = serde_json::from_slice(&fs::read(first.config_path()).unwrap()).unwrap();
        let second = Node::new("dc1-second", "dc1", Part::Gateway, &world.federation.dir.0);
        config["node_name"] = json!(second.name);
        config["data_dir"] = json!(second.dir.join("data"));
        config["ports"] =
            json!({"serf_lan": second.serf, "http": second.http, "dns": second.dns, "server": second.rpc});
        config["retry_join"] = json!([format!("127.0.0.1:{}", world.federation.node("dc1-server-1").serf)]);
        config["gateway"] = json!({"listen": Lab::SECOND, "lan_port": second.lan});
        second.write_config(&config);
        world.federation.nodes.push(second);
        world.start("dc1-second");
        for (killed, left) in [("dc1-second", "dc1-gateway"), ("dc1-gateway", "dc1-second")] {
            for dc in ["dc2", "dc3"] {
                wait(&format!("{dc} to be linked to {killed}"), SOON, || {
                    let linked = world.get(killed, "/v1/federation/sites");
                    match path_in(&linked, dc)?.as_str() {
                        "quic" | "tcp" => Ok(()),
                        path => Err(format!("by {path:?}: {}", linked.text())),
                    }
                });
            }
            let load = world.load("dc1", "dc2");
            pass(Duration::from_millis(1500));
            world.federation.node_mut(killed).kill();
            pass(Duration::from_millis(2500));
            let worst = load.unharmed(&format!("T2 {killed} killed with kill -9"));
            let more = worst.saturating_sub(2 * ONE_WAY);
            world.show("T2 the worst read beyond its round trip", more, 4 * ONE_WAY, Duration::from_secs(3));
            world.start(killed);
            assert_eq!(world.path("dc2", "dc1").unwrap(), "quic", "by {left}");
        }
        // As many as before, for what follows.
        world.federation.node_mut("dc1-second").kill();
    }

    /// R7: packets of more than 1280 bytes vanish without a word, for QUIC (dc2) and for TCP (dc3).
    fn passes_a_black_hole(world: &mut World) {
        for spoke in &world.lab.spokes {
            spoke.black_hole(1280);
        }
        nothing_large_passes(world);
        for dc in ["dc2", "dc3"] {
            let gateway = format!("{dc}-gateway");
            world.federation.node_mut(&gateway).kill();
            world.start(&gateway);
        }
        for (dc, path) in [("dc2", "quic"), ("dc3", "tcp")] {
            world.await_path(dc, "dc1", path, SOON);
            let mut worst = Duration::ZERO;
            for (from, to) in [("dc1", dc), (dc, "dc1")] {
                wait("an answer", SOON, || world.read(from, to, SMALL));
                for n in 0..5 {
                    let start = Instant::now();
                    let outcome = world.read(from, to, BIG);
                    assert!(outcome.is_ok(), "R7 {path}, {from} to {to}, read {n}: {outcome:?}");
                    worst = worst.max(start.elapsed());
                }
            }
            assert!(path == "tcp" || world.lab.spokes[0].nats[0].too_large() > 0, "nothing was too large");
            println!("R7 MTU 1280 and no ICMP, {path}: 10 reads of 200 KB, 0 failed, worst {worst:?} (target: works)");
        }
    }

    /// A plain TCP connection hangs there.
    fn nothing_large_passes(world: &World) {
        let listener = world.lab.inet.within(|| TcpListener::bind("203.0.1.1:443")).unwrap();
        let near = world.lab.spokes[0].site.within(|| TcpStream::connect("203.0.1.1:443")).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(&[b'.'; 10_000]).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let got = (&near).read(&mut [0; 10_000]);
        assert!(got.is_err(), "{got:?} bytes came through");
    }

    /// The counters that stayed at 0 count.
    fn counts_what_it_says(world: &World) {
        let stray = |space: &Space| {
            space.within(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", "198.51.100.2:8300")).unwrap();
        };
        let spoke = &world.lab.spokes[0];
        stray(&spoke.site);
        wait("the firewall to count", SOON, || {
            if spoke.refused() == 1 { Ok(()) } else { Err(spoke.refused().to_string()) }
        });
        stray(&world.lab.inet);
        wait("the hub to count", SOON, || match world.lab.hub.counted("other") {
            1 => Ok(()),
            n => Err(n.to_string()),
        });
    }
}
