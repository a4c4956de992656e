//! Keys and sessions of an agent, as `lock` and `exec` need them: Consul's client package in small.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::api::{Api, ApiError, escape, text};

pub use causeway_agent::exec::join;

/// TTL of sessions that a command makes, in the API's words; Consul's.
pub const TTL: &str = "15s";
/// How often one is renewed: half its TTL.
pub const RENEW_EVERY: Duration = Duration::from_millis(7_500);
/// How long a session that cannot be renewed counts as one that is there: its TTL.
const LOST_AFTER: Duration = Duration::from_secs(15);
/// Between two tries to renew.
const RENEW_AGAIN: Duration = Duration::from_secs(1);

/// One key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// What it holds.
    pub value: Vec<u8>,
    /// Whose it is: of locks and semaphores, a mark.
    pub flags: u64,
    /// The session that holds it; empty: none.
    pub session: String,
    /// Its last change; 0: it is not there.
    pub modified: u64,
}

/// When a read is answered.
#[derive(Debug, Clone, Copy, Default)]
pub struct When {
    /// After a change beyond this index; 0: at once.
    pub index: u64,
    /// Then for so long at most.
    pub wait: Duration,
    /// Whether the leader makes sure that it is one.
    pub consistent: bool,
}

impl When {
    fn query(&self) -> String {
        let mut query = String::new();
        if self.index > 0 {
            query.push_str(&format!("&index={}", self.index));
        }
        if !self.wait.is_zero() {
            query.push_str(&format!("&wait={}ms", self.wait.as_millis().max(1)));
        }
        if self.consistent {
            query.push_str("&consistent");
        }
        query
    }
}

/// A change that holds only under a condition.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// Nobody else has it: the session gets it.
    Acquire(&'a str),
    /// The session has it, and gives it back.
    Release(&'a str),
    /// It is as it was at this index; 0: it is not there.
    Unchanged(u64),
}

/// Reads one key; with it the index to wait beyond.
pub async fn get(api: &Api, key: &str, when: When) -> Result<(Option<Pair>, u64), ApiError> {
    let path = format!("/v1/kv/{}?{}", escape(key, true), when.query());
    let (mut pairs, index) = pairs(api, &path).await?;
    Ok((pairs.pop(), index))
}

/// Reads all keys that begin like this.
pub async fn list(api: &Api, prefix: &str, when: When) -> Result<(Vec<Pair>, u64), ApiError> {
    pairs(api, &format!("/v1/kv/{}?recurse{}", escape(prefix, true), when.query())).await
}

async fn pairs(api: &Api, path: &str) -> Result<(Vec<Pair>, u64), ApiError> {
    let answer = api.ask("GET", path, "").await?;
    let index = answer.index;
    if answer.code == 404 {
        return Ok((Vec::new(), index));
    }
    let list = answer.json()?;
    let pair = |v: &Value| -> Result<Pair, ApiError> {
        let value = STANDARD.decode(v["Value"].as_str().unwrap_or_default());
        Ok(Pair {
            key: text(v, "Key"),
            value: value.map_err(|e| ApiError::Unreadable(format!("the value of a key: {e}")))?,
            flags: v["Flags"].as_u64().unwrap_or(0),
            session: text(v, "Session"),
            modified: v["ModifyIndex"].as_u64().unwrap_or(0),
        })
    };
    let pairs = list.as_array().into_iter().flatten().map(pair).collect::<Result<_, _>>()?;
    Ok((pairs, index))
}

/// The names of all keys that begin like this, and the index to wait beyond.
pub async fn keys(api: &Api, prefix: &str, when: When) -> Result<(Vec<String>, u64), ApiError> {
    let answer = api.ask("GET", &format!("/v1/kv/{}?keys{}", escape(prefix, true), when.query()), "").await?;
    let index = answer.index;
    if answer.code == 404 {
        return Ok((Vec::new(), index));
    }
    let names = answer.json()?;
    Ok((names.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect(), index))
}

/// Writes a key if the condition holds; says whether it did.
pub async fn put(api: &Api, key: &str, flags: u64, condition: Condition<'_>, value: Vec<u8>) -> Result<bool, ApiError> {
    let condition = match condition {
        Condition::Acquire(session) => format!("acquire={session}"),
        Condition::Release(session) => format!("release={session}"),
        Condition::Unchanged(index) => format!("cas={index}"),
    };
    let answer = api.ask("PUT", &format!("/v1/kv/{}?flags={flags}&{condition}", escape(key, true)), value).await?;
    Ok(answer.ok()?.starts_with(b"true"))
}

/// Deletes a key, where an index is given only if it is as it was then.
pub async fn delete(api: &Api, key: &str, unchanged: Option<u64>) -> Result<bool, ApiError> {
    let condition = unchanged.map(|index| format!("cas={index}")).unwrap_or_default();
    let answer = api.ask("DELETE", &format!("/v1/kv/{}?{condition}", escape(key, true)), "").await?;
    Ok(answer.ok()?.starts_with(b"true"))
}

/// Deletes all keys that begin like this.
pub async fn delete_tree(api: &Api, prefix: &str) -> Result<(), ApiError> {
    api.ask("DELETE", &format!("/v1/kv/{}?recurse", escape(prefix, true)), "").await?.ok().map(|_| ())
}

/// Makes a session of this description; its ID.
pub async fn create_session(api: &Api, session: &Value) -> Result<String, ApiError> {
    let made = api.ask("PUT", "/v1/session/create", session.to_string()).await?.json()?;
    match made["ID"].as_str() {
        Some(id) if !id.is_empty() => Ok(id.to_owned()),
        _ => Err(ApiError::Unreadable(json!({"a session without an ID": made}).to_string())),
    }
}

/// Ends a session, and with it what it holds.
pub async fn destroy_session(api: &Api, id: &str) -> Result<(), ApiError> {
    api.ask("PUT", &format!("/v1/session/destroy/{}", escape(id, false)), "").await?.ok().map(|_| ())
}

/// Keeps a session alive; ends when it is lost: because it is gone, or could not be renewed in its TTL.
pub async fn keep_session(api: &Api, id: &str) -> ApiError {
    let path = format!("/v1/session/renew/{}", escape(id, false));
    let mut renewed = tokio::time::Instant::now();
    let mut wait = RENEW_EVERY;
    loop {
        tokio::time::sleep(wait).await;
        let answer = tokio::time::timeout(LOST_AFTER, api.ask("PUT", &path, "")).await;
        wait = RENEW_AGAIN;
        let error = match answer {
            Ok(Ok(answer)) if answer.code == 404 => return ApiError::Settings("the session is gone".to_owned()),
            Ok(answer) => match answer.and_then(super::api::Answer::ok) {
                Ok(_) => {
                    (renewed, wait) = (tokio::time::Instant::now(), RENEW_EVERY);
                    continue;
                }
                Err(error) => error,
            },
            Err(_) => ApiError::Settings("the session cannot be renewed in time".to_owned()),
        };
        if renewed.elapsed() >= LOST_AFTER {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_say_when() {
        assert_eq!(When::default().query(), "");
        let when = When { index: 7, wait: Duration::from_secs(2), consistent: true };
        assert_eq!(when.query(), "&index=7&wait=2000ms&consistent");
    }
}
