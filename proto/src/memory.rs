//! Reads that a server answers from the memory it shares with the asker: where server and asker are one process, nothing needs to
//! be encoded, queued or given a timer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::kv::Entry;
use crate::meta::{AnswerMeta, Meta};

/// A read under way; `None`: it is none for the short way.
pub type Reading<'a, T> = Pin<Box<dyn Future<Output = Option<(T, AnswerMeta)>> + Send + 'a>>;

/// The short way. It answers exactly what the server's [`crate::door::Door`] would, or nothing: whatever waits, is another
/// datacenter's, needs another server, or was refused, is asked at the door.
pub trait MemoryReads: Send + Sync + 'static {
    /// One key and its entry, where it has one.
    fn kv_get<'a>(&'a self, meta: &'a Meta, key: &'a str) -> Reading<'a, Option<Arc<Entry>>>;
}
