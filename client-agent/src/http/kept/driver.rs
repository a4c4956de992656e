#![allow(clippy::disallowed_methods, reason = "the clock, chance and tasks of answers that are renewed")]
//! Answers that are renewed in the background for as long as somebody asks for them, as Consul's cache does: a blocking read waits for
//! the next change, so that what is kept is what there is. Where it fails, what is kept goes on being given, and says for how long
//! nothing has been heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::meta::AnswerMeta;
use futures::future::BoxFuture;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::super::failure::Failure;
use crate::views::view::backoff;

/// An answer that nobody has asked for this long is no longer renewed.
const IDLE: Duration = Duration::from_secs(600);
/// Most answers that are renewed; the one that was asked for longest ago makes room.
const MOST: usize = 64;
/// Between renewals, where one change follows another.
const PACE: Duration = Duration::from_millis(25);

/// Reads the answer: at once (0), or as soon as its index has passed this one.
pub(in crate::http) type Fetch<T> =
    Arc<dyn Fn(u64) -> BoxFuture<'static, Result<(T, AnswerMeta), Failure>> + Send + Sync>;

/// An answer and what is known of it.
struct Held<T> {
    value: Arc<(T, AnswerMeta)>,
    /// Since when renewing it fails.
    lost: Option<Instant>,
    /// When it was last asked for.
    asked: Instant,
    task: Option<AbortHandle>,
}

struct Shelf<T>(Mutex<BTreeMap<String, Held<T>>>);

impl<T> Shelf<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is kept, with the time for which nothing has been heard; `None`: nothing is, or for too long.
    fn get(&self, key: &str, now: Instant, most: Option<Duration>) -> Option<(Arc<(T, AnswerMeta)>, Duration)> {
        let mut shelf = self.lock();
        let held = shelf.get_mut(key)?;
        held.asked = now;
        let age = held.lost.map_or(Duration::ZERO, |lost| now.saturating_duration_since(lost));
        // `max-age=0` asks for what is new in any case.
        most.is_none_or(|most| age < most).then(|| (Arc::clone(&held.value), age))
    }

    /// Its index, while anybody wants it.
    fn wanted(&self, key: &str, now: Instant) -> Option<u64> {
        let mut shelf = self.lock();
        let held = shelf.get(key)?;
        if now.saturating_duration_since(held.asked) < IDLE {
            return Some(held.value.1.index);
        }
        shelf.remove(key);
        None
    }

    fn renewed(&self, key: &str, answer: Result<Arc<(T, AnswerMeta)>, Instant>) {
        let mut shelf = self.lock();
        let Some(held) = shelf.get_mut(key) else { return };
        match answer {
            Ok(value) => (held.value, held.lost) = (value, None),
            Err(now) => held.lost = held.lost.or(Some(now)),
        }
    }
}

/// Answers of one endpoint, by what was asked.
pub(in crate::http) struct Renewed<T> {
    shelf: Arc<Shelf<T>>,
    /// Ended with this.
    tasks: Mutex<JoinSet<()>>,
}

impl<T> Default for Renewed<T> {
    fn default() -> Self {
        Self { shelf: Arc::new(Shelf(Mutex::default())), tasks: Mutex::default() }
    }
}

impl<T: Send + Sync + 'static> Renewed<T> {
    /// What is kept and not older than `most`, with its age; else what `fetch` reads now, which is kept from then on.
    pub(in crate::http) async fn get(
        &self,
        key: String,
        most: Option<Duration>,
        fetch: Fetch<T>,
    ) -> Result<(Arc<(T, AnswerMeta)>, Option<Duration>), Failure> {
        if let Some((value, age)) = self.shelf.get(&key, Instant::now(), most) {
            return Ok((value, Some(age)));
        }
        let value = Arc::new(fetch(0).await?);
        self.keep(key, Arc::clone(&value), fetch);
        Ok((value, None))
    }

    fn keep(&self, key: String, value: Arc<(T, AnswerMeta)>, fetch: Fetch<T>) {
        let now = Instant::now();
        let mut shelf = self.shelf.lock();
        if let Some(held) = shelf.get_mut(&key) {
            // Somebody else asked at the same time, or renewing it fails: its task goes on.
            (held.value, held.asked) = (value, now);
            return;
        }
        if shelf.len() >= MOST
            && let Some(oldest) = shelf.iter().min_by_key(|(_, held)| held.asked).map(|(key, _)| key.clone())
            && let Some(task) = shelf.remove(&oldest).and_then(|held| held.task)
        {
            task.abort();
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let task = tasks.spawn(renew(Arc::clone(&self.shelf), key.clone(), fetch));
        shelf.insert(key, Held { value, lost: None, asked: now, task: Some(task) });
    }
}

