//! Accepts connections, and answers on them.
#![allow(clippy::disallowed_methods, reason = "this is the file that accepts connections, with their deadlines")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ANSWER, AT_ONCE, QUESTION, Seats, question};
use crate::dns::handler::Shared;

/// After a failed accept (most likely no file descriptor is left), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections of all listeners.
pub(in crate::dns) struct Room {
    seats: Mutex<Seats<CancellationToken>>,
    open: Gauge,
    closed: Counter,
    refused: Counter,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room")
    }
}

impl Default for Room {
    fn default() -> Self {
        Self {
            seats: Mutex::default(),
            open: gauge!("causeway_dns_tcp_connections"),
            closed: counter!("causeway_dns_tcp_closed_for_others_total"),
            refused: counter!("causeway_dns_tcp_refused_total"),
        }
    }
}

impl Room {
    fn seats(&self) -> MutexGuard<'_, Seats<CancellationToken>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, and what ends the connection when it is lost.
    fn enter(self: &Arc<Self>, shared: &Shared, ip: IpAddr, stop: &CancellationToken) -> Option<Place> {
        let limits = shared.setup.load().config.tcp;
        let end = stop.child_token();
        let mut seats = self.seats();
        let Some((id, gone)) = seats.admit(Instant::now(), ip, &limits, end.clone()) else {
            self.refused.increment(1);
            return None;
        };
        self.open.set(seats.len() as f64);
        drop(seats);
        self.closed.increment(gone.len() as u64);
        for end in gone {
            end.cancel();
        }
        Some(Place { room: self.clone(), id, end, idle: limits.idle })
    }
}

/// One connection's place; given back when dropped.
struct Place {
    room: Arc<Room>,
    id: u64,
    end: CancellationToken,
    idle: Duration,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seats = self.room.seats();
        seats.leave(self.id);
        self.room.open.set(seats.len() as f64);
    }
}

/// Accepts until `stop`.
pub(in crate::dns) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    room: Arc<Room>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                if let Some(place) = room.enter(&shared, from.ip(), &stop) {
                    let shared = shared.clone();
                    tasks.spawn(async move {
                        let end = place.end.clone();
                        end.run_until_cancelled(converse(stream, from, &shared, &place)).await;
                    });
                }
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a connection for DNS failed");
                let _ = stop.run_until_cancelled(sleep(PAUSE)).await;
            }
        }
    }
}

/// Questions and answers of one connection, until it is idle for too long, or either side has enough.
async fn converse(mut stream: TcpStream, from: SocketAddr, shared: &Shared, place: &Place) {
    let _ = stream.set_nodelay(true);
    let from = from.ip().to_canonical();
    let (mut reader, mut writer) = stream.split();
    let mut came: Vec<u8> = Vec::with_capacity(512);
    let mut working = FuturesUnordered::new();
    let (mut since, mut heard_all) = (Instant::now(), false);
    loop {
        while working.len() < AT_ONCE {
            let Ok(next) = question(&came) else { return };
            let Some((asked, taken)) = next else { break };
            let asked = asked.to_vec();
            working.push(async move { shared.over_tcp(&asked, from).await });
            came.drain(..taken);
            since = Instant::now();
        }
        let waits = !working.is_empty();
        place.room.seats().waited_on(Instant::now(), place.id, waits);
        if heard_all && !waits {
            return;
        }
        // Questions have their own deadline; what is left is for who asks.
        let deadline = match (came.is_empty(), waits) {
            (false, _) if working.len() < AT_ONCE => Some(since + QUESTION),
            (true, false) => Some(since + place.idle),
            _ => None,
        };
        let begins = came.is_empty();
        tokio::select! {
            biased;
            Some(answer) = working.next(), if waits => {
                // Who sends what no answer is due to is not asking.
                let Some(answer) = answer else { return };
                match timeout(ANSWER, write(&mut writer, &answer)).await {
                    Ok(Ok(())) if came.is_empty() => since = Instant::now(),
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
            read = reader.read_buf(&mut came), if working.len() < AT_ONCE && !heard_all => match read {
                Ok(0) => heard_all = true,
                // Its time counts from its first byte, however long nothing came before.
                Ok(_) if begins => since = Instant::now(),
                Ok(_) => {}
                Err(_) => return,
            },
            () = async { match deadline { Some(at) => sleep_until(at.into()).await, None => std::future::pending().await } } => return,
        }
    }
}

/// One answer behind its length.
async fn write(to: &mut (impl AsyncWriteExt + Unpin), answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], answer].concat()).await
}
