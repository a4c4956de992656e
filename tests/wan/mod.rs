#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "shared by tests, each of which uses a part of it; it is the world that they touch"
)]
//! The WAN emulator of the tests, in user space: one port, UDP and TCP, that passes everything on to a gateway, later, not all of it,
//! or nothing. What it does to packets can be changed at any time.
//!
//! UDP: delay, jitter (no reordering), random loss, bursty loss (Gilbert-Elliott, counted in packets), a rate with a queue of 500 ms,
//! an MTU above which packets vanish without a word, a firewall that drops all of it or all but the first few, a NAT that forgets.
//! TCP passes as bytes: delay and rate hold for it, it waits in a blackout, and its connections can be cut.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Packets that wait in one direction of one flow.
const QUEUE: usize = 4096;
/// What a rate makes wait longer than this is dropped.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// Headers of IPv4 and UDP.
const HEADERS: usize = 28;

#[derive(Debug, Clone, Copy)]
struct Conditions {
    no_udp: bool,
    no_tcp: bool,
    dark: bool,
    /// One way.
    delay: Duration,
    jitter: Duration,
    /// Share of UDP packets lost.
    loss: f64,
    /// Mean length of a burst of losses, packets; 1: each is lost by itself.
    burst: f64,
    /// Bytes a second, each way.
    rate: Option<u64>,
    /// Bytes of a packet with its headers.
    mtu: usize,
    /// UDP packets that may still pass.
    passes: Option<u64>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            no_udp: false,
            no_tcp: false,
            dark: false,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 1.0,
            rate: None,
            mtu: 65_535,
            passes: None,
        }
    }
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    /// Whether a burst of losses is on.
    bad: bool,
    /// When the last byte at the given rate is out.
    free: Instant,
    /// When the last packet arrives.
    last: Instant,
}

#[derive(Debug)]
struct Shared {
    conditions: watch::Sender<Conditions>,
    pipes: [Mutex<Pipe>; 2],
    rebind: AtomicBool,
    /// Address from which packets go on to the gateway.
    source: Mutex<Option<IpAddr>>,
    dialled: AtomicU64,
    packets: AtomicU64,
    lost: AtomicU64,
    /// Source connection IDs of QUIC's first packets.
    handshakes: Mutex<HashSet<Vec<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> Conditions {
        *self.conditions.borrow()
    }

    /// Done once TCP passes.
    async fn speaks(&self) {
        // The sender is our own.
        let _ = self.conditions.subscribe().wait_for(|c| !c.dark && !c.no_tcp).await;
    }

    /// When a UDP packet arrives; `None`: never.
    fn packet(&self, direction: usize, len: usize) -> Option<Instant> {
        self.packets.fetch_add(1, Ordering::SeqCst);
        let arrives = self.fate(direction, len);
        if arrives.is_none() {
            self.lost.fetch_add(1, Ordering::SeqCst);
        }
        arrives
    }

    /// Lets one of the last packets pass, while there is one.
    fn spend(&self) -> bool {
        self.conditions.send_if_modified(|c| {
            let left = c.passes.and_then(|left| left.checked_sub(1));
            c.passes = left.or(Some(0));
            left.is_some()
        })
    }

    fn fate(&self, direction: usize, len: usize) -> Option<Instant> {
        let c = self.now();
        if c.no_udp || c.dark || len + HEADERS > c.mtu || (c.passes.is_some() && !self.spend()) {
            return None;
        }
        let mut pipe = lock(&self.pipes[direction]);
        if c.burst > 1.0 {
            let (leave, enter) = (1.0 / c.burst, c.loss / (1.0 - c.loss) / c.burst);
            let turns = if pipe.bad { leave } else { enter };
            pipe.bad ^= rand::random_bool(turns);
            if pipe.bad {
                return None;
            }
        } else if rand::random_bool(c.loss) {
            return None;
        }
        pipe.due(&c, len, true)
    }
}