async fn renew<T>(shelf: Arc<Shelf<T>>, key: String, fetch: Fetch<T>) {
    let mut failures = 0;
    while let Some(index) = shelf.wanted(&key, Instant::now()) {
        match fetch(index).await {
            Ok(answer) => {
                failures = 0;
                shelf.renewed(&key, Ok(Arc::new(answer)));
                sleep(PACE).await;
            }
            Err(_) => {
                failures += 1;
                shelf.renewed(&key, Err(Instant::now()));
                sleep(backoff(failures, rand::random())).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;

    fn answer(index: u64) -> (u64, AnswerMeta) {
        (index, AnswerMeta { index, known_leader: true, ..AnswerMeta::default() })
    }

    async fn until<F: Future<Output = bool>>(what: &str, mut good: impl FnMut() -> F) {
        let end = Instant::now() + Duration::from_secs(10);
        while !good().await {
            assert!(Instant::now() < end, "{what}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_what_there_is() {
        let (change, now) = watch::channel(1_u64);
        let (reads, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let fetch: Fetch<u64> = {
            let (reads, broken) = (Arc::clone(&reads), Arc::clone(&broken));
            Arc::new(move |index| {
                let (mut now, reads, broken) = (now.clone(), Arc::clone(&reads), Arc::clone(&broken));
                Box::pin(async move {
                    reads.fetch_add(1, Ordering::SeqCst);
                    let found = now.wait_for(|now| *now > index).await.map(|now| *now);
                    match found {
                        Ok(index) if !broken.load(Ordering::SeqCst) => Ok(answer(index)),
                        _ => Err(Failure::internal("no")),
                    }
                })
            })
        };
        let kept = Renewed::default();
        let get = |most| kept.get("k".into(), most, Arc::clone(&fetch));
        assert!(matches!(get(None).await.unwrap(), (value, None) if value.0 == 1), "the first is no hit");
        assert!(matches!(get(None).await.unwrap(), (value, Some(age)) if value.0 == 1 && age.is_zero()));
        change.send_replace(2);
        until("the change", || async { matches!(get(None).await.unwrap(), (value, Some(_)) if value.0 == 2) }).await;
        assert!(matches!(get(Some(Duration::ZERO)).await.unwrap(), (value, None) if value.0 == 2), "max-age=0 asks");
        // The first, its renewal, the one behind the change, and that which was asked for.
        until("the next wait", || async { reads.load(Ordering::SeqCst) == 4 }).await;

        broken.store(true, Ordering::SeqCst);
        change.send_replace(3);
        until("an age", || async { get(None).await.unwrap().1.is_some_and(|age| !age.is_zero()) }).await;
        assert_eq!(get(None).await.unwrap().0.0, 2, "what was known goes on being given");
        assert!(get(Some(Duration::from_nanos(1))).await.is_err(), "but not to whom it is too old");
        broken.store(false, Ordering::SeqCst);
        until("the end of it", || async {
            matches!(get(None).await.unwrap(), (value, Some(age)) if value.0 == 3 && age.is_zero())
        })
        .await;
    }

    #[tokio::test]
    async fn there_is_a_bound() {
        let fetch: Fetch<u64> = Arc::new(|index| {
            Box::pin(async move {
                if index > 0 {
                    std::future::pending::<()>().await;
                }
                Ok(answer(1))
            })
        });
        let kept = Renewed::default();
        for n in 0..MOST + 3 {
            kept.get(format!("{n:03}"), None, Arc::clone(&fetch)).await.unwrap();
        }
        assert_eq!(kept.shelf.lock().len(), MOST);
        assert!(!kept.shelf.lock().contains_key("000"), "the one asked for longest ago went");
        until("their tasks went", || async {
            let mut tasks = kept.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            tasks.len() == MOST
        })
        .await;
    }

    #[tokio::test]
    async fn nobody_asks_any_more() {
        let shelf = Shelf(Mutex::default());
        let asked = Instant::now();
        shelf.lock().insert("k".into(), Held { value: Arc::new(answer(7)), lost: None, asked, task: None });
        assert_eq!(shelf.wanted("k", asked + IDLE / 2), Some(7));
        assert_eq!(shelf.wanted("k", asked + IDLE), None);
        assert!(shelf.lock().is_empty());
    }
}
