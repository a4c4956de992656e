#![allow(clippy::disallowed_methods, reason = "moves bytes of relayed links, shakes hands inside them")]
//! Streams of relayed links: asking for one, handing one on, taking one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Status;

use super::{Ask, Refusal, Verdict};
use crate::carrier::Kind;
use crate::carrier::driver::{Carrier, Made, Tcp};
use crate::carrier::reach::driver::{Dialler, Maker};
use crate::carrier::traffic::Traffic;
use crate::config::Config;
use crate::forward::frame::{self, Item};
use crate::forward::stream::{Incoming, Outgoing};
use crate::link::State;
use crate::link::driver::{Link, Note};
use crate::task::routes::Routes;
use crate::tls::{RELAY_ALPN, Tls};

/// Stream priority of what is carried for others: after everything of our own.
pub(crate) const PRIORITY: i32 = -10;
/// Time to get a stream on the next link, and to say what is wanted.
const OPEN: Duration = Duration::from_secs(1);
/// Time for the handshake inside a stream that came.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes between TLS and the stream, each way.
const PIPE: usize = 64 << 10;
/// Bytes written to the stream at once.
const PIECE: usize = 32 << 10;

/// What taking and handing on needs, once for each direct link.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) config: Arc<Config>,
    pub(crate) tls: Tls,
    pub(crate) maker: Maker,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) routes: Arc<ArcSwap<Routes>>,
    pub(crate) removed: Arc<ArcSwap<BTreeSet<String>>>,
    /// The neighbour at the other end, and its address.
    pub(crate) from: Arc<str>,
    pub(crate) remote: SocketAddr,
    /// Streams that it may have, over all its links.
    pub(crate) streams: Arc<Semaphore>,
}

/// Serves a stream that asks for a relayed link.
pub(crate) async fn serve(desk: Desk, headers: &HeaderMap, incoming: Incoming, out: Outgoing) {
    let out = out.with_priority(PRIORITY);
    match admit(&desk, headers) {
        Ok((Verdict::Ours, permit)) => land(desk, incoming, out, permit).await,
        Ok((Verdict::Onward(ask), permit)) => Box::pin(carry(desk, ask, incoming, out, permit)).await,
        Err(refusal) => {
            tracing::debug!(from = %desk.from, %refusal, "a relayed link is refused");
            metrics::counter!("causeway_gateway_relays_refused_total", "from" => desk.from.to_string()).increment(1);
            refuse(out, &refusal.status()).await;
        }
    }
}

fn admit(desk: &Desk, headers: &HeaderMap) -> Result<(Verdict, OwnedSemaphorePermit), Refusal> {
    let ask = Ask::read(headers)?;
    let removed = desk.removed.load();
    if let Some(site) = ask.passed.iter().chain([&ask.target]).find(|site| removed.contains(*site)) {
        return Err(Refusal::Removed(site.clone()));
    }
    let own = &desk.config.datacenter;
    let verdict = ask.verdict(own, &desk.from, desk.config.relay)?;
    let permit = Arc::clone(&desk.streams).try_acquire_owned().map_err(|_| Refusal::Full(own.clone()))?;
    Ok((verdict, permit))
}

async fn refuse(mut out: Outgoing, status: &Status) {
    let response = status.clone().into_http::<()>();
    let Ok(head) = frame::answer_head(response.status(), response.headers()) else { return };
    if tokio::time::timeout(OPEN, out.write(&mut [head])).await.is_ok_and(|w| w.is_ok()) {
        out.finish();
    }
}

