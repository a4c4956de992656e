//! A lock that one may hold: the key `PREFIX/.lock`, held by a session.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Given, LockError};
use crate::command::api::Api;
use crate::command::store::{self, Condition, When};

/// The mark of a lock's key; Consul's.
pub const FLAGS: u64 = 3_304_740_253_564_472_344;
/// Between two tries while a lost lock's delay lasts.
const DELAYED: Duration = Duration::from_secs(5);

/// Waits until the session holds it; `None`: not within the time there was.
pub async fn acquire(api: &Api, key: &str, session: &str, given: &Given) -> Result<Option<()>, LockError> {
    let began = Instant::now();
    let mut index = 0;
    for attempt in 0_u64.. {
        let Some(wait) = given.wait(attempt, began.elapsed()) else { return Ok(None) };
        let when = When { index, wait, consistent: false };
        let (pair, now) = store::get(api, key, when).await.map_err(|e| LockError::Api("read lock", e))?;
        if let Some(pair) = pair {
            if pair.flags != FLAGS {
                return Err(LockError::NoLock);
            }
            if !pair.session.is_empty() && pair.session != session {
                index = now;
                continue;
            }
        }
        let got = store::put(api, key, FLAGS, Condition::Acquire(session), Vec::new()).await;
        if got.map_err(|e| LockError::Api("acquire lock", e))? {
            return Ok(Some(()));
        }
        // Somebody was faster, which is waited for like any holder; or it was lost, and its delay lasts.
        let (pair, now) = store::get(api, key, When::default()).await.map_err(|e| LockError::Api("read lock", e))?;
        if pair.is_some_and(|p| !p.session.is_empty()) {
            index = now;
            continue;
        }
        index = 0;
        let left = given.timeout.map_or(DELAYED, |timeout| timeout.saturating_sub(began.elapsed()));
        sleep(left.min(DELAYED)).await;
    }
    Ok(None)
}

/// Whether the session holds it, and the index to wait beyond.
pub async fn look(api: &Api, key: &str, session: &str, when: When) -> Result<(bool, u64), LockError> {
    let (pair, index) = store::get(api, key, when).await.map_err(|e| LockError::Api("read lock", e))?;
    Ok((pair.is_some_and(|p| p.session == session), index))
}

/// Gives it back.
pub async fn release(api: &Api, key: &str, session: &str) -> Result<(), LockError> {
    let released = store::put(api, key, FLAGS, Condition::Release(session), Vec::new()).await;
    released.map(|_| ()).map_err(|e| LockError::Api("release lock", e))
}

/// Removes the key if nobody uses it.
pub async fn clean(api: &Api, key: &str) -> Result<(), LockError> {
    let (pair, _) = store::get(api, key, When::default()).await.map_err(|e| LockError::Api("read lock", e))?;
    let Some(pair) = pair else { return Ok(()) };
    if pair.flags != FLAGS {
        return Err(LockError::NoLock);
    }
    if !pair.session.is_empty() {
        return Err(LockError::InUse);
    }
    match store::delete(api, key, Some(pair.modified)).await.map_err(|e| LockError::Api("remove lock", e))? {
        true => Ok(()),
        false => Err(LockError::InUse),
    }
}
