//! From the bytes of files to what a party shows and trusts, with every check that can be made before the first handshake.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_proto::listen::Identity;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::LoadError;
use crate::verify::{self, TOLERANCE};

/// The bytes of the files, with their names for messages.
pub(super) struct Raw {
    pub(super) ca: Vec<(PathBuf, Vec<u8>)>,
    pub(super) cert: Option<(PathBuf, Vec<u8>)>,
    pub(super) key: Option<(PathBuf, Vec<u8>)>,
}

/// What is in use.
pub(crate) struct Current {
    /// What we show.
    pub(crate) key: Option<Arc<CertifiedKey>>,
    /// Whom we trust.
    pub(crate) roots: Arc<RootCertStore>,
    /// Verifies the chain of a peer that connects to us; `None` where nobody is trusted.
    pub(crate) callers: Option<Arc<dyn ClientCertVerifier>>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Of all that was read, to see changes.
    pub(crate) digest: [u8; 32],
}

/// Checks everything and builds what is used in handshakes.
pub(super) fn parse(raw: &Raw, domain: &str, own_is_trusted: bool, now: SystemTime) -> Result<Current, LoadError> {
    let (roots, ca_validity) = authorities(&raw.ca, now)?;
    let roots = Arc::new(roots);
    let callers = if roots.is_empty() {
        None
    } else {
        let built = WebPkiClientVerifier::builder_with_provider(roots.clone(), verify::provider()).build();
        Some(built.map_err(|e| LoadError(format!("the authorities cannot be used: {e}")))?)
    };
    let mut current = Current {
        key: None,
        roots,
        callers,
        identities: Vec::new(),
        not_before: ca_validity.0,
        not_after: ca_validity.1,
        digest: digest(raw),
    };
    match (&raw.cert, &raw.key) {
        (None, None) => {}
        (Some((path, _)), None) => {
            return Err(LoadError(format!("{}: no key file is configured for it: set key_file", path.display())));
        }
        (None, Some((path, _))) => {
            return Err(LoadError(format!("{}: no certificate is configured for it: set cert_file", path.display())));
        }
        (Some(cert), Some(key)) => own(&mut current, raw, cert, key, (domain, own_is_trusted), now)?,
    }
    Ok(current)
}

/// Our own certificate and key.
fn own(
    current: &mut Current,
    raw: &Raw,
    (cert_path, cert_pem): &(PathBuf, Vec<u8>),
    (key_path, key_pem): &(PathBuf, Vec<u8>),
    (domain, own_is_trusted): (&str, bool),
    now: SystemTime,
) -> Result<(), LoadError> {
    let chain = certificates(cert_path, cert_pem)?;
    let mut validity = (SystemTime::UNIX_EPOCH, far_future());
    for der in &chain {
        let (from, to) = validity_of(cert_path, der)?;
        check_time(cert_path, der, from, to, now)?;
        validity = (validity.0.max(from), validity.1.min(to));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| {
        let hint =
            if contains(key_pem, b"ENCRYPTED") { ": it is encrypted; store it without a passphrase" } else { "" };
        LoadError(format!("{}: holds no private key in PEM form ({e}){hint}", key_path.display()))
    })?;
    let certified = CertifiedKey::from_der(chain, key, &verify::provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => LoadError(format!(
            "{}: the key does not belong to the certificate in {}: look whether the two were issued together",
            key_path.display(),
            cert_path.display()
        )),
        e => LoadError(format!(
            "{}: the key or the certificate in {} cannot be used: {e}",
            key_path.display(),
            cert_path.display()
        )),
    })?;
    let (leaf, intermediates) = certified
        .cert
        .split_first()
        .ok_or_else(|| LoadError(format!("{}: holds no certificate in PEM form", cert_path.display())))?;
    if own_is_trusted && !current.roots.is_empty() {
        let unix = unix_time(now);
        verify::chain_of_server(current, leaf, intermediates, unix)
            .or_else(|_| verify::chain_of_client(current, leaf, intermediates, unix))
            .map_err(|e| {
                let trusted: Vec<_> = raw.ca.iter().take(5).map(|(p, _)| p.display().to_string()).collect();
                LoadError(format!(
                    "{}: is not signed by an authority in {} ({e}): issue one with `causeway tls cert create`, or name its authority in ca_file",
                    cert_path.display(),
                    trusted.join(", ")
                ))
            })?;
    }
    current.identities = verify::identities_of(leaf, domain);
    (current.not_before, current.not_after) = validity;
    current.key = Some(Arc::new(certified));
    Ok(())
}

