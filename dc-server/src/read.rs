//! Blocking reads.

use std::time::Duration;

use causeway_proto::meta::Meta;
use tokio_util::sync::CancellationToken;

use crate::store::{State, Store, Topic};

/// Reads, and where the caller blocks (`meta.min_index` above 0) waits until there is something new.
///
/// Consul's rule: an index other than `min_index` answers at once (a lower one tells a client, whose index is of another history,
/// to start again); otherwise the topics are awaited and read again, until the wait time is over. `chance` (0..=1) spreads the
/// wait time, see [`Meta::wait_time`]. `limit` bounds it further, to what is left of the call's deadline. `stop` ends the wait
/// with what there is, when the server shuts down. Dropping the future ends the registration.
pub async fn block<T>(
    store: &Store,
    meta: &Meta,
    topics: &[Topic],
    read: impl Fn(&State) -> (T, u64),
    limit: Option<Duration>,
    chance: f64,
    stop: &CancellationToken,
) -> (T, u64) {
    if meta.min_index == 0 {
        return read(&store.state());
    }
    let wait = meta.wait_time(chance);
    let wait = limit.map_or(wait, |limit| wait.min(limit));
    // Before the state is read: a change after the reading is then reported.
    let mut watch = store.watch(topics);
    let timeout = tokio::time::sleep(wait);
    tokio::pin!(timeout);
    loop {
        let (value, index) = read(&store.state());
        if index != meta.min_index {
            return (value, index);
        }
        tokio::select! {
            () = watch.changed() => {}
            () = &mut timeout => return (value, index),
            () = stop.cancelled() => return (value, index),
        }
    }
}
