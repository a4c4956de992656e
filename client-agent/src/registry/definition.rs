//! Definitions of services and checks, as the HTTP and configuration parts build them. They are unchecked: the registry checks
//! them and answers with Consul's texts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use causeway_proto::catalog::ServiceAddress;

/// Output of a check is cut to this many bytes where the definition does not say (Consul's `check_output_max_size`).
pub const DEFAULT_OUTPUT_MAX_SIZE: usize = 4096;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Status {
    /// Well.
    Passing,
    /// Answers, with something amiss.
    Warning,
    /// Not to be used; what every check is until it has run.
    #[default]
    Critical,
}

impl Status {
    /// As in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    /// Reads a status; `None` where it is none of the three.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "passing" => Some(Self::Passing),
            "warning" => Some(Self::Warning),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An ACL secret; never printed. Empty: none, the agent's own is used.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl Secret {
    /// The secret; `None` where it is empty.
    pub fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(hidden)" })
    }
}

/// Where a definition came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A configuration file: never written to the data directory, wins over what was registered by API.
    Config,
    /// The HTTP API: survives a restart in the data directory.
    Api,
}

/// DNS weights of an instance; Consul's default is one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// While passing, 1 to 65535.
    pub passing: i32,
    /// While warning, 0 to 65535.
    pub warning: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// A service as it is registered. `Default` gives what Consul takes for absent fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceDefinition {
    /// Unique on this agent; empty: the name.
    pub id: String,
    /// What DNS and the catalog know it by; must not be empty.
    pub name: String,
    /// Tags, in the order given.
    pub tags: Vec<String>,
    /// Address; empty: the node's.
    pub address: String,
    /// Port, 0 to 65535; 0: none.
    pub port: i32,
    /// Addresses by name: `lan`, `wan`, `lan_ipv4`, ...
    pub tagged_addresses: BTreeMap<String, ServiceAddress>,
    /// Metadata; at most 64 pairs.
    pub meta: BTreeMap<String, String>,
    /// DNS weights; `None`: one each.
    pub weights: Option<Weights>,
    /// Whether tags may be changed in the catalog by others without being put back by anti-entropy.
    pub enable_tag_override: bool,
    /// Consul's `Kind`; empty for a plain service. Kept as it is.
    pub kind: String,
    /// Path of a Unix socket; empty: none.
    pub socket_path: String,
    /// Its ACL secret.
    pub token: Secret,
    /// Its checks; `service_id` and `token` in them are ignored. Both `check` and `checks` go here, `check` first.
    pub checks: Vec<CheckDefinition>,
}

/// A check of a service, as it stands inside a service definition: a [`CheckDefinition`] whose `service_id` the registry fills in.
pub type CheckType = CheckDefinition;

/// A check as it is registered. `Default` gives what Consul takes for absent fields (a TTL check without its TTL, which is refused).
#[derive(Debug, Clone, PartialEq)]
pub struct CheckDefinition {
    /// Unique on this agent; empty: the name, and for a service's own checks `service:<id>`, or `service:<id>:<n>` from 1 where it has several.
    pub id: String,
    /// For people; empty in a service's own checks: `Service '<name>' check`.
    pub name: String,
    /// For people.
    pub notes: String,
    /// The service it is of; empty: the node.
    pub service_id: String,
    /// What it does.
    pub kind: CheckKind,
    /// How often it runs; zero where it is a TTL or alias check. At least one second is used.
    pub interval: Duration,
    /// How long a run may take; zero: 10 s, for scripts 30 s.
    pub timeout: Duration,
    /// For TTL checks: critical when nothing was heard for this long.
    pub ttl: Duration,
    /// Status until the first run; `None`: critical.
    pub status: Option<Status>,
    /// This many runs in a row must pass before it counts as passing; 0: the first does.
    pub success_before_passing: u32,
    /// This many runs in a row must fail before it counts as warning, at most as many as for critical; 0: as many as for critical.
    pub failures_before_warning: u32,
    /// This many runs in a row must fail before it counts as critical; 0: the first does.
    pub failures_before_critical: u32,
    /// The service is removed when the check was critical for longer than this; zero: never. Less than a minute counts as one.
    pub deregister_critical_service_after: Duration,
    /// Bytes of output kept; 0: [`DEFAULT_OUTPUT_MAX_SIZE`].
    pub output_max_size: usize,
    /// Its ACL secret, for a check of the node.
    pub token: Secret,
}

