//! Request bodies: JSON with keys in any case (and, where Consul takes them, snake_case), durations as `"15s"` or nanoseconds.
//! Texts are Go's, as clients know them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use causeway_proto::catalog::{self, Node, Service, ServiceAddress, StringList, Weights};
use serde_json::{Map, Value};

use super::duration;
use crate::registry::CheckTls;
use crate::registry::definition::{
    self, CheckDefinition, CheckKind, HttpCheck, ScriptCheck, Secret, ServiceDefinition,
};

/// Why a body could not be read, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DecodeError(pub(crate) String);

/// Parses JSON.
pub(crate) fn parse(body: &[u8]) -> Result<Value, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(DecodeError("EOF".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| {
        DecodeError(match error.classify() {
            serde_json::error::Category::Eof => "unexpected EOF".to_owned(),
            _ => match offending(body, error.line(), error.column()) {
                Some(c) => format!("invalid character {c:?} looking for beginning of value ({error})"),
                None => error.to_string(),
            },
        })
    })
}

/// The character an error points at.
fn offending(body: &[u8], line: usize, column: usize) -> Option<char> {
    let line = body.split(|b| *b == b'\n').nth(line.checked_sub(1)?)?;
    std::str::from_utf8(line.get(column.checked_sub(1)?..)?).ok()?.chars().next()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> DecodeError {
    DecodeError(format!("json: cannot unmarshal {} into Go struct field .{field} of type {wanted}", kind(value)))
}

/// A number that may have a fraction.
pub(crate) fn float(value: &Value, field: &str) -> Result<f64, DecodeError> {
    value.as_f64().ok_or_else(|| mismatch(value, field, "float64"))
}

/// The fields of an object, found by name in any case; `null` counts as absent, as in Go.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    fields: &'a Map<String, Value>,
    snake: bool,
}

impl<'a> Fields<'a> {
    /// An object's fields; `snake`: underscores in names do not count.
    pub(crate) fn of(value: &'a Value, snake: bool) -> Result<Self, DecodeError> {
        match value {
            Value::Object(fields) => Ok(Self { fields, snake }),
            other => Err(DecodeError(format!("json: cannot unmarshal {} into Go value of type struct", kind(other)))),
        }
    }

    fn is(&self, key: &str, name: &str) -> bool {
        if key.len() == name.len() {
            return key.eq_ignore_ascii_case(name);
        }
        self.snake
            && key
                .bytes()
                .filter(|b| *b != b'_')
                .map(|b| b.to_ascii_lowercase())
                .eq(name.bytes().map(|b| b.to_ascii_lowercase()))
    }