/// Hands a stream on to the next hop, and moves its bytes until either end is done or a link breaks.
async fn carry(desk: Desk, ask: Ask, incoming: Incoming, out: Outgoing, _permit: OwnedSemaphorePermit) {
    let next = desk.routes.load().next(&ask);
    let Some(link) = next else {
        let refusal = Refusal::NoWay { own: desk.config.datacenter.clone(), target: ask.target };
        tracing::debug!(from = %desk.from, %refusal, "a relayed link is refused");
        return refuse(out, &refusal.status()).await;
    };
    let (onward, back) = match tokio::time::timeout(OPEN, open(&link, &ask)).await {
        Ok(Ok(opened)) => opened,
        _ => {
            let refusal = Refusal::NoWay { own: desk.config.datacenter.clone(), target: ask.target };
            return refuse(out, &refusal.status()).await;
        }
    };
    tracing::debug!(from = %desk.from, via = link.datacenter, target = ask.target, "carrying a relayed link");
    let count = |from: &str, to: &str| metrics::counter!("causeway_gateway_relayed_bytes_total", "from" => from.to_owned(), "to" => to.to_owned());
    let (there, here) = (count(&desk.from, &link.datacenter), count(&link.datacenter, &desk.from));
    let mut state = link.watch();
    tokio::select! {
        () = pass(incoming, onward, |n| { there.increment(n as u64); link.traffic.relay.sent(n); }) => {}
        () = pass(back, out, |n| { here.increment(n as u64); link.traffic.relay.received(n); }) => {}
        // Dropping both ends tells them.
        _ = state.wait_for(|s| *s >= State::Lost) => {}
        () = desk.maker.stop.cancelled() => {}
    }
}

/// Moves what comes to where it goes, undecoded but for the frames around it.
async fn pass(mut from: Incoming, mut to: Outgoing, count: impl Fn(usize)) {
    loop {
        let written = match from.next().await {
            Ok(Some(Item::Data(data))) => {
                count(data.len());
                to.write(&mut frame::data(data)).await
            }
            Ok(Some(Item::Head { status, headers, .. })) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                match frame::answer_head(status, &headers) {
                    Ok(head) => to.write(&mut [head]).await,
                    Err(_) => return,
                }
            }
            Ok(Some(Item::Trailers(_)) | None) => return to.finish(),
            Err(_) => return,
        };
        if written.is_err() {
            return;
        }
    }
}

async fn open(link: &Link, ask: &Ask) -> Result<(Outgoing, Incoming), String> {
    let head = ask.head().map_err(|e| e.to_string())?;
    let (send, recv) = link.conn.open_bi().await?;
    // Counted where it is passed on; here it is no call of ours.
    let apart = Arc::new(Traffic::default());
    let mut out = Outgoing::new(send, PRIORITY, Arc::clone(&apart));
    out.write(&mut [head]).await.map_err(|e| e.to_string())?;
    Ok((out, Incoming::new(recv, apart)))
}

/// Takes a stream that ends here: the handshake inside it says who asks.
async fn land(desk: Desk, incoming: Incoming, mut out: Outgoing, permit: OwnedSemaphorePermit) {
    let Ok(head) = frame::answer_head(StatusCode::OK, &HeaderMap::new()) else { return };
    if !tokio::time::timeout(OPEN, out.write(&mut [head])).await.is_ok_and(|w| w.is_ok()) {
        return;
    }
    let Desk { tls, maker, notes, from, remote, .. } = desk;
    let io = pipe(incoming, out, Arc::default(), Some(permit), &maker);
    let began = Instant::now();
    let work = async {
        let stream = TlsAcceptor::from(tls.relay_server()).accept(io).await.map_err(|e| e.to_string())?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(RELAY_ALPN) {
            return Err("it speaks no protocol of ours".to_owned());
        }
        let chain = session.peer_certificates().unwrap_or_default().to_vec();
        let (via, shaken) = (Some(Arc::clone(&from)), Some(began.elapsed()));
        let made = Made { remote, kind: Kind::Relay, via, dialler: false, shaken, chain };
        Tcp::start(stream, made, &maker.limits, &maker.tasks, &maker.stop).await
    };
    let result = tokio::select! {
        () = maker.stop.cancelled() => return,
        result = tokio::time::timeout(HANDSHAKE, Box::pin(work)) => result,
    };
    match result {
        Ok(Ok(tcp)) => {
            // Fails when the gateway stops.
            let _ = notes.send(Note::Accepted(Carrier::Tcp(Box::new(tcp)))).await;
        }
        Ok(Err(error)) => {
            metrics::counter!("causeway_gateway_handshakes_refused_total").increment(1);
            tracing::debug!(via = %from, error, "a handshake inside a relayed stream failed");
        }
        Err(_) => tracing::debug!(via = %from, "a handshake inside a relayed stream took too long"),
    }
}

