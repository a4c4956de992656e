//! Reads and writes the files of `causeway tls`.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the file that touches the disk and the clock for `causeway tls`"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{CaOptions, CertOptions, Kind, TlsError, ca_files, cert_files, check, check_label, permitted, warning};
use crate::authority::Authority;
use crate::issue::Subject;
use crate::material::Files;

/// `tls ca create` in this directory; gives the lines to print.
pub fn create_ca(dir: &Path, options: &CaOptions) -> Result<Vec<String>, TlsError> {
    check_label("-domain", &options.domain, true)?;
    let (cert, key) = ca_files(&options.domain);
    for name in [&cert, &key] {
        if dir.join(name).exists() {
            return Err(TlsError::Exists(name.clone()));
        }
    }
    let authority = Authority::create(options.days, &permitted(options), SystemTime::now())?;
    write_new(&dir.join(&key), authority.key_pem(), true)?;
    write_new(&dir.join(&cert), authority.cert_pem(), false)?;
    Ok(vec![format!("==> Saved {cert}"), format!("==> Saved {key}")])
}

/// `tls cert create` in this directory; gives the lines to print. Takes the first number that no file has.
pub fn create_cert(dir: &Path, options: &CertOptions) -> Result<Vec<String>, TlsError> {
    let options = &check(options)?;
    let (default_ca, default_key) = ca_files(&options.domain);
    let ca = options.ca.clone().unwrap_or_else(|| PathBuf::from(default_ca));
    let ca_key = options.key.clone().unwrap_or_else(|| PathBuf::from(default_key));
    let ca_pem = read("Error reading CA:", &dir.join(&ca))?;
    let key_pem = read("Error reading CA key:", &dir.join(&ca_key))?;
    let authority = Authority::from_pem(&ca_pem, &key_pem)?;

    let subject = Subject {
        kind: options.kind,
        datacenter: options.datacenter.clone(),
        domain: options.domain.clone(),
        node: options.node.clone(),
        additional_dns: options.additional_dnsnames.clone(),
        additional_ips: options.additional_ipaddresses.clone(),
    };
    let issued = authority.issue(&subject, options.days, SystemTime::now())?;
    let mut lines = warning(options.kind);
    lines.push(format!("==> Using {} and {}", ca.display(), ca_key.display()));
    for number in 0..10_000 {
        let (cert, key) = cert_files(options, number);
        if dir.join(&cert).exists() || dir.join(&key).exists() {
            continue;
        }
        write_new(&dir.join(&key), &issued.key_pem, true)?;
        write_new(&dir.join(&cert), &issued.cert_pem, false)?;
        lines.push(format!("==> Saved {cert}"));
        lines.push(format!("==> Saved {key}"));
        return Ok(lines);
    }
    Err(TlsError::Usage("there are 10000 files of this name already: use another directory".to_owned()))
}

/// The files of one datacenter that [`issue_for_dev`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevFiles {
    /// The datacenter.
    pub datacenter: String,
    /// For its servers.
    pub server: Files,
    /// For its gateways.
    pub gateway: Files,
    /// For its agents.
    pub agent: Files,
}

/// For trials and tests: an authority (kept where there is one) and, for each datacenter, certificates for a server, a gateway
/// and an agent, all in this directory, valid for a year. Made anew at each call, under the next number.
pub fn issue_for_dev(dir: &Path, domain: &str, datacenters: &[&str]) -> Result<Vec<DevFiles>, TlsError> {
    std::fs::create_dir_all(dir).map_err(|source| file("Error creating", dir, source))?;
    let ca = CaOptions { domain: domain.to_owned(), ..CaOptions::default() };
    match create_ca(dir, &ca) {
        Ok(_) | Err(TlsError::Exists(_)) => {}
        Err(e) => return Err(e),
    }
    let make = |kind, datacenter: &str| -> Result<Files, TlsError> {
        let options =
            CertOptions { datacenter: datacenter.to_owned(), domain: domain.to_owned(), ..CertOptions::new(kind) };
        let lines = create_cert(dir, &options)?;
        let mut saved = lines.iter().filter_map(|l| l.strip_prefix("==> Saved ")).map(|name| dir.join(name));
        Ok(Files { ca: vec![dir.join(ca_files(domain).0)], cert: saved.next(), key: saved.next() })
    };
    datacenters
        .iter()
        .map(|dc| {
            Ok(DevFiles {
                datacenter: (*dc).to_owned(),
                server: make(Kind::Server, dc)?,
                gateway: make(Kind::Gateway, dc)?,
                agent: make(Kind::Client, dc)?,
            })
        })
        .collect()
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| file(what, path, source))
}

/// Never overwrites; a secret is readable by its owner only, from the moment the file exists.
fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), TlsError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if secret { 0o600 } else { 0o644 });
    let mut out = options.open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => TlsError::Exists(path.display().to_string()),
        _ => file("Error writing", path, source),
    })?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(|source| file("Error writing", path, source))
}

fn file(what: &'static str, path: &Path, source: std::io::Error) -> TlsError {
    TlsError::File { what, path: path.display().to_string(), source }
}
