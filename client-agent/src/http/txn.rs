//! `/v1/txn`.

use causeway_proto::kv::Entry;
use causeway_proto::txn::txn_client::TxnClient;
use causeway_proto::txn::{CheckOp, KvOp, NodeOp, Op, ServiceOp, SessionOp, TxnReply, TxnRequest, op, result};
use http::StatusCode;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask, read};
use super::failure::Failure;
use super::render::{CheckJson, EntryJson, NodeJson, Seq, ServiceJson, Site};
use super::reply::Reply;

/// Most operations in one transaction.
const MAX_OPS: usize = 64;
/// Verbs of KV operations that write.
const KV_WRITES: [&str; 7] = ["set", "cas", "lock", "unlock", "delete", "delete-tree", "delete-cas"];

fn undecoded(error: DecodeError) -> Failure {
    Failure::bad(format!("Failed to parse body: {error}"))
}

/// An inner object that must be there.
fn inner<'a>(fields: &Fields<'a>, name: &str) -> Result<Fields<'a>, DecodeError> {
    fields.object(name)?.ok_or_else(|| DecodeError(format!("operation without {name:?}")))
}

/// One operation and whether it writes; `None`: an empty object, which does nothing.
fn operation(fields: &Fields<'_>) -> Result<Option<(op::Op, bool)>, DecodeError> {
    if let Some(f) = fields.object("KV")? {
        let verb = f.text("Verb")?;
        let writes = KV_WRITES.contains(&verb.as_str());
        let entry = Entry {
            key: f.text("Key")?,
            value: f.bytes("Value")?,
            flags: f.unsigned("Flags")?,
            session: f.text("Session")?,
            modify_index: f.unsigned("Index")?,
            ..Entry::default()
        };
        return Ok(Some((op::Op::Kv(KvOp { verb, entry: Some(entry) }), writes)));
    }
    let writes = |verb: &str| verb != "get";
    if let Some(f) = fields.object("Node")? {
        let verb = f.text("Verb")?;
        let node = decode::catalog_node(&inner(&f, "Node")?, "Meta")?;
        let writes = writes(&verb);
        return Ok(Some((op::Op::Node(NodeOp { verb, node: Some(node) }), writes)));
    }
    if let Some(f) = fields.object("Service")? {
        let verb = f.text("Verb")?;
        let service = decode::catalog_service(&inner(&f, "Service")?)?;
        let writes = writes(&verb);
        let op = ServiceOp { verb, node: f.text("Node")?, service: Some(service) };
        return Ok(Some((op::Op::Service(op), writes)));
    }
    if let Some(f) = fields.object("Check")? {
        let verb = f.text("Verb")?;
        let check = decode::catalog_check(&inner(&f, "Check")?)?;
        let writes = writes(&verb);
        return Ok(Some((op::Op::Check(CheckOp { verb, check: Some(check) }), writes)));
    }
    if let Some(f) = fields.object("Session")? {
        let op = SessionOp { verb: f.text("Verb")?, id: inner(&f, "Session")?.text("ID")? };
        return Ok(Some((op::Op::Session(op), true)));
    }
    Ok(None)
}

/// The request, and whether it writes anything.
pub(super) fn decoded(body: &[u8], max_value: usize) -> Result<(TxnRequest, bool), Failure> {
    let value = decode::parse(body).map_err(undecoded)?;
    let list = match &value {
        serde_json::Value::Null => &[],
        serde_json::Value::Array(list) => list.as_slice(),
        _ => {
            return Err(Failure::bad(
                "Failed to parse body: json: cannot unmarshal object into Go value of type api.TxnOps",
            ));
        }
    };
    if list.len() > MAX_OPS {
        return Err(Failure::too_large(format!(
            "Transaction contains too many operations ({} > {MAX_OPS})",
            list.len()
        )));
    }
    let mut request = TxnRequest::default();
    let mut writes = false;
    for value in list {
        let Some((op, write)) = Fields::of(value, false).and_then(|f| operation(&f)).map_err(undecoded)? else {
            continue;
        };
        if let op::Op::Kv(KvOp { entry: Some(entry), .. }) = &op
            && entry.value.len() > max_value
        {
            return Err(Failure::too_large(format!(
                "Value for key {:?} is too large ({} > {max_value} bytes)",
                entry.key,
                entry.value.len()
            )));
        }
        writes |= write;
        request.ops.push(Op { op: Some(op) });
    }
    Ok((request, writes))
}

struct ResultJson<'a>(&'a result::Result, Site<'a>);

