#![allow(dead_code, unreachable_pub, reason = "shared by tests")]
//! What is between sites in tests: the workspace's WAN emulator, and a proxy.

#[path = "../../../tests/wan/mod.rs"]
mod emulator;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use emulator::Wan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// An HTTP CONNECT proxy that may want a password (`Basic` and its base64). It takes everybody to one target
/// and counts whom it let through.
pub struct ConnectProxy {
    pub addr: SocketAddr,
    pub opened: Arc<AtomicU64>,
    /// Tunnels that it ended since nothing passed for too long.
    pub ended: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// What a proxy takes its time for, and what it does not suffer.
#[derive(Clone, Copy, Default)]
pub struct Manners {
    /// Before it answers.
    pub slow: Duration,
    /// A tunnel on which nothing passes for so long, either way, is ended.
    pub idle: Option<Duration>,
}

/// Hands bytes on until one side ends, or nothing passes for too long; whether that was it.
async fn tunnel(client: TcpStream, server: TcpStream, idle: Option<Duration>) -> bool {
    async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passed: Arc<Notify>) {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            passed.notify_one();
            if to.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    }
    let passed = Arc::new(Notify::new());
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let still = async {
        let Some(idle) = idle else { return std::future::pending().await };
        while tokio::time::timeout(idle, passed.notified()).await.is_ok() {}
    };
    tokio::select! {
        () = one_way(client_in, server_out, Arc::clone(&passed)) => false,
        () = one_way(server_in, client_out, Arc::clone(&passed)) => false,
        () = still => true,
    }
}

impl ConnectProxy {
    pub async fn start(password: Option<&'static str>, target: SocketAddr) -> Self {
        Self::with(password, target, Manners::default()).await
    }

    pub async fn with(password: Option<&'static str>, target: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (opened, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let addr = listener.local_addr().unwrap();
        let (count, over) = (Arc::clone(&opened), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let (count, over) = (Arc::clone(&count), Arc::clone(&over));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = client.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let allowed =
                        password.is_none_or(|p| head.contains(&format!("Proxy-Authorization: Basic {p}\r\n")));
                    if !allowed {
                        let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                        return;
                    }
                    tokio::time::sleep(manners.slow).await;
                    let Ok(server) = TcpStream::connect(target).await else {
                        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
                    if tunnel(client, server, manners.idle).await {
                        over.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { addr, opened, ended, task }
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