    /// A field by its Consul name; the last one wins, as in Go.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.iter().rfind(|(key, _)| self.is(key, name)).map(|(_, v)| v).filter(|v| !v.is_null())
    }

    /// Refuses fields that none of these names names.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), DecodeError> {
        match self.fields.keys().find(|key| !known.iter().any(|name| self.is(key, name))) {
            Some(key) => Err(DecodeError(format!("json: unknown field {key:?}"))),
            None => Ok(()),
        }
    }

    pub(crate) fn text(&self, name: &str) -> Result<String, DecodeError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => Err(mismatch(other, name, "string")),
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, DecodeError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(mismatch(other, name, "bool")),
        }
    }

    pub(crate) fn int(&self, name: &str) -> Result<i32, DecodeError> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => {
                value.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| mismatch(value, name, "int"))
            }
        }
    }

    pub(crate) fn unsigned(&self, name: &str) -> Result<u64, DecodeError> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| mismatch(value, name, "uint64")),
        }
    }

    /// `"15s"`, or nanoseconds; what is negative counts as none.
    pub(crate) fn duration(&self, name: &str) -> Result<Duration, DecodeError> {
        Ok(Duration::from_nanos(u64::try_from(self.nanos(name)?).unwrap_or(0)))
    }

    fn nanos(&self, name: &str) -> Result<i64, DecodeError> {
        Ok(match self.get(name) {
            None => 0,
            Some(Value::String(s)) if s.is_empty() => 0,
            Some(Value::String(s)) => duration::parse_nanos(s).map_err(|e| DecodeError(e.to_string()))?,
            #[allow(clippy::cast_possible_truncation, reason = "Go truncates here too; `as` saturates")]
            Some(Value::Number(n)) => n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or_default() as i64),
            Some(other) => return Err(mismatch(other, name, "time.Duration")),
        })
    }

    pub(crate) fn list(&self, name: &str) -> Result<&'a [Value], DecodeError> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(mismatch(other, name, "[]string")),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, DecodeError> {
        self.list(name)?
            .iter()
            .map(|value| match value {
                Value::String(s) => Ok(s.clone()),
                Value::Null => Ok(String::new()),
                other => Err(mismatch(other, name, "string")),
            })
            .collect()
    }

    fn map<V>(
        &self,
        name: &str,
        mut read: impl FnMut(&'a Value) -> Result<V, DecodeError>,
    ) -> Result<BTreeMap<String, V>, DecodeError> {
        match self.get(name) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(fields)) => fields.iter().map(|(k, v)| Ok((k.clone(), read(v)?))).collect(),
            Some(other) => Err(mismatch(other, name, "map[string]string")),
        }
    }

    pub(crate) fn text_map(&self, name: &str) -> Result<BTreeMap<String, String>, DecodeError> {
        self.map(name, |value| match value {
            Value::String(s) => Ok(s.clone()),
            Value::Null => Ok(String::new()),
            other => Err(mismatch(other, name, "string")),
        })
    }

    /// A nested object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, DecodeError> {
        self.get(name).map(|value| Fields::of(value, self.snake)).transpose()
    }

    /// Bytes in base64.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>, DecodeError> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(s)) => STANDARD.decode(s).map_err(|error| {
                let offset = match error {
                    base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => s.len(),
                };
                DecodeError(format!("illegal base64 data at input byte {offset}"))
            }),
            Some(other) => Err(mismatch(other, name, "[]uint8")),
        }
    }

    fn addresses(&self) -> Result<BTreeMap<String, ServiceAddress>, DecodeError> {
        let snake = self.snake;
        self.map("TaggedAddresses", |value| {
            let fields = Fields::of(value, snake)?;
            Ok(ServiceAddress { address: fields.text("Address")?, port: fields.int("Port")? })
        })
    }

    fn weights(&self) -> Result<Option<(i32, i32)>, DecodeError> {
        self.object("Weights")?.map(|w| Ok((w.int("Passing")?, w.int("Warning")?))).transpose()
    }

    fn header(&self) -> Result<BTreeMap<String, Vec<String>>, DecodeError> {
        self.map("Header", |value| match value {
            Value::Array(list) => list
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| mismatch(v, "Header", "string")))
                .collect(),
            other => Err(mismatch(other, "Header", "[]string")),
        })
    }
}

/// What a service registration may hold; the later ones belong to parts of Consul that are not ours, and are passed over.
const SERVICE_FIELDS: &[&str] = &[
    "ID",
    "Name",
    "Tags",
    "Address",
    "Port",
    "TaggedAddresses",
    "Meta",
    "Weights",
    "EnableTagOverride",
    "Kind",
    "SocketPath",
    "Token",
    "Check",
    "Checks",
    "Proxy",
    "Connect",
    "Namespace",
    "Partition",
    "Locality",
    "Ports",
];
const CHECK_FIELDS: &[&str] = &[
    "ID",
    "CheckID",
    "Name",
    "Notes",
    "ServiceID",
    "Token",
    "Status",
    "Args",
    "ScriptArgs",
    "HTTP",
    "Header",
    "Method",
    "Body",
    "DisableRedirects",
    "TCP",
    "TCPUseTLS",
    "UDP",
    "Interval",
    "AliasNode",
    "AliasService",
    "DockerContainerID",
    "Shell",
    "GRPC",
    "GRPCUseTLS",
    "H2PING",
    "H2PingUseTLS",
    "OSService",
    "TLSServerName",
    "TLSSkipVerify",
    "Timeout",
    "TTL",
    "SuccessBeforePassing",
    "FailuresBeforeWarning",
    "FailuresBeforeCritical",
    "DeregisterCriticalServiceAfter",
    "OutputMaxSize",
    "ProxyHTTP",
    "ProxyGRPC",
    "Namespace",
    "Partition",
    "Type",
    "Definition",
];

/// Reads a status; Consul's own words are the caller's.
fn status(fields: &Fields<'_>, refused: &str) -> Result<Option<definition::Status>, DecodeError> {
    match fields.text("Status")?.as_str() {
        "" => Ok(None),
        text => definition::Status::parse(text).map(Some).ok_or_else(|| DecodeError(refused.to_owned())),
    }
}

/// A status that is none of the three, told apart because Consul does not call it a failure to decode.
pub(crate) const BAD_CHECK_STATUS: &str = "Bad check status";
/// A check inside a service of which only a time below zero is set; told apart in the same way.
pub(crate) const BAD_SERVICE_CHECK_TTL: &str = "Invalid check: TTL must be > 0 for TTL checks";
/// The same inside a service.
pub(crate) const BAD_SERVICE_CHECK_STATUS: &str = "Status for checks must 'passing', 'warning', 'critical'";

