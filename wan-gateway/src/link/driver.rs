#![allow(clippy::disallowed_methods, reason = "opens the UDP socket, dials, runs connections")]
//! The QUIC endpoint, dialling, and what runs on a connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use causeway_proto::federation::v1::GossipFrame;
use causeway_proto::listen::{Identity, Peer, Role};
use prost::Message;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{CloseCode, ConnId, State};
use crate::accept::driver::{Desk, serve};
use crate::carrier::Closed;
use crate::carrier::driver::Carrier;
use crate::carrier::reach::driver::{Won, nobody_listens};
use crate::carrier::traffic::Traffic;
use crate::config::{Config, Congestion};
use crate::doctor::wire::{Question, Report};
use crate::gateway::StartError;
use crate::qlog::driver::Qlog;
use crate::tls::Tls;

/// QUIC's own sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A connection on which nothing is heard is over. A blackout of three seconds must not end it.
const IDLE_MS: u32 = 6000;
/// Before a round trip is measured; lost first packets are sent again after three of these.
const FIRST_RTT: Duration = Duration::from_millis(100);
/// Calls that the other end may have under way on one connection.
const STREAMS: u32 = 8192;
/// Frames of gossip that the other end may have under way.
const FRAMES: u32 = 16;
/// Bytes of the UDP socket's buffers; the kernel may give less.
const SOCKET_BUFFER: usize = 4 << 20;
/// Time for a handshake that came in.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time to read or write one frame of gossip.
const FRAME_TIME: Duration = Duration::from_secs(5);
/// Bytes of one frame of gossip.
const MAX_FRAME: usize = 4 << 20;

/// What a call costs that goes out twice since its answer is late, where each call earns one: a site that is slow, since it is busy, gets
/// at most a tenth more to do.
const PRICE: u64 = 10;
/// As much may be saved up: ten such calls at once.
const CREDIT: u64 = 100;
/// A silent link's port is knocked at this often, at the longest, and so long an answer is waited for.
const KNOCK_EVERY: Duration = Duration::from_millis(500);

/// First byte of a one-way stream, or of a datagram, that carries a frame of gossip. No [`Probe`] begins with it.
const FRAME: u8 = 1;
/// First byte of a one-way stream that says: I am about to stop.
const DRAIN: u8 = 2;
/// First byte of a one-way stream that says: dial this link anew, my certificate is another now.
const RENEW: u8 = 3;
/// First byte of a one-way stream that asks: what do you find in the way between us?
const EXAMINE: u8 = 4;
/// First byte of a one-way stream that answers that.
const REPORT: u8 = 5;

/// A datagram that asks for a sign of life, or is one.
#[derive(Clone, Copy, PartialEq, Message)]
struct Probe {
    #[prost(bool, tag = "1")]
    reply: bool,
    /// Of the sender's directory.
    #[prost(fixed64, tag = "2")]
    digest: u64,
    /// To show clock skew only.
    #[prost(uint64, tag = "3")]
    unix_ms: u64,
}

/// A connection between two gateways.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnId,
    pub(crate) datacenter: String,
    pub(crate) conn: Carrier,
    /// Calls of ours under way on it.
    pub(crate) busy: AtomicUsize,
    /// Calls of ours in all.
    pub(crate) calls: AtomicU64,
    /// Calls of theirs under way on it.
    pub(crate) serving: AtomicUsize,
    /// Their clock minus ours, milliseconds; the least number: not known.
    skew_ms: AtomicI64,
    /// Its progress when it was last looked at.
    pub(crate) acks: AtomicU64,
    /// When the probe that is under way was sent, microseconds since `start`, and 0 for none; what the last one took.
    asked_us: AtomicU64,
    sample_us: AtomicU64,
    start: Instant,
    /// Bytes that crossed.
    pub(crate) traffic: Arc<Traffic>,
    /// Told when the link is doubted.
    pub(crate) doubted: Notify,
    /// Its progress when it was doubted.
    doubt: AtomicU64,
    /// What calls on it have earned for those whose answers are late.
    credit: AtomicU64,
    state: watch::Sender<State>,
    notes: mpsc::Sender<Note>,
}

