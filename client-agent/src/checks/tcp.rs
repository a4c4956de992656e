//! Connects to an address. Runs inside the driver's deadline.

use std::io;

use tokio::net::TcpStream;

use super::Outcome;
use super::http::Tls;
use crate::registry::{CheckTls, Status};

/// Connects; passing where that works, and the TLS handshake too where one is asked for.
pub(super) async fn run(address: &str, with: &CheckTls, tls: &Tls) -> Outcome {
    let shaken = match TcpStream::connect(address).await {
        Err(error) => Err(dial_error(address, &error)),
        Ok(_) if !with.on => Ok(()),
        Ok(tcp) => match tls.name(&with.server_name, address) {
            Err(error) => Err(error),
            Ok(name) => {
                let shaken = tls.connector(with.skip_verify, false).connect(name, tcp).await;
                shaken.map(|_| ()).map_err(|e| format!("tls: {e}"))
            }
        },
    };
    match shaken {
        Ok(()) => Outcome::new(Status::Passing, format!("TCP connect {address}: Success")),
        Err(error) => Outcome::critical(error),
    }
}

/// What Consul (Go) says of an address that cannot be reached.
pub(super) fn dial_error(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("dial tcp {address}: connect: connection refused"),
        _ => format!("dial tcp {address}: {error}"),
    }
}

/// What Consul (Go) says of an address that does not answer in time.
pub(super) fn dial_timeout(address: &str) -> String {
    format!("dial tcp {address}: i/o timeout")
}