impl Pipe {
    fn due(&mut self, c: &Conditions, len: usize, drop_late: bool) -> Option<Instant> {
        let now = Instant::now();
        let mut out = now;
        if let Some(rate) = c.rate {
            out = self.free.max(now) + Duration::from_secs_f64(len as f64 / rate as f64);
            if drop_late && out > now + LONGEST_WAIT {
                return None;
            }
            self.free = out;
        }
        let jitter = c.jitter.mul_f64(rand::random_range(0.0..=1.0));
        self.last = self.last.max(out + c.delay + jitter);
        Some(self.last)
    }
}

/// The network between a dialler and one gateway.
pub struct Wan {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    cut: watch::Sender<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Wan {
    pub async fn to(target: SocketAddr) -> Self {
        let (near, listener) = loop {
            let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(near.local_addr().unwrap()).await {
                break (near, listener);
            }
        };
        let addr = near.local_addr().unwrap();
        let now = Instant::now();
        let pipe = || Mutex::new(Pipe { bad: false, free: now, last: now });
        let shared = Arc::new(Shared {
            conditions: watch::Sender::new(Conditions::default()),
            pipes: [pipe(), pipe()],
            rebind: AtomicBool::new(false),
            source: Mutex::default(),
            dialled: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            handshakes: Mutex::default(),
        });
        let cut = watch::Sender::new(0);
        let tasks = vec![
            tokio::spawn(udp(Arc::new(near), target, Arc::clone(&shared))),
            tokio::spawn(tcp(listener, target, Arc::clone(&shared), cut.subscribe())),
        ];
        Self { addr, shared, cut, tasks }
    }

    fn set(&self, change: impl FnOnce(&mut Conditions)) {
        self.shared.conditions.send_modify(change);
    }

    /// UDP vanishes, both ways.
    pub fn block_udp(&self, block: bool) {
        self.set(|c| c.no_udp = block);
    }

    /// Nothing is said on TCP, neither on new connections nor on old ones.
    pub fn block_tcp(&self, block: bool) {
        self.set(|c| c.no_tcp = block);
    }

    /// Only so many more UDP packets pass, both ways together.
    pub fn half_block_udp(&self, packets: u64) {
        self.set(|c| c.passes = Some(packets));
    }

    /// Everything vanishes.
    pub fn blackout(&self, dark: bool) {
        self.set(|c| c.dark = dark);
    }

    /// The gateway sees another source port from now on, as after a NAT forgot.
    pub fn rebind(&self) {
        self.shared.rebind.store(true, Ordering::SeqCst);
    }

    /// The gateway sees another source address from now on; on Linux every address of 127.0.0.0/8 is there.
    pub fn move_to(&self, source: IpAddr) {
        *lock(&self.shared.source) = Some(source);
        self.rebind();
    }