/// Links to `target` through the neighbour at the other end of `link`.
pub(crate) async fn dial(dialler: &Dialler, link: &Link, target: &str) -> Result<Carrier, String> {
    let config = &dialler.config;
    let ask = Ask { target: target.to_owned(), passed: vec![config.datacenter.clone()] };
    let began = Instant::now();
    let (out, incoming) = open(link, &ask).await?;
    let refused: Arc<OnceLock<String>> = Arc::default();
    let io = pipe(incoming, out, Arc::clone(&refused), None, &dialler.maker);
    let name = ServerName::try_from(format!("gateway.{target}.{}", config.domain)).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(dialler.tls.relay_client(target));
    let stream =
        connector.connect(name, io).await.map_err(|e| refused.get().cloned().unwrap_or_else(|| e.to_string()))?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(RELAY_ALPN) {
        return Err("what answers speaks no protocol of ours".to_owned());
    }
    let chain = session.peer_certificates().unwrap_or_default().to_vec();
    let made = Made {
        remote: link.conn.remote(),
        kind: Kind::Relay,
        via: Some(link.datacenter.as_str().into()),
        dialler: true,
        shaken: Some(began.elapsed()),
        chain,
    };
    let maker = &dialler.maker;
    Tcp::start(stream, made, &maker.limits, &maker.tasks, &maker.stop).await.map(|tcp| Carrier::Tcp(Box::new(tcp)))
}

/// A byte stream over the frames of a call. `refused` takes the reason, where the other side says one.
fn pipe(
    incoming: Incoming,
    out: Outgoing,
    refused: Arc<OnceLock<String>>,
    permit: Option<OwnedSemaphorePermit>,
    maker: &Maker,
) -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIPE);
    let (read, write) = tokio::io::split(far);
    let stop = maker.stop.clone();
    maker.tasks.spawn(async move {
        // Held for as long as the stream is there.
        let _permit = permit;
        tokio::select! {
            () = inward(incoming, write, &refused) => {}
            () = outward(read, out) => {}
            () = stop.cancelled() => {}
        }
    });
    near
}

async fn inward(mut incoming: Incoming, mut write: WriteHalf<DuplexStream>, refused: &OnceLock<String>) {
    loop {
        match incoming.next().await {
            Ok(Some(Item::Data(data))) => {
                if write.write_all(&data).await.is_err() {
                    return;
                }
            }
            Ok(Some(Item::Head { headers, .. })) => {
                if let Some(status) = Status::from_header_map(&headers).filter(|s| s.code() != tonic::Code::Ok) {
                    let _ = refused.set(status.message().to_owned());
                    return;
                }
            }
            Ok(Some(Item::Trailers(_)) | None) | Err(_) => return,
        }
    }
}

async fn outward(mut read: ReadHalf<DuplexStream>, mut out: Outgoing) {
    let mut buffer = BytesMut::with_capacity(PIECE);
    loop {
        match read.read_buf(&mut buffer).await {
            Ok(1..) => {
                let piece: Bytes = buffer.split().freeze();
                buffer.reserve(PIECE);
                if out.write(&mut frame::data(piece)).await.is_err() {
                    return;
                }
            }
            Ok(0) => return out.finish(),
            Err(_) => return,
        }
    }
}
