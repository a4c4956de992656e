//! `/v1/snapshot`.

use causeway_proto::rejection::Reason;
use causeway_proto::snapshot::snapshots_client::SnapshotsClient;
use causeway_proto::snapshot::{RestoreRequest, SaveRequest, SavedAt};
use http::{HeaderValue, Method, header};

use super::archive::{self, MAX_STATE, Meta};
use super::dispatch::{Call, ask, once};
use super::failure::Failure;
use super::reply::Reply;

/// Bytes of a state that go in one write.
const PIECE: usize = 512 << 10;

pub(crate) async fn snapshot(call: &Call<'_>) -> Result<Reply, Failure> {
    if call.method == Method::PUT { restore(call).await } else { save(call).await }
}

async fn save(call: &Call<'_>) -> Result<Reply, Failure> {
    let options = call.options()?;
    let mut client = SnapshotsClient::new(call.door());
    let (mut pieces, answer) = once(&options.meta, client.save(options.meta.request(SaveRequest {}))).await?;
    let remote = options.meta.datacenter.is_some();
    let (mut state, mut at, mut whole) = (Vec::new(), SavedAt::default(), false);
    loop {
        // Each piece has the time that a call has.
        let piece = once(&options.meta, async { pieces.message().await.map(tonic::Response::new) }).await;
        let Some(piece) = piece.map(|(piece, _)| piece)? else { break };
        state.extend_from_slice(&piece.bytes);
        at = piece.at.unwrap_or(at);
        whole |= piece.size == state.len() as u64 && piece.size > 0;
        if state.len() as u64 > MAX_STATE {
            return Err(Failure::internal("the state is larger than a snapshot may be (1 GiB)"));
        }
    }
    if !whole {
        let cut = Reason::Unreachable.status("the server's answer was cut short; ask again");
        return Err(Failure::from_status(&cut, remote));
    }
    let meta = Meta::new(at.index, at.term, state.len() as u64);
    let packed = tokio::task::spawn_blocking(move || archive::pack(&meta, &state)).await;
    let failed = |why: String| Failure::internal(format!("the snapshot could not be packed: {why}"));
    let body = packed.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    let mut reply = Reply { body, ..Reply::empty() }.meta(&answer);
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
    Ok(reply)
}

async fn restore(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    // All of it is verified before anything is sent.
    let body = call.body.clone();
    let unpacked = tokio::task::spawn_blocking(move || archive::unpack_ours(&body[..])).await;
    let (_, state) = unpacked
        .map_err(|e| Failure::internal(format!("the snapshot could not be unpacked: {e}")))?
        .map_err(|e| Failure::internal(e.to_string()))?;
    let (id, count) = (call.trace_id(), state.len().div_ceil(PIECE));
    for (i, bytes) in state.chunks(PIECE).enumerate() {
        let (offset, last) = ((i * PIECE) as u64, i + 1 == count);
        let request = RestoreRequest { id: id.clone(), offset, bytes: bytes.to_vec(), last };
        ask!(call, meta, SnapshotsClient<_>, restore, request)?;
    }
    if count == 0 {
        return Err(Failure::internal("failed to read snapshot file: state.bin is empty"));
    }
    Ok(Reply::empty())
}
