//! Sites in network namespaces of Linux: routers with nftables (symmetric NATs, firewalls that drop by default), and a wire with a
//! delay. A thread enters a namespace; what it starts, threads and processes, is in there too. Needs root.
#![allow(dead_code, unreachable_pub, reason = "a part of its tests, not an interface")]
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

use std::fs::{self, File};
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, netlink};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What all names of namespaces begin with; the process's number follows.
const PREFIX: &str = "causeway-test-";

/// Why there can be no laboratory here; leaves nothing behind.
pub fn lacking() -> Option<String> {
    sweep();
    let probe = format!("{PREFIX}{}-probe", std::process::id());
    let made = attempt("ip", &["netns", "add", &probe], "");
    let outcome = made.and_then(|()| {
        attempt("ip", &["netns", "exec", &probe, "nft", "-f", "-"], NAT)?;
        attempt("ip", &["-n", &probe, "link", "add", "wan", "type", "vxlan", "id", "7", "dstport", "4790"], "")?;
        attempt("ip", &["netns", "exec", &probe, "bridge", "fdb", "show"], "")
    });
    let _ = attempt("ip", &["netns", "del", &probe], "");
    outcome.err()
}

/// Removes what test processes left that were killed.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = attempt("ip", &["netns", "del", &name], "");
        }
    }
}

fn attempt(program: &str, args: &[&str], input: &str) -> Result<(), String> {
    output(program, args, input).map(|_| ())
}

fn output(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let what = || format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", what()))?;
    // It may end without reading.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let out = child.wait_with_output().map_err(|e| format!("{}: {e}", what()))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("{}: {}", what(), String::from_utf8_lossy(&out.stderr).trim()))
    }
}

