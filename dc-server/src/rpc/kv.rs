//! Service `Kv`.

use causeway_proto::command::command::Command;
use causeway_proto::kv::kv_server::Kv;
use causeway_proto::kv::{
    ApplyReply, ApplyRequest, Entry, GetReply, GetRequest, KeysReply, KeysRequest, ListReply, ListRequest, Verb,
};
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::{Limits, Log, MAX_KEY, Service, call_id};
use crate::store::Topic;

/// Bounds of what is written to a key.
pub(super) fn check(limits: &Limits, key: &str, value: &[u8]) -> Result<(), Status> {
    if key.len() > MAX_KEY {
        let text = format!("Key is too large ({} > {MAX_KEY} bytes); shorten it", key.len());
        return Err(Reason::TooLarge.status(text));
    }
    if value.len() > limits.max_value {
        let text = format!("Value for key {key:?} is too large ({} > {} bytes)", value.len(), limits.max_value);
        return Err(Reason::TooLarge.status(text));
    }
    Ok(())
}

#[tonic::async_trait]
impl<L: Log> Kv for Service<L> {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        let verb = Verb::try_from(request.verb).unwrap_or(Verb::Unspecified);
        if request.key.is_empty() && verb != Verb::DeleteTree {
            return Err(Reason::Refused.status("Must provide key"));
        }
        check(&self.limits, &request.key, &request.value)?;
        self.may_write(&request.key, verb == Verb::DeleteTree)?;
        if verb == Verb::Lock && self.log.lock_delay(&request.key) && !self.was_done(call) {
            return Ok(Response::new(ApplyReply { done: false, index: self.store.state().index() }));
        }
        let outcome = self.write(call, Command::Kv(request)).await?;
        Ok(Response::new(ApplyReply { done: outcome.done, index: outcome.index }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let key = &request.get_ref().key;
        self.read(&request, &[Topic::Key(key.as_str().into())], |state| {
            let (entry, index) = state.kv_get(key);
            (GetReply { entry: entry.map(|entry| Entry::clone(&entry)) }, index)
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        let prefix = &request.get_ref().prefix;
        self.read(&request, &[Topic::Prefix(prefix.as_str().into())], |state| {
            let (entries, index) = state.kv_list(prefix);
            (ListReply { entries: entries.iter().map(|entry| Entry::clone(entry)).collect() }, index)
        })
        .await
    }

    async fn keys(&self, request: Request<KeysRequest>) -> Result<Response<KeysReply>, Status> {
        let KeysRequest { prefix, separator } = request.get_ref();
        self.read(&request, &[Topic::Prefix(prefix.as_str().into())], |state| {
            let (keys, index) = state.kv_keys(prefix, separator);
            (KeysReply { keys }, index)
        })
        .await
    }
}
