#![allow(clippy::disallowed_methods, reason = "asks the servers of the site, under deadlines")]
//! Asks the servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::door::Door;
use causeway_proto::kv::kv_client::KvClient;
use causeway_proto::kv::{ApplyRequest, Entry, GetRequest, ListRequest, Verb};
use causeway_proto::meta::{AnswerMeta, Meta};
use tokio::sync::watch;

use super::Kept;

/// Time for one question.
const TIME: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Memory {
    entries: BTreeMap<String, (Vec<u8>, u64)>,
    index: u64,
}

#[derive(Clone)]
enum Place {
    Servers(Door),
    Memory(Arc<Mutex<Memory>>, watch::Sender<u64>),
}

/// The entries.
#[derive(Clone)]
pub struct Shelf(Place);

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

fn kept(entry: Entry) -> Kept {
    Kept { key: entry.key, value: entry.value, index: entry.modify_index }
}

impl Shelf {
    /// In the store of the servers behind this door.
    pub fn servers(door: Door) -> Self {
        Self(Place::Servers(door))
    }

    /// In this process only, for as long as it runs.
    pub fn memory() -> Self {
        Self(Place::Memory(Arc::default(), watch::Sender::new(0)))
    }

    /// One entry.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Kept>, String> {
        match &self.0 {
            Place::Servers(door) => {
                let mut client = KvClient::new(door.clone());
                let ask = client.get(Meta::default().request(GetRequest { key: key.to_owned() }));
                let reply = tokio::time::timeout(TIME, ask).await.map_err(|_| late())?.map_err(|s| words(&s))?;
                Ok(reply.into_inner().entry.map(kept))
            }
            Place::Memory(memory, _) => {
                let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                let of =
                    |(value, index): &(Vec<u8>, u64)| Kept { key: key.to_owned(), value: value.clone(), index: *index };
                Ok(memory.entries.get(key).map(of))
            }
        }
    }

    /// Writes an entry if it is as it was read (`index` 0: if it is not there); `false`: it is not, and nothing was changed.
    pub(crate) async fn put(&self, key: &str, value: Vec<u8>, index: u64) -> Result<bool, String> {
        self.apply(Verb::Cas, key, value, index).await
    }

    /// Takes an entry away if it is as it was read.
    pub(crate) async fn delete(&self, key: &str, index: u64) -> Result<bool, String> {
        self.apply(Verb::DeleteCas, key, Vec::new(), index).await
    }

    async fn apply(&self, verb: Verb, key: &str, value: Vec<u8>, index: u64) -> Result<bool, String> {
        match &self.0 {
            Place::Servers(door) => {
                let mut client = KvClient::new(door.clone());
                let request =
                    ApplyRequest { verb: verb.into(), key: key.to_owned(), value, index, ..ApplyRequest::default() };
                let ask = client.apply(Meta::default().request(request));
                let reply = tokio::time::timeout(TIME, ask).await.map_err(|_| late())?.map_err(|s| words(&s))?;
                Ok(reply.into_inner().done)
            }
            Place::Memory(memory, changes) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                if memory.entries.get(key).map_or(0, |(_, index)| *index) != index {
                    return Ok(false);
                }
                memory.index += 1;
                let now = memory.index;
                if verb == Verb::DeleteCas {
                    memory.entries.remove(key);
                } else {
                    memory.entries.insert(key.to_owned(), (value, now));
                }
                changes.send_replace(now);
                Ok(true)
            }
        }
    }

    /// All entries below a place, and the index to wait for news with: with `after` above 0 it answers once something changed
    /// since then, or after `wait`.
    pub(crate) async fn list(&self, prefix: &str, after: u64, wait: Duration) -> Result<(Vec<Kept>, u64), String> {
        match &self.0 {
            Place::Servers(door) => {
                let mut client = KvClient::new(door.clone());
                let meta = Meta { min_index: after, wait: (after > 0).then_some(wait), ..Meta::default() };
                let ask = client.list(meta.request(ListRequest { prefix: prefix.to_owned() }));
                let limit = if after > 0 { wait + wait / 8 + TIME } else { TIME };
                let reply = tokio::time::timeout(limit, ask).await.map_err(|_| late())?.map_err(|s| words(&s))?;
                let index = AnswerMeta::of(&reply).index;
                Ok((reply.into_inner().entries.into_iter().map(kept).collect(), index))
            }
            Place::Memory(memory, changes) => {
                if after > 0 {
                    let mut news = changes.subscribe();
                    // Nothing new within the time is an answer too.
                    let _ = tokio::time::timeout(wait, news.wait_for(|index| *index > after)).await;
                }
                let memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                let found = memory.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
                let of = |(key, (value, index)): (&String, &(Vec<u8>, u64))| Kept {
                    key: key.clone(),
                    value: value.clone(),
                    index: *index,
                };
                Ok((found.map(of).collect(), memory.index.max(1)))
            }
        }
    }
}

fn late() -> String {
    format!("no answer within {} s", TIME.as_secs())
}

fn words(status: &tonic::Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}
