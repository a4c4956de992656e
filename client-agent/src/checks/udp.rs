//! Sends a datagram. Runs inside the driver's deadline.

use std::io;

use tokio::net::{UdpSocket, lookup_host};

use super::Outcome;
use crate::registry::Status;

/// Sends an empty datagram and waits for an answer; passing where one comes. That none comes is passing as well (most services do
/// not answer an empty datagram), and for the driver to notice: [`silent`]. Critical where the other machine says that nobody
/// listens.
pub(super) async fn run(address: &str) -> Outcome {
    match exchange(address).await {
        Ok(()) => silent(address),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Outcome::critical(format!("read udp {address}: connection refused"))
        }
        Err(error) => Outcome::critical(format!("dial udp {address}: {error}")),
    }
}

/// What silence until the timeout means.
pub(super) fn silent(address: &str) -> Outcome {
    Outcome::new(Status::Passing, format!("UDP connect {address}: Success"))
}

async fn exchange(address: &str) -> io::Result<()> {
    let to = lookup_host(address).await?.next().ok_or_else(|| io::Error::other("no such host"))?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(&[]).await?;
    socket.recv(&mut [0; 16]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests serve")]

    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn answers_silence_and_nobody() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        // Silent: it goes on waiting, however long it is let.
        assert!(timeout(Duration::from_millis(50), run(&address)).await.is_err());
        let server = async {
            let (_, from) = socket.recv_from(&mut [0; 16]).await.unwrap();
            socket.send_to(b"x", from).await.unwrap();
            let (_, from) = socket.recv_from(&mut [0; 16]).await.unwrap();
            socket.send_to(b"x", from).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(run(&address), server);
        assert_eq!(outcome, Outcome::new(Status::Passing, format!("UDP connect {address}: Success")));
        drop(socket);
        let outcome = run(&address).await;
        assert_eq!(outcome, Outcome::critical(format!("read udp {address}: connection refused")));
        assert_eq!(run("no address").await.status, Status::Critical);
    }
}