impl Link {
    pub(crate) fn new(id: ConnId, datacenter: String, conn: Carrier, notes: mpsc::Sender<Note>) -> Self {
        Self {
            notes,
            id,
            datacenter,
            conn,
            busy: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            serving: AtomicUsize::new(0),
            skew_ms: AtomicI64::new(i64::MIN),
            acks: AtomicU64::new(0),
            asked_us: AtomicU64::new(0),
            sample_us: AtomicU64::new(0),
            start: Instant::now(),
            traffic: Arc::default(),
            doubted: Notify::new(),
            doubt: AtomicU64::new(u64::MAX),
            credit: AtomicU64::new(CREDIT),
            state: watch::Sender::new(State::Greeting),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn turn(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Their clock minus ours, milliseconds, once a probe told.
    pub(crate) fn skew_ms(&self) -> Option<i64> {
        Some(self.skew_ms.load(Ordering::Relaxed)).filter(|skew| *skew != i64::MIN)
    }

    pub(crate) fn set_skew_ms(&self, skew: i64) {
        self.skew_ms.store(skew, Ordering::Relaxed);
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.conn.close(code);
    }

    /// Whether something of ours was acknowledged since this was last asked: proof that both directions work.
    pub(crate) fn acknowledged(&self) -> bool {
        let acks = self.conn.progress();
        self.acks.swap(acks, Ordering::Relaxed) != acks
    }

    /// Says that nothing was acknowledged for longer than it takes: other links are better until something is.
    pub(crate) fn doubt(&self, progress: u64) {
        if self.doubt.swap(progress, Ordering::Relaxed) != progress {
            self.doubted.notify_waiters();
            // Where there is no room the link is asked for a sign of life when it is due.
            let _ = self.notes.try_send(Note::Doubted(self.id));
        }
    }

    /// Whether it is silent still.
    pub(crate) fn is_doubted(&self) -> bool {
        let doubt = self.doubt.load(Ordering::Relaxed);
        if doubt == u64::MAX || doubt == self.conn.progress() {
            return doubt != u64::MAX;
        }
        // Where it is doubted anew at this moment, that stands.
        let _ = self.doubt.compare_exchange(doubt, u64::MAX, Ordering::Relaxed, Ordering::Relaxed);
        false
    }

    /// Counts a call that goes out on it.
    pub(crate) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |c| (c < CREDIT).then_some(c + 1));
    }

    /// Whether one more call whose answer is late may go out on another link too.
    pub(crate) fn spare(&self) -> bool {
        let taken = |credit: u64| credit.checked_sub(PRICE);
        self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    fn age_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    fn answered(&self) {
        self.conn.answered();
        let asked = self.asked_us.swap(0, Ordering::Relaxed);
        if asked > 0 {
            self.sample_us.store(self.age_us().saturating_sub(asked), Ordering::Relaxed);
        }
    }

    /// The round trip as ways are chosen by it: the smoothed one, or what the last probe took where that is more. A way that became
    /// dear is to be left within a second, and smoothing needs ten samples to say so; a lost probe is no sample.
    pub(crate) fn cost(&self) -> Duration {
        self.conn.rtt().max(Duration::from_micros(self.sample_us.load(Ordering::Relaxed)))
    }

    /// Asks for a sign of life.
    pub(crate) fn probe(&self, digest: u64) {
        let probe = Probe { reply: false, digest, unix_ms: unix_ms() };
        self.conn.asked();
        self.asked_us.store(self.age_us(), Ordering::Relaxed);
        let bytes = probe.encode_to_vec();
        self.traffic.gossip.sent(bytes.len());
        self.conn.send_datagram(Bytes::from(bytes));
    }
}

/// Milliseconds since 1970 by our clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time by our clock, for certificates.
pub(crate) fn certificate_time() -> rustls_pki_types::UnixTime {
    rustls_pki_types::UnixTime::now()
}

/// What connections and dials tell the gateway's task.
#[derive(Debug)]
pub(crate) enum Note {
    Dialled {
        key: String,
        attempt: u64,
        result: Result<Won, String>,
    },
    Accepted(Carrier),
    Relayed {
        target: String,
        attempt: u64,
        result: Result<Carrier, String>,
    },
    /// A call wants a link to this datacenter.
    Wanted(String),
    Frame(ConnId, GossipFrame),
    Answered(ConnId),
    /// A call on it heard nothing for longer than it takes.
    Doubted(ConnId),
    Probed {
        conn: ConnId,
        digest: u64,
        their_ms: u64,
        our_ms: u64,
    },
    Drain(ConnId),
    Renew(ConnId),
    Examine(ConnId, Question),
    Report(ConnId, Report),
    Closed(ConnId, Closed),
}

pub(crate) fn transport(config: &Config, trace: Option<quinn::QlogStream>) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .initial_rtt(FIRST_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(FRAMES))
        .stream_receive_window(VarInt::from_u32(config.limits.stream_window))
        .receive_window(VarInt::from_u32(config.limits.receive_window))
        .send_window(u64::from(config.limits.receive_window))
        .datagram_receive_buffer_size(Some(64 << 10))
        .datagram_send_buffer_size(64 << 10);
    match config.congestion {
        Congestion::Bbr => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
        Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
    };
    transport.qlog_stream(trace);
    Arc::new(transport)
}

fn socket(listen: Option<SocketAddr>) -> std::io::Result<std::net::UdpSocket> {
    // Never connected and bound to any address, so that links survive a change of our own address.
    let open = |addr: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::DGRAM, None)?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // As much as the kernel gives.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        socket.bind(&addr.into())?;
        Ok(socket.into())
    };
    match listen {
        Some(addr) => open(addr),
        None => open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
            .or_else(|_: std::io::Error| open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))),
    }
}

