//! What a watch is, read from an object with Consul's keys and refused with Consul's words; the request that asks for it, and what
//! handlers get of the answer. Pure.

pub mod progress;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::Map;
pub use serde_json::Value;

use super::duration;
use crate::registry::{HttpCheck, Secret};

/// How long an HTTP handler may take where its configuration does not say.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys every watch may have.
const COMMON: &[&str] = &["type", "datacenter", "token", "handler_type", "http_handler_config", "handler", "args"];

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One key.
    Key(String),
    /// All keys with this beginning.
    KeyPrefix(String),
    /// The names of all services, with their tags.
    Services,
    /// All nodes.
    Nodes,
    /// The instances of a service.
    Service {
        /// Its name.
        name: String,
        /// Tags an instance must have, all of them.
        tags: Vec<String>,
        /// Whether only those are meant whose checks all pass.
        passing_only: bool,
    },
    /// The checks of a service, or where that is empty those in a state.
    Checks {
        /// Name of a service; may be empty.
        service: String,
        /// `any`, `passing`, `warning` or `critical`.
        state: String,
    },
    /// User events of this name; empty: all.
    Event(String),
}

/// What is looked at, where, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// What.
    pub kind: Kind,
    /// Empty: the agent's own.
    pub datacenter: String,
    /// ACL secret; empty: the agent's own.
    pub token: Secret,
    /// Whether any server's answer will do.
    pub stale: bool,
}

/// What is done with a new answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// Runs program and arguments; the answer is on standard input.
    Args(Vec<String>),
    /// Runs a line of the shell.
    Shell(String),
    /// Sends it.
    Http {
        /// Where and how; its body is the answer's.
        request: HttpCheck,
        /// How long that may take.
        timeout: Duration,
    },
}

/// A watch with its handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is looked at.
    pub watch: Watch,
    /// What is done.
    pub handler: Handler,
}

/// Why an object is no watch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A watch of the mesh, which Causeway leaves out.
    #[error("Watch type {0} is not allowed in agent config")]
    Connect(String),
    /// Anything else, in Consul's words.
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(text: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::Invalid(text.into()))
}

struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn text(&self, key: &str) -> Result<String, PlanError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => invalid(format!("Expecting {key} to be a string")),
        }
    }

    fn on(&self, key: &str) -> Result<bool, PlanError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => invalid(format!("Expecting {key} to be a boolean")),
        }
    }

    /// A text, or a list of texts.
    fn texts(&self, key: &str) -> Result<Vec<String>, PlanError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                Ok(list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
            }
            Some(_) => invalid(format!("Expecting {key} to be a string or []string")),
        }
    }

    fn needed(&self, key: &str, what: &str) -> Result<String, PlanError> {
        match self.text(key)? {
            text if text.is_empty() => invalid(format!("Must specify a single {what} to watch")),
            text => Ok(text),
        }
    }
}