/// The calling thread is in this namespace from now on.
pub fn enter(space: &str) {
    let door = File::open(Path::new("/run/netns").join(space)).unwrap();
    move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A network namespace; goes with this value.
pub struct Space {
    pub name: String,
}

impl Space {
    pub fn new(name: &str) -> Self {
        let space = Self { name: format!("{PREFIX}{}-{name}", std::process::id()) };
        attempt("ip", &["netns", "add", &space.name], "").unwrap();
        space.within(|| fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap_or_default();
        space.ip("link set lo up");
        space
    }

    /// A namespace that passes packets on.
    pub fn router(name: &str) -> Self {
        let space = Self::new(name);
        space.within(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        space
    }

    /// Runs this in here.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let work = || {
            enter(&self.name);
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// `ip` with these words.
    pub fn ip(&self, words: &str) {
        let args: Vec<&str> = ["-n", &self.name].into_iter().chain(words.split(' ')).collect();
        attempt("ip", &args, "").unwrap();
    }

    /// These rules of nftables.
    pub fn nft(&self, rules: &str) {
        attempt("ip", &["netns", "exec", &self.name, "nft", "-f", "-"], rules).unwrap();
    }

    /// Packets that this counter of the table `fw` has seen.
    pub fn counted(&self, counter: &str) -> u64 {
        let args = ["netns", "exec", &self.name, "nft", "list", "counter", "ip", "fw", counter];
        let said = output("ip", &args, "").unwrap();
        let mut words = said.split_whitespace().skip_while(|w| *w != "packets").skip(1);
        words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }

    /// Packets that did not fit where they were to go on to, and were not to be divided.
    pub fn too_large(&self) -> u64 {
        // Lines by pairs: names, values.
        let said = self.within(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
        let mut lines = said.lines().filter(|l| l.starts_with("Ip: ")).map(str::split_whitespace);
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        names.zip(values).find(|(name, _)| *name == "FragFails").and_then(|(_, n)| n.parse().ok()).unwrap()
    }

    /// The NAT and the firewall in here forget all connections: each gets a new port with its next packet from inside.
    pub fn forget(&self) {
        self.within(|| {
            let netlink = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(netlink::NETFILTER),
            )
            .unwrap();
            // A request to delete (2) of the subsystem of connection tracking (1), that is answered, and of all: linux/netlink.h,
            // linux/netfilter/nfnetlink.h.
            let (request_and_ack, number, port) = (5_u16, 1_u32, 0_u32);
            let mut message = 20_u32.to_ne_bytes().to_vec();
            message.extend(0x0102_u16.to_ne_bytes());
            message.extend(request_and_ack.to_ne_bytes());
            message.extend(number.to_ne_bytes());
            message.extend(port.to_ne_bytes());
            message.extend([0; 4]);
            rustix::net::send(&netlink, &message, SendFlags::empty()).unwrap();
            let mut answer = [0; 64];
            let (_, len) = rustix::net::recv(&netlink, &mut answer[..], rustix::net::RecvFlags::empty()).unwrap();
            // An error message (2) of the number 0.
            assert!(len >= 20 && answer[4] == 2 && answer[16..20] == [0; 4], "{:?}", &answer[..len]);
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = attempt("ip", &["netns", "del", &self.name], "");
    }
}

/// A cable between two namespaces, with an address at each end.
pub fn cable(a: &Space, dev_a: &str, addr_a: &str, b: &Space, dev_b: &str, addr_b: &str) {
    a.ip(&format!("link add {dev_a} type veth peer name {dev_b} netns {}", b.name));
    for (space, dev, addr) in [(a, dev_a, addr_a), (b, dev_b, addr_b)] {
        space.ip(&format!("addr add {addr} dev {dev}"));
        space.ip(&format!("link set {dev} up"));
    }
}

/// A symmetric NAT (each connection a port of its own, by chance) and a firewall that lets out UDP and TCP to port 443 and in what
/// belongs to it. `other` counts what it did not let out; `faults` is empty until a test fills it.
const NAT: &str = r#"
table ip nat {
    chain post {
        type nat hook postrouting priority 100
        oifname "wan" masquerade random,fully-random
    }
}
table ip fw {
    counter other { }
    chain faults { }
    chain forward {
        type filter hook forward priority 10; policy drop;
        jump faults
        ct state established,related accept
        iifname "lan" udp dport 443 accept
        iifname "lan" tcp dport 443 accept
        iifname "lan" counter name other
    }
    chain input {
        type filter hook input priority 10; policy drop;
    }
    chain output {
        type filter hook output priority 10; policy accept;
    }
}
"#;

/// What a site that accepts lets in and counts, and from where it came; ICMP has no ports.
const HUB: &str = r#"
table ip fw {
    counter quic { }
    counter tls { }
    counter other { }
    set callers {
        type ipv4_addr . inet_service
        size 65535
        flags dynamic
    }
    chain input {
        type filter hook input priority 10; policy accept;
        iifname "wan" meta l4proto icmp accept
        iifname "wan" udp dport 443 add @callers { ip saddr . udp sport }
        iifname "wan" udp dport 443 counter name quic accept
        iifname "wan" tcp dport 443 counter name tls accept
        iifname "wan" counter name other drop
    }
    chain output {
        type filter hook output priority 10; policy accept;
        oifname "wan" meta l4proto icmp accept
        oifname "wan" udp sport 443 accept
        oifname "wan" tcp sport 443 accept
        oifname "wan" counter name other drop
    }
}
"#;

/// A site behind two routers, one behind the other.
pub struct Spoke {
    pub site: Space,
    pub nats: [Space; 2],
}

impl Spoke {
    /// All of UDP vanishes, or passes again.
    pub fn block_udp(&self, block: bool) {
        self.nats[0].nft(if block {
            "add rule ip fw faults meta l4proto udp drop"
        } else {
            "flush chain ip fw faults"
        });
    }

    /// Nothing passes any more, and nobody says so; or all passes again.
    pub fn blackout(&self, dark: bool) {
        self.nats[0].nft(if dark { "add rule ip fw faults drop" } else { "flush chain ip fw faults" });
    }

    /// Both NATs forget.
    pub fn rebind(&self) {
        for nat in &self.nats {
            nat.forget();
        }
    }

    /// Packets of more than so many bytes vanish between the NATs, and nobody says so.
    pub fn black_hole(&self, mtu: usize) {
        for (nat, dev) in self.nats.iter().zip(["wan", "lan"]) {
            nat.nft("add rule ip fw output meta l4proto icmp drop; add rule ip fw faults meta l4proto icmp drop");
            nat.ip(&format!("link set {dev} mtu {mtu}"));
        }
    }

    /// Packets that the site tried to send to anything but port 443.
    pub fn refused(&self) -> u64 {
        self.nats.iter().map(|nat| nat.counted("other")).sum()
    }
}

/// A hub that can be dialled at [`Lab::HUB`], and sites that can only dial out, all with the same private address.
pub struct Lab {
    pub hub: Space,
    pub spokes: Vec<Spoke>,
    pub inet: Space,
    wire: Wire,
}

impl Lab {
    /// Where the hub accepts.
    pub const HUB: &str = "198.51.100.2:443";
    /// Where a second gateway of the hub may accept.
    pub const SECOND: &str = "198.51.100.3:443";

    pub fn new(spokes: usize, one_way: Duration) -> Self {
        let (hub, inet) = (Space::new("hub"), Space::router("inet"));
        let wire = Wire::between(&inet, "hub", "198.51.100.1/24", &hub, "wan", "198.51.100.2/24", one_way);
        hub.ip("addr add 198.51.100.3/24 dev wan");
        hub.ip("route add default via 198.51.100.1");
        hub.nft(HUB);
        let spokes = (1..=spokes).map(|n| Self::spoke(n, &inet)).collect();
        Self { hub, spokes, inet, wire }
    }

    /// Addresses with ports from which UDP came to the hub so far.
    pub fn callers(&self) -> usize {
        let args = ["netns", "exec", &self.hub.name, "nft", "list", "set", "ip", "fw", "callers"];
        // Its type has a dot as well.
        output("ip", &args, "").unwrap().matches(" . ").count() - 1
    }

    fn spoke(n: usize, inet: &Space) -> Spoke {
        let site = Space::new(&format!("site{n}"));
        let nats = [Space::router(&format!("site{n}-nat1")), Space::router(&format!("site{n}-nat2"))];
        cable(&site, "wan", "10.1.0.2/24", &nats[0], "lan", "10.1.0.1/24");
        cable(&nats[0], "wan", "100.64.1.2/24", &nats[1], "lan", "100.64.1.1/24");
        cable(&nats[1], "wan", &format!("203.0.{n}.2/24"), inet, &format!("site{n}"), &format!("203.0.{n}.1/24"));
        site.ip("route add default via 10.1.0.1");
        nats[0].ip("route add default via 100.64.1.1");
        nats[1].ip(&format!("route add default via 203.0.{n}.1"));
        for nat in &nats {
            nat.nft(NAT);
        }
        Spoke { site, nats }
    }
}

/// Two sites with one wire between them and nothing else: no NAT, no firewall.
pub struct Pair {
    pub sites: [Space; 2],
    wire: Wire,
}

impl Pair {
    /// The sites' addresses to each other.
    pub const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

    pub fn new(name: &str, one_way: Duration) -> Self {
        let sites = [1, 2].map(|n| Space::new(&format!("{name}{n}")));
        let [a, b] = Self::ADDRESSES.map(|addr| format!("{addr}/24"));
        let wire = Wire::between(&sites[0], "wan", &a, &sites[1], "wan", &b, one_way);
        // One packet each, so that what is lost is a packet and not a train of them.
        for site in &sites {
            site.ip("link set wan gso_max_segs 1");
        }
        Self { sites, wire }
    }

    /// So many of a hundred packets of IP are lost, each way, by chance.
    pub fn lose(&self, percent: u32) {
        self.wire.loss.store(percent, Ordering::SeqCst);
    }

    /// Nothing passes any more, and nobody says so; or all passes again.
    pub fn cut(&self, cut: bool) {
        self.lose(if cut { 100 } else { 0 });
    }

    /// Packets of IP that were lost so far, both ways.
    pub fn lost(&self) -> u32 {
        self.wire.lost.load(Ordering::SeqCst)
    }
}

/// A link of two namespaces through this process, which holds every packet for a while: the kernels that have no netem have VXLAN,
/// which puts packets into UDP, and UDP anyone can pass on.
struct Wire {
    stop: Arc<AtomicBool>,
    /// Percent.
    loss: Arc<AtomicU32>,
    lost: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

/// Where the kernel's end of a wire is in each namespace, and where ours is.
const KERNEL: u16 = 4790;
const OURS: u16 = 4791;

impl Wire {
    fn between(a: &Space, dev_a: &str, addr_a: &str, b: &Space, dev_b: &str, addr_b: &str, one_way: Duration) -> Self {
        let end = |space: &Space, dev: &str, addr: &str| {
            space.ip(&format!("link add {dev} type vxlan id 7 dstport {KERNEL} nolearning"));
            // Broadcast on the loopback: what goes to an address of this machine, a VXLAN keeps inside the kernel.
            let peer = format!("fdb append 00:00:00:00:00:00 dev {dev} dst 127.255.255.255 port {OURS}");
            let args: Vec<&str> = ["netns", "exec", &space.name, "bridge"].into_iter().chain(peer.split(' ')).collect();
            attempt("ip", &args, "").unwrap();
            space.ip(&format!("addr add {addr} dev {dev}"));
            space.ip(&format!("link set {dev} mtu 1500 up"));
            let socket = space.within(|| UdpSocket::bind(("0.0.0.0", OURS))).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            Arc::new(socket)
        };
        let (a, b) = (end(a, dev_a, addr_a), end(b, dev_b, addr_b));
        let (stop, loss, lost) = (Arc::default(), Arc::default(), Arc::default());
        let threads = [(&a, &b), (&b, &a)].map(|(from, to)| lane(from, to, one_way, &stop, &loss, &lost));
        Self { stop, loss, lost, threads: threads.into_iter().flatten().collect() }
    }
}

/// One direction: packets leave in their order, each so long after it came.
fn lane(
    from: &Arc<UdpSocket>,
    to: &Arc<UdpSocket>,
    delay: Duration,
    stop: &Arc<AtomicBool>,
    loss: &Arc<AtomicU32>,
    lost: &Arc<AtomicU32>,
) -> [JoinHandle<()>; 2] {
    let (from, to, stopped, stop) = (Arc::clone(from), Arc::clone(to), Arc::clone(stop), Arc::clone(stop));
    let (loss, lost) = (Arc::clone(loss), Arc::clone(lost));
    let (queue, waiting) = mpsc::sync_channel::<(Instant, Vec<u8>)>(16_384);
    let read = std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while !stopped.load(Ordering::SeqCst) {
            let Ok(len) = from.recv(&mut buffer) else { continue };
            // Behind the header of VXLAN and two addresses of Ethernet; ARP is not of the way that is to be lossy.
            if buffer[20..22] == [8, 0] && rand::random_range(0..100) < loss.load(Ordering::Relaxed) {
                lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // A full queue loses what comes, as queues do.
            let _ = queue.try_send((Instant::now() + delay, buffer[..len].to_vec()));
        }
    });
    let write = std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            let (due, packet) = match waiting.recv_timeout(Duration::from_millis(100)) {
                Ok(next) => next,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
            let _ = to.send_to(&packet, ("127.0.0.1", KERNEL));
        }
    });
    [read, write]
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
