//! The door of `fuzz/` to gRPC: messages for any method of a server, from their bytes through decoding, checks and the log into the
//! store. What a handler let in is saved and put back as it is.
#![allow(clippy::disallowed_methods, reason = "a test's clock and tasks")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use causeway_proto::command::{Command, Outcome};
use causeway_proto::door::Door;
use causeway_proto::meta::Meta;
use causeway_proto::method::TABLE;
use causeway_proto::query::{ExecuteRemoteRequest, ExecuteReply};
use causeway_proto::rejection::Reason;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{Contact, Handlers, Log, services};
use crate::store::Store;

/// A log that applies at once; every other site is out of reach.
struct AtOnce {
    store: Arc<Store>,
    index: AtomicU64,
}

impl Log for AtOnce {
    async fn propose(&self, command: Command) -> Result<Outcome, Status> {
        let index = self.index.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(self.store.apply(index, &command).outcome)
    }

    fn contact(&self) -> Contact {
        Contact { is_leader: true, known_leader: true, last_contact: Duration::ZERO }
    }

    fn lock_delay(&self, _: &str) -> bool {
        false
    }

    async fn renew_session(&self, _: &str) -> Result<(), Status> {
        Ok(())
    }

    async fn datacenters(&self) -> Vec<String> {
        vec!["dc1".to_owned(), "dc2".to_owned()]
    }

    async fn others(&self) -> Option<Vec<String>> {
        Some(vec!["dc2".to_owned()])
    }

    async fn execute_remote(&self, _: &Meta, _: ExecuteRemoteRequest, _: Duration) -> Result<ExecuteReply, Status> {
        Err(Reason::Unreachable.status("no way"))
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

fn saved(store: &Store) -> Vec<u8> {
    let mut out = Vec::new();
    Store::write_snapshot(&store.state(), &mut out).expect("a vector takes anything");
    out
}

/// Several calls: which method of the table, a length of two bytes, and the message.
pub fn call(data: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(calls(data)));
}

async fn calls(mut data: &[u8]) {
    let (store, stop) = (Arc::new(Store::new()), CancellationToken::new());
    let log = Arc::new(AtOnce { store: Arc::clone(&store), index: AtomicU64::new(0) });
    let mut handlers = Handlers::new(Arc::clone(&store), log, "dc1".to_owned(), stop.clone());
    let chance = AtomicU64::new(1);
    handlers.chance = Arc::new(move || u128::from(chance.fetch_add(1, Ordering::SeqCst)) << 64);
    let door = Door::new(services(handlers));
    let mut left = 16;
    while let Some(([method, a, b], rest)) = data.split_first_chunk::<3>()
        && left > 0
    {
        left -= 1;
        let (message, rest) = rest.split_at(usize::from(u16::from_be_bytes([*a, *b])).min(rest.len()));
        data = rest;
        let path = TABLE[usize::from(*method) % TABLE.len()].path;
        one(&door, path, message).await;
    }
    let bytes = saved(&store);
    let copy = Store::new();
    copy.restore(&mut bytes.as_slice()).expect("what handlers let in can be put back");
    assert_eq!(saved(&copy), bytes, "what handlers let in survives being saved");
    stop.cancel();
}

async fn one(door: &Door, path: &str, message: &[u8]) {
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let mut request = http::Request::post(path).body(tonic::body::Body::new(http_body_util::Full::from(body))).unwrap();
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let answer = async {
        let response = door.call(request).await.expect("a door within the process answers");
        let status = Status::from_header_map(response.headers());
        // A stream goes on for ever; one frame of it is enough.
        let frame = response.into_body().frame().await;
        let trailers = frame.and_then(Result::ok).and_then(|frame| frame.into_trailers().ok());
        status.or_else(|| Status::from_header_map(&trailers?))
    };
    let status = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("an answer in time");
    if let Some(status) = status {
        assert_ne!(status.code(), Code::Unknown, "{path}: {status:?}");
        // As much as the largest list of names with a reason to each.
        assert!(
            status.message().len() <= 4096 + 8 * message.len(),
            "{path}: {} bytes of error",
            status.message().len()
        );
    }
}

#[cfg(test)]
#[test]
fn corpus() {
    crate::corpus::run("call", 10, call);
}
