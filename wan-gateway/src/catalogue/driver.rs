#![allow(clippy::disallowed_methods, reason = "asks the servers, and counts the time")]
//! Learns from the servers of our own site what their catalogue looks like.

use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proto::catalog::SummaryRequest;
use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::door::Door;
use causeway_proto::federation::v1::{Catalogue, SiteStatus};
use causeway_proto::meta::{AnswerMeta, Consistency, Meta};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Due, Pace};
use crate::task::driver::Order;

/// Between two questions.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long a server holds a question while nothing changes.
const HELD: Duration = Duration::from_secs(60);
/// What it may take beyond that.
const GRACE: Duration = Duration::from_secs(10);
/// After a question without an answer.
const PAUSE: Duration = Duration::from_secs(3);

/// Asks until `stop`, and orders it told.
pub(crate) async fn follow(
    servers: Door,
    sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    orders: mpsc::Sender<Order>,
    stop: CancellationToken,
) {
    let (answers, mut answered) = mpsc::channel(1);
    let asking = ask(servers, answers);
    let telling = async {
        let mut pace = Pace::default();
        loop {
            let count = sites.borrow().len();
            if let Some(catalogue) = pace.take(Instant::now(), count)
                && orders.send(Order::Catalogue(catalogue)).await.is_err()
            {
                return;
            }
            let next = pace.due(count);
            let due = async {
                match next {
                    Some(Due::At(at)) => tokio::time::sleep_until(at.into()).await,
                    Some(Due::Now) => {}
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(catalogue) = answered.recv() => pace.heard(catalogue),
                () = due => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = asking => {}
        () = telling => {}
    }
}

async fn ask(servers: Door, answers: mpsc::Sender<Catalogue>) {
    let mut index = 0;
    loop {
        // Any server will do: what is told is a moment old anyway.
        let meta = Meta { min_index: index, wait: Some(HELD), consistency: Consistency::Stale, ..Meta::default() };
        let mut client = CatalogClient::new(servers.clone());
        let asked = client.summary(meta.request(SummaryRequest {}));
        let pause = match tokio::time::timeout(HELD + HELD / 16 + GRACE, asked).await {
            Ok(Ok(reply)) => {
                let answer = AnswerMeta::of(&reply).index;
                let summary = reply.into_inner();
                // One that goes back is another server's.
                index = if answer < index { 0 } else { answer };
                let catalogue = Catalogue {
                    index: summary.index,
                    digest: summary.digest,
                    services: summary.services,
                    instances: summary.instances,
                    passing: summary.passing,
                    warning: summary.warning,
                    critical: summary.critical,
                    number: 0,
                };
                if answers.send(catalogue).await.is_err() {
                    return;
                }
                BETWEEN
            }
            Ok(Err(status)) => {
                tracing::debug!(error = status.message(), "the servers do not say what their catalogue looks like");
                PAUSE
            }
            Err(_) => PAUSE,
        };
        tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>() / 4.0)).await;
    }
}
