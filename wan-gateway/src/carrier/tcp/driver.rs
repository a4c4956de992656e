#![allow(clippy::disallowed_methods, reason = "runs TCP connections and measures their round trips")]
//! A link over TLS and TCP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{ACCEPTOR, CLOSE, DATAGRAM, DIALLER, LONGEST, PIECE, PREFIX, parse, prefix};
use crate::carrier::{Closed, Kind};
use crate::config::Limits;
use crate::forward::stream::Cut;
use crate::link::CloseCode;

/// Bytes between HTTP/2 and the frames.
const PIPE: usize = 128 << 10;
/// Calls that the other end may have under way.
const STREAMS: u32 = 8192;
/// Calls that the other end may have given up before we looked at them; with more the connection ends, as HTTP/2's rapid reset
/// (CVE-2023-44487) asks for. Many calls are given up at once where they went out on two links.
const GIVEN_UP: usize = 1024;
/// Frames of gossip that wait to be read.
const FRAMES: usize = 16;
/// Datagrams that wait; more are dropped, as on QUIC.
const DATAGRAMS: usize = 64;
/// Bytes of one stream that wait to be written.
const SEND_BUFFER: usize = 1 << 20;
/// Time for the last frame.
const FAREWELL: Duration = Duration::from_millis(300);
/// Until a round trip is measured.
const FIRST_RTT: Duration = Duration::from_millis(100);
const CALL: &str = "http://gateway/call";
const SAY: &str = "http://gateway/say";

type Inbox<T> = tokio::sync::Mutex<mpsc::Receiver<T>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; the value is whole in any case.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection; closed when the last handle goes.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) remote: SocketAddr,
    pub(crate) kind: Kind,
    pub(crate) via: Option<Arc<str>>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    requests: SendRequest<Bytes>,
    calls: Inbox<(SendHalf, RecvHalf)>,
    frames: Inbox<(RecvStream, SendResponse<Bytes>)>,
    datagrams: Inbox<Bytes>,
    out: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    end: watch::Receiver<Option<Closed>>,
    _guard: DropGuard,
}

#[derive(Debug)]
struct Shared {
    close: CancellationToken,
    code: AtomicU32,
    /// Bytes of streams that came.
    received: AtomicU64,
    rtt_us: AtomicU64,
    /// Whether `rtt_us` was measured by a probe.
    sampled: AtomicBool,
    asked: Mutex<Option<Instant>>,
    /// Whether the last sample was many times the one before.
    leapt: AtomicBool,
}

/// The round trip after a sample, microseconds, and whether that was a leap. Up at once, down by and by: what waits behind a long
/// transfer is no loss. After a leap down at once, too: it was perhaps no queue but a silence, and who counts that as round trip waits
/// for seconds before it sees the next one (F5).
fn smoothed(old: u64, new: u64, first: bool, leapt: bool) -> (u64, bool) {
    let leap = new > old.saturating_mul(3);
    let rtt = if first || leapt || new > old { new } else { old - (old - new) / 2 };
    (rtt, leap)
}

