#![allow(clippy::disallowed_methods, reason = "sends and receives on connections")]
//! One face for both carriers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;

pub(crate) use super::tcp::driver::{Made, Tcp};
use super::{Closed, Kind, tcp};
use crate::admission::GOSSIP_PRIORITY;
use crate::forward::stream::Cut;
use crate::link::CloseCode;

/// Code of a reset or stop that means: the caller does not want the call any more, or who answers cannot go on.
const CANCELLED: VarInt = VarInt::from_u32(1);
/// Bytes taken from QUIC at once.
const CHUNK: usize = 256 << 10;

/// What carries a link.
#[derive(Debug)]
pub(crate) enum Carrier {
    Quic(Connection),
    Tcp(Box<Tcp>),
}

/// What QUIC counts of a connection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) sent_packets: u64,
    pub(crate) lost_packets: u64,
    pub(crate) congestion_events: u64,
    pub(crate) black_holes: u64,
    /// Congestion window, bytes.
    pub(crate) cwnd: u64,
    /// Bytes of UDP payload that the path takes.
    pub(crate) mtu: u64,
    /// Paths that the other end asked us to prove: our own address, or what a NAT makes of it, changed.
    pub(crate) proven_paths: u64,
}

impl From<ConnectionError> for Closed {
    fn from(error: ConnectionError) -> Self {
        match &error {
            ConnectionError::ApplicationClosed(close) => Self::by_peer(close.error_code.into_inner()),
            _ => Self::gone(error),
        }
    }
}

impl Carrier {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Quic(_) => Kind::Quic,
            Self::Tcp(tcp) => tcp.kind,
        }
    }

    /// The neighbour through which a relayed link goes.
    pub(crate) fn via(&self) -> Option<&str> {
        match self {
            Self::Quic(_) => None,
            Self::Tcp(tcp) => tcp.via.as_deref(),
        }
    }

    /// As `SiteStatus.path` says it.
    pub(crate) fn path(&self) -> String {
        match self.via() {
            Some(via) => format!("relay via {via}"),
            None => self.kind().as_str().to_owned(),
        }
    }

    /// The address at the other end; of a relayed link that of the neighbour through which it goes.
    pub(crate) fn remote(&self) -> SocketAddr {
        match self {
            Self::Quic(conn) => conn.remote_address(),
            Self::Tcp(tcp) => tcp.remote,
        }
    }

    /// The UDP port that we dialled; `None` where the other end dialled, which may be a NAT's port and open to us alone, and where the
    /// kernel looks after the connection.
    pub(crate) fn dialled_port(&self) -> Option<SocketAddr> {
        match self {
            Self::Quic(conn) if conn.side().is_client() => Some(conn.remote_address()),
            _ => None,
        }
    }

    /// Certificates that the other end showed.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Quic(conn) => conn
                .peer_identity()
                .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
                .map_or_else(Vec::new, |chain| *chain),
            Self::Tcp(tcp) => tcp.chain.clone(),
        }
    }

    /// Smoothed round trip.
    pub(crate) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(conn) => conn.rtt(),
            Self::Tcp(tcp) => tcp.rtt(),
        }
    }

    /// The round trip once one was measured.
    pub(crate) fn measured(&self) -> Option<Duration> {
        match self {
            Self::Quic(conn) => Some(conn.rtt()),
            Self::Tcp(tcp) => tcp.sampled().then(|| tcp.rtt()),
        }
    }

    /// Grows whenever something shows that both directions work.
    pub(crate) fn progress(&self) -> u64 {
        match self {
            Self::Quic(conn) => conn.stats().frame_rx.acks,
            Self::Tcp(tcp) => tcp.received(),
        }
    }

    /// What is counted; `None`: the kernel keeps it to itself.
    pub(crate) fn counts(&self) -> Option<Counts> {
        match self {
            Self::Quic(conn) => {
                let stats = conn.stats();
                let path = stats.path;
                Some(Counts {
                    sent_packets: path.sent_packets,
                    lost_packets: path.lost_packets,
                    congestion_events: path.congestion_events,
                    black_holes: path.black_holes_detected,
                    cwnd: path.cwnd,
                    mtu: u64::from(path.current_mtu),
                    proven_paths: stats.frame_rx.path_challenge,
                })
            }
            Self::Tcp(_) => None,
        }
    }

    pub(crate) fn close(&self, code: CloseCode) {
        match self {
            Self::Quic(conn) => conn.close(VarInt::from_u32(code as u32), b""),
            Self::Tcp(tcp) => tcp.close(code),
        }
    }

    /// Opens a stream for a call; waits while the other end allows no more.
    pub(crate) async fn open_bi(&self) -> Result<(SendHalf, RecvHalf), String> {
        match self {
            Self::Quic(conn) => {
                let (send, recv) = conn.open_bi().await.map_err(|e| e.to_string())?;
                Ok((SendHalf::Quic(send), RecvHalf::Quic(recv)))
            }
            Self::Tcp(tcp) => tcp.open_bi().await.map(|(send, recv)| (SendHalf::Tcp(send), RecvHalf::Tcp(recv))),
        }
    }

    /// The next call of the other end.
    pub(crate) async fn accept_bi(&self) -> Result<(SendHalf, RecvHalf), Closed> {
        match self {
            Self::Quic(conn) => {
                let (send, recv) = conn.accept_bi().await?;
                Ok((SendHalf::Quic(send), RecvHalf::Quic(recv)))
            }
            Self::Tcp(tcp) => tcp.accept_bi().await.map(|(send, recv)| (SendHalf::Tcp(send), RecvHalf::Tcp(recv))),
        }
    }

    /// Says something whole on a stream of its own; `heard`: waits until the other end has it.
    pub(crate) async fn say(&self, bytes: Vec<u8>, heard: bool) -> Result<(), String> {
        match self {
            Self::Quic(conn) => {
                let mut stream = conn.open_uni().await.map_err(|e| e.to_string())?;
                let _ = stream.set_priority(GOSSIP_PRIORITY);
                stream.write_all(&bytes).await.map_err(|e| e.to_string())?;
                // Dropping a finished stream does not take back what was written.
                let _ = stream.finish();
                if heard {
                    let _ = stream.stopped().await;
                }
                Ok(())
            }
            Self::Tcp(tcp) => tcp.say(bytes).await,
        }
    }

    /// What the other end says next; `None`: it was too long, too slow or broke off.
    pub(crate) async fn hear(&self, limit: usize, within: Duration) -> Result<Option<Vec<u8>>, Closed> {
        match self {
            Self::Quic(conn) => {
                let mut stream = conn.accept_uni().await?;
                Ok(tokio::time::timeout(within, stream.read_to_end(limit)).await.ok().and_then(Result::ok))
            }
            Self::Tcp(tcp) => tcp.heard(limit, within).await,
        }
    }

    /// Sends without a promise that it arrives; a closed connection is told elsewhere.
    pub(crate) fn send_datagram(&self, bytes: Bytes) {
        match self {
            Self::Quic(conn) => {
                let _ = conn.send_datagram(bytes);
            }
            Self::Tcp(tcp) => tcp.send_datagram(bytes),
        }
    }

    /// Whether a datagram of this size gets through now: what fits grows with the path's MTU and shrinks with it. Over TCP gossip has
    /// streams, which drop nothing.
    pub(crate) fn fits_datagram(&self, size: usize) -> bool {
        match self {
            Self::Quic(conn) => {
                conn.max_datagram_size().is_some_and(|max| size <= max) && conn.datagram_send_buffer_space() >= size
            }
            Self::Tcp(_) => false,
        }
    }

    pub(crate) async fn read_datagram(&self) -> Result<Bytes, Closed> {
        match self {
            Self::Quic(conn) => Ok(conn.read_datagram().await?),
            Self::Tcp(tcp) => tcp.read_datagram().await,
        }
    }

    /// A probe goes out now.
    pub(crate) fn asked(&self) {
        if let Self::Tcp(tcp) = self {
            tcp.asked();
        }
    }

    /// A probe was answered.
    pub(crate) fn answered(&self) {
        if let Self::Tcp(tcp) = self {
            tcp.answered();
        }
    }
}

