//! The sockets of UDP and their workers; TCP is in [`super::tcp`].
#![allow(clippy::disallowed_methods, reason = "opens sockets, reads clocks, draws seeds and owns the tasks")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{BadDomain, Setup};
use super::config::Config;
use super::desk::{Desk, Outcome, Waiting};
use super::figures::{Figures, Tally};
use super::handler::{Clock, Shared};
use super::tcp::driver::{Room, accept};
use crate::failover::Failover;
use crate::views::Views;

/// Questions that are waited for at one time; more are answered with SERVFAIL.
const MOST_WAITING: usize = 1024;
/// Packets taken from a socket before other tasks have their turn.
const BATCH: usize = 64;
/// Longest question, bytes; longer ones are cut by the system and then not understood.
const LONGEST: usize = 4096;
/// UDP sockets an address at most.
const MOST_SOCKETS: usize = 16;

/// Why DNS could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The domain is no DNS name.
    #[error(transparent)]
    Domain(#[from] BadDomain),
    /// An address can not be listened on.
    #[error("DNS cannot listen on {addr} ({transport}): {source}; set ports.dns or addresses.dns to one that is free")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// UDP or TCP.
        transport: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// DNS, running.
#[derive(Debug)]
pub struct Dns {
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dns {
    /// Binds every address, UDP and TCP, and answers until `stop`. Must be called inside the runtime.
    pub fn start(config: Config, views: Views, stop: CancellationToken) -> Result<Self, StartError> {
        Self::start_failing_over(config, views, None, stop)
    }

    /// The same, for plain names that other sites answer where this one has nothing.
    pub fn start_failing_over(
        config: Config,
        views: Views,
        failover: Option<Failover>,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let listen = config.listen.clone();
        let setup = Setup::new(config)?;
        let clock = Clock { now: Instant::now, unix: SystemTime::now, chance: rand::random };
        let shared = Arc::new(Shared {
            views,
            failover,
            setup: ArcSwap::from_pointee(setup),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            clock,
            figures: Figures::default(),
        });
        let tasks = TaskTracker::new();
        let room = Arc::new(Room::default());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_SOCKETS);
        let mut addrs = Vec::new();
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for addr in listen {
            let (tcp, udp) = bind(addr, workers)?;
            addrs.extend(tcp.local_addr());
            listeners.push(tcp);
            sockets.extend(udp);
        }
        for tcp in listeners {
            tasks.spawn(accept(tcp, shared.clone(), room.clone(), tasks.clone(), stop.clone()));
        }
        for socket in sockets {
            tasks.spawn(work(Arc::new(socket), shared.clone(), tasks.clone(), stop.clone()));
        }
        tasks.close();
        Ok(Self { shared, addrs, tasks, stop })
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Whether [`Dns::reload`] would take it.
    pub fn check(&self, config: &Config) -> Result<(), BadDomain> {
        Setup::new(config.clone()).map(drop)
    }

    /// Takes a new configuration; `listen` stays as it was.
    pub fn reload(&self, config: Config) -> Result<(), BadDomain> {
        self.shared.setup.store(Arc::new(Setup::new(config)?));
        Ok(())
    }

    /// Resolves when every task has ended after the stop token.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
        self.tasks.wait().await;
    }
}

/// Binds TCP, and UDP at the same port: a socket for each worker where the system shares a port between sockets, else one.
fn bind(addr: SocketAddr, workers: usize) -> Result<(TcpListener, Vec<UdpSocket>), StartError> {
    let failed = |transport| move |source| StartError::Listen { addr, transport, source };
    // A free port of TCP may be taken in UDP; where any port will do, another is tried.
    let mut tries = if addr.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let tcp = tcp_socket(addr).map_err(failed("TCP"))?;
        let at = tcp.local_addr().map_err(failed("TCP"))?;
        // The first one is bound alone, so that another process on the port is noticed, not joined.
        match udp_socket(at, false) {
            Ok(probe) if workers == 1 || !cfg!(target_os = "linux") => {
                return Ok((tcp, vec![UdpSocket::from_std(probe).map_err(failed("UDP"))?]));
            }
            Ok(probe) => drop(probe),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => return Err(failed("UDP")(error)),
        }
        let sockets = (0..workers)
            .map(|_| udp_socket(at, true).and_then(UdpSocket::from_std))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed("UDP"))?;
        return Ok((tcp, sockets));
    }
}

fn tcp_socket(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    only_v6(&socket, addr)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn udp_socket(addr: SocketAddr, share: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    #[cfg(target_os = "linux")]
    if share {
        socket.set_reuse_port(true)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = share;
    only_v6(&socket, addr)?;
    // Larger buffers ride out a burst; the system may give less.
    let _ = socket.set_recv_buffer_size(4 << 20);
    let _ = socket.set_send_buffer_size(4 << 20);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn only_v6(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    // `::` beside `0.0.0.0` on one port, as a configuration may list both.
    if addr.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

/// One worker: takes packets in batches and answers them, most of them on the spot.
async fn work(socket: Arc<UdpSocket>, shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    let rng = SmallRng::seed_from_u64(rand::random());
    let mut desk = Desk::failing_over(shared.views.clone(), shared.failover.clone(), shared.setup.load_full(), rng);
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Fails only where the runtime ends.
            ready = socket.readable() => if ready.is_err() {
                return;
            }
        }
        desk.reload(&shared.setup.load());
        let (now, unix) = (Instant::now(), shared.clock.seconds());
        let mut left = BATCH;
        let mut codes = Tally::default();
        while left > 0 {
            left -= 1;
            let (len, from) = match socket.try_recv_from(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier answer could not be delivered.
                Err(_) => continue,
            };
            // An answer to port 0 reaches nobody.
            if from.port() == 0 {
                continue;
            }
            let packet = buffer.get(..len).unwrap_or_default();
            match desk.take(packet, now, unix) {
                Outcome::Answered => {}
                Outcome::Ignored => continue,
                Outcome::Wait(mut waiting) => match shared.waiting.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let client = waiting.ask.from.get_or_insert(from.ip());
                        *client = client.to_canonical();
                        let (socket, shared, stop) = (socket.clone(), shared.clone(), stop.clone());
                        tasks.spawn(async move {
                            wait(&socket, &shared, from, &waiting, &stop).await;
                            drop(permit);
                        });
                        continue;
                    }
                    Err(_) => {
                        desk.shed(&waiting);
                    }
                },
            }
            // A full send buffer loses the answer, as the network may; the client asks again.
            let _ = socket.try_send_to(desk.answer(), from);
            codes.add(desk.answer());
        }
        shared.figures.batch(&codes, now.elapsed());
        if left == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn wait(socket: &UdpSocket, shared: &Shared, from: SocketAddr, waiting: &Waiting, stop: &CancellationToken) {
    let setup = shared.setup.load_full();
    let deadline = Instant::now() + shared.patience(&setup);
    let reply = tokio::select! {
        () = stop.cancelled() => return,
        reply = Box::pin(shared.later(&setup, &waiting.ask, false, deadline)) => reply,
    };
    shared.figures.answered(&[(reply.code.low(), 1)]);
    if let Some(message) = waiting.encode(&setup, &reply) {
        let _ = socket.send_to(&message, from).await;
    }
}
