//! The files of the data directory: one a service, one a check, one a TTL state. A line of magic, the SHA-256 of the rest, then the
//! rest as protobuf, so that a damaged file is known from a whole one. Pure: bytes in, bytes out.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::catalog;
use prost::Message;
use ring::digest;

use super::definition::{
    CheckDefinition, CheckKind, CheckTls, HttpCheck, ScriptCheck, Secret, ServiceDefinition, Status, Weights,
};
use super::state::{LocalCheck, LocalService, SavedState};

const MAGIC: &[u8] = b"causeway registry 1\n";
const DIGEST: usize = digest::SHA256_OUTPUT_LEN;

/// Why a file's bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// Another format, or a later one.
    #[error("it does not begin as files of this version do")]
    Magic,
    /// Torn or altered.
    #[error("its content does not match its checksum")]
    Checksum,
    /// Written by something else.
    #[error("its content makes no sense: {0}")]
    Content(String),
}

/// Which folder a record lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Folder {
    Services,
    Checks,
    States,
}

impl Folder {
    pub(super) const ALL: [Self; 3] = [Self::Services, Self::Checks, Self::States];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Checks => "checks",
            Self::States => "checks/state",
        }
    }
}

/// A file's name: ids may hold anything, so their digest is taken.
pub(super) fn name(id: &str) -> String {
    let digest = digest::digest(&digest::SHA256, id.as_bytes());
    digest.as_ref().iter().fold(String::with_capacity(2 * DIGEST), |mut text, byte| {
        use std::fmt::Write;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct ServiceRecord {
    #[prost(message, optional, tag = "1")]
    service: Option<catalog::Service>,
    #[prost(string, tag = "2")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct CheckRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    notes: String,
    #[prost(string, tag = "4")]
    service_id: String,
    #[prost(string, tag = "5")]
    kind: String,
    /// URL, `host:port`, shell line, container, unit, or node of an alias, as the kind says.
    #[prost(string, tag = "6")]
    target: String,
    /// Script arguments.
    #[prost(string, repeated, tag = "7")]
    args: Vec<String>,
    #[prost(string, tag = "8")]
    method: String,
    #[prost(btree_map = "string, message", tag = "9")]
    header: BTreeMap<String, catalog::StringList>,
    #[prost(string, tag = "10")]
    body: String,
    #[prost(bool, tag = "11")]
    tls_skip_verify: bool,
    #[prost(bool, tag = "12")]
    disable_redirects: bool,
    #[prost(bool, tag = "13")]
    use_tls: bool,
    #[prost(string, tag = "14")]
    alias_service: String,
    #[prost(uint64, tag = "15")]
    interval_ms: u64,
    #[prost(uint64, tag = "16")]
    timeout_ms: u64,
    #[prost(uint64, tag = "17")]
    ttl_ms: u64,
    #[prost(string, tag = "18")]
    status: String,
    #[prost(uint32, tag = "19")]
    success_before_passing: u32,
    #[prost(uint32, tag = "20")]
    failures_before_critical: u32,
    #[prost(uint64, tag = "21")]
    deregister_after_ms: u64,
    #[prost(uint64, tag = "22")]
    output_max_size: u64,
    #[prost(string, tag = "23")]
    token: String,
    #[prost(string, tag = "24")]
    tls_server_name: String,
    #[prost(uint32, tag = "25")]
    failures_before_warning: u32,
    #[prost(string, tag = "26")]
    shell: String,
}

#[derive(Clone, PartialEq, Message)]
struct StateRecord {
    #[prost(string, tag = "1")]
    check_id: String,
    #[prost(string, tag = "2")]
    status: String,
    #[prost(string, tag = "3")]
    output: String,
    #[prost(uint64, tag = "4")]
    expires_unix_ms: u64,
}

fn seal(record: &impl Message) -> Vec<u8> {
    let body = record.encode_to_vec();
    let mut bytes = Vec::with_capacity(MAGIC.len() + DIGEST + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(digest::digest(&digest::SHA256, &body).as_ref());
    bytes.extend_from_slice(&body);
    bytes
}

fn unseal<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
    let (sum, body) = rest.split_at_checked(DIGEST).ok_or(DecodeError::Checksum)?;
    if digest::digest(&digest::SHA256, body).as_ref() != sum {
        return Err(DecodeError::Checksum);
    }
    M::decode(body).map_err(|e| DecodeError::Content(e.to_string()))
}

pub(super) fn encode_service(service: &LocalService) -> Vec<u8> {
    seal(&ServiceRecord { service: Some(service.service.clone()), token: service.token.0.clone() })
}

pub(super) fn decode_service(bytes: &[u8]) -> Result<ServiceDefinition, DecodeError> {
    let record: ServiceRecord = unseal(bytes)?;
    let service = record.service.ok_or_else(|| DecodeError::Content("no service in it".into()))?;
    Ok(ServiceDefinition {
        id: service.id,
        name: service.name,
        tags: service.tags,
        address: service.address,
        port: service.port,
        tagged_addresses: service.tagged_addresses,
        meta: service.meta,
        weights: service.weights.map(|w| Weights { passing: w.passing, warning: w.warning }),
        enable_tag_override: service.enable_tag_override,
        kind: service.kind,
        socket_path: service.socket_path,
        token: Secret(record.token),
        checks: Vec::new(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn encode_check(check: &LocalCheck) -> Vec<u8> {
    let d = &*check.definition;
    let mut record = CheckRecord {
        id: d.id.clone(),
        name: d.name.clone(),
        notes: d.notes.clone(),
        service_id: d.service_id.clone(),
        kind: d.kind.type_name().to_owned(),
        interval_ms: millis(d.interval),
        timeout_ms: millis(d.timeout),
        ttl_ms: millis(d.ttl),
        status: d.status.map(Status::as_str).unwrap_or_default().to_owned(),
        success_before_passing: d.success_before_passing,
        failures_before_critical: d.failures_before_critical,
        failures_before_warning: d.failures_before_warning,
        deregister_after_ms: millis(d.deregister_critical_service_after),
        output_max_size: d.output_max_size as u64,
        token: d.token.0.clone(),
        ..CheckRecord::default()
    };
    match &d.kind {
        CheckKind::Ttl | CheckKind::Maintenance => {}
        CheckKind::Script(ScriptCheck::Args(args)) => record.args.clone_from(args),
        CheckKind::Script(ScriptCheck::Shell(line)) => record.target.clone_from(line),
        CheckKind::Http(http) => {
            record.target.clone_from(&http.url);
            record.method.clone_from(&http.method);
            record.body.clone_from(&http.body);
            record.tls_skip_verify = http.tls_skip_verify;
            record.tls_server_name.clone_from(&http.tls_server_name);
            record.disable_redirects = http.disable_redirects;
            let list = |v: &Vec<String>| catalog::StringList { values: v.clone() };
            record.header = http.header.iter().map(|(k, v)| (k.clone(), list(v))).collect();
        }
        CheckKind::Udp { address } => record.target.clone_from(address),
        CheckKind::Tcp { address, tls } | CheckKind::Grpc { address, tls } | CheckKind::H2Ping { address, tls } => {
            record.target.clone_from(address);
            record.use_tls = tls.on;
            record.tls_skip_verify = tls.skip_verify;
            record.tls_server_name.clone_from(&tls.server_name);
        }
        CheckKind::Docker { container, shell, script } => {
            record.target.clone_from(container);
            record.shell.clone_from(shell);
            match script {
                ScriptCheck::Args(args) => record.args.clone_from(args),
                ScriptCheck::Shell(line) => record.body.clone_from(line),
            }
        }
        CheckKind::OsService { unit } => record.target.clone_from(unit),
        CheckKind::Alias { node, service } => {
            record.target.clone_from(node);
            record.alias_service.clone_from(service);
        }
    }
    seal(&record)
}

pub(super) fn decode_check(bytes: &[u8]) -> Result<CheckDefinition, DecodeError> {
    let r: CheckRecord = unseal(bytes)?;
    let tls = CheckTls { on: r.use_tls, skip_verify: r.tls_skip_verify, server_name: r.tls_server_name.clone() };
    let kind = match r.kind.as_str() {
        "ttl" => CheckKind::Ttl,
        "maintenance" => CheckKind::Maintenance,
        "script" if r.args.is_empty() => CheckKind::Script(ScriptCheck::Shell(r.target)),
        "script" => CheckKind::Script(ScriptCheck::Args(r.args)),
        "http" => CheckKind::Http(HttpCheck {
            url: r.target,
            method: r.method,
            header: r.header.into_iter().map(|(k, v)| (k, v.values)).collect(),
            body: r.body,
            tls_skip_verify: r.tls_skip_verify,
            tls_server_name: r.tls_server_name,
            disable_redirects: r.disable_redirects,
        }),
        "tcp" => CheckKind::Tcp { address: r.target, tls },
        "udp" => CheckKind::Udp { address: r.target },
        "grpc" => CheckKind::Grpc { address: r.target, tls },
        "h2ping" => CheckKind::H2Ping { address: r.target, tls },
        "docker" => {
            let script = if r.args.is_empty() { ScriptCheck::Shell(r.body) } else { ScriptCheck::Args(r.args) };
            CheckKind::Docker { container: r.target, shell: r.shell, script }
        }
        "os_service" => CheckKind::OsService { unit: r.target },
        "alias" => CheckKind::Alias { node: r.target, service: r.alias_service },
        other => return Err(DecodeError::Content(format!("checks of type {other:?} are not known"))),
    };
    Ok(CheckDefinition {
        id: r.id,
        name: r.name,
        notes: r.notes,
        service_id: r.service_id,
        kind,
        interval: Duration::from_millis(r.interval_ms),
        timeout: Duration::from_millis(r.timeout_ms),
        ttl: Duration::from_millis(r.ttl_ms),
        status: Status::parse(&r.status),
        success_before_passing: r.success_before_passing,
        failures_before_warning: r.failures_before_warning,
        failures_before_critical: r.failures_before_critical,
        deregister_critical_service_after: Duration::from_millis(r.deregister_after_ms),
        output_max_size: usize::try_from(r.output_max_size).unwrap_or(0),
        token: Secret(r.token),
    })
}

/// `left`: how long the state is still good; `unix`: the wall clock, as a restart cannot know how long it took otherwise.
pub(super) fn encode_state(check: &LocalCheck, left: Duration, unix: Duration) -> Vec<u8> {
    seal(&StateRecord {
        check_id: check.check.id.clone(),
        status: check.status.as_str().to_owned(),
        output: check.check.output.clone(),
        expires_unix_ms: millis(unix.saturating_add(left)),
    })
}

/// `Ok(None)`: the state is no longer good.
pub(super) fn decode_state(bytes: &[u8], unix: Duration) -> Result<Option<SavedState>, DecodeError> {
    let record: StateRecord = unseal(bytes)?;
    let status = Status::parse(&record.status)
        .ok_or_else(|| DecodeError::Content(format!("{:?} is no status", record.status)))?;
    let left = Duration::from_millis(record.expires_unix_ms).saturating_sub(unix);
    Ok((!left.is_zero()).then_some(SavedState { check_id: record.check_id, status, output: record.output, left }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::definition::Source;

    fn local(definition: CheckDefinition) -> LocalCheck {
        LocalCheck {
            check: catalog::Check { id: definition.id.clone(), output: "out".into(), ..catalog::Check::default() },
            status: Status::Warning,
            token: definition.token.clone(),
            definition: Arc::new(definition),
            source: Source::Api,
            ttl_deadline: None,
            critical_since: None,
        }
    }

    #[test]
    fn every_kind_of_check_comes_back() {
        let tls = CheckTls { on: true, skip_verify: true, server_name: "n".into() };
        let kinds = [
            CheckKind::Ttl,
            CheckKind::Maintenance,
            CheckKind::Script(ScriptCheck::Args(vec!["a".into(), "b c".into()])),
            CheckKind::Script(ScriptCheck::Shell("a | b".into())),
            CheckKind::Http(HttpCheck {
                url: "https://a/".into(),
                method: "POST".into(),
                header: BTreeMap::from([("K".into(), vec!["1".into(), "2".into()])]),
                body: "b".into(),
                tls_skip_verify: true,
                tls_server_name: "n".into(),
                disable_redirects: true,
            }),
            CheckKind::Tcp { address: "a:1".into(), tls: CheckTls::default() },
            CheckKind::Tcp { address: "a:1".into(), tls: tls.clone() },
            CheckKind::Udp { address: "a:1".into() },
            CheckKind::Grpc { address: "a:1/s".into(), tls: tls.clone() },
            CheckKind::H2Ping { address: "a:1".into(), tls },
            CheckKind::Docker {
                container: "c".into(),
                shell: "/bin/bash".into(),
                script: ScriptCheck::Args(vec!["a".into(), "b".into()]),
            },
            CheckKind::Docker { container: "c".into(), shell: String::new(), script: ScriptCheck::Shell("a".into()) },
            CheckKind::OsService { unit: "sshd".into() },
            CheckKind::Alias { node: "n".into(), service: "s".into() },
        ];
        for kind in kinds {
            let definition = CheckDefinition {
                id: "i".into(),
                name: "n".into(),
                notes: "o".into(),
                service_id: "s".into(),
                kind,
                interval: Duration::from_millis(1500),
                timeout: Duration::from_secs(2),
                ttl: Duration::from_secs(3),
                status: Some(Status::Passing),
                success_before_passing: 4,
                failures_before_warning: 3,
                failures_before_critical: 5,
                deregister_critical_service_after: Duration::from_secs(6),
                output_max_size: 7,
                token: "t".into(),
            };
            assert_eq!(decode_check(&encode_check(&local(definition.clone()))), Ok(definition));
        }
    }

    #[test]
    fn any_altered_byte_is_noticed() {
        let bytes = encode_check(&local(CheckDefinition { id: "i".into(), ..CheckDefinition::default() }));
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x20;
            assert!(decode_check(&bad).is_err(), "byte {i}");
            assert!(decode_check(&bytes[..i]).is_err(), "cut at {i}");
        }
        assert_eq!(decode_check(b""), Err(DecodeError::Magic));
    }

    #[test]
    fn states_end() {
        let (unix, left) = (Duration::from_secs(1000), Duration::from_secs(10));
        let bytes = encode_state(&local(CheckDefinition { id: "i".into(), ..CheckDefinition::default() }), left, unix);
        let after = |s| decode_state(&bytes, unix + Duration::from_secs(s)).unwrap().map(|s| (s.status, s.left));
        assert_eq!(after(0), Some((Status::Warning, left)));
        assert_eq!(after(9), Some((Status::Warning, Duration::from_secs(1))));
        assert_eq!(after(10), None);
    }

    #[test]
    fn names_are_digests() {
        assert_eq!(name("web").len(), 64);
        assert_ne!(name("a/b"), name("a_b"));
    }
}