/// Less than nothing is kept of an output: told apart for the same reason.
pub(crate) const BAD_OUTPUT_SIZE: &str = "Invalid check: MaxOutputMaxSize must be positive";

/// A check in a registration with the agent.
pub(crate) fn check(value: &Value, refused_status: &str) -> Result<CheckDefinition, DecodeError> {
    let f = Fields::of(value, true)?;
    f.only(CHECK_FIELDS)?;
    let number = |name| f.int(name).map(|n| u32::try_from(n).unwrap_or(0));
    let first = |a: String, b: String| if a.is_empty() { b } else { a };
    let mut args = f.texts("Args")?;
    if args.is_empty() {
        args = f.texts("ScriptArgs")?;
    }
    let (http, tcp, udp, grpc) = (f.text("HTTP")?, f.text("TCP")?, f.text("UDP")?, f.text("GRPC")?);
    let (alias_node, alias_service) = (f.text("AliasNode")?, f.text("AliasService")?);
    let (h2ping, unit, container) = (f.text("H2PING")?, f.text("OSService")?, f.text("DockerContainerID")?);
    let (tls_skip_verify, tls_server_name) = (f.flag("TLSSkipVerify")?, f.text("TLSServerName")?);
    let tls = |on| CheckTls { on, skip_verify: tls_skip_verify, server_name: tls_server_name.clone() };
    let kind = if !args.is_empty() && !container.is_empty() {
        CheckKind::Docker { container, shell: f.text("Shell")?, script: ScriptCheck::Args(args) }
    } else if !args.is_empty() {
        CheckKind::Script(ScriptCheck::Args(args))
    } else if !http.is_empty() {
        CheckKind::Http(HttpCheck {
            url: http,
            method: f.text("Method")?,
            header: f.header()?,
            body: f.text("Body")?,
            tls_skip_verify,
            tls_server_name,
            disable_redirects: f.flag("DisableRedirects")?,
        })
    } else if !tcp.is_empty() {
        CheckKind::Tcp { address: tcp, tls: tls(f.flag("TCPUseTLS")?) }
    } else if !udp.is_empty() {
        CheckKind::Udp { address: udp }
    } else if !grpc.is_empty() {
        CheckKind::Grpc { address: grpc, tls: tls(f.flag("GRPCUseTLS")?) }
    } else if !h2ping.is_empty() {
        // Unlike the others it speaks TLS where nothing is said.
        let on = f.get("H2PingUseTLS").is_none() || f.flag("H2PingUseTLS")?;
        CheckKind::H2Ping { address: h2ping, tls: tls(on) }
    } else if !unit.is_empty() {
        CheckKind::OsService { unit }
    } else if !alias_node.is_empty() || !alias_service.is_empty() {
        CheckKind::Alias { node: alias_node, service: alias_service }
    } else {
        CheckKind::Ttl
    };
    Ok(CheckDefinition {
        id: first(f.text("CheckID")?, f.text("ID")?),
        name: f.text("Name")?,
        notes: f.text("Notes")?,
        service_id: f.text("ServiceID")?,
        kind,
        interval: f.duration("Interval")?,
        timeout: f.duration("Timeout")?,
        ttl: f.duration("TTL")?,
        status: status(&f, refused_status)?,
        success_before_passing: number("SuccessBeforePassing")?,
        failures_before_warning: number("FailuresBeforeWarning")?,
        failures_before_critical: number("FailuresBeforeCritical")?,
        deregister_critical_service_after: f.duration("DeregisterCriticalServiceAfter")?,
        output_max_size: usize::try_from(f.int("OutputMaxSize")?)
            .map_err(|_| DecodeError(BAD_OUTPUT_SIZE.to_owned()))?,
        token: Secret(f.text("Token")?),
    })
}

/// A check inside a service; `None`: nothing is set in it. A time below zero is something, and nothing that a check can be made of.
fn service_check(value: &Value) -> Result<Option<CheckDefinition>, DecodeError> {
    let read = check(value, BAD_SERVICE_CHECK_STATUS)?;
    if !read.is_empty() {
        return Ok(Some(read));
    }
    let f = Fields::of(value, true)?;
    let times = ["Interval", "Timeout", "TTL", "DeregisterCriticalServiceAfter"];
    if times.iter().any(|name| f.nanos(name).is_ok_and(|nanos| nanos < 0)) {
        return Err(DecodeError(BAD_SERVICE_CHECK_TTL.to_owned()));
    }
    Ok(None)
}