/// Connection IDs by chance alone. quinn's own tell those of an earlier life apart and drop them in silence, where a stateless reset
/// is due.
#[derive(Debug)]
struct AnyId;

impl quinn::ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What connections that come in are told; `None`: none may.
pub(crate) fn server(config: &Config, tls: &Tls) -> Result<Option<quinn::ServerConfig>, StartError> {
    if config.listen.is_none() {
        return Ok(None);
    }
    let crypto = QuicServerConfig::try_from(tls.server()).map_err(|e| StartError::Tls(e.to_string()))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(transport(config, None))
        .migration(true)
        .max_incoming(1024)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(8 << 20);
    Ok(Some(server))
}

/// Opens the endpoint.
pub(crate) fn endpoint(
    config: &Config,
    server: Option<quinn::ServerConfig>,
    reset_key: &[u8; 32],
) -> Result<Endpoint, StartError> {
    let bind = |source| StartError::Bind { addr: config.listen, source };
    let socket = socket(config.listen).map_err(bind)?;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key);
    let mut endpoint = EndpointConfig::new(Arc::new(key));
    endpoint.cid_generator(|| Box::new(AnyId));
    Endpoint::new(endpoint, server, socket, Arc::new(quinn::TokioRuntime)).map_err(bind)
}

/// What taking connections in needs.
pub(crate) struct Porch {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: Arc<Config>,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) qlog: Qlog,
}

impl Porch {
    /// One handshake; traced where that is wanted.
    async fn take(&self, incoming: quinn::Incoming) -> Result<quinn::Connection, quinn::ConnectionError> {
        if !self.qlog.on() {
            return incoming.await;
        }
        let trace = self.qlog.open(false, incoming.remote_address()).await;
        let mut server = self.server.clone();
        server.transport_config(transport(&self.config, trace));
        incoming.accept_with(Arc::new(server))?.await
    }
}

/// Takes connections in until stopped.
pub(crate) async fn accept(porch: Porch, notes: mpsc::Sender<Note>, tasks: TaskTracker, stop: CancellationToken) {
    let handshakes = porch.config.limits.handshakes;
    let porch = Arc::new(porch);
    let under_way = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            () = stop.cancelled() => return,
            incoming = porch.endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
        };
        let busy = under_way.load(Ordering::Relaxed);
        if busy >= handshakes && incoming.may_retry() {
            // Fails only where the address is proven already.
            let _ = incoming.retry();
            continue;
        }
        if busy >= handshakes * 4 {
            incoming.ignore();
            continue;
        }
        under_way.fetch_add(1, Ordering::Relaxed);
        let (notes, under_way, stop) = (notes.clone(), Arc::clone(&under_way), stop.clone());
        let porch = Arc::clone(&porch);
        tasks.spawn(async move {
            let from = incoming.remote_address();
            let result = tokio::select! {
                () = stop.cancelled() => None,
                result = tokio::time::timeout(HANDSHAKE, Box::pin(porch.take(incoming))) => Some(result),
            };
            under_way.fetch_sub(1, Ordering::Relaxed);
            match result {
                Some(Ok(Ok(conn))) => {
                    // Fails when the gateway stops.
                    let _ = notes.send(Note::Accepted(Carrier::Quic(conn))).await;
                }
                Some(Ok(Err(error))) => {
                    metrics::counter!("causeway_gateway_handshakes_refused_total").increment(1);
                    tracing::debug!(%from, %error, "a handshake failed");
                }
                Some(Err(_)) => tracing::debug!(%from, "a handshake took too long"),
                None => {}
            }
        });
    }
}

