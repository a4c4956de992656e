#![allow(dead_code, unreachable_pub, reason = "not every test file uses all of it")]
//! Calls at a steady rate over a link whose network can be made worse.

use std::time::{Duration, Instant};

use causeway_proto::door::Door;
use causeway_proto::meta::GRPC_TIMEOUT;
use http::HeaderValue;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::support::*;
use crate::wan::Wan;

pub const RTT: Duration = Duration::from_millis(80);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How long a link is watched for: so many seconds, or what `LINK_SECONDS` says.
pub fn long(seconds: u64) -> Duration {
    Duration::from_secs(std::env::var("LINK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(seconds))
}

/// Reads at a steady rate, whether or not those before are answered; each has five seconds.
pub struct Load {
    stop: CancellationToken,
    task: JoinHandle<Figures>,
}

#[derive(Debug, Default)]
pub struct Figures {
    pub took: Vec<Duration>,
    pub failed: Vec<String>,
}

impl Load {
    pub fn start(doors: Vec<(Door, &'static str)>, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            let (mut calls, mut ticks) = (JoinSet::new(), tokio::time::interval(every));
            let mut next = doors.iter().cycle();
            while !stopped.is_cancelled() {
                ticks.tick().await;
                let (door, to) = next.next().unwrap().clone();
                calls.spawn(async move {
                    let start = Instant::now();
                    let mut request = request(GET, to, "x");
                    request.headers_mut().insert(GRPC_TIMEOUT, HeaderValue::from_static("5000m"));
                    let answer = read(door.call(request).await.unwrap()).await;
                    let at = start.duration_since(begun);
                    (start.elapsed(), answer.err().map(|why| format!("to {to} at {at:?}: {why:?}")))
                });
            }
            let mut figures = Figures::default();
            while let Some(call) = calls.join_next().await {
                let (took, failed) = call.unwrap();
                figures.took.push(took);
                figures.failed.extend(failed);
            }
            figures.took.sort();
            figures
        });
        Self { stop, task }
    }

    /// All went well; the worst and the middle.
    pub async fn unharmed(self, what: &str) -> (Duration, Duration) {
        self.stop.cancel();
        let figures = self.task.await.unwrap();
        let n = figures.took.len();
        let (p50, p99, max) = (figures.took[n / 2], figures.took[n * 99 / 100], figures.took[n - 1]);
        println!("{what}: {n} calls, {} failed, p50 {p50:?}, p99 {p99:?}, worst {max:?}", figures.failed.len());
        assert!(figures.failed.is_empty(), "{what}: {:#?}", figures.failed);
        (max, p50)
    }
}

/// dc1 has dialled dc2 through an emulator, which was made so before; nobody else dials.
pub async fn through(conditions: impl FnOnce(&Wan)) -> (Federation, Wan, Site, Site) {
    let federation = Federation::new(&["dc1", "dc2"]);
    let two = federation.hub().await;
    let wan = Wan::to(two.addr()).await;
    conditions(&wan);
    let one = federation.site("dc1").outbound_only().dials(&[wan.addr]).start().await;
    one.linked("dc2").await;
    (federation, wan, one, two)
}

/// The same at [`RTT`], and both have the link.
pub async fn pair() -> (Federation, Wan, Site, Site) {
    let (federation, wan, one, two) = through(|wan| wan.delay(RTT / 2, Duration::ZERO)).await;
    two.linked("dc1").await;
    (federation, wan, one, two)
}

pub async fn standby(wan: &Wan) {
    until("a TCP link that stands by", Duration::from_secs(10), || wan.tcp_connections() > 0).await;
    // Its handshake, and the first frames.
    tokio::time::sleep(RTT * 6).await;
}

pub fn both(one: &Site, two: &Site) -> Vec<(Door, &'static str)> {
    vec![(one.door(), "dc2"), (two.door(), "dc1")]
}
