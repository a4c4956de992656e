//! The TCP side: frames, exchanges of the whole state, probes that UDP lost.
#![allow(clippy::disallowed_methods, reason = "driver: sockets and deadlines")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Command, Link, Offer, keyring};
use crate::gossip::envelope::{OVERHEAD, OpenError, SEALED};
use crate::gossip::keyring::{Refused, Ring};
use crate::gossip::wire::{Claim, Frame, MAX_FRAME};

/// A connection may last this long.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// How long the holder of a name has to say that it lives.
const HOLDER_DEADLINE: Duration = Duration::from_secs(1);
/// First byte of a refusal in place of an envelope; a code follows. It is not authenticated: it explains, nothing more.
const REFUSED: u8 = 0xC2;

/// Why an exchange failed. The texts go to the user.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("dial tcp {0}: connect: {1}")]
    Connect(SocketAddr, String),
    #[error("dial tcp {0}: connect: connection refused")]
    NobodyListens(SocketAddr),
    #[error("dial tcp {0}: i/o timeout")]
    Timeout(SocketAddr),
    #[error("{0} closed the connection: {1}")]
    Io(SocketAddr, io::Error),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0} does not speak Causeway's gossip: {1}")]
    Foreign(SocketAddr, String),
    #[error("{0}")]
    Refused(String),
    #[error("node name {0} is already used by {1}; choose another node_name")]
    Taken(String, SocketAddr),
    #[error("the gossip of this agent has stopped")]
    Stopped,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Other,
    Ourselves,
}