/// The gateway's names that the certificate at the other end proves.
pub(crate) fn identities(conn: &Carrier, tls: &Tls) -> Vec<Identity> {
    tls.identities(&conn.chain())
}

/// The other end, for the requests it sends.
pub(crate) fn peer(conn: &Carrier, identities: Vec<Identity>) -> Peer {
    let addr = conn.remote();
    Peer { addr: Some(SocketAddr::new(addr.ip().to_canonical(), addr.port())), identities, verified: true }
}

/// The datacenter whose gateway a certificate names.
pub(crate) fn datacenter_of(identities: &[Identity], domain: &str) -> Option<String> {
    identities.iter().find(|i| i.role == Role::Gateway && i.domain == domain).map(|i| i.datacenter.clone())
}

/// Runs a connection until it is closed: serves its calls, takes its gossip, answers its probes.
pub(crate) async fn run(link: Arc<Link>, desk: Desk, notes: mpsc::Sender<Note>, tasks: TaskTracker) {
    let error = tokio::select! {
        error = calls(&link, &desk, &tasks) => error,
        error = frames(&link, &notes) => error,
        error = datagrams(&link, &notes) => error,
        error = refused(&link) => error,
    };
    // Fails when the gateway stops.
    let _ = notes.send(Note::Closed(link.id, error)).await;
}

/// Counts a call of the other end for as long as it is served.
struct Serving(Arc<Link>);

