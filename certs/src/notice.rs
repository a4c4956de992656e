//! What the authority's key says beside certificates: short statements that every party of the federation can check, whoever
//! carried them, and keys that only those who hold the authority's key can derive.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};

use crate::authority::{Authority, IssueError};
use crate::material::Material;
use crate::verify::{self, Rule, provider};

/// Signatures that may be made, best first.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// A signature and how it was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// TLS's number of the scheme.
    pub scheme: u16,
    /// The signature.
    pub bytes: Vec<u8>,
}

/// What is signed: never mistaken for anything else that the key signs (a certificate begins with 0x30).
fn statement(purpose: &str, body: &[u8]) -> Vec<u8> {
    let mut out = b"causeway statement\0".to_vec();
    out.extend(purpose.as_bytes());
    out.push(0);
    out.extend(body);
    out
}

/// Signs with the authority's key.
pub fn sign(authority: &Authority, purpose: &str, body: &[u8]) -> Result<Signature, IssueError> {
    let fail = |e: &dyn std::fmt::Display| IssueError(format!("the authority's key cannot sign: {e}"));
    let key = PrivateKeyDer::from_pem_slice(authority.key_pem().as_bytes()).map_err(|e| fail(&e))?;
    let key: Arc<dyn SigningKey> = provider().key_provider.load_private_key(key).map_err(|e| fail(&e))?;
    let signer = key.choose_scheme(&SCHEMES).ok_or_else(|| fail(&"it is of a kind that is not known"))?;
    let bytes = signer.sign(&statement(purpose, body)).map_err(|e| fail(&e))?;
    Ok(Signature { scheme: u16::from(signer.scheme()), bytes })
}

/// Whether one of the authorities that this party trusts now signed it.
pub fn verify(material: &Material, purpose: &str, body: &[u8], signature: &Signature) -> bool {
    let scheme = SignatureScheme::from(signature.scheme);
    let algorithms = provider().signature_verification_algorithms;
    let Some((_, algorithms)) = algorithms.mapping.iter().find(|(s, _)| SCHEMES.contains(s) && *s == scheme) else {
        return false;
    };
    let message = statement(purpose, body);
    material.current().roots.roots.iter().any(|root| {
        let spki = SubjectPublicKeyInfoDer::from(sequence(&root.subject_public_key_info));
        webpki::RawPublicKeyEntity::try_from(&spki)
            .is_ok_and(|key| algorithms.iter().any(|a| key.verify_signature(*a, &message, &signature.bytes).is_ok()))
    })
}

/// Roots are kept without the outer tag of their key.
fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let short: Vec<u8> = length.iter().copied().skip_while(|b| *b == 0).collect();
    let mut out = vec![0x30];
    match short.as_slice() {
        [one] if *one < 0x80 => out.push(*one),
        many => {
            out.push(0x80 | u8::try_from(many.len()).unwrap_or(0));
            out.extend(many);
        }
    }
    out.extend(content);
    out
}

/// A key for one purpose that only those who hold the authority's key know. A secret.
pub fn derived(authority: &Authority, purpose: &str) -> ring::hmac::Key {
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, authority.key_pem().as_bytes());
    let tag = ring::hmac::sign(&secret, &statement("derived key", purpose.as_bytes()));
    ring::hmac::Key::new(ring::hmac::HMAC_SHA256, tag.as_ref())
}

/// Whether a gateway that was let in before would be let in now: its chain, the time, our authorities as they are, its datacenter.
/// The error is for people.
pub fn still_gateway(
    material: &Material,
    chain: &[CertificateDer<'_>],
    datacenter: &str,
    now: UnixTime,
) -> Result<(), String> {
    let (leaf, rest) = chain.split_first().ok_or("it shows no certificate")?;
    let current = material.current();
    verify::chain_of_server(&current, leaf, rest, now)
        .or_else(|_| verify::chain_of_client(&current, leaf, rest, now))
        .and_then(|()| verify::satisfies(&Rule::Gateway(Some(datacenter.to_owned())), leaf, material.domain(), None))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "makes files and reads the clock")]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::material::Files;

    #[test]
    fn only_a_trusted_authority_is_believed_and_only_for_what_it_signed() {
        let authority = Authority::create(30, &[], SystemTime::now()).unwrap();
        let stranger = Authority::create(30, &[], SystemTime::now()).unwrap();
        let path = std::env::temp_dir().join(format!("causeway-notice-{}.pem", std::process::id()));
        std::fs::write(&path, authority.cert_pem()).unwrap();
        let material = Material::load(Files { ca: vec![path.clone()], cert: None, key: None }, "consul").unwrap();
        std::fs::remove_file(path).unwrap();
        let signature = sign(&authority, "removal", b"dc3").unwrap();
        assert!(verify(&material, "removal", b"dc3", &signature));
        assert!(!verify(&material, "removal", b"dc2", &signature));
        assert!(!verify(&material, "readmission", b"dc3", &signature));
        assert!(!verify(&material, "removal", b"dc3", &sign(&stranger, "removal", b"dc3").unwrap()));
        let mut other = signature.clone();
        other.scheme = 0;
        assert!(!verify(&material, "removal", b"dc3", &other));
        other = signature;
        other.bytes[8] ^= 1;
        assert!(!verify(&material, "removal", b"dc3", &other));
        let tag = |a: &Authority, p: &str| ring::hmac::sign(&derived(a, p), b"x").as_ref().to_vec();
        assert_eq!(tag(&authority, "a"), tag(&authority, "a"));
        assert!(tag(&authority, "a") != tag(&authority, "b") && tag(&authority, "a") != tag(&stranger, "a"));
    }
}