    /// TCP connections that there are end.
    pub fn cut_tcp(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// One way, each way.
    pub fn delay(&self, delay: Duration, jitter: Duration) {
        self.set(|c| (c.delay, c.jitter) = (delay, jitter));
    }

    /// UDP packets lost, per thousand, each by itself.
    pub fn loss(&self, per_thousand: u32) {
        self.burst_loss(per_thousand, 1.0);
    }

    /// UDP packets lost, per thousand, in bursts of so many on average.
    pub fn burst_loss(&self, per_thousand: u32, burst: f64) {
        self.set(|c| (c.loss, c.burst) = (f64::from(per_thousand) / 1000.0, burst));
    }

    /// Bytes a second, each way; `None`: as many as come.
    pub fn rate(&self, rate: Option<u64>) {
        self.set(|c| c.rate = rate);
    }

    /// UDP packets that are larger than this with their headers vanish.
    pub fn mtu(&self, mtu: usize) {
        self.set(|c| c.mtu = mtu);
    }

    /// TCP connections passed on so far.
    pub fn tcp_connections(&self) -> u64 {
        self.shared.dialled.load(Ordering::SeqCst)
    }

    /// QUIC connections that were begun so far.
    pub fn handshakes(&self) -> usize {
        lock(&self.shared.handshakes).len()
    }

    /// UDP packets that came, and those of them that were lost.
    pub fn packets(&self) -> (u64, u64) {
        (self.shared.packets.load(Ordering::SeqCst), self.shared.lost.load(Ordering::SeqCst))
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.cut_tcp();
    }
}

/// The source connection ID of a packet that begins a QUIC connection.
fn first_of_quic(packet: &[u8]) -> Option<Vec<u8>> {
    if packet.first()? & 0xf0 != 0xc0 {
        return None;
    }
    let source = 6 + usize::from(*packet.get(5)?);
    let len = usize::from(*packet.get(source)?);
    packet.get(source + 1..source + 1 + len).map(<[u8]>::to_vec)
}

/// One direction of a flow: packets leave in the order they came, each when it is due.
fn lane(socket: Arc<UdpSocket>, to: SocketAddr) -> (mpsc::Sender<(Instant, Vec<u8>)>, JoinHandle<()>) {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE);
    let task = tokio::spawn(async move {
        while let Some((due, bytes)) = waiting.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            let _ = socket.send_to(&bytes, to).await;
        }
    });
    (queue, task)
}

/// What a NAT remembers of one client.
struct Flow {
    out: mpsc::Sender<(Instant, Vec<u8>)>,
    tasks: [JoinHandle<()>; 3],
}

impl Flow {
    async fn new(near: &Arc<UdpSocket>, from: SocketAddr, target: SocketAddr, shared: &Arc<Shared>) -> Self {
        let source = *lock(&shared.source);
        let far = UdpSocket::bind((source.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0)).await.unwrap();
        let far = Arc::new(far);
        let (out, outward) = lane(Arc::clone(&far), target);
        let (back, inward) = lane(Arc::clone(near), from);
        let shared = Arc::clone(shared);
        let read = tokio::spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                let Ok((len, _)) = far.recv_from(&mut buffer).await else { continue };
                if let Some(due) = shared.packet(1, len) {
                    let _ = back.try_send((due, buffer[..len].to_vec()));
                }
            }
        });
        Self { out, tasks: [outward, inward, read] }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn udp(near: Arc<UdpSocket>, target: SocketAddr, shared: Arc<Shared>) {
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((len, from)) = near.recv_from(&mut buffer).await else { continue };
        if shared.rebind.swap(false, Ordering::SeqCst) {
            flows.clear();
        }
        if let Some(id) = first_of_quic(&buffer[..len]) {
            lock(&shared.handshakes).insert(id);
        }
        let Some(due) = shared.packet(0, len) else { continue };
        let flow = match flows.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Flow::new(&near, from, target, &shared).await),
        };
        let _ = flow.out.try_send((due, buffer[..len].to_vec()));
    }
}

async fn tcp(listener: TcpListener, target: SocketAddr, shared: Arc<Shared>, cut: watch::Receiver<u64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (shared, mut cut) = (Arc::clone(&shared), cut.clone());
        cut.mark_unchanged();
        tokio::spawn(async move {
            let passed = async {
                // The client's first packet is lost over and over.
                shared.speaks().await;
                shared.dialled.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(target).await else { return };
                let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
                // Each end hears of the other's end once it has all that was sent before.
                tokio::join!(pour(client_in, server_out, &shared, 0), pour(server_in, client_out, &shared, 1));
            };
            tokio::select! {
                () = passed => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Passes bytes on in order; in a blackout they wait, since TCP would send them again.
async fn pour(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
    direction: usize,
) {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let read = async move {
        let mut buffer = vec![0; 65536];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let due = lock(&shared.pipes[direction]).due(&shared.now(), len, false).unwrap_or_else(Instant::now);
            if queue.send((due, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            shared.speaks().await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let mut write = std::pin::pin!(write);
    tokio::select! {
        () = read => write.await,
        () = &mut write => {}
    }
}