fn explain(to: SocketAddr, error: &io::Error) -> ExchangeError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ExchangeError::NobodyListens(to),
        io::ErrorKind::NetworkUnreachable => ExchangeError::Connect(to, "network is unreachable".to_owned()),
        io::ErrorKind::HostUnreachable => ExchangeError::Connect(to, "no route to host".to_owned()),
        _ => ExchangeError::Connect(to, error.to_string()),
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), link: &Link, frame: &Frame) -> io::Result<()> {
    let body = link.seal(&frame.encode()).ok_or_else(|| io::Error::other("no random numbers"))?;
    let len = u32::try_from(body.len()).ok().filter(|n| *n as usize <= MAX_FRAME + OVERHEAD);
    let len = len.ok_or_else(|| io::Error::other("the state is too large for one message"))?;
    stream.write_all(&len.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

/// Reads one envelope. Its length is checked first, and memory grows only with what really comes.
async fn read_envelope(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_be_bytes(len) as usize;
    if len == 0 || len > MAX_FRAME + OVERHEAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes")));
    }
    let mut body = Vec::with_capacity(len.min(16 << 10));
    stream.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

async fn read_answer(stream: &mut TcpStream, link: &Link, peer: SocketAddr) -> Result<Frame, ExchangeError> {
    let body = read_envelope(stream).await.map_err(|e| ExchangeError::Io(peer, e))?;
    if let [REFUSED, code] = body[..] {
        return Err(OpenError::from_code(code).unwrap_or(OpenError::Malformed).into());
    }
    let plain = link.envelope.open(&body)?;
    Frame::decode(&plain).map_err(|e| ExchangeError::Foreign(peer, e.to_string()))
}

async fn call(link: &Link, to: SocketAddr, frame: &Frame) -> Result<Frame, ExchangeError> {
    let mut stream = TcpStream::connect(to).await.map_err(|e| explain(to, &e))?;
    let _ = stream.set_nodelay(true);
    write_frame(&mut stream, link, frame).await.map_err(|e| ExchangeError::Io(to, e))?;
    read_answer(&mut stream, link, to).await
}

/// One call within a deadline.
async fn call_within(link: &Link, to: SocketAddr, frame: &Frame, deadline: Duration) -> Result<Frame, ExchangeError> {
    timeout(deadline, call(link, to, frame)).await.unwrap_or(Err(ExchangeError::Timeout(to)))
}

/// Exchanges the whole state with the node there, until both know each other as they are.
pub(super) async fn exchange(link: &Link, to: SocketAddr, deadline: Duration) -> Result<Answered, ExchangeError> {
    // More than one round only where the other side held us for failed, or remembered a later life of ours.
    for _ in 0..3 {
        let (tx, rx) = oneshot::channel();
        link.send(Command::State(tx)).await;
        let state = rx.await.map_err(|_| ExchangeError::Stopped)?;
        let sent = state.from.clone();
        match call_within(link, to, &Frame::State(state), deadline.min(DEADLINE)).await? {
            Frame::State(theirs) if theirs.from == sent => return Ok(Answered::Ourselves),
            Frame::State(theirs) => {
                let (tx, rx) = oneshot::channel();
                link.send(Command::Merge(theirs, tx)).await;
                if rx.await.map_err(|_| ExchangeError::Stopped)? == sent {
                    return Ok(Answered::Other);
                }
            }
            Frame::Taken(claim) => {
                let (name, addr) = (claim.id.name.to_string(), claim.id.addr);
                link.send(Command::Dispute(claim)).await;
                return Err(ExchangeError::Taken(name, addr));
            }
            Frame::Refused(why) => return Err(ExchangeError::Refused(why)),
            _ => return Err(ExchangeError::Foreign(to, "an answer to another question".to_owned())),
        }
    }
    Ok(Answered::Other)
}

/// Something to do with keys, for one member.
pub(super) async fn errand(link: &Link, to: SocketAddr, frame: &Frame) -> Result<Result<Ring, Refused>, ExchangeError> {
    match call(link, to, frame).await? {
        Frame::Keys(ring) => Ok(Ok(ring)),
        Frame::NotDone(why) => Ok(Err(why)),
        Frame::Refused(why) => Err(ExchangeError::Refused(why)),
        _ => Err(ExchangeError::Foreign(to, "an answer to another question".to_owned())),
    }
}

/// Sends a packet by TCP and gives the answers to the machine.
pub(super) async fn packet(link: &Link, to: SocketAddr, packet: Vec<u8>) {
    match call_within(link, to, &Frame::Packets(vec![packet]), DEADLINE).await {
        Ok(Frame::Packets(answers)) => link.send(Command::Packets(answers, None)).await,
        Ok(_) => {}
        Err(ExchangeError::NobodyListens(_)) => link.send(Command::Refused(to)).await,
        Err(error) => tracing::debug!(%to, %error, "probe by TCP"),
    }
}

/// Whether the node of this name lives at its address.
pub(super) async fn who_is(link: &Link, name: &str, at: SocketAddr) -> Option<Claim> {
    match call_within(link, at, &Frame::WhoIs, HOLDER_DEADLINE).await {
        Ok(Frame::IAm(claim)) if *claim.id.name == *name => Some(claim),
        _ => None,
    }
}

async fn answer_state(link: &Link, theirs: crate::gossip::wire::Snapshot) -> Option<Frame> {
    // Twice: once more after the holder of the name was found dead.
    for _ in 0..2 {
        let (tx, rx) = oneshot::channel();
        link.send(Command::Offer(theirs.clone(), tx)).await;
        match rx.await.ok()? {
            Offer::State(ours) => return Some(Frame::State(ours)),
            Offer::Taken(claim) => return Some(Frame::Taken(claim)),
            Offer::Foreign(why) => return Some(Frame::Refused(why)),
            Offer::Gone => return Some(Frame::Refused("the node has left and is about to stop".to_owned())),
            Offer::Ask(holder) => match who_is(link, &holder.name, holder.addr).await {
                Some(claim) => {
                    tracing::warn!(name = %holder.name, held_by = %holder.addr, refused = %theirs.from.addr,
                        "two nodes want the same node_name; the newcomer is refused");
                    return Some(Frame::Taken(claim));
                }
                None => link.send(Command::Vacate(holder)).await,
            },
        }
    }
    None
}

/// Serves one accepted connection: one question, one answer.
pub(super) async fn serve(link: &Link, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let served = timeout(DEADLINE, async {
        let body = read_envelope(&mut stream).await?;
        let plain = match link.envelope.open(&body) {
            Ok(plain) => plain,
            Err(error) => {
                link.count_undecryptable();
                let refusal = [0, 0, 0, 2, REFUSED, error.code()];
                stream.write_all(&refusal).await?;
                return stream.shutdown().await;
            }
        };
        let answer = match Frame::decode(&plain) {
            Ok(Frame::State(theirs)) => answer_state(link, theirs).await,
            Ok(Frame::Packets(packets)) => {
                let (tx, rx) = oneshot::channel();
                link.send(Command::Packets(packets, Some(tx))).await;
                rx.await.ok().map(Frame::Packets)
            }
            Ok(Frame::WhoIs) => {
                let (tx, rx) = oneshot::channel();
                link.send(Command::Claim(tx)).await;
                rx.await.ok().map(Frame::IAm)
            }
            Ok(frame @ (Frame::Errand(_) | Frame::HandOn(..))) => {
                let sealed = body.first() == Some(&SEALED);
                Some(keyring::serve(link, frame, sealed).await)
            }
            Ok(_) | Err(_) => Some(Frame::Refused("not a question".to_owned())),
        };
        if let Some(answer) = answer {
            write_frame(&mut stream, link, &answer).await?;
        }
        stream.shutdown().await
    });
    if let Ok(Err(error)) = served.await {
        tracing::debug!(%error, "gossip connection");
    }
}