/// The authorities that can be trusted now. One that expired is left out, so that a bundle may hold the old beside the new;
/// where none is left, the error says why.
fn authorities(
    files: &[(PathBuf, Vec<u8>)],
    now: SystemTime,
) -> Result<(RootCertStore, (SystemTime, SystemTime)), LoadError> {
    let mut roots = RootCertStore::empty();
    let mut validity = (SystemTime::UNIX_EPOCH, far_future());
    let mut reason = None;
    for (path, pem) in files {
        for der in certificates(path, pem)? {
            let checked = validity_of(path, &der)
                .and_then(|(from, to)| check_time(path, &der, from, to, now).map(|()| (from, to)))
                .and_then(|v| check_is_authority(path, &der).map(|()| v));
            match checked {
                Ok((from, to)) => match roots.add(der) {
                    Ok(()) => validity = (validity.0.max(from), validity.1.min(to)),
                    Err(e) => {
                        reason = Some(LoadError(format!("{}: cannot be used as an authority: {e}", path.display())))
                    }
                },
                Err(e) => reason = Some(e),
            }
        }
    }
    match reason {
        Some(reason) if roots.is_empty() => Err(reason),
        reason => {
            if let Some(reason) = reason {
                tracing::warn!("an authority is left out, the others are used: {reason}");
            }
            Ok((roots, validity))
        }
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| LoadError(format!("{}: is damaged, or no PEM file: {e}", path.display())))?;
    if all.is_empty() {
        return Err(LoadError(format!("{}: holds no certificate in PEM form", path.display())));
    }
    Ok(all)
}

fn x509<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LoadError> {
    match X509Certificate::from_der(der) {
        Ok((_, parsed)) => Ok(parsed),
        Err(e) => Err(LoadError(format!("{}: holds a certificate that cannot be read: {e}", path.display()))),
    }
}

fn validity_of(path: &Path, der: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), LoadError> {
    let parsed = x509(path, der)?;
    Ok((system_time(parsed.validity().not_before), system_time(parsed.validity().not_after)))
}

fn check_time(
    path: &Path,
    der: &CertificateDer<'_>,
    from: SystemTime,
    to: SystemTime,
    now: SystemTime,
) -> Result<(), LoadError> {
    let parsed = x509(path, der)?;
    if now > to + TOLERANCE {
        let what = if parsed.is_ca() { "ca" } else { "cert" };
        return Err(LoadError(format!(
            "{}: the certificate ({}) expired on {}: issue a new one with `causeway tls {what} create`",
            path.display(),
            parsed.subject(),
            parsed.validity().not_after
        )));
    }
    if now + TOLERANCE < from {
        return Err(LoadError(format!(
            "{}: the certificate ({}) is not valid before {}: look at this machine's clock",
            path.display(),
            parsed.subject(),
            parsed.validity().not_before
        )));
    }
    Ok(())
}

fn check_is_authority(path: &Path, der: &CertificateDer<'_>) -> Result<(), LoadError> {
    let parsed = x509(path, der)?;
    // Certificates of version 1 cannot say whether they are an authority; some old roots are such.
    if parsed.is_ca() || parsed.version() == x509_parser::x509::X509Version::V1 {
        return Ok(());
    }
    Err(LoadError(format!(
        "{}: the certificate ({}) is not of an authority: name the file that `causeway tls ca create` made",
        path.display(),
        parsed.subject()
    )))
}

/// What to tell in the week before a certificate expires, and after.
pub(super) fn expiry_notice(now: SystemTime, not_after: SystemTime) -> Option<String> {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let renew = "put a renewed one in its place; no restart is needed";
    match not_after.duration_since(now) {
        Ok(left) if left > WEEK => None,
        Ok(left) => Some(format!("a certificate in use expires in {} hours: {renew}", left.as_secs() / 3600)),
        Err(past) => {
            let hours = past.duration().as_secs() / 3600;
            Some(format!("a certificate in use expired {hours} hours ago and is refused by others: {renew}"))
        }
    }
}

fn digest(raw: &Raw) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for (path, bytes) in raw.ca.iter().chain(&raw.cert).chain(&raw.key) {
        let path = path.to_string_lossy();
        for part in [path.as_bytes(), bytes.as_slice()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn system_time(t: ASN1Time) -> SystemTime {
    // Certificates may be dated before 1970; for all that we ask, 1970 does as well.
    let seconds = u64::try_from(t.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or_else(far_future)
}

/// The year 9999, the last that a certificate can name.
fn far_future() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799)
}

fn unix_time(t: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(t.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_announced() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(expiry_notice(end - 24 * 8 * hour, end), None);
        assert!(expiry_notice(end - 48 * hour, end).unwrap().contains("in 48 hours"));
        assert!(expiry_notice(end + 3 * hour, end).unwrap().contains("expired 3 hours ago"));
    }
}