/// A service in a registration with the agent.
pub(crate) fn service(value: &Value) -> Result<ServiceDefinition, DecodeError> {
    let f = Fields::of(value, true)?;
    f.only(SERVICE_FIELDS)?;
    let checks = f
        .get("Check")
        .into_iter()
        .chain(f.list("Checks")?)
        .filter(|value| !value.is_null())
        .filter_map(|value| service_check(value).transpose())
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ServiceDefinition {
        id: f.text("ID")?,
        name: f.text("Name")?,
        tags: f.texts("Tags")?,
        address: f.text("Address")?,
        port: f.int("Port")?,
        tagged_addresses: f.addresses()?,
        meta: f.text_map("Meta")?,
        weights: f.weights()?.map(|(passing, warning)| definition::Weights { passing, warning }),
        enable_tag_override: f.flag("EnableTagOverride")?,
        kind: f.text("Kind")?,
        socket_path: f.text("SocketPath")?,
        token: Secret(f.text("Token")?),
        checks,
    })
}

/// A node as the catalog takes it: of a registration (`node_meta`: its metadata is called so there) or a transaction.
pub(crate) fn catalog_node(f: &Fields<'_>, meta: &str) -> Result<Node, DecodeError> {
    Ok(Node {
        id: f.text("ID")?,
        name: f.text("Node")?,
        address: f.text("Address")?,
        tagged_addresses: f.text_map("TaggedAddresses")?,
        meta: f.text_map(meta)?,
        create_index: 0,
        modify_index: f.unsigned("ModifyIndex")?,
    })
}