/// Who is at the other end of a socket, and how it was reached.
pub(crate) struct Made {
    pub(crate) remote: SocketAddr,
    pub(crate) kind: Kind,
    /// The neighbour through which a relayed link goes.
    pub(crate) via: Option<Arc<str>>,
    pub(crate) dialler: bool,
    /// What the handshake took, where that says something of the round trip.
    pub(crate) shaken: Option<Duration>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Tcp {
    /// Takes a connection whose TLS handshake is done.
    pub(crate) async fn start<S>(
        io: S,
        made: Made,
        limits: &Limits,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (client, client_far) = tokio::io::duplex(PIPE);
        let (server, server_far) = tokio::io::duplex(PIPE);
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.receive_window)
            .initial_max_send_streams(STREAMS as usize)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, connection) = builder.handshake(client).await.map_err(|e| e.to_string())?;
        let close = stop.child_token();
        let over = CancellationToken::new();
        let shared = Arc::new(Shared {
            close: close.clone(),
            code: AtomicU32::new(CloseCode::Stopping as u32),
            received: AtomicU64::new(0),
            rtt_us: AtomicU64::new(u64::try_from(made.shaken.unwrap_or(FIRST_RTT).as_micros()).unwrap_or(0)),
            sampled: AtomicBool::new(false),
            asked: Mutex::new(None),
            leapt: AtomicBool::new(false),
        });
        let (calls_tx, calls) = mpsc::channel(STREAMS as usize);
        let (frames_tx, frames) = mpsc::channel(FRAMES);
        let (in_tx, datagrams) = mpsc::channel(DATAGRAMS);
        let (out, out_rx) = mpsc::channel(DATAGRAMS);
        let (end_tx, end) = watch::channel(None);
        let ended = over.clone();
        tasks.spawn(async move {
            tokio::select! {
                // Its end shows on every stream.
                _ = connection => {}
                () = ended.cancelled() => {}
            }
        });
        let mut serve = h2::server::Builder::new();
        serve
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.receive_window)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(GIVEN_UP)
            .max_send_buffer_size(SEND_BUFFER);
        let ended = over.clone();
        tasks.spawn(async move {
            tokio::select! {
                _ = incoming(serve, server, calls_tx, frames_tx) => {}
                () = ended.cancelled() => {}
            }
        });
        let (mine, theirs) = if made.dialler { (DIALLER, ACCEPTOR) } else { (ACCEPTOR, DIALLER) };
        let pump = Pump { mine, theirs, shared: Arc::clone(&shared), datagrams: in_tx };
        tasks.spawn(async move {
            let closed = Box::pin(pump.run(io, client_far, server_far, out_rx)).await;
            end_tx.send_replace(Some(closed));
            over.cancel();
        });
        let Made { remote, kind, via, chain, .. } = made;
        Ok(Self {
            remote,
            kind,
            via,
            chain,
            requests,
            calls: Inbox::new(calls),
            frames: Inbox::new(frames),
            datagrams: Inbox::new(datagrams),
            out,
            shared,
            end,
            _guard: close.drop_guard(),
        })
    }

    async fn closed(&self) -> Closed {
        let mut end = self.end.clone();
        let closed = match end.wait_for(Option::is_some).await {
            Ok(closed) => closed.clone(),
            Err(_) => None,
        };
        closed.unwrap_or_else(|| Closed::gone("the gateway stops"))
    }

    /// Opens a stream for a call.
    pub(crate) async fn open_bi(&self) -> Result<(SendHalf, RecvHalf), String> {
        let (answer, send) = self.request(CALL).await?;
        Ok((SendHalf(Arc::new(Mutex::new(send))), RecvHalf::Asked(answer)))
    }

    async fn request(&self, uri: &'static str) -> Result<(ResponseFuture, SendStream<Bytes>), String> {
        let mut requests = self.requests.clone().ready().await.map_err(|e| e.to_string())?;
        let request = http::Request::post(uri).body(()).map_err(|e| e.to_string())?;
        requests.send_request(request, false).map_err(|e| e.to_string())
    }

    /// The next call of the other end.
    pub(crate) async fn accept_bi(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        let next = async { self.calls.lock().await.recv().await };
        match next.await {
            Some(call) => Ok(call),
            None => Err(self.closed().await),
        }
    }

    /// Says something whole; done once the other end has it.
    pub(crate) async fn say(&self, bytes: Vec<u8>) -> Result<(), String> {
        let (answer, send) = self.request(SAY).await?;
        let send = SendHalf(Arc::new(Mutex::new(send)));
        send.write(&mut [Bytes::from(bytes)]).await.map_err(|e| e.to_string())?;
        send.finish();
        answer.await.map(|_| ()).map_err(|e| e.to_string())
    }

    /// What the other end says next; `None`: it was too long or broke off.
    pub(crate) async fn heard(&self, limit: usize, within: Duration) -> Result<Option<Vec<u8>>, Closed> {
        let Some((mut body, mut respond)) = self.frames.lock().await.recv().await else {
            return Err(self.closed().await);
        };
        let read = async {
            let mut bytes = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece.ok()?;
                // Fails for more than was received only.
                let _ = body.flow_control().release_capacity(piece.len());
                if bytes.len() + piece.len() > limit {
                    return None;
                }
                bytes.extend_from_slice(&piece);
            }
            Some(bytes)
        };
        let bytes = tokio::time::timeout(within, read).await.ok().flatten();
        if bytes.is_some() {
            // Fails when nobody waits for it.
            let _ = respond.send_response(http::Response::new(()), true);
        }
        Ok(bytes)
    }

    /// Dropped where the connection cannot keep up.
    pub(crate) fn send_datagram(&self, bytes: Bytes) {
        let _ = self.out.try_send(bytes);
    }

    pub(crate) async fn read_datagram(&self) -> Result<Bytes, Closed> {
        match self.datagrams.lock().await.recv().await {
            Some(bytes) => Ok(bytes),
            None => Err(self.closed().await),
        }
    }

    /// A probe goes out now.
    pub(crate) fn asked(&self) {
        lock(&self.shared.asked).get_or_insert_with(Instant::now);
    }

    /// A probe was answered.
    pub(crate) fn answered(&self) {
        let Some(asked) = lock(&self.shared.asked).take() else { return };
        let new = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.shared.rtt_us.load(Ordering::Relaxed);
        let first = !self.shared.sampled.swap(true, Ordering::Relaxed);
        let (rtt, leap) = smoothed(old, new, first, self.shared.leapt.load(Ordering::Relaxed));
        self.shared.rtt_us.store(rtt, Ordering::Relaxed);
        self.shared.leapt.store(leap, Ordering::Relaxed);
    }

    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.shared.rtt_us.load(Ordering::Relaxed))
    }

    /// Whether a probe measured the round trip.
    pub(crate) fn sampled(&self) -> bool {
        self.shared.sampled.load(Ordering::Relaxed)
    }

    /// Counts bytes of streams. TCP brings new ones only for as long as our acknowledgements arrive.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.shared.code.store(code as u32, Ordering::Relaxed);
        self.shared.close.cancel();
    }
}

