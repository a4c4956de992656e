//! Connects to an address. Runs inside the driver's deadline.

use std::io;

use tokio::net::TcpStream;

use super::Outcome;
use crate::registry::Status;

/// Connects; passing where that works.
pub(super) async fn run(address: &str) -> Outcome {
    match TcpStream::connect(address).await {
        Ok(_) => Outcome::new(Status::Passing, format!("TCP connect {address}: Success")),
        Err(error) => Outcome::critical(dial_error(address, &error)),
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
