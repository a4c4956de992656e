//! `/v1/operator/keyring`: the keys of gossip, in every datacenter at once.
//!
//! Consul answers with nothing at all where a single datacenter does not answer. Here a list has what is known, and says of the rest why
//! it is not there; a change that did not reach everybody fails and names those that it did not reach, as Consul's does.

use std::collections::BTreeMap;

use causeway_proto::catalog::DatacentersRequest;
use causeway_proto::catalog::catalog_client::CatalogClient;
use causeway_proto::keyring::keyrings_client::KeyringsClient;
use causeway_proto::keyring::{OperateReply, OperateRequest, Verb};
use causeway_proto::meta::Meta;
use http::Method;
use serde::Serialize;

use super::decode::{self, DecodeError, Fields};
use super::dispatch::{Call, ask};
use super::failure::Failure;
use super::query::{Params, parse_bool};
use super::reply::Reply;

/// A datacenter's keys. There is no gossip between datacenters, so that none is marked `WAN`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pool<'a> {
    #[serde(rename = "WAN")]
    wan: bool,
    datacenter: &'a str,
    segment: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    messages: &'a BTreeMap<String, String>,
    keys: &'a BTreeMap<String, u32>,
    primary_keys: &'a BTreeMap<String, u32>,
    num_nodes: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

/// Consul's list of errors; `None`: there are none.
fn errors(replies: &[OperateReply]) -> Option<String> {
    let mut all = Vec::new();
    for reply in replies.iter().filter(|r| !r.error.is_empty()) {
        all.push(format!("{} (LAN) error: {}", reply.datacenter, reply.error));
        all.extend(reply.messages.iter().map(|(node, text)| format!("{node}: {text}")));
    }
    let plural = if all.len() == 1 { "" } else { "s" };
    let lines: String = all.iter().map(|line| format!("\t* {line}\n")).collect();
    (!all.is_empty()).then(|| format!("{} error{plural} occurred:\n{lines}\n", all.len()))
}

fn relay_factor(params: &Params) -> Result<u32, Failure> {
    let text = params.get("relay-factor");
    if text.is_empty() {
        return Ok(0);
    }
    let number: i64 = text.parse().map_err(|_| {
        Failure::bad(format!("Bad request: Error parsing relay factor: strconv.Atoi: parsing {text:?}: invalid syntax"))
    })?;
    let range = "Bad request: Invalid relay-factor: Relay factor must be in range: [0, 5]";
    u32::try_from(number).ok().filter(|n| *n <= 5).ok_or_else(|| Failure::bad(range))
}

fn local_only(params: &Params, verb: Verb) -> Result<bool, Failure> {
    let text = params.get("local-only");
    if text.is_empty() {
        return Ok(false);
    }
    let only = parse_bool(text).ok_or_else(|| {
        Failure::bad(format!(
            "Bad request: Error parsing local-only: strconv.ParseBool: parsing {text:?}: invalid syntax"
        ))
    })?;
    if only && verb != Verb::List {
        return Err(Failure::bad(
            "Bad request: Invalid use of local-only: local-only can only be set for list requests",
        ));
    }
    Ok(only)
}

fn key(body: &[u8]) -> Result<String, DecodeError> {
    let value = decode::parse(body)?;
    let fields = Fields::of(&value, false)?;
    fields.only(&["Key", "Token", "RelayFactor", "LocalOnly"])?;
    fields.text("Key")
}

/// The answer of one datacenter; where there is none, why.
async fn of_datacenter(call: &Call<'_>, meta: Meta, request: OperateRequest) -> OperateReply {
    let datacenter = meta.datacenter.clone().unwrap_or_else(|| call.ctx.info.datacenter.clone());
    match ask!(call, meta, KeyringsClient<_>, operate, request) {
        Ok((reply, _)) => reply,
        Err(failure) => OperateReply { datacenter, error: failure.text, ..OperateReply::default() },
    }
}