impl Watch {
    /// Reads type and parameters; `handler`, `args` and the like are passed over.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, PlanError> {
        let keys = Keys(object);
        let type_name = keys.text("type")?;
        if type_name.starts_with("connect_") || type_name == "agent_service" {
            return Err(PlanError::Connect(type_name));
        }
        let (kind, own): (Kind, &[&str]) = match type_name.as_str() {
            "" => return invalid("Watch type must be specified"),
            "key" => (Kind::Key(keys.needed("key", "key")?), &["key", "stale"]),
            "keyprefix" => (Kind::KeyPrefix(keys.needed("prefix", "prefix")?), &["prefix", "stale"]),
            "services" => (Kind::Services, &["stale"]),
            "nodes" => (Kind::Nodes, &["stale"]),
            "service" => {
                let name = keys.needed("service", "service")?;
                let kind = Kind::Service { name, tags: keys.texts("tag")?, passing_only: keys.on("passingonly")? };
                (kind, &["service", "tag", "passingonly", "stale"])
            }
            "checks" => {
                let (service, mut state) = (keys.text("service")?, keys.text("state")?);
                if !service.is_empty() && !state.is_empty() {
                    return invalid("Cannot specify service and state");
                }
                if state.is_empty() {
                    "any".clone_into(&mut state);
                }
                (Kind::Checks { service, state }, &["service", "state", "stale"])
            }
            "event" => (Kind::Event(keys.text("name")?), &["name"]),
            other => return invalid(format!("Unsupported watch type: {other}")),
        };
        let left: Vec<&str> =
            object.keys().map(String::as_str).filter(|k| !COMMON.contains(k) && !own.contains(k)).collect();
        if !left.is_empty() {
            return invalid(format!("Invalid parameters: [{}]", left.join(" ")));
        }
        Ok(Self {
            kind,
            datacenter: keys.text("datacenter")?,
            token: Secret(keys.text("token")?),
            stale: keys.on("stale")?,
        })
    }

    /// Path and query of the request that waits until the answer is newer than the index; the token is no part of it.
    pub fn path(&self, index: u64, wait: Duration) -> String {
        let mut query = Vec::new();
        let mut path = match &self.kind {
            Kind::Key(key) => format!("/v1/kv/{}", escape(key)),
            Kind::KeyPrefix(prefix) => {
                query.push("recurse".to_owned());
                format!("/v1/kv/{}", escape(prefix))
            }
            Kind::Services => "/v1/catalog/services".to_owned(),
            Kind::Nodes => "/v1/catalog/nodes".to_owned(),
            Kind::Service { name, tags, passing_only } => {
                query.extend(tags.iter().map(|tag| format!("tag={}", escape(tag))));
                if *passing_only {
                    query.push("passing".to_owned());
                }
                format!("/v1/health/service/{}", escape(name))
            }
            Kind::Checks { service, state } if service.is_empty() => format!("/v1/health/state/{}", escape(state)),
            Kind::Checks { service, .. } => format!("/v1/health/checks/{}", escape(service)),
            Kind::Event(name) => {
                if !name.is_empty() {
                    query.push(format!("name={}", escape(name)));
                }
                "/v1/event/list".to_owned()
            }
        };
        if !self.datacenter.is_empty() && !matches!(self.kind, Kind::Event(_)) {
            query.push(format!("dc={}", escape(&self.datacenter)));
        }
        if self.stale {
            query.push("stale".to_owned());
        }
        query.push(format!("index={index}&wait={}s", wait.as_secs()));
        path.push('?');
        path.push_str(&query.join("&"));
        path
    }

    /// The answer's body as handlers get it. A key that is not there is `null`.
    pub fn data(&self, status: u16, body: &[u8]) -> Result<Value, String> {
        let keys = matches!(self.kind, Kind::Key(_) | Kind::KeyPrefix(_));
        if status == 404 && keys {
            return Ok(Value::Null);
        }
        if !(200..300).contains(&status) {
            return Err(format!("Unexpected response code: {status} ({})", String::from_utf8_lossy(body).trim()));
        }
        let value: Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        Ok(match (&self.kind, value) {
            (Kind::Key(_), Value::Array(list)) => list.into_iter().next().map_or(Value::Null, pair),
            (Kind::KeyPrefix(_), Value::Array(list)) => Value::Array(list.into_iter().map(pair).collect()),
            (_, value) => value,
        })
    }
}

/// A key in the order of Consul's own client, which handlers have always been given; without a lock its session is there, empty.
fn pair(found: Value) -> Value {
    let mut out = Map::new();
    for name in ["Key", "CreateIndex", "ModifyIndex", "LockIndex", "Flags", "Value"] {
        out.insert(name.to_owned(), found.get(name).cloned().unwrap_or_default());
    }
    out.insert("Session".to_owned(), found.get("Session").cloned().unwrap_or_else(|| Value::String(String::new())));
    Value::Object(out)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(b)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
}