/// Takes the streams that the other end opens.
async fn incoming(
    builder: h2::server::Builder,
    io: DuplexStream,
    calls: mpsc::Sender<(SendHalf, RecvHalf)>,
    frames: mpsc::Sender<(RecvStream, SendResponse<Bytes>)>,
) -> Result<(), h2::Error> {
    let mut connection = builder.handshake::<_, Bytes>(io).await?;
    while let Some(stream) = connection.accept().await {
        let (request, mut respond) = stream?;
        // A stream that finds no room is dropped, which resets it.
        match request.uri().path() {
            "/call" => {
                // One given up before it came here says so; that is no matter of the others.
                let Ok(send) = respond.send_response(http::Response::new(()), false) else { continue };
                let _ = calls.try_send((SendHalf(Arc::new(Mutex::new(send))), RecvHalf::Open(request.into_body())));
            }
            "/say" => {
                let _ = frames.try_send((request.into_body(), respond));
            }
            _ => respond.send_reset(Reason::REFUSED_STREAM),
        }
    }
    Ok(())
}

/// Moves bytes between the TLS connection and what shares it.
struct Pump {
    mine: u8,
    theirs: u8,
    shared: Arc<Shared>,
    datagrams: mpsc::Sender<Bytes>,
}

impl Pump {
    async fn run<S>(&self, io: S, client: DuplexStream, server: DuplexStream, out: mpsc::Receiver<Bytes>) -> Closed
    where
        S: AsyncRead + AsyncWrite,
    {
        let (read, write) = tokio::io::split(io);
        let (client_in, client_out) = tokio::io::split(client);
        let (server_in, server_out) = tokio::io::split(server);
        tokio::select! {
            closed = self.inward(read, client_out, server_out) => closed.unwrap_or_else(|e| Closed::failed(&e)),
            closed = self.outward(write, client_in, server_in, out) => closed.unwrap_or_else(|e| Closed::failed(&e)),
            () = async { self.shared.close.cancelled().await; tokio::time::sleep(FAREWELL).await } => Closed::gone("closed"),
        }
    }