impl Serving {
    fn new(link: &Arc<Link>) -> Self {
        link.serving.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(link))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Done once a link is silent and the other end's host says that nobody listens there: the gateway's process is gone. Without this a
/// call would wait for it for as long as for a network that is dark for a while.
async fn refused(link: &Link) -> Closed {
    let mut state = link.watch();
    loop {
        // An error means that the link is gone.
        let _ = state.wait_for(|s| matches!(s, State::Suspected | State::Lost)).await;
        let Some(port) = link.conn.dialled_port() else { return std::future::pending().await };
        if nobody_listens(port, KNOCK_EVERY).await && matches!(*state.borrow(), State::Suspected | State::Lost) {
            link.close(CloseCode::Silent);
            return Closed::gone(format!("no answer to probes, and nobody listens at {port}"));
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

async fn calls(link: &Arc<Link>, desk: &Desk, tasks: &TaskTracker) -> Closed {
    loop {
        match link.conn.accept_bi().await {
            Ok((send, recv)) => {
                let (serving, desk) = (Serving::new(link), desk.clone());
                // Bounded by the streams that we allow the other end; ends with the connection.
                tasks.spawn(async move {
                    let _serving = serving;
                    serve(desk, send, recv).await;
                });
            }
            Err(error) => return error,
        }
    }
}

async fn frames(link: &Link, notes: &mpsc::Sender<Note>) -> Closed {
    loop {
        let bytes = match link.conn.hear(MAX_FRAME, FRAME_TIME).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(closed) => return closed,
        };
        link.traffic.gossip.received(bytes.len());
        let note = match bytes.split_first() {
            Some((&FRAME, body)) => match decoded(body) {
                Some(frame) => Note::Frame(link.id, frame),
                None => continue,
            },
            Some((&DRAIN, _)) => Note::Drain(link.id),
            Some((&RENEW, _)) => Note::Renew(link.id),
            Some((&EXAMINE, body)) => match Question::decode(body) {
                Ok(question) => Note::Examine(link.id, question),
                Err(_) => continue,
            },
            Some((&REPORT, body)) => match Report::decode(body) {
                Ok(report) => Note::Report(link.id, report),
                Err(_) => continue,
            },
            // A newer peer may say more than we know.
            _ => continue,
        };
        let _ = notes.send(note).await;
    }
}

async fn datagrams(link: &Link, notes: &mpsc::Sender<Note>) -> Closed {
    loop {
        let bytes = match link.conn.read_datagram().await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        if let Some((&FRAME, body)) = bytes.split_first() {
            link.traffic.gossip.received(bytes.len());
            if let Some(frame) = decoded(body) {
                // Dropped while the gateway's task is busy, as it may be on the way: digests will show it.
                let _ = notes.try_send(Note::Frame(link.id, frame));
            }
            continue;
        }
        let Ok(probe) = Probe::decode(bytes) else { continue };
        let note = if probe.reply {
            link.answered();
            Note::Answered(link.id)
        } else {
            let reply = Probe { reply: true, ..Probe::default() };
            link.conn.send_datagram(Bytes::from(reply.encode_to_vec()));
            Note::Probed { conn: link.id, digest: probe.digest, their_ms: probe.unix_ms, our_ms: unix_ms() }
        };
        // What is dropped while the gateway's task is busy comes again with the next probe.
        let _ = notes.try_send(note);
    }
}

/// Says something on a stream of its own; `heard`: waits until the other end has it.
async fn say(link: Arc<Link>, bytes: Vec<u8>, heard: bool) {
    link.traffic.gossip.sent(bytes.len());
    let said = tokio::time::timeout(FRAME_TIME, link.conn.say(bytes, heard)).await;
    if !matches!(said, Ok(Ok(()))) {
        tracing::debug!(link = link.id, datacenter = link.datacenter, "gossip could not be sent");
    }
}

/// A frame of gossip; `None` for what no gateway sends.
fn decoded(body: &[u8]) -> Option<GossipFrame> {
    GossipFrame::decode(body).ok().filter(|frame| !frame.from_datacenter.is_empty())
}

fn encoded(frame: &GossipFrame) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + frame.encoded_len());
    bytes.push(FRAME);
    // Growing a vector does not fail.
    let _ = frame.encode(&mut bytes);
    bytes
}

/// Sends a frame of gossip that must arrive.
pub(crate) async fn tell(link: Arc<Link>, frame: GossipFrame) {
    say(link, encoded(&frame), false).await;
}

/// Sends news: as a datagram where it fits, which waits behind nothing; one that is lost shows in the digests of the next probes. On a
/// stream of its own where it does not fit, and over TCP.
pub(crate) async fn news(link: Arc<Link>, frame: GossipFrame) {
    let bytes = encoded(&frame);
    if link.conn.fits_datagram(bytes.len()) {
        link.traffic.gossip.sent(bytes.len());
        link.conn.send_datagram(Bytes::from(bytes));
        metrics::counter!("causeway_gateway_gossip_frames_total", "as" => "datagram").increment(1);
    } else {
        metrics::counter!("causeway_gateway_gossip_frames_total", "as" => "stream").increment(1);
        say(link, bytes, false).await;
    }
}

/// Says that we are about to stop, after some last words; done once it was heard.
pub(crate) async fn drain(link: Arc<Link>, last: Option<GossipFrame>) {
    if let Some(frame) = last {
        say(Arc::clone(&link), encoded(&frame), true).await;
    }
    say(link, vec![DRAIN], true).await;
}

/// Says that nothing new is to be sent on this link; another has taken its place.
pub(crate) async fn farewell(link: Arc<Link>) {
    say(link, vec![DRAIN], false).await;
}

/// Asks the other end, which dialled this link, to dial it anew.
pub(crate) async fn ask_renewal(link: Arc<Link>) {
    say(link, vec![RENEW], false).await;
}

fn tagged(tag: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![tag];
    // Growing a vector does not fail.
    let _ = message.encode(&mut bytes);
    bytes
}

/// Asks the other end what it finds in the way.
pub(crate) async fn examine(link: Arc<Link>, question: Question) {
    say(link, tagged(EXAMINE, &question), false).await;
}

/// Answers that.
pub(crate) async fn report(link: Arc<Link>, report: Report) {
    say(link, tagged(REPORT, &report), false).await;
}
