//! `/v1/session/*`.

use std::time::Duration;

use causeway_proto::session::sessions_client::SessionsClient;
use causeway_proto::session::{
    CreateRequest, DestroyRequest, GetRequest, ListRequest, RenewRequest, Session, SessionsReply,
};
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::duration;
use super::failure::Failure;
use super::render::{Seq, SessionJson};
use super::reply::Reply;

const DEFAULT_LOCK_DELAY: Duration = Duration::from_secs(15);
/// A lock delay below this is meant in seconds: old clients send bare numbers.
const LOCK_DELAY_IN_SECONDS: Duration = Duration::from_nanos(1000);
/// The check of a node's life, which sessions hang on where they do not say otherwise.
const NODE_CHECK: &str = "serfHealth";

#[derive(Serialize)]
struct Id<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

fn millis(duration: Duration) -> u64 {
    // Rounded up: a delay of half a millisecond is not none.
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Request decode failed: {error}"))
}

/// Names of service checks: objects with an `ID`, or plain names.
fn service_checks(fields: &Fields<'_>) -> Result<Vec<String>, DecodeError> {
    fields
        .list("ServiceChecks")?
        .iter()
        .map(|value| match value {
            Value::String(id) => Ok(id.clone()),
            other => Fields::of(other, false)?.text("ID"),
        })
        .collect()
}

pub(super) fn decoded(body: &[u8], own_node: &str) -> Result<Session, Failure> {
    let none = Value::Object(serde_json::Map::new());
    let value = if body.is_empty() { none } else { decode::parse(body).map_err(undecoded)? };
    let fields = Fields::of(&value, false).map_err(undecoded)?;
    let mut lock_delay = match fields.get("LockDelay") {
        None => DEFAULT_LOCK_DELAY,
        Some(_) => fields.duration("LockDelay").map_err(undecoded)?,
    };
    if lock_delay < LOCK_DELAY_IN_SECONDS {
        lock_delay = Duration::from_secs(u64::try_from(lock_delay.as_nanos()).unwrap_or(0));
    }
    let ttl = fields.text("TTL").map_err(undecoded)?;
    let ttl_ms = match ttl.as_str() {
        "" => 0,
        text => {
            millis(duration::parse(text).map_err(|e| Failure::internal(format!("Session TTL '{text}' invalid: {e}")))?)
        }
    };
    let node_checks = match (fields.get("NodeChecks"), fields.get("Checks")) {
        (Some(_), None) => fields.texts("NodeChecks"),
        // The older name; where both are there, an empty one empties both.
        (None, Some(_)) => fields.texts("Checks"),
        (Some(_), Some(old)) if old.as_array().is_some_and(Vec::is_empty) => Ok(Vec::new()),
        (Some(_), Some(_)) => fields.texts("NodeChecks"),
        (None, None) => Ok(vec![NODE_CHECK.to_owned()]),
    };
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    Ok(Session {
        name: fields.text("Name").map_err(undecoded)?,
        node: or(fields.text("Node").map_err(undecoded)?, own_node),
        lock_delay_ms: millis(lock_delay),
        behavior: or(fields.text("Behavior").map_err(undecoded)?, "release"),
        ttl_ms,
        node_checks: node_checks.map_err(undecoded)?,
        service_checks: service_checks(&fields).map_err(undecoded)?,
        ..Session::default()
    })
}

pub(crate) async fn create(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let session = decoded(&call.body, &call.ctx.info.node_name)?;
    let request = CreateRequest { session: Some(session) };
    let (reply, _) = ask!(call, meta, SessionsClient<_>, create, request)?;
    call.json(&Id { id: &reply.id })
}

pub(crate) async fn destroy(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let request = DestroyRequest { id: call.named("Missing session")?.to_owned() };
    ask!(call, meta, SessionsClient<_>, destroy, request)?;
    call.json(&true)
}

fn list_of(call: &Call<'_>, reply: &SessionsReply) -> Result<Reply, Failure> {
    call.json(&Seq(reply.sessions.iter().map(SessionJson)))
}

pub(crate) async fn renew(call: &Call<'_>) -> Result<Reply, Failure> {
    let meta = call.meta()?;
    let id = call.named("Missing session")?.to_owned();
    let (reply, _) = ask!(call, meta, SessionsClient<_>, renew, RenewRequest { id: id.clone() })?;
    if reply.sessions.is_empty() {
        return Err(Failure::not_found(format!("Session id '{id}' not found")));
    }
    list_of(call, &reply)
}

pub(crate) async fn info(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = GetRequest { id: call.named("Missing session")?.to_owned() };
    let (reply, answer) = read!(call, &mut options, SessionsClient<_>, get, request)?;
    Ok(list_of(call, &reply)?.meta(&answer))
}

pub(crate) async fn node(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ListRequest { node: call.named("Missing node name")?.to_owned() };
    let (reply, answer) = read!(call, &mut options, SessionsClient<_>, list, request)?;
    Ok(list_of(call, &reply)?.meta(&answer))
}

pub(crate) async fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    let mut options = call.options()?;
    let request = ListRequest { node: String::new() };
    let (reply, answer) = read!(call, &mut options, SessionsClient<_>, list, request)?;
    Ok(list_of(call, &reply)?.meta(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_have_defaults() {
        let session = decoded(b"", "s1").unwrap();
        assert_eq!((session.node.as_str(), session.behavior.as_str()), ("s1", "release"));
        assert_eq!((session.lock_delay_ms, session.ttl_ms), (15_000, 0));
        assert_eq!(session.node_checks, ["serfHealth"]);
    }

    #[test]
    fn sessions_as_clients_write_them() {
        let of = |text: &str| decoded(text.as_bytes(), "s1").unwrap();
        let s =
            of(r#"{"name":"s","ttl":"20s","lockdelay":"0.001s","behavior":"delete","serviceChecks":[{"ID":"a"},"b"]}"#);
        assert_eq!((s.ttl_ms, s.lock_delay_ms, s.behavior.as_str()), (20_000, 1, "delete"));
        assert_eq!(s.service_checks, ["a", "b"]);
        assert_eq!(of(r#"{"LockDelay":7}"#).lock_delay_ms, 7_000);
        assert_eq!(of(r#"{"LockDelay":7000000000}"#).lock_delay_ms, 7_000);
        assert_eq!(of(r#"{"LockDelay":"0s"}"#).lock_delay_ms, 0);
        assert_eq!(of(r#"{"lock_delay":0.5}"#).lock_delay_ms, 15_000);
        assert!(of(r#"{"Checks":[]}"#).node_checks.is_empty());
        assert_eq!(of(r#"{"Checks":["zz"]}"#).node_checks, ["zz"]);
    }

    #[test]
    fn refusals() {
        for (text, code, why) in [
            ("{", 400, "Request decode failed: unexpected EOF"),
            (r#"{"TTL":"x"}"#, 500, "Session TTL 'x' invalid: time: invalid duration \"x\""),
        ] {
            let failure = decoded(text.as_bytes(), "s1").unwrap_err();
            assert_eq!((failure.code.as_u16(), failure.text.as_str()), (code, why));
        }
    }
}
