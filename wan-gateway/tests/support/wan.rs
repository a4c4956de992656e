#![allow(dead_code, unreachable_pub, reason = "shared by tests")]
//! A network in user space: one port, UDP and TCP, that passes everything on to a gateway, later, or not at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[derive(Default)]
struct Weather {
    no_udp: AtomicBool,
    blackout: AtomicBool,
    rebind: AtomicBool,
    /// Per thousand.
    loss: AtomicU64,
    /// One way.
    delay_ms: AtomicU64,
    jitter_ms: AtomicU64,
    /// TCP connections passed on so far.
    dialled: AtomicU64,
}

impl Weather {
    fn arrives(&self) -> bool {
        !self.no_udp.load(Ordering::SeqCst)
            && !self.blackout.load(Ordering::SeqCst)
            && rand::random_range(0..1000) >= self.loss.load(Ordering::SeqCst)
    }

    fn due(&self) -> Instant {
        let jitter = self.jitter_ms.load(Ordering::SeqCst);
        let jitter = if jitter == 0 { 0 } else { rand::random_range(0..=jitter) };
        Instant::now() + Duration::from_millis(self.delay_ms.load(Ordering::SeqCst) + jitter)
    }
}

/// The network between a dialler and one gateway.
pub struct Wan {
    pub addr: SocketAddr,
    weather: Arc<Weather>,
    cut: watch::Sender<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Wan {
    pub async fn to(target: SocketAddr) -> Self {
        let (near, listener) = loop {
            let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(listener) = TcpListener::bind(near.local_addr().unwrap()).await {
                break (near, listener);
            }
        };
        let addr = near.local_addr().unwrap();
        let weather = Arc::new(Weather::default());
        let cut = watch::Sender::new(0);
        let tasks = vec![
            tokio::spawn(udp(Arc::new(near), target, Arc::clone(&weather))),
            tokio::spawn(tcp(listener, target, Arc::clone(&weather), cut.subscribe())),
        ];
        Self { addr, weather, cut, tasks }
    }

    /// UDP vanishes, both ways.
    pub fn block_udp(&self, block: bool) {
        self.weather.no_udp.store(block, Ordering::SeqCst);
    }

    /// Everything vanishes.
    pub fn blackout(&self, dark: bool) {
        self.weather.blackout.store(dark, Ordering::SeqCst);
    }

    /// The gateway sees another source port from now on, as after a NAT forgot.
    pub fn rebind(&self) {
        self.weather.rebind.store(true, Ordering::SeqCst);
    }

    /// TCP connections that there are end.
    pub fn cut_tcp(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// One way, each way.
    pub fn delay(&self, delay: Duration, jitter: Duration) {
        self.weather.delay_ms.store(delay.as_millis() as u64, Ordering::SeqCst);
        self.weather.jitter_ms.store(jitter.as_millis() as u64, Ordering::SeqCst);
    }

    /// UDP packets lost, per thousand.
    pub fn loss(&self, per_thousand: u64) {
        self.weather.loss.store(per_thousand, Ordering::SeqCst);
    }

    /// TCP connections passed on so far.
    pub fn tcp_connections(&self) -> u64 {
        self.weather.dialled.load(Ordering::SeqCst)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn later(weather: &Weather, send: impl Future<Output = ()> + Send + 'static) {
    let due = weather.due();
    if due <= Instant::now() {
        return send.await;
    }
    tokio::spawn(async move {
        tokio::time::sleep_until(due).await;
        send.await;
    });
}

async fn udp(near: Arc<UdpSocket>, target: SocketAddr, weather: Arc<Weather>) {
    let mut far: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((len, from)) = near.recv_from(&mut buffer).await else { continue };
        if weather.rebind.swap(false, Ordering::SeqCst) {
            far.drain().for_each(|(_, (_, back))| back.abort());
        }
        if !weather.arrives() {
            continue;
        }
        if let std::collections::hash_map::Entry::Vacant(place) = far.entry(from) {
            let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            let (near, back, weather) = (Arc::clone(&near), Arc::clone(&socket), Arc::clone(&weather));
            let task = tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                loop {
                    let Ok((len, _)) = back.recv_from(&mut buffer).await else { continue };
                    if weather.arrives() {
                        let (near, bytes) = (Arc::clone(&near), buffer[..len].to_vec());
                        later(&weather, async move { drop(near.send_to(&bytes, from).await) }).await;
                    }
                }
            });
            place.insert((socket, task));
        }
        let (socket, bytes) = (Arc::clone(&far[&from].0), buffer[..len].to_vec());
        later(&weather, async move { drop(socket.send_to(&bytes, target).await) }).await;
    }
}

async fn tcp(listener: TcpListener, target: SocketAddr, weather: Arc<Weather>, cut: watch::Receiver<u64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        weather.dialled.fetch_add(1, Ordering::SeqCst);
        let (weather, mut cut) = (Arc::clone(&weather), cut.clone());
        cut.mark_unchanged();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
            tokio::select! {
                () = pour(client_in, server_out, &weather) => {}
                () = pour(server_in, client_out, &weather) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

/// Passes bytes on in order; in a blackout they wait, since TCP would send them again.
async fn pour(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, weather: &Weather) {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let read = async {
        let mut buffer = vec![0; 65536];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            if queue.send((weather.due(), buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(due).await;
            while weather.blackout.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = read => {}, () = write => {} }
}

/// An HTTP CONNECT proxy that may want a password (`Basic` and its base64). It takes everybody to one target
/// and counts whom it let through.
pub struct ConnectProxy {
    pub addr: SocketAddr,
    pub opened: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl ConnectProxy {
    pub async fn start(password: Option<&'static str>, target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, opened) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&opened);
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { continue };
                let count = Arc::clone(&count);
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
                    let Ok(mut server) = TcpStream::connect(target).await else {
                        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                        return;
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { addr, opened, task }
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