impl CheckDefinition {
    /// Whether nothing is set in it: Consul takes `"Check": {}` for no check.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for CheckDefinition {
    fn default() -> Self {
        Self {
            id: String::new(),
            name: String::new(),
            notes: String::new(),
            service_id: String::new(),
            kind: CheckKind::Ttl,
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            ttl: Duration::ZERO,
            status: None,
            success_before_passing: 0,
            failures_before_warning: 0,
            failures_before_critical: 0,
            deregister_critical_service_after: Duration::ZERO,
            output_max_size: 0,
            token: Secret::default(),
        }
    }
}

/// What a check does. Who reads a definition with several of them set takes the first of: script (in a container or not), HTTP, TCP,
/// UDP, gRPC, HTTP/2 ping, unit of the system, alias; with none of them it is a TTL check.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum CheckKind {
    /// Waits to be told; critical when it was not for the TTL.
    #[default]
    Ttl,
    /// Runs a program.
    Script(ScriptCheck),
    /// Asks a URL.
    Http(HttpCheck),
    /// Connects to `host:port`.
    Tcp {
        /// `host:port`.
        address: String,
        /// Whether a TLS handshake must succeed as well.
        tls: CheckTls,
    },
    /// Sends a datagram to `host:port`; silence passes.
    Udp {
        /// `host:port`.
        address: String,
    },
    /// Asks the gRPC health service.
    Grpc {
        /// `host:port` or `host:port/service`.
        address: String,
        /// Whether to speak TLS.
        tls: CheckTls,
    },
    /// Sends an HTTP/2 ping.
    H2Ping {
        /// `host:port`.
        address: String,
        /// Whether to speak TLS.
        tls: CheckTls,
    },
    /// Runs a program inside a container of Docker.
    Docker {
        /// Id or name of the container.
        container: String,
        /// Shell for a line; empty: `/bin/sh`.
        shell: String,
        /// What is run.
        script: ScriptCheck,
    },
    /// Asks the service manager of the machine.
    OsService {
        /// Name of the unit.
        unit: String,
    },
    /// Says what another service or node's checks say.
    Alias {
        /// Node name; empty: this node.
        node: String,
        /// Service id; empty: the node's own checks.
        service: String,
    },
    /// Held critical until it is removed: maintenance of a node or service. Only the registry makes these.
    Maintenance,
}

impl CheckKind {
    /// Consul's word for it, as in the catalog's `Type`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Script(_) => "script",
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Udp { .. } => "udp",
            Self::Grpc { .. } => "grpc",
            Self::H2Ping { .. } => "h2ping",
            Self::Docker { .. } => "docker",
            Self::OsService { .. } => "os_service",
            Self::Alias { .. } => "alias",
            Self::Maintenance => "maintenance",
        }
    }
}

/// How a check that may speak TLS does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckTls {
    /// Whether it does.
    pub on: bool,
    /// Whether any certificate will do.
    pub skip_verify: bool,
    /// The name the certificate must have; empty: the host's.
    pub server_name: String,
}

/// A program to run: exit status 0 passes, 1 warns, anything else is critical.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptCheck {
    /// Program and arguments (`args`, `ScriptArgs`).
    Args(Vec<String>),
    /// A line for `/bin/sh -c` (`script`, before Consul 1.0).
    Shell(String),
}

/// A URL to ask: 2xx passes, 429 warns, anything else is critical.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// `http://` or `https://`.
    pub url: String,
    /// Empty: `GET`.
    pub method: String,
    /// Headers, each with its values. They may hold secrets and are not printed.
    pub header: BTreeMap<String, Vec<String>>,
    /// Body; may hold secrets and is not printed.
    pub body: String,
    /// Whether any certificate will do.
    pub tls_skip_verify: bool,
    /// The name the certificate must have; empty: the URL's host.
    pub tls_server_name: String,
    /// Whether a redirect is an answer like another (it is then critical) and not followed. By default up to ten are followed.
    pub disable_redirects: bool,
}

impl fmt::Debug for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCheck")
            .field("url", &self.url)
            .field("method", &self.method)
            .field("header", &self.header.keys())
            .field("tls_skip_verify", &self.tls_skip_verify)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let service = ServiceDefinition {
            token: "s3cret".into(),
            checks: vec![CheckDefinition {
                kind: CheckKind::Http(HttpCheck {
                    header: BTreeMap::from([("Authorization".into(), vec!["s3cret".into()])]),
                    body: "s3cret".into(),
                    ..HttpCheck::default()
                }),
                token: "s3cret".into(),
                ..CheckDefinition::default()
            }],
            ..ServiceDefinition::default()
        };
        assert!(!format!("{service:?}").contains("s3cret"));
    }

    #[test]
    fn statuses() {
        for status in [Status::Passing, Status::Warning, Status::Critical] {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("maintenance"), None);
    }
}