impl Plan {
    /// Reads a watch of a configuration file.
    pub fn parse(object: &Map<String, Value>) -> Result<Self, PlanError> {
        let keys = Keys(object);
        let http = match object.get("handler_type") {
            None => false,
            Some(Value::String(text)) if text == "script" => false,
            Some(Value::String(text)) if text == "http" => true,
            Some(Value::String(text)) => return invalid(format!("Handler type '{text}' not recognized")),
            Some(other) => return invalid(format!("Handler type '{other}' not recognized")),
        };
        let watch = Watch::parse(object)?;
        let (line, args) = (object.get("handler"), object.get("args"));
        if line.is_some_and(|v| !v.is_string()) {
            return invalid("Watch handler must be a string");
        }
        if [line.is_some(), args.is_some(), http].iter().filter(|on| **on).count() > 1 {
            return invalid("Only one watch handler allowed");
        }
        let handler = if http {
            http_handler(object.get("http_handler_config"))?
        } else if args.is_some() {
            let args =
                keys.texts("args").map_err(|_| PlanError::Invalid("Watch args must be a list of strings".into()))?;
            if args.is_empty() {
                return invalid("Watch args must name a program");
            }
            Handler::Args(args)
        } else if line.is_some() {
            Handler::Shell(keys.text("handler")?)
        } else {
            return invalid("Must define a watch handler");
        };
        Ok(Self { watch, handler })
    }
}