/// A service as the catalog takes it; the id defaults to the name, weights to one each.
pub(crate) fn catalog_service(f: &Fields<'_>) -> Result<Service, DecodeError> {
    let name = f.text("Service")?;
    let id = f.text("ID")?;
    let (passing, warning) = f.weights()?.unwrap_or((1, 1));
    Ok(Service {
        id: if id.is_empty() { name.clone() } else { id },
        name,
        tags: f.texts("Tags")?,
        address: f.text("Address")?,
        port: f.int("Port")?,
        tagged_addresses: f.addresses()?,
        meta: f.text_map("Meta")?,
        weights: Some(Weights { passing, warning }),
        enable_tag_override: f.flag("EnableTagOverride")?,
        kind: f.text("Kind")?,
        socket_path: f.text("SocketPath")?,
        create_index: 0,
        modify_index: f.unsigned("ModifyIndex")?,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A check as the catalog takes it; the id defaults to the name. Its type follows from its definition, as in Consul.
pub(crate) fn catalog_check(f: &Fields<'_>) -> Result<catalog::Check, DecodeError> {
    let definition = f
        .object("Definition")?
        .map(|d| {
            Ok(catalog::CheckDefinition {
                http: d.text("HTTP")?,
                tcp: d.text("TCP")?,
                method: d.text("Method")?,
                header: d.header()?.into_iter().map(|(name, values)| (name, StringList { values })).collect(),
                body: d.text("Body")?,
                tls_skip_verify: d.flag("TLSSkipVerify")?,
                interval_ms: millis(d.duration("Interval")?),
                timeout_ms: millis(d.duration("Timeout")?),
                deregister_critical_service_after_ms: millis(d.duration("DeregisterCriticalServiceAfter")?),
                udp: d.text("UDP")?,
                grpc: d.text("GRPC")?,
            })
        })
        .transpose()?;
    let mut kind = f.text("Type")?;
    if kind.is_empty() {
        kind = match &definition {
            Some(d) if !d.http.is_empty() => "http",
            Some(d) if !d.tcp.is_empty() => "tcp",
            _ => "",
        }
        .to_owned();
    }
    let name = f.text("Name")?;
    let id = f.text("CheckID")?;
    Ok(catalog::Check {
        node: f.text("Node")?,
        id: if id.is_empty() { name.clone() } else { id },
        name,
        status: f.text("Status")?,
        notes: f.text("Notes")?,
        output: f.text("Output")?,
        service_id: f.text("ServiceID")?,
        service_name: f.text("ServiceName")?,
        service_tags: f.texts("ServiceTags")?,
        r#type: kind,
        definition,
        create_index: 0,
        modify_index: f.unsigned("ModifyIndex")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service_of(text: &str) -> Result<ServiceDefinition, String> {
        parse(text.as_bytes()).and_then(|v| service(&v)).map_err(|e| e.0)
    }

    #[test]
    fn services_in_any_spelling() {
        let wanted = ServiceDefinition {
            id: "w1".into(),
            name: "web".into(),
            tags: vec!["a".into()],
            port: 80,
            enable_tag_override: true,
            meta: BTreeMap::from([("Big_Key".to_owned(), "v".to_owned())]),
            weights: Some(definition::Weights { passing: 3, warning: 1 }),
            checks: vec![CheckDefinition {
                ttl: Duration::from_secs(15),
                deregister_critical_service_after: Duration::from_secs(5400),
                ..CheckDefinition::default()
            }],
            ..ServiceDefinition::default()
        };
        for text in [
            r#"{"ID":"w1","Name":"web","Tags":["a"],"Port":80,"EnableTagOverride":true,"Meta":{"Big_Key":"v"},
                "Weights":{"Passing":3,"Warning":1},"Check":{"TTL":"15s","DeregisterCriticalServiceAfter":"90m"}}"#,
            r#"{"id":"w1","name":"web","tags":["a"],"port":80,"enable_tag_override":true,"meta":{"Big_Key":"v"},
                "weights":{"passing":3,"warning":1},"checks":[{"ttl":15000000000,"deregister_critical_service_after":"90m"}],"Check":null}"#,
        ] {
            assert_eq!(service_of(text), Ok(wanted.clone()));
        }
    }

    #[test]
    fn kinds_of_checks() {
        for (text, kind) in [
            (r#"{"HTTP":"http://a"}"#, "http"),
            (r#"{"tcp":"a:1"}"#, "tcp"),
            (r#"{"Args":["true"]}"#, "script"),
            (r#"{"script_args":["true"]}"#, "script"),
            (r#"{"alias_service":"web"}"#, "alias"),
            (r#"{"grpc":"a:1"}"#, "grpc"),
            (r#"{"UDP":"a:1"}"#, "udp"),
            (r#"{"H2PING":"a:1"}"#, "h2ping"),
            (r#"{"OSService":"sshd"}"#, "os_service"),
            (r#"{"DockerContainerID":"c","Shell":"/bin/bash","Args":["a"]}"#, "docker"),
            (r#"{"DockerContainerID":"c","TTL":"5s"}"#, "ttl"),
            (r#"{"TTL":"5s"}"#, "ttl"),
        ] {
            assert_eq!(check(&parse(text.as_bytes()).unwrap(), "").unwrap().kind.type_name(), kind, "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, why) in [
            ("", "EOF"),
            ("{", "unexpected EOF"),
            (r#"{"Name":"x","Check":{"TTL":"zz"}}"#, "time: invalid duration \"zz\""),
            (r#"{"Name":"x","Port":"80"}"#, "json: cannot unmarshal string into Go struct field .Port of type int"),
            (r#"{"Name":"x","Bogus":1}"#, "json: unknown field \"Bogus\""),
            (r#"{"Name":"x","Check":{"Script":"true"}}"#, "json: unknown field \"Script\""),
            (
                r#"{"Name":"x","Meta":{"a":1}}"#,
                "json: cannot unmarshal number into Go struct field .Meta of type string",
            ),
            (r#"{"Name":"x","Check":{"Status":"bogus","TTL":"5s"}}"#, BAD_SERVICE_CHECK_STATUS),
            (r#"{"Name":"x","Check":{"TTL":"-5s"}}"#, BAD_SERVICE_CHECK_TTL),
            (r#"{"Name":5}"#, "json: cannot unmarshal number into Go struct field .Name of type string"),
        ] {
            assert_eq!(service_of(text), Err(why.to_owned()), "{text}");
        }
        assert!(service_of("[]").unwrap_err().starts_with("json: cannot unmarshal array into Go value of type struct"));
        assert!(service_of("notjson").unwrap_err().starts_with("invalid character 'o'"));
    }

    #[test]
    fn catalog_entries_have_defaults() {
        let value = parse(br#"{"Service":"bs"}"#).unwrap();
        let service = catalog_service(&Fields::of(&value, false).unwrap()).unwrap();
        assert_eq!((service.id.as_str(), service.weights), ("bs", Some(Weights { passing: 1, warning: 1 })));
        let value = parse(br#"{"Name":"c","Definition":{"TCP":"a:1","Interval":"5s"}}"#).unwrap();
        let check = catalog_check(&Fields::of(&value, false).unwrap()).unwrap();
        assert_eq!((check.id.as_str(), check.r#type.as_str()), ("c", "tcp"));
        assert_eq!(check.definition.unwrap().interval_ms, 5000);
    }

    #[test]
    fn bytes_are_base64() {
        let value = parse(br#"{"Value":"!!"}"#).unwrap();
        let error = Fields::of(&value, false).unwrap().bytes("Value").unwrap_err();
        assert_eq!(error.0, "illegal base64 data at input byte 0");
    }
}
