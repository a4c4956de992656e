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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use causeway_proto::command::{Command, command};
    use causeway_proto::kv::{ApplyRequest, Verb};

    use super::*;

    fn set(store: &Store, index: u64, key: &str) {
        let request = ApplyRequest { verb: Verb::Set.into(), key: key.into(), flags: index, ..ApplyRequest::default() };
        store.apply(index, &Command { call: None, command: Some(command::Command::Kv(request)) });
    }

    fn meta(min_index: u64) -> Meta {
        Meta { min_index, ..Meta::default() }
    }

    /// The change lands right behind the first reading, when nobody waits yet.
    #[tokio::test]
    async fn a_change_between_reading_and_waiting_is_seen() {
        let store = Store::new();
        set(&store, 5, "k");
        let topics = [Topic::Key("k".into())];
        let reads = Cell::new(0);
        let read = |state: &State| {
            reads.set(reads.get() + 1);
            let index = state.kv_get("k").1;
            if reads.get() == 1 {
                set(&store, 6, "k");
            }
            ((), index)
        };
        let stop = CancellationToken::new();
        let meta = meta(5);
        let blocked = block(&store, &meta, &topics, read, None, 0.0, &stop);
        let ((), index) = tokio::time::timeout(Duration::from_secs(10), blocked).await.expect("not lost");
        assert_eq!((index, reads.get()), (6, 2));
        assert_eq!(store.watched(), 0);
    }

    #[tokio::test]
    async fn the_limit_of_the_call_bounds_the_wait() {
        let store = Store::new();
        set(&store, 5, "k");
        let read = |state: &State| ((), state.kv_get("k").1);
        let stop = CancellationToken::new();
        let topics = [Topic::Key("k".into())];
        let meta = meta(5);
        let blocked = block(&store, &meta, &topics, read, Some(Duration::from_millis(10)), 1.0, &stop);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), blocked).await, Ok(((), 5)));
    }
}