impl Serialize for ResultJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Self(result, site) = self;
        let mut map = s.serialize_map(Some(1))?;
        match result {
            result::Result::Kv(entry) => map.serialize_entry("KV", &EntryJson(entry))?,
            result::Result::Node(node) => map.serialize_entry("Node", &NodeJson(node, *site))?,
            result::Result::Service(service) => {
                map.serialize_entry("Service", &ServiceJson { service, site: *site, tags_null: true })?;
            }
            result::Result::Check(check) => map.serialize_entry("Check", &CheckJson { check, tags_null: true })?,
        }
        map.end()
    }
}

struct ErrorJson<'a>(&'a causeway_proto::txn::OpError);

impl Serialize for ErrorJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("OpIndex", &self.0.op_index)?;
        map.serialize_entry("What", &self.0.what)?;
        map.end()
    }
}

struct ReplyJson<'a> {
    reply: &'a TxnReply,
    site: Site<'a>,
    /// Of a read: since the answering server heard from its leader, and whether it knew one.
    read: Option<(u64, bool)>,
}

impl Serialize for ReplyJson<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        if self.reply.errors.is_empty() {
            let results = self.reply.results.iter().filter_map(|r| r.result.as_ref());
            map.serialize_entry("Results", &Seq(results.map(|r| ResultJson(r, self.site))))?;
            map.serialize_entry("Errors", &())?;
        } else {
            map.serialize_entry("Results", &())?;
            map.serialize_entry("Errors", &Seq(self.reply.errors.iter().map(ErrorJson)))?;
        }
        if let Some((last_contact, known_leader)) = self.read {
            map.serialize_entry("Index", &0)?;
            map.serialize_entry("LastContact", &last_contact)?;
            map.serialize_entry("KnownLeader", &known_leader)?;
            map.serialize_entry("ConsistencyLevel", "")?;
        }
        map.end()
    }
}

pub(crate) async fn apply(call: &Call<'_>) -> Result<Reply, Failure> {
    let (request, writes) = decoded(&call.body, call.ctx.body_limits.kv_max_value_size)?;
    let reply = if writes {
        let meta = call.meta()?;
        let (reply, _) = ask!(call, meta, TxnClient<_>, apply, request)?;
        let body = call.json(&ReplyJson { reply: &reply, site: call.site(&meta), read: None })?;
        (reply.errors.is_empty(), body)
    } else {
        let mut options = call.options()?;
        options.meta.min_index = 0;
        let (reply, answer) = read!(call, &mut options, TxnClient<_>, read, request)?;
        let millis = u64::try_from(answer.last_contact.as_millis()).unwrap_or(u64::MAX);
        let read = Some((millis, answer.known_leader));
        let body = call.json(&ReplyJson { reply: &reply, site: call.site(&options.meta), read })?;
        (reply.errors.is_empty(), body.contact(&answer))
    };
    Ok(match reply {
        (true, body) => body,
        (false, body) => body.status(StatusCode::CONFLICT),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read() {
        let body = br#"[{"KV":{"Verb":"set","Key":"t1","Value":"dg==","Flags":3}},{},
            {"Service":{"Verb":"get","Node":"s1","Service":{"ID":"w"}}},{"Session":{"Verb":"delete","Session":{"ID":"x"}}}]"#;
        let (request, writes) = decoded(body, 100).unwrap();
        assert!(writes);
        assert_eq!(request.ops.len(), 3);
        let Some(op::Op::Kv(kv)) = &request.ops[0].op else { panic!("{request:?}") };
        assert_eq!(
            kv.entry.as_ref().map(|e| (e.key.as_str(), e.value.as_slice(), e.flags)),
            Some(("t1", &b"v"[..], 3))
        );
        assert!(!decoded(br#"[{"KV":{"Verb":"get","Key":"t1"}},{"KV":{"Verb":"bogus","Key":"t1"}}]"#, 9).unwrap().1);
    }

    #[test]
    fn refusals() {
        let many = format!("[{}]", vec!["{}"; 65].join(","));
        for (text, code, why) in [
            ("{", 400, "Failed to parse body: unexpected EOF"),
            (
                r#"[{"KV":{"Verb":"set","Key":"a","Value":"!!"}}]"#,
                400,
                "Failed to parse body: illegal base64 data at input byte 0",
            ),
            (many.as_str(), 413, "Transaction contains too many operations (65 > 64)"),
            (
                r#"[{"KV":{"Verb":"set","Key":"a","Value":"dnZ2"}}]"#,
                413,
                "Value for key \"a\" is too large (3 > 2 bytes)",
            ),
        ] {
            let failure = decoded(text.as_bytes(), 2).unwrap_err();
            assert_eq!((failure.code.as_u16(), failure.text.as_str()), (code, why));
        }
    }
}
