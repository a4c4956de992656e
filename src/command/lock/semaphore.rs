//! A lock that several may hold: each keeps `PREFIX/SESSION` by its session, and `PREFIX/.lock` lists those who are in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Given, LockError};
use crate::command::api::Api;
use crate::command::store::{self, Condition, Pair, When, join};

/// The mark of a semaphore's keys; Consul's.
pub const FLAGS: u64 = 16_210_313_421_097_356_768;

/// What `PREFIX/.lock` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Slots {
    limit: u64,
    #[serde(default)]
    holders: BTreeMap<String, bool>,
}

/// The semaphore as a list of its keys shows it.
#[derive(Debug, PartialEq, Eq)]
struct Sight {
    slots: Slots,
    /// Last change of `PREFIX/.lock`; 0: it is not there.
    modified: u64,
}

impl Sight {
    /// Holders whose sessions are gone do not count.
    fn of(pairs: &[Pair], prefix: &str, limit: u64) -> Result<Self, LockError> {
        let key = join(&[prefix, super::KEY]);
        let lock = pairs.iter().find(|p| p.key == key);
        if lock.is_some_and(|p| p.flags != FLAGS) {
            return Err(LockError::NoSemaphore);
        }
        let mut slots = match lock {
            Some(pair) if !pair.value.is_empty() => {
                serde_json::from_slice(&pair.value).map_err(|e| LockError::Garbled(e.to_string()))?
            }
            _ => Slots { limit, holders: BTreeMap::new() },
        };
        let alive: BTreeSet<&str> = pairs.iter().map(|p| p.session.as_str()).filter(|s| !s.is_empty()).collect();
        slots.holders.retain(|holder, _| alive.contains(holder.as_str()));
        Ok(Self { slots, modified: lock.map_or(0, |p| p.modified) })
    }

    fn full(&self) -> bool {
        self.slots.holders.len() as u64 >= self.slots.limit
    }

    async fn write(&self, api: &Api, prefix: &str) -> Result<bool, LockError> {
        let value = serde_json::to_vec(&self.slots).map_err(|e| LockError::Garbled(e.to_string()))?;
        let key = join(&[prefix, super::KEY]);
        let written = store::put(api, &key, FLAGS, Condition::Unchanged(self.modified), value);
        written.await.map_err(|e| LockError::Api("update lock", e))
    }
}

async fn sight(api: &Api, prefix: &str, limit: u64, when: When) -> Result<(Sight, u64), LockError> {
    let (pairs, index) = store::list(api, prefix, when).await.map_err(|e| LockError::Api("read prefix", e))?;
    Ok((Sight::of(&pairs, prefix, limit)?, index))
}

/// Waits until the session has a slot; `None`: not within the time there was.
pub async fn acquire(
    api: &Api,
    prefix: &str,
    limit: u64,
    session: &str,
    given: &Given,
) -> Result<Option<()>, LockError> {
    let began = Instant::now();
    let entry = join(&[prefix, session]);
    match store::put(api, &entry, FLAGS, Condition::Acquire(session), Vec::new()).await {
        Ok(true) => {}
        Ok(false) => return Err(LockError::NoEntry),
        Err(e) => return Err(LockError::Api("make contender entry", e)),
    }
    let mut index = 0;
    for attempt in 0_u64.. {
        let Some(wait) = given.wait(attempt, began.elapsed()) else { return Ok(None) };
        let (mut sight, now) = sight(api, prefix, limit, When { index, wait, consistent: false }).await?;
        if sight.slots.limit != limit {
            return Err(LockError::Limit { theirs: sight.slots.limit, ours: limit });
        }
        if sight.full() {
            index = now;
            continue;
        }
        sight.slots.holders.insert(session.to_owned(), true);
        if sight.write(api, prefix).await? {
            return Ok(Some(()));
        }
        // Another changed it between: look again, at once.
        index = 0;
    }
    Ok(None)
}

/// Whether the session has a slot, and the index to wait beyond.
pub async fn look(api: &Api, prefix: &str, limit: u64, session: &str, when: When) -> Result<(bool, u64), LockError> {
    let (sight, index) = sight(api, prefix, limit, when).await?;
    Ok((sight.slots.holders.contains_key(session), index))
}

/// Gives the slot back.
pub async fn release(api: &Api, prefix: &str, limit: u64, session: &str) -> Result<(), LockError> {
    loop {
        let (mut sight, _) = sight(api, prefix, limit, When::default()).await?;
        if sight.slots.holders.remove(session).is_none() || sight.write(api, prefix).await? {
            break;
        }
    }
    let gone = store::delete(api, &join(&[prefix, session]), None).await;
    gone.map(|_| ()).map_err(|e| LockError::Api("remove contender entry", e))
}

/// Removes `PREFIX/.lock` if nobody has a slot.
pub async fn clean(api: &Api, prefix: &str, limit: u64) -> Result<(), LockError> {
    let (sight, _) = sight(api, prefix, limit, When::default()).await?;
    if sight.modified == 0 {
        return Ok(());
    }
    if !sight.slots.holders.is_empty() {
        return Err(LockError::InUse);
    }
    let gone = store::delete(api, &join(&[prefix, super::KEY]), Some(sight.modified)).await;
    match gone.map_err(|e| LockError::Api("remove semaphore", e))? {
        true => Ok(()),
        false => Err(LockError::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, flags: u64, session: &str) -> Pair {
        Pair { key: key.into(), value: value.into(), flags, session: session.into(), modified: 5 }
    }

    /// As the real Consul 1.8.7 wrote it.
    const WRITTEN: &str = r#"{"Limit":2,"Holders":{"a":true,"b":true}}"#;

    #[test]
    fn holders_whose_session_is_gone_do_not_count() {
        let mut pairs =
            vec![pair("s/.lock", WRITTEN, FLAGS, ""), pair("s/a", "", FLAGS, "a"), pair("s/b", "", FLAGS, "b")];
        let sight = Sight::of(&pairs, "s", 2).unwrap();
        assert!(sight.full() && sight.modified == 5);
        assert_eq!(serde_json::to_string(&sight.slots).unwrap(), WRITTEN);
        pairs.pop();
        let sight = Sight::of(&pairs, "s", 2).unwrap();
        assert!(!sight.full() && sight.slots.holders.contains_key("a"));
    }

    #[test]
    fn what_is_there_already() {
        let empty = Sight::of(&[], "s", 3).unwrap();
        assert_eq!((empty.modified, empty.slots.limit, empty.full()), (0, 3, false));
        let lock = [pair("s/.lock", "", super::super::mutex::FLAGS, "")];
        assert!(matches!(Sight::of(&lock, "s", 3), Err(LockError::NoSemaphore)));
        let garbled = [pair("s/.lock", "{", FLAGS, "")];
        assert!(matches!(Sight::of(&garbled, "s", 3), Err(LockError::Garbled(_))));
        // Another key that only begins so is not the lock.
        assert_eq!(Sight::of(&[pair("s/.lock2", "{", 0, "")], "s", 3).unwrap().modified, 0);
    }
}
