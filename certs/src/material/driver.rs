//! Reads certificate files and looks for new ones.
#![allow(clippy::disallowed_methods, reason = "this is the file that reads the disk and the clock for material")]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::parse::{self, Current, Raw};
use super::{Files, LoadError, Material};

/// Files longer than this are no certificates; a mistaken path must not fill the memory.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// How often a certificate that expires soon is spoken of.
const NOTICE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Where operating systems keep the authorities they trust; the first that exists counts, `SSL_CERT_FILE` before all.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];

pub(super) fn system_bundle() -> Result<PathBuf, LoadError> {
    if let Some(named) = std::env::var_os("SSL_CERT_FILE").filter(|n| !n.is_empty()) {
        return Ok(named.into());
    }
    let found = SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|p| p.is_file());
    found.ok_or_else(|| {
        LoadError("this system has no bundle of authorities in a known place: install ca-certificates, or name one in SSL_CERT_FILE".to_owned())
    })
}

pub(super) fn load(files: &Files, domain: &str, own_is_trusted: bool) -> Result<Current, LoadError> {
    parse::parse(&read(files)?, domain, own_is_trusted, SystemTime::now())
}

fn read(files: &Files) -> Result<Raw, LoadError> {
    let mut ca = Vec::new();
    for path in &files.ca {
        if path.is_dir() {
            ca.extend(read_directory(path)?);
        } else {
            ca.push((path.clone(), read_file(path)?));
        }
    }
    if ca.is_empty() && !files.ca.is_empty() {
        let named: Vec<_> = files.ca.iter().map(|p| p.display().to_string()).collect();
        return Err(LoadError(format!("{}: there is no certificate of an authority in it", named.join(", "))));
    }
    let one = |path: &Option<PathBuf>| path.as_ref().map(|p| read_file(p).map(|bytes| (p.clone(), bytes))).transpose();
    Ok(Raw { ca, cert: one(&files.cert)?, key: one(&files.key)? })
}

/// All regular files in it, by name. Sub-directories and dot files are not looked at (Kubernetes keeps its old versions there).
fn read_directory(path: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, LoadError> {
    let unreadable = |e: std::io::Error| LoadError(format!("{}: cannot be listed: {e}", path.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let file = entry.path();
        if !entry.file_name().to_string_lossy().starts_with('.') && file.is_file() {
            names.push(file);
        }
    }
    names.sort();
    names.into_iter().map(|file| read_file(&file).map(|bytes| (file, bytes))).collect()
}

fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    use std::io::Read;
    let unreadable = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => ": look at the path in the configuration",
            std::io::ErrorKind::PermissionDenied => ": let the user that causeway runs as read it",
            _ => "",
        };
        LoadError(format!("{}: cannot be read: {e}{hint}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(LoadError(format!("{}: longer than {MAX_FILE} bytes, so it is no PEM file", path.display())));
    }
    Ok(bytes)
}

impl Material {
    /// Looks at the files this often and takes renewed ones up, until `stop` is done. A new file that cannot be used is logged
    /// once and what is in use stays in use. Warns once a day from a week before our own certificate expires.
    ///
    /// Compares contents, not times of change: a file system's times may be too coarse or wrong, and the files are small.
    pub async fn watch(self: Arc<Self>, every: Duration, stop: impl Future<Output = ()> + Send) {
        let mut stop = pin!(stop);
        let mut complaint = String::new();
        let mut noticed: Option<SystemTime> = None;
        loop {
            let now = SystemTime::now();
            // Once a day; a clock that was set back counts as a new day.
            let day = noticed.is_none_or(|at| now.duration_since(at).map_or(true, |since| since >= NOTICE_EVERY));
            if day && let Some(notice) = parse::expiry_notice(now, self.not_after()) {
                tracing::warn!(material = ?self, "{notice}");
                noticed = Some(now);
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(every) => {}
            }
            let this = self.clone();
            let outcome = tokio::select! {
                () = &mut stop => return,
                outcome = tokio::task::spawn_blocking(move || this.reload()) => outcome,
            };
            match outcome {
                Ok(Ok(changed)) => {
                    complaint.clear();
                    if changed {
                        tracing::info!(material = ?self, "took up renewed certificates");
                    }
                }
                Ok(Err(LoadError(text))) if text != complaint => {
                    tracing::error!("renewed certificates are not usable, those in use stay in use: {text}");
                    complaint = text;
                }
                Ok(Err(_)) => {}
                Err(e) => tracing::error!("reading certificates failed: {e}"),
            }
        }
    }
}
