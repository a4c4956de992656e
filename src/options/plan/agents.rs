//! Certificates that servers make for agents (`auto_encrypt`).

use std::path::PathBuf;
use std::time::Duration;

use causeway_certs::agents;
use causeway_certs::material::Files;

use crate::options::{ConfigError, Settings, table as t};

/// The file below `data_dir` that holds certificate and key.
const FILE: &str = "auto-encrypt.pem";
/// How long certificates may be valid.
const LIVES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(8760 * 3600);

/// What an agent asks the servers for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asks {
    /// Further names.
    pub names: Vec<String>,
    /// Further addresses.
    pub ips: Vec<String>,
    /// Where it is kept, with its key.
    pub file: PathBuf,
}

/// What an agent asks for; `None`: it has a certificate, or wants none. A line of warning where it cannot.
pub fn asks(
    s: &Settings,
    server: bool,
    (datacenter, domain): (&str, &str),
    files: &Files,
    data_dir: Option<&PathBuf>,
) -> Result<(Option<Asks>, Option<String>), ConfigError> {
    if !s.on(&t::AUTO_ENCRYPT_TLS) {
        return Ok((None, None));
    }
    if server {
        return Err(
            s.error(&t::AUTO_ENCRYPT_TLS, "is for agents that are no servers: a server needs cert_file and key_file")
        );
    }
    let (names, ips) = (s.list(&t::AUTO_ENCRYPT_DNS_SAN), s.list(&t::AUTO_ENCRYPT_IP_SAN));
    agents::subject(datacenter, domain, &names, &ips).map_err(|e| ConfigError::new("configuration", e.to_string()))?;
    let (Some(dir), None) = (data_dir, &files.cert) else { return Ok((None, None)) };
    if files.ca.is_empty() {
        let text = "needs \"ca_file\" (or \"ca_path\"), by which the servers are known: no certificate is asked for";
        return Ok((None, Some(s.error(&t::AUTO_ENCRYPT_TLS, text).to_string())));
    }
    Ok((Some(Asks { names, ips, file: dir.join(FILE) }), None))
}

/// How long the certificates are valid that a server makes; `None`: it makes none. A line of warning where it cannot.
pub fn signs(s: &Settings, server: bool, tls: bool) -> Result<(Option<Duration>, Option<String>), ConfigError> {
    if !s.on(&t::AUTO_ENCRYPT_ALLOW_TLS) {
        return Ok((None, None));
    }
    if !server {
        return Err(s.error(
            &t::AUTO_ENCRYPT_ALLOW_TLS,
            "is for servers: an agent asks for its certificate with auto_encrypt.tls",
        ));
    }
    let life = s.duration(&t::AUTO_ENCRYPT_CERTIFICATE_TTL);
    if !LIVES.contains(&life) {
        return Err(s.error(&t::AUTO_ENCRYPT_CERTIFICATE_TTL, "must be from 10s to 8760h"));
    }
    if !tls {
        let text = "needs \"ca_file\", \"cert_file\" and \"key_file\": agents are given no certificates";
        return Ok((None, Some(s.error(&t::AUTO_ENCRYPT_ALLOW_TLS, text).to_string())));
    }
    Ok((Some(life), None))
}
