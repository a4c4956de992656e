//! Row 19: what forwarding costs. Calls of 256 bytes each way through two gateways, against the same calls as bare gRPC over one QUIC
//! connection with the same certificates and congestion control: HTTP/2 in one stream of it, and HTTP/2 anew in a stream for each call.
//!
//! `cargo bench -p causeway-gateway --bench forward`; `ROUNDS=5` and `SECONDS=4` set repeats and length. Subjects alternate, medians are
//! printed. One process, CPU time of all of it: both ends, and the load, which is the same for all.
#![allow(clippy::disallowed_methods, dead_code, missing_docs, reason = "a benchmark touches the world")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_certs::link;
use causeway_gateway::{Gateway, World};
use causeway_proto::door::{Door, Request};
use causeway_proto::member::Members;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use support::{Federation, GET};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// Calls under way at a time.
const CONCURRENT: usize = 64;
/// A gRPC message: its head of 5 bytes and 251 more.
const MESSAGE: usize = 256;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn message() -> Bytes {
    let mut bytes = vec![7; MESSAGE];
    bytes[..5].copy_from_slice(&[0, 0, 0, 0, 251]);
    Bytes::from(bytes)
}

/// Gives back what came, as a gRPC server does: all of it first, trailers last.
async fn echo<B: http_body::Body<Data = Bytes> + Send>(request: http::Request<B>) -> Response<Body> {
    let data = match request.into_body().collect().await {
        Ok(data) => data.to_bytes(),
        Err(_) => return tonic::Status::internal("the request broke off").into_http(),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok::<_, tonic::Status>(Frame::data(data)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(Body::new(StreamBody::new(futures::stream::iter(frames))));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Calls a CPU-second. `call` makes one and says how many bytes came back.
async fn measure<F, C>(seconds: f64, call: C) -> f64
where
    F: Future<Output = usize> + Send,
    C: Fn() -> F + Clone + Send + Sync + 'static,
{
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let (done, before) = (Arc::new(AtomicU64::new(0)), cpu());
    let mut tasks = Vec::new();
    for _ in 0..CONCURRENT {
        let (call, done) = (call.clone(), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while Instant::now() < end {
                assert_eq!(call().await, MESSAGE, "a call went wrong");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / (cpu() - before).max(0.01)
}

/// Two gateways and a server behind the second.
struct Gateways {
    door: Door,
    sites: Vec<(Runtime, Gateway)>,
}

impl Gateways {
    async fn start(federation: &Federation) -> Self {
        let mut sites: Vec<(Runtime, Gateway)> = Vec::new();
        for dc in ["dc2", "dc1"] {
            let dialled: Vec<SocketAddr> = sites.iter().map(|(_, gateway)| gateway.local_addr()).collect();
            let plan = federation.site(dc).dials(&dialled);
            let servers = Door::from_fn(|request: Request| async move { Ok(echo(request).await) });
            let members = watch::channel(Members::default()).1;
            let world = World { material: plan.material, servers, members };
            let runtime = runtime();
            let config = plan.config;
            let start = runtime.spawn(async move { Gateway::start(config, world, CancellationToken::new()).await });
            let gateway = start.await.unwrap().unwrap();
            sites.push((runtime, gateway));
        }
        let mut known = sites[1].1.sites();
        known.wait_for(|sites| sites.iter().any(|s| !s.local && s.path == "quic")).await.unwrap();
        Self { door: sites[1].1.door(), sites }
    }

    async fn call(door: Door, message: Bytes) -> usize {
        let response = door.call(support::request(GET, "dc2", message)).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes().len()
    }
}

/// Bare gRPC over one QUIC connection.
struct Bare {
    near: Runtime,
    far: Runtime,
    conn: quinn::Connection,
}

fn transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(8192_u32.into())
        .stream_receive_window((2_u32 << 20).into())
        .receive_window((16_u32 << 20).into())
        .send_window(16 << 20)
        .congestion_controller_factory(Arc::new(BbrConfig::default()));
    Arc::new(transport)
}

impl Bare {
    async fn start(federation: &Federation) -> Self {
        let (near, far) = (runtime(), runtime());
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let crypto = QuicServerConfig::try_from(link::wan_server(&federation.material("dc2"))).unwrap();
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(transport());
        let endpoint = far.spawn(async move { quinn::Endpoint::server(server, local).unwrap() }).await.unwrap();
        let addr = endpoint.local_addr().unwrap();
        far.spawn(async move {
            let conn = endpoint.accept().await.unwrap().await.unwrap();
            while let Ok((send, recv)) = conn.accept_bi().await {
                tokio::spawn(async move {
                    let service =
                        hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(echo(request).await) });
                    let io = TokioIo::new(tokio::io::join(recv, send));
                    // Its end is the client's.
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        let crypto = QuicClientConfig::try_from(link::wan_client(&federation.material("dc1"), Some("dc2"))).unwrap();
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(transport());
        let dial = near.spawn(async move {
            let endpoint = quinn::Endpoint::client(local).unwrap();
            endpoint.connect_with(client, addr, "gateway.dc2.consul").unwrap().await.unwrap()
        });
        let conn = dial.await.unwrap();
        Self { near, far, conn }
    }

    /// HTTP/2 in a stream of its own.
    async fn open(conn: quinn::Connection) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let (send, recv) = conn.open_bi().await.unwrap();
        let io = TokioIo::new(tokio::io::join(recv, send));
        let (requests, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    async fn call(mut requests: hyper::client::conn::http2::SendRequest<Full<Bytes>>, message: Bytes) -> usize {
        let request = http::Request::post(format!("http://gateway{GET}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message))
            .unwrap();
        let response = requests.send_request(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes().len()
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let number = |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number("ROUNDS", 5.0) as usize, number("SECONDS", 4.0));
    // The load runs where the near gateway's caller would: on a runtime of its own.
    runtime().block_on(async {
        let federation = Federation::new(&["dc1", "dc2"]);
        let gateways = Gateways::start(&federation).await;
        let bare = Bare::start(&federation).await;
        let shared = bare.near.spawn(Bare::open(bare.conn.clone())).await.unwrap();
        let (message, mut found) = (message(), [Vec::new(), Vec::new(), Vec::new()]);
        for round in 0..rounds {
            let (door, body) = (gateways.door.clone(), message.clone());
            found[0].push(measure(seconds, move || Gateways::call(door.clone(), body.clone())).await);
            let (requests, body) = (shared.clone(), message.clone());
            found[1].push(measure(seconds, move || Bare::call(requests.clone(), body.clone())).await);
            let (conn, body) = (bare.conn.clone(), message.clone());
            let anew = move || {
                let (conn, body) = (conn.clone(), body.clone());
                async move { Bare::call(Bare::open(conn).await, body).await }
            };
            found[2].push(measure(seconds, anew).await);
            let last: Vec<String> = found.iter().filter_map(|v| Some(format!("{:.0}", v.last()?))).collect();
            println!("round {round}: {} calls per CPU-second", last.join(", "));
        }
        let [ours, shared, anew] = found.each_mut().map(|v| median(v));
        println!("19 forwarding of {MESSAGE} B, calls per CPU-second");
        println!("  gateway to gateway                 {ours:>9.0}");
        println!("  bare gRPC, one stream for all      {shared:>9.0}  ours is {:.2}x (goal: 0.6x)", ours / shared);
        println!("  bare gRPC, a stream for each call  {anew:>9.0}  ours is {:.2}x", ours / anew);
        for (_, gateway) in &gateways.sites {
            gateway.stop().await;
        }
        // A runtime must not be dropped within another.
        for runtime in gateways.sites.into_iter().map(|(runtime, _)| runtime).chain([bare.near, bare.far]) {
            runtime.shutdown_background();
        }
    });
}