/// `/v1/operator/keyring`.
pub(crate) async fn keyring(call: &Call<'_>) -> Result<Reply, Failure> {
    let verb = match *call.method {
        Method::POST => Verb::Install,
        Method::PUT => Verb::Use,
        Method::DELETE => Verb::Remove,
        _ => Verb::List,
    };
    let undecoded = |error| Failure::bad(format!("Bad request: Request decode failed: {error}"));
    let key = if verb == Verb::List { String::new() } else { key(&call.body).map_err(undecoded)? };
    let relay_factor = relay_factor(&call.params)?;
    let own = Meta { datacenter: None, ..call.meta()? };
    let mut metas = vec![own.clone()];
    if !local_only(&call.params, verb)? {
        let (all, _) = ask!(call, own, CatalogClient<_>, datacenters, DatacentersRequest {})?;
        let others = all.datacenters.into_iter().filter(|dc| *dc != call.ctx.info.datacenter);
        metas.extend(others.map(|dc| Meta { datacenter: Some(dc), ..own.clone() }));
    }
    let request = OperateRequest { verb: verb.into(), key, relay_factor };
    let asked = metas.into_iter().map(|meta| of_datacenter(call, meta, request.clone()));
    let replies = futures::future::join_all(asked).await;
    let nothing = replies.iter().all(|reply| reply.keys.is_empty());
    if let Some(text) = errors(&replies).filter(|_| verb != Verb::List || nothing) {
        return Err(Failure::internal(text));
    }
    if verb != Verb::List {
        return Ok(Reply::empty());
    }
    let pools: Vec<_> = replies
        .iter()
        .map(|reply| Pool {
            wan: false,
            datacenter: &reply.datacenter,
            segment: "",
            messages: &reply.messages,
            keys: &reply.keys,
            primary_keys: &reply.primary_keys,
            num_nodes: reply.nodes,
            error: &reply.error,
        })
        .collect();
    call.json(&pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_as_consul_lists_them() {
        let good = OperateReply { datacenter: "dc1".into(), ..OperateReply::default() };
        assert_eq!(errors(std::slice::from_ref(&good)), None);
        let bad = OperateReply {
            datacenter: "dc2".into(),
            error: "1/2 nodes reported failure".into(),
            messages: [("n1".to_owned(), "Removing the primary key is not allowed".to_owned())].into(),
            ..OperateReply::default()
        };
        let wanted = "2 errors occurred:\n\t* dc2 (LAN) error: 1/2 nodes reported failure\n\t* n1: Removing the primary key is not allowed\n\n";
        assert_eq!(errors(&[good, bad.clone()]).as_deref(), Some(wanted));
        let alone = OperateReply { messages: BTreeMap::new(), ..bad };
        assert!(errors(&[alone]).unwrap().starts_with("1 error occurred:\n"));
    }

    #[test]
    fn parameters_and_consuls_texts() {
        let relay = |q: &str| relay_factor(&Params::parse(q)).map_err(|f| f.text);
        assert_eq!([relay(""), relay("relay-factor=5")], [Ok(0), Ok(5)]);
        let text = "Bad request: Invalid relay-factor: Relay factor must be in range: [0, 5]";
        assert_eq!([relay("relay-factor=6"), relay("relay-factor=-1")], [Err(text.into()), Err(text.into())]);
        let text = "Bad request: Error parsing relay factor: strconv.Atoi: parsing \"x\": invalid syntax";
        assert_eq!(relay("relay-factor=x"), Err(text.into()));
        let local = |q: &str, verb| local_only(&Params::parse(q), verb).map_err(|f| f.text);
        assert_eq!([local("local-only", Verb::Use), local("local-only=1", Verb::List)], [Ok(false), Ok(true)]);
        let text = "Bad request: Invalid use of local-only: local-only can only be set for list requests";
        assert_eq!(local("local-only=true", Verb::Install), Err(text.into()));
        assert!(key(b"{\"key\": \"a\"}").is_ok_and(|k| k == "a") && key(b"{\"Foo\": 1}").is_err());
    }
}