/// The half of a call's stream that is written.
pub(crate) enum SendHalf {
    Quic(SendStream),
    Tcp(tcp::driver::SendHalf),
}

impl SendHalf {
    /// TCP knows no priorities.
    pub(crate) fn set_priority(&self, priority: i32) {
        if let Self::Quic(stream) = self {
            // Fails on a stream that is over: the first write will say so.
            let _ = stream.set_priority(priority);
        }
    }

    /// Writes all of it; waits while the other side does not read.
    pub(crate) async fn write(&mut self, pieces: &mut [Bytes]) -> io::Result<()> {
        match self {
            Self::Quic(stream) => stream.write_all_chunks(pieces).await.map_err(io::Error::other),
            Self::Tcp(stream) => stream.write(pieces).await,
        }
    }

    pub(crate) fn finish(&mut self) {
        match self {
            Self::Quic(stream) => {
                let _ = stream.finish();
            }
            Self::Tcp(stream) => stream.finish(),
        }
    }

    pub(crate) fn reset(&mut self) {
        match self {
            Self::Quic(stream) => {
                let _ = stream.reset(CANCELLED);
            }
            Self::Tcp(stream) => stream.reset(),
        }
    }

    /// Done once the other side does not want any more of it, or the connection is gone.
    pub(crate) fn stopped(&self) -> futures::future::BoxFuture<'static, ()> {
        match self {
            Self::Quic(stream) => {
                let stopped = stream.stopped();
                Box::pin(async move {
                    let _ = stopped.await;
                })
            }
            Self::Tcp(stream) => Box::pin(stream.stopped()),
        }
    }
}

/// The half of a call's stream that is read.
pub(crate) enum RecvHalf {
    Quic(RecvStream),
    Tcp(tcp::driver::RecvHalf),
}

impl RecvHalf {
    /// What came; `None`: the end. May be cancelled and called again.
    pub(crate) async fn read(&mut self) -> Result<Option<Bytes>, Cut> {
        match self {
            Self::Quic(stream) => match stream.read_chunk(CHUNK, true).await {
                Ok(chunk) => Ok(chunk.map(|c| c.bytes)),
                Err(ReadError::Reset(_)) => Err(Cut::Reset),
                Err(error) => Err(Cut::Link(error.to_string())),
            },
            Self::Tcp(stream) => stream.read().await,
        }
    }

    /// Nothing more of it is wanted.
    pub(crate) fn stop(&mut self) {
        if let Self::Quic(stream) = self {
            // Fails where the stream is over already: then there is nothing to call off.
            let _ = stream.stop(CANCELLED);
        }
        // HTTP/2 resets the stream when both halves are dropped.
    }
}
