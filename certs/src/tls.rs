//! What `causeway tls ca create` and `causeway tls cert create` do: Consul's file names, numbers and texts.

mod driver;

use std::net::IpAddr;
use std::path::PathBuf;

use crate::authority::IssueError;
pub use crate::issue::Kind;

pub use driver::{DevFiles, create_ca, create_cert, issue_for_dev};

/// Why nothing (more) was made; the text is for the user.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The options make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A file is there and is not overwritten.
    #[error("{0} already exists.")]
    Exists(String),
    /// A file cannot be read or written.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Options of `tls ca create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaOptions {
    /// `-domain`; the file's name starts with it.
    pub domain: String,
    /// `-days`, from now on.
    pub days: u32,
    /// `-name-constraint`: the authority may issue for `domain`, `localhost` and the additional ones only.
    pub name_constraint: bool,
    /// `-additional-name-constraint`; only with `name_constraint`.
    pub additional_name_constraints: Vec<String>,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            domain: "consul".to_owned(),
            days: 1825,
            name_constraint: false,
            additional_name_constraints: Vec::new(),
        }
    }
}

/// Options of `tls cert create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertOptions {
    /// `-server`, `-client`, `-cli` or `-gateway`; see [`kind`].
    pub kind: Kind,
    /// `-dc`.
    pub datacenter: String,
    /// `-domain`.
    pub domain: String,
    /// `-ca`; default `<domain>-agent-ca.pem`.
    pub ca: Option<PathBuf>,
    /// `-key`; default `<domain>-agent-ca-key.pem`.
    pub key: Option<PathBuf>,
    /// `-days`, from now on.
    pub days: u32,
    /// `-additional-dnsname`.
    pub additional_dnsnames: Vec<String>,
    /// `-additional-ipaddress`.
    pub additional_ipaddresses: Vec<IpAddr>,
    /// `-node`; only with `-server`.
    pub node: Option<String>,
}

impl CertOptions {
    /// The defaults for a kind.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            datacenter: "dc1".to_owned(),
            domain: "consul".to_owned(),
            ca: None,
            key: None,
            days: 365,
            additional_dnsnames: Vec::new(),
            additional_ipaddresses: Vec::new(),
            node: None,
        }
    }
}

/// The kind of certificate that the flags ask for; exactly one must be set.
pub fn kind(server: bool, client: bool, cli: bool, gateway: bool) -> Result<Kind, TlsError> {
    match (server, client, cli, gateway) {
        (true, false, false, false) => Ok(Kind::Server),
        (false, true, false, false) => Ok(Kind::Client),
        (false, false, true, false) => Ok(Kind::Cli),
        (false, false, false, true) => Ok(Kind::Gateway),
        _ => Err(TlsError::Usage("Please provide either -server, -client, -cli, or -gateway".to_owned())),
    }
}

/// What is printed before a certificate is made that gives much power.
fn warning(kind: Kind) -> Vec<String> {
    let lines: &[&str] = match kind {
        Kind::Server => &[
            "==> WARNING: Server Certificates grants authority to become a",
            "    server and access all state in the cluster including root keys",
            "    and all ACL tokens. Do not distribute them to production hosts",
            "    that are not server nodes. Store them as securely as CA keys.",
        ],
        Kind::Gateway => &[
            "==> WARNING: Gateway Certificates grant authority to speak for a",
            "    datacenter to all others of the federation. Do not distribute",
            "    them to hosts that are not gateways of that datacenter. Store",
            "    them as securely as CA keys.",
        ],
        Kind::Client | Kind::Cli => &[],
    };
    lines.iter().map(|&l| l.to_owned()).collect()
}

/// Refuses what cannot be part of a file's name and of a DNS name.
fn check_label(what: &str, value: &str, dots: bool) -> Result<(), TlsError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (dots && c == '.');
    if value.is_empty() || value.len() > 128 || !value.chars().all(fits) || value.starts_with(['.', '-']) {
        return Err(TlsError::Usage(format!(
            "{what} {value:?}: only letters, digits, - and _ can be in a name of a certificate"
        )));
    }
    Ok(())
}

/// The options with the datacenter as it is known in the cluster: in small letters.
fn check(options: &CertOptions) -> Result<CertOptions, TlsError> {
    if options.node.is_some() && options.kind != Kind::Server {
        return Err(TlsError::Usage("-node requires -server".to_owned()));
    }
    check_label("-dc", &options.datacenter, false)?;
    check_label("-domain", &options.domain, true)?;
    if let Some(node) = &options.node {
        check_label("-node", node, true)?;
    }
    Ok(CertOptions { datacenter: options.datacenter.to_ascii_lowercase(), ..options.clone() })
}

fn ca_files(domain: &str) -> (String, String) {
    (format!("{domain}-agent-ca.pem"), format!("{domain}-agent-ca-key.pem"))
}

fn cert_files(options: &CertOptions, number: u32) -> (String, String) {
    let stem = format!("{}-{}-{}-{number}", options.datacenter, options.kind.as_str(), options.domain);
    (format!("{stem}.pem"), format!("{stem}-key.pem"))
}

fn permitted(options: &CaOptions) -> Vec<String> {
    if !options.name_constraint {
        return Vec::new();
    }
    let mut permitted = options.additional_name_constraints.clone();
    permitted.extend([options.domain.clone(), "localhost".to_owned()]);
    permitted
}