    async fn inward(
        &self,
        read: impl AsyncRead + Unpin,
        mut client: impl AsyncWrite + Unpin,
        mut server: impl AsyncWrite + Unpin,
    ) -> io::Result<Closed> {
        let mut read = BufReader::with_capacity(LONGEST, read);
        let mut buffer = vec![0; LONGEST];
        loop {
            let mut head = [0; PREFIX];
            read.read_exact(&mut head).await?;
            let Some((channel, length)) = parse(head) else {
                return Ok(Closed::gone("the other gateway sends what is no frame"));
            };
            let Some(payload) = buffer.get_mut(..length) else { return Ok(Closed::gone("a frame too long")) };
            read.read_exact(payload).await?;
            match channel {
                DATAGRAM => {
                    // Dropped where nobody keeps up with them.
                    let _ = self.datagrams.try_send(Bytes::copy_from_slice(payload));
                    continue;
                }
                CLOSE => {
                    let code = payload.first_chunk::<4>().map_or(0, |code| u32::from_be_bytes(*code));
                    return Ok(Closed::by_peer(u64::from(code)));
                }
                channel if channel == self.mine => client.write_all(payload).await?,
                _ => server.write_all(payload).await?,
            }
            self.shared.received.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    async fn outward(
        &self,
        mut write: impl AsyncWrite + Unpin,
        mut client: impl AsyncRead + Unpin,
        mut server: impl AsyncRead + Unpin,
        mut out: mpsc::Receiver<Bytes>,
    ) -> io::Result<Closed> {
        let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
        let mut frame = BytesMut::with_capacity(PIECE + PREFIX);
        loop {
            let (channel, payload) = tokio::select! {
                () = self.shared.close.cancelled() => (CLOSE, None),
                datagram = out.recv() => match datagram {
                    Some(bytes) => {
                        frame.clear();
                        frame.extend_from_slice(&prefix(DATAGRAM, bytes.len()));
                        frame.extend_from_slice(&bytes);
                        (DATAGRAM, None)
                    }
                    None => (CLOSE, None),
                },
                n = client.read(&mut first) => (self.mine, first.get(..n?)),
                n = server.read(&mut second) => (self.theirs, second.get(..n?)),
            };
            match (channel, payload) {
                (DATAGRAM, _) => {}
                (CLOSE, _) => {
                    let code = self.shared.code.load(Ordering::Relaxed).to_be_bytes();
                    frame.clear();
                    frame.extend_from_slice(&prefix(CLOSE, code.len()));
                    frame.extend_from_slice(&code);
                    write.write_all(&frame).await?;
                    write.flush().await?;
                    write.shutdown().await?;
                    return Ok(Closed::gone("closed"));
                }
                (_, Some([]) | None) => return Ok(Closed::gone("HTTP/2 broke off")),
                (channel, Some(bytes)) => {
                    frame.clear();
                    frame.extend_from_slice(&prefix(channel, bytes.len()));
                    frame.extend_from_slice(bytes);
                }
            }
            write.write_all(&frame).await?;
            write.flush().await?;
        }
    }
}

/// The half of a call's stream that is written.
#[derive(Debug)]
pub(crate) struct SendHalf(Arc<Mutex<SendStream<Bytes>>>);

fn off() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the other gateway does not want it")
}

impl SendHalf {
    pub(crate) async fn write(&self, pieces: &mut [Bytes]) -> io::Result<()> {
        for piece in pieces {
            let mut rest = std::mem::take(piece);
            while !rest.is_empty() {
                poll_fn(|cx| {
                    let mut stream = lock(&self.0);
                    stream.reserve_capacity(rest.len());
                    while stream.capacity() == 0 {
                        match ready!(stream.poll_capacity(cx)) {
                            Some(Ok(_)) => {}
                            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                            None => return Poll::Ready(Err(off())),
                        }
                    }
                    let size = stream.capacity().min(rest.len());
                    Poll::Ready(stream.send_data(rest.split_to(size), false).map_err(io::Error::other))
                })
                .await?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(&self) {
        // Fails on a stream that is over.
        let _ = lock(&self.0).send_data(Bytes::new(), true);
    }

    pub(crate) fn reset(&self) {
        lock(&self.0).send_reset(Reason::CANCEL);
    }

    /// Done once the other end called the stream off. To be polled by the task that writes, since HTTP/2 wakes one only.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stream = Arc::clone(&self.0);
        poll_fn(move |cx| lock(&stream).poll_reset(cx).map(|_| ()))
    }
}

/// The half of a call's stream that is read.
#[derive(Debug)]
pub(crate) enum RecvHalf {
    /// The other end has not taken it up yet.
    Asked(ResponseFuture),
    /// Bytes come.
    Open(RecvStream),
}

fn cut(error: h2::Error) -> Cut {
    if error.is_reset() { Cut::Reset } else { Cut::Link(error.to_string()) }
}

impl RecvHalf {
    /// What came; `None`: the end. May be cancelled and called again.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            match self {
                Self::Asked(answer) => *self = Self::Open(answer.await.map_err(cut)?.into_body()),
                Self::Open(body) => match body.data().await {
                    Some(Ok(bytes)) => {
                        // Fails for more than was received only.
                        let _ = body.flow_control().release_capacity(bytes.len());
                        if !bytes.is_empty() {
                            return Ok(Some(bytes));
                        }
                    }
                    Some(Err(error)) => return Err(cut(error)),
                    None => return Ok(None),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Tcp, Tcp) {
        let (here, there) = tokio::io::duplex(1 << 20);
        let (limits, tasks, stop) = (Limits::default(), TaskTracker::new(), CancellationToken::new());
        let made = |dialler| Made {
            remote: SocketAddr::from(([127, 0, 0, 1], 1)),
            kind: Kind::Tcp,
            via: None,
            dialler,
            shaken: None,
            chain: Vec::new(),
        };
        tokio::try_join!(
            Tcp::start(here, made(true), &limits, &tasks, &stop),
            Tcp::start(there, made(false), &limits, &tasks, &stop)
        )
        .unwrap()
    }

    async fn answered(from: &Tcp, by: &Tcp) {
        let asked = async {
            let (send, mut recv) = from.open_bi().await.unwrap();
            send.write(&mut [Bytes::from_static(b"a question")]).await.unwrap();
            send.finish();
            recv.read().await
        };
        let answer = async {
            // What was given up may be in the queue before it.
            loop {
                let (send, mut recv) = by.accept_bi().await.unwrap();
                if let Ok(Some(question)) = recv.read().await {
                    send.write(&mut [question]).await.unwrap();
                    send.finish();
                    return;
                }
            }
        };
        let ((asked, ()), _) = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(asked, answer) })
            .await
            .map(|both| (both, ()))
            .expect("no answer");
        assert!(matches!(&asked, Ok(Some(bytes)) if bytes == &b"a question"[..]), "{asked:?}");
    }

    #[test]
    fn a_silence_is_no_round_trip() {
        let (mut rtt, mut leapt) = (40_000, false);
        let mut after = |new| {
            (rtt, leapt) = smoothed(rtt, new, false, leapt);
            rtt
        };
        assert_eq!([after(60_000), after(40_000)], [60_000, 50_000], "up at once, down by and by");
        // A blackout, and a queue that stays.
        assert_eq!([after(1_100_000), after(40_000), after(40_000)], [1_100_000, 40_000, 40_000]);
        assert_eq!([after(1_100_000), after(900_000), after(800_000)], [1_100_000, 900_000, 850_000]);
    }

    #[tokio::test]
    async fn calls_given_up_before_they_came_harm_no_others() {
        let (one, two) = pair().await;
        for round in 0..20 {
            let calls: Vec<_> = {
                let mut calls = Vec::new();
                for _ in 0..40 {
                    calls.push(one.open_bi().await.unwrap());
                }
                calls
            };
            for (send, _) in &calls {
                send.reset();
            }
            drop(calls);
            answered(&one, &two).await;
            assert!(two.end.borrow().is_none() && one.end.borrow().is_none(), "round {round}: {:?}", two.end.borrow());
        }
        answered(&two, &one).await;
    }
}
