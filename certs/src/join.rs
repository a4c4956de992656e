//! TLS for a site that joins and has no certificate yet: it knows the authority by its fingerprint alone, and shows nothing.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use subtle::ConstantTimeEq;

use crate::authority::Authority;
use crate::link::{self, WAN_ALPN};
use crate::material::{LoadError, Material};
use crate::verify::{self, Clients, Rule, provider};

/// Application protocol of a site that asks for its first certificate.
pub const JOIN_ALPN: &[u8] = b"causeway-join/1";
/// Bytes of a fingerprint.
pub const PIN: usize = 32;

/// The fingerprint by which a token names an authority: SHA-256 of its certificate.
pub fn pin(certificate: &[u8]) -> [u8; PIN] {
    let mut out = [0; PIN];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate).as_ref());
    out
}

/// As [`crate::link::wan_server`], and a caller may speak [`JOIN_ALPN`] without a certificate. TLS cannot demand a certificate of
/// one protocol only: who speaks [`WAN_ALPN`] and shows none must be closed by the caller of this, before any stream is read.
pub fn wan_server(material: &Arc<Material>, authority: &Authority) -> Arc<ServerConfig> {
    let verifier = Arc::new(Clients { material: material.clone(), rule: Rule::Gateway(None), mandatory: false.into() });
    let own = Joinable { material: material.clone(), authority: CertificateDer::from(authority.der().to_vec()) };
    let mut config = material.begun().listener().with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![WAN_ALPN.to_vec(), JOIN_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// For a site that joins: the other end must be a gateway of this datacenter, certified by the authority with this fingerprint.
pub fn client(pin: [u8; PIN], datacenter: &str, domain: &str) -> Result<Arc<ClientConfig>, LoadError> {
    let verifier = Pinned { pin, datacenter: datacenter.to_owned(), domain: domain.to_owned() };
    let mut config =
        link::nameless()?.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shows the authority's certificate too, to those who join.
#[derive(Debug)]
struct Joinable {
    material: Arc<Material>,
    authority: CertificateDer<'static>,
}

impl ResolvesServerCert for Joinable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = self.material.current().key.clone()?;
        let joins = hello.alpn().is_some_and(|mut names| names.any(|name| name == JOIN_ALPN));
        if !joins {
            return Some(own);
        }
        let mut chain = own.cert.clone();
        chain.push(self.authority.clone());
        Some(Arc::new(CertifiedKey::new(chain, own.key.clone())))
    }
}

/// Who answers is certified by another authority than the one that the token names.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "who answers shows a certificate of {issuer:?}, not of the authority that the token names: something on the way opens TLS (inspection); ask those who run it to let this address through unopened"
)]
pub struct Stranger {
    /// Who certified it, by its own word.
    pub issuer: String,
}

impl std::fmt::Debug for Stranger {
    /// As `Display`: rustls shows the errors of verifiers in this form.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn issuer(leaf: &CertificateDer<'_>) -> String {
    let parsed = x509_parser::parse_x509_certificate(leaf);
    let mut name = parsed.map_or_else(|_| "unreadable".to_owned(), |(_, cert)| cert.issuer().to_string());
    name.truncate(name.char_indices().nth(120).map_or(name.len(), |(at, _)| at));
    name
}

/// Believes the authority with one fingerprint.
#[derive(Debug)]
struct Pinned {
    pin: [u8; PIN],
    datacenter: String,
    domain: String,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = intermediates.iter().find(|cert| bool::from(pin(cert).ct_eq(&self.pin)));
        let Some(authority) = known else {
            let stranger = Stranger { issuer: issuer(end_entity) };
            return Err(CertificateError::Other(OtherError(Arc::new(stranger))).into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        verify::tolerant(now, |now| {
            rustls::client::verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &roots,
                intermediates,
                now,
                provider().signature_verification_algorithms.all,
            )
        })?;
        verify::satisfies(&Rule::Gateway(Some(self.datacenter.clone())), end_entity, &self.domain, None)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::authority::SET_BACK;
    use crate::issue::{Kind, Subject};

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a time to issue at")]
    fn clocks_apart_are_borne_and_past_that_both_are_named() {
        let now = SystemTime::now();
        let authority = Authority::create(30, &[], now).unwrap();
        let subject = Subject {
            kind: Kind::Gateway,
            datacenter: "dc1".into(),
            domain: "consul".into(),
            node: None,
            additional_dns: Vec::new(),
            additional_ips: Vec::new(),
        };
        let pem = authority.issue(&subject, 1, now).unwrap().cert_pem;
        let leaf = <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes()).unwrap();
        let pinned = Pinned { pin: pin(authority.der()), datacenter: "dc1".into(), domain: "consul".into() };
        let chain = [CertificateDer::from(authority.der().to_vec())];
        let name = ServerName::try_from("gateway.dc1.consul").unwrap();
        let at = |time: SystemTime| {
            let unix = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap());
            pinned.verify_server_cert(&leaf, &chain, &name, &[], unix).map(drop).map_err(|e| e.to_string())
        };
        let (day, minutes) = (Duration::from_secs(86_400), |n: u64| Duration::from_secs(60 * n));
        // Its last and first second by the issuer's clock, asked by one that is off.
        for (time, well) in [
            (now, true),
            (now + day + minutes(5), true),
            (now - SET_BACK - minutes(5), true),
            (now + day + minutes(59), true),
            (now + day + minutes(70), false),
            (now - SET_BACK - minutes(70), false),
        ] {
            let said = at(time);
            assert_eq!(said.is_ok(), well, "{said:?}");
            if let Err(text) = said {
                assert!(text.contains("the clock of this machine says") && text.contains("(it "), "{text}");
            }
        }
        let other = Pinned { pin: [7; PIN], datacenter: "dc1".into(), domain: "consul".into() };
        let unix = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let text = other.verify_server_cert(&leaf, &chain, &name, &[], unix).unwrap_err().to_string();
        assert!(text.contains("opens TLS") && text.contains("Causeway"), "{text}");
    }
}
