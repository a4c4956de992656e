//! Keys that stay where they are made: a request carries the public half, an authority signs it. Of the request nothing but the key
//! is believed; what the certificate says is decided by who signs.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateSigningRequestDer;

use crate::authority::{self, Authority, IssueError};
use crate::issue::{Subject, params};

/// A key and the request to have it certified.
pub struct KeyRequest {
    /// The private key, PEM (PKCS #8). A secret; it is not to leave the machine.
    pub key_pem: String,
    /// The request (PKCS #10, DER).
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for KeyRequest {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}

impl KeyRequest {
    /// For a new key, or for this one, so that a request can be made again.
    pub fn new(key_pem: Option<&str>) -> Result<Self, IssueError> {
        let key = match key_pem {
            None => KeyPair::generate()?,
            Some(pem) => KeyPair::from_pem(pem)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        Ok(Self { key_pem: key.serialize_pem(), csr: csr.der().to_vec() })
    }
}

fn parsed(csr: &[u8]) -> Result<CertificateSigningRequestParams, IssueError> {
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
        .map_err(|e| IssueError(format!("the request for a certificate cannot be used: {e}")))
}

/// The public key of a request, whose sender has shown that it holds the private one.
pub fn public_key(csr: &[u8]) -> Result<Vec<u8>, IssueError> {
    Ok(parsed(csr)?.public_key.der_bytes().to_vec())
}

impl Authority {
    /// Certifies the key of a request for this subject, valid for `days` from `now`; gives PEM. Names in the request are ignored.
    pub fn sign(&self, csr: &[u8], subject: &Subject, days: u32, now: SystemTime) -> Result<String, IssueError> {
        self.sign_for(csr, subject, authority::days(days)?, now)
    }

    /// The same, valid for this long.
    pub fn sign_for(
        &self,
        csr: &[u8],
        subject: &Subject,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, IssueError> {
        let key = parsed(csr)?.public_key;
        let cert = params(subject, life, now)?.signed_by(&key, &self.issuer)?;
        self.accepts(cert.der(), now)?;
        Ok(cert.pem())
    }

    /// Its certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests touch the world")]

    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::issue::Kind;
    use crate::verify::identities_of;

    #[test]
    fn a_request_is_signed_for_whom_the_authority_says() {
        let now = SystemTime::now();
        let authority = Authority::create(30, &[], now).unwrap();
        let request = KeyRequest::new(None).unwrap();
        let subject = Subject {
            kind: Kind::Gateway,
            datacenter: "dc3".into(),
            domain: "consul".into(),
            node: None,
            additional_dns: Vec::new(),
            additional_ips: Vec::new(),
        };
        let pem = authority.sign(&request.csr, &subject, 30, now).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let names: Vec<String> = identities_of(&der, "consul").iter().map(|i| i.dns_name()).collect();
        assert_eq!(names, ["gateway.dc3.consul"]);
        // The same key gives the same public key again, another another.
        let again = KeyRequest::new(Some(&request.key_pem)).unwrap();
        assert_eq!(public_key(&again.csr).unwrap(), public_key(&request.csr).unwrap());
        assert_ne!(public_key(&KeyRequest::new(None).unwrap().csr).unwrap(), public_key(&request.csr).unwrap());
    }

    #[test]
    fn a_request_that_was_altered_is_refused() {
        let request = KeyRequest::new(None).unwrap();
        for i in 0..request.csr.len() {
            let mut bad = request.csr.clone();
            bad[i] ^= 1;
            if let Ok(key) = public_key(&bad) {
                // Bytes that a signature does not cover (its own encoding) may still stand for the same request.
                assert_eq!(key, public_key(&request.csr).unwrap(), "byte {i}");
            }
        }
        assert!(public_key(&request.csr[..request.csr.len() - 1]).is_err());
        assert!(public_key(b"").is_err());
    }
}