fn http_handler(config: Option<&Value>) -> Result<Handler, PlanError> {
    // An HCL block is read as a list of one.
    let config = match config {
        Some(Value::Array(list)) if list.len() == 1 => list.first(),
        other => other,
    };
    let object = match config {
        None | Some(Value::Null) => return invalid("Handler type 'http' requires 'http_handler_config' to be set"),
        Some(Value::Object(object)) => object,
        Some(_) => return invalid("Failed to parse 'http_handler_config': it must be an object"),
    };
    let keys = Keys(object);
    if let Some(key) =
        object.keys().find(|k| !["path", "method", "timeout", "header", "tls_skip_verify"].contains(&k.as_str()))
    {
        return invalid(format!("Failed to parse 'http_handler_config': invalid key {key:?}"));
    }
    let url = keys.text("path")?;
    if url.is_empty() {
        return invalid("Requires 'path' to be set");
    }
    let timeout = match keys.text("timeout")? {
        text if text.is_empty() => HTTP_TIMEOUT,
        text => match duration::parse(&text) {
            Ok(timeout) if !timeout.is_zero() => timeout,
            _ => return invalid(format!("Failed to parse 'http_handler_config': time: invalid duration {text:?}")),
        },
    };
    let mut header = BTreeMap::new();
    match object.get("header") {
        None | Some(Value::Null) => {}
        Some(Value::Object(fields)) => {
            for name in fields.keys() {
                header.insert(name.clone(), Keys(fields).texts(name)?);
            }
        }
        Some(_) => return invalid("Failed to parse 'http_handler_config': header must be an object of lists"),
    }
    let method = match keys.text("method")? {
        text if text.is_empty() => "POST".to_owned(),
        text => text,
    };
    let tls_skip_verify = keys.on("tls_skip_verify")?;
    Ok(Handler::Http { request: HttpCheck { url, method, header, tls_skip_verify, ..HttpCheck::default() }, timeout })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(value: Value) -> Result<Plan, String> {
        let Value::Object(object) = value else { return Err("no object".into()) };
        Plan::parse(&object).map_err(|e| e.to_string())
    }

    fn path(mut value: Value) -> String {
        value["args"] = json!(["true"]);
        plan(value).unwrap().watch.path(7, Duration::from_secs(300))
    }

    #[test]
    fn what_is_asked() {
        for (value, wanted) in [
            (json!({"type":"key","key":"a/b c","stale":true}), "/v1/kv/a/b%20c?stale&"),
            (json!({"type":"keyprefix","prefix":"a/","datacenter":"dc2"}), "/v1/kv/a/?recurse&dc=dc2&"),
            (json!({"type":"services"}), "/v1/catalog/services?"),
            (json!({"type":"nodes"}), "/v1/catalog/nodes?"),
            (
                json!({"type":"service","service":"web","tag":["a","b"],"passingonly":true}),
                "/v1/health/service/web?tag=a&tag=b&passing&",
            ),
            (json!({"type":"service","service":"web","tag":"a"}), "/v1/health/service/web?tag=a&"),
            (json!({"type":"checks"}), "/v1/health/state/any?"),
            (json!({"type":"checks","state":"critical"}), "/v1/health/state/critical?"),
            (json!({"type":"checks","service":"web"}), "/v1/health/checks/web?"),
            (json!({"type":"event","name":"deploy"}), "/v1/event/list?name=deploy&"),
        ] {
            assert_eq!(path(value), format!("{wanted}index=7&wait=300s"));
        }
    }

    /// Texts recorded from Consul 1.8.7.
    #[test]
    fn refusals() {
        let http = json!({"path": "http://a/", "method": "PUT", "timeout": "3s"});
        for (value, wanted) in [
            (json!({}), "Watch type must be specified"),
            (json!({"type":"bogus"}), "Unsupported watch type: bogus"),
            (json!({"type":"key"}), "Must specify a single key to watch"),
            (json!({"type":"keyprefix"}), "Must specify a single prefix to watch"),
            (json!({"type":"service"}), "Must specify a single service to watch"),
            (json!({"type":"checks","service":"a","state":"b"}), "Cannot specify service and state"),
            (json!({"type":"nodes"}), "Must define a watch handler"),
            (json!({"type":"nodes","handler":"x","args":["x"]}), "Only one watch handler allowed"),
            (json!({"type":"nodes","handler":5}), "Watch handler must be a string"),
            (json!({"type":"nodes","handler":"x","key":"k"}), "Invalid parameters: [key]"),
            (json!({"type":"nodes","handler_type":"mail"}), "Handler type 'mail' not recognized"),
            (
                json!({"type":"nodes","handler_type":"http"}),
                "Handler type 'http' requires 'http_handler_config' to be set",
            ),
            (json!({"type":"nodes","handler_type":"http","http_handler_config":{}}), "Requires 'path' to be set"),
            (
                json!({"type":"nodes","handler_type":"http","args":["x"],"http_handler_config":http}),
                "Only one watch handler allowed",
            ),
            (json!({"type":"connect_roots","args":["x"]}), "Watch type connect_roots is not allowed in agent config"),
        ] {
            assert_eq!(plan(value.clone()).unwrap_err(), wanted, "{value}");
        }
    }

    #[test]
    fn http_handlers() {
        let config = json!({"path":"http://a/","header":{"X-A":["1","2"]},"tls_skip_verify":true});
        let read = plan(json!({"type":"nodes","handler_type":"http","http_handler_config":[config]})).unwrap();
        let Handler::Http { request, timeout } = read.handler else { panic!("{read:?}") };
        assert_eq!((request.method.as_str(), request.tls_skip_verify, timeout), ("POST", true, HTTP_TIMEOUT));
        assert_eq!(request.header["X-A"], ["1", "2"]);
    }

    #[test]
    fn what_handlers_get() {
        let watch = |value| plan(value).unwrap().watch;
        let key = watch(json!({"type":"key","key":"a","args":["x"]}));
        let body = br#"[{"LockIndex":0,"Key":"a","Flags":0,"Value":"eDx5","CreateIndex":14,"ModifyIndex":15}]"#;
        assert_eq!(
            key.data(200, body).unwrap().to_string(),
            r#"{"Key":"a","CreateIndex":14,"ModifyIndex":15,"LockIndex":0,"Flags":0,"Value":"eDx5","Session":""}"#
        );
        assert_eq!(key.data(404, b"").unwrap(), Value::Null);
        assert_eq!(
            key.data(500, b"No cluster leader\n").unwrap_err(),
            "Unexpected response code: 500 (No cluster leader)"
        );
        let nodes = watch(json!({"type":"nodes","args":["x"]}));
        assert!(nodes.data(404, b"").is_err(), "only keys may be missing");
    }
}
