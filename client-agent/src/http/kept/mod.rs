//! Answers of servers kept for `?cached` of endpoints that have no view: the services of a datacenter are renewed with every change
//! ([`driver`]), the datacenters, which cannot be waited for, are at most a few seconds old. They say how old they are.

mod driver;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::catalog::ServicesReply;
use causeway_proto::meta::AnswerMeta;
use http::{HeaderMap, HeaderName, header};

use self::driver::{Fetch, Renewed};
use super::failure::Failure;
use super::reply::Reply;

/// How long an answer is good.
const GOOD: Duration = Duration::from_secs(3);
/// Most answers kept, of each endpoint.
const MOST: usize = 64;
const CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Answers of one endpoint, by what was asked.
struct Shelf<T>(Mutex<BTreeMap<String, (Instant, Arc<T>)>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Shelf<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, Arc<T>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept and not older than this, with its age.
    fn get(&self, key: &str, now: Instant, most: Duration) -> Option<(Arc<T>, Duration)> {
        let shelf = self.lock();
        let (at, value) = shelf.get(key)?;
        let age = now.saturating_duration_since(*at);
        (age < most).then(|| (Arc::clone(value), age))
    }

    fn put(&self, key: String, now: Instant, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut shelf = self.lock();
        if shelf.len() >= MOST {
            shelf.retain(|_, (at, _)| now.saturating_duration_since(*at) < GOOD);
        }
        if shelf.len() < MOST {
            shelf.insert(key, (now, Arc::clone(&value)));
        }
        value
    }

    /// What is kept, else what the servers answer; with its age where it was kept.
    async fn or_ask<F>(
        &self,
        key: String,
        now: Instant,
        headers: &HeaderMap,
        ask: F,
    ) -> Result<(Arc<T>, Option<Duration>), Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        if let Some((value, age)) = self.get(&key, now, max_age(headers).map_or(GOOD, |most| GOOD.min(most))) {
            return Ok((value, Some(age)));
        }
        Ok((self.put(key, now, ask.await?), None))
    }
}

/// `Cache-Control: max-age=N` of the request.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let control = headers.get(header::CACHE_CONTROL).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let named = control.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse().ok());
    named.map(Duration::from_secs)
}

/// All that is kept.
#[derive(Default, Clone)]
pub struct Kept(Arc<Shelves>);

#[derive(Default)]
struct Shelves {
    services: Renewed<ServicesReply>,
    datacenters: Shelf<Vec<String>>,
}

impl Kept {
    /// The services of a datacenter, kept current.
    pub(super) async fn services(
        &self,
        key: String,
        headers: &HeaderMap,
        fetch: Fetch<ServicesReply>,
    ) -> Result<(Arc<(ServicesReply, AnswerMeta)>, Option<Duration>), Failure> {
        self.0.services.get(key, max_age(headers), fetch).await
    }

    /// The datacenters there are, as of a moment ago.
    pub(super) async fn datacenters<F>(
        &self,
        now: Instant,
        headers: &HeaderMap,
        ask: F,
    ) -> Result<(Arc<Vec<String>>, Option<Duration>), Failure>
    where
        F: Future<Output = Result<Vec<String>, Failure>>,
    {
        self.0.datacenters.or_ask(String::new(), now, headers, ask).await
    }
}

/// Consul's headers of an answer out of its cache.
pub(super) fn headed(reply: Reply, age: Option<Duration>) -> Reply {
    match age {
        Some(age) => reply.header(CACHE, "HIT").header(header::AGE, &age.as_secs().to_string()),
        None => reply.header(CACHE, "MISS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do")]
    fn answers_are_kept_for_a_moment_and_not_without_end() {
        let (shelf, now) = (Shelf::default(), Instant::now());
        shelf.put("a".into(), now, 1);
        let later = now + Duration::from_secs(2);
        assert_eq!(shelf.get("a", later, GOOD).map(|(v, age)| (*v, age)), Some((1, Duration::from_secs(2))));
        assert_eq!(shelf.get("a", later, Duration::from_secs(1)), None);
        assert_eq!(shelf.get("a", now + GOOD, GOOD), None);
        for n in 0..2 * MOST {
            shelf.put(n.to_string(), now, 1);
        }
        assert_eq!(shelf.lock().len(), MOST);
        shelf.put("b".into(), now + GOOD, 2);
        assert_eq!(shelf.lock().len(), 1);
        let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, http::HeaderValue::from_static("x, max-age=1"))]);
        assert_eq!((max_age(&headers), max_age(&HeaderMap::new())), (Some(Duration::from_secs(1)), None));
    }
}
