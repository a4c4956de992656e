//! The sockets towards recursors.
#![allow(clippy::disallowed_methods, reason = "reads the clock, draws ids, opens sockets")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout_at;

use super::{Verdict, judge, order, question};
use crate::dns::config::Config;

/// Asks the recursors one after the other; `None` where none has answered.
pub async fn ask(config: &Config, query: &Query, payload: Option<u16>, tcp: bool) -> Option<Message> {
    let recursors = order(config, &mut rand::rng());
    for recursor in recursors {
        let deadline =
            Instant::now() + config.recursor_timeout.clamp(Duration::from_millis(1), Duration::from_secs(30));
        match timeout_at(deadline.into(), one(recursor, query, payload, tcp)).await {
            Ok(Ok(Some(answer))) => return Some(answer),
            Ok(Ok(None)) => tracing::debug!(%recursor, "a recursor refused; the next is asked"),
            Ok(Err(error)) => tracing::debug!(%recursor, %error, "a recursor failed; the next is asked"),
            Err(_) => tracing::debug!(%recursor, "a recursor did not answer in time; the next is asked"),
        }
    }
    None
}

async fn one(recursor: SocketAddr, query: &Query, payload: Option<u16>, tcp: bool) -> io::Result<Option<Message>> {
    let asked = question(rand::random(), query, payload);
    let bytes = asked.to_vec().map_err(io::Error::other)?;
    if !tcp {
        // A socket for each question: its port is the system's choice, and connected it hears this recursor only.
        let any: SocketAddr =
            if recursor.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(recursor).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let len = socket.recv(&mut buffer).await?;
            match judge(buffer.get(..len).unwrap_or_default(), &asked, false) {
                Verdict::Take(answer) => return Ok(Some(*answer)),
                Verdict::Next => return Ok(None),
                Verdict::Tcp => break,
                Verdict::Ignore => {}
            }
        }
    }
    let mut stream = TcpStream::connect(recursor).await?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), bytes.as_slice()].concat()).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await?;
    match judge(&buffer, &asked, true) {
        Verdict::Take(answer) => Ok(Some(*answer)),
        Verdict::Next | Verdict::Tcp | Verdict::Ignore => Ok(None),
    }
}
