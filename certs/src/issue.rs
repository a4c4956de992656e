//! Certificates for each role and datacenter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authority::{self, Authority, IssueError, set_validity};
use crate::verify;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A server of a datacenter.
    Server,
    /// An agent; Consul's word for its file and its first name is `client`.
    Client,
    /// A person's command line.
    Cli,
    /// A gateway between datacenters.
    Gateway,
}

impl Kind {
    /// As in the file's name and in the first label of the certificate's common name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Cli => "cli",
            Self::Gateway => "gateway",
        }
    }
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it is for.
    pub kind: Kind,
    /// Of which datacenter.
    pub datacenter: String,
    /// The federation's domain.
    pub domain: String,
    /// Servers only: also `<node>.server.<datacenter>.<domain>`.
    pub node: Option<String>,
    /// DNS names beside those that the kind has.
    pub additional_dns: Vec<String>,
    /// IP addresses beside those that the kind has.
    pub additional_ips: Vec<IpAddr>,
}

impl Subject {
    /// All DNS names, those asked for first, as Consul orders them.
    pub fn dns_names(&self) -> Vec<String> {
        let of = |role: &str| format!("{role}.{}.{}", self.datacenter, self.domain);
        let mut names = self.additional_dns.clone();
        if let Some(node) = self.node.as_ref().filter(|_| self.kind == Kind::Server) {
            names.push(format!("{node}.{}", of("server")));
        }
        names.push(of(self.kind.as_str()));
        if self.kind == Kind::Client {
            // The name that our own links verify; Consul knows `client` only.
            names.push(of("agent"));
        }
        names.push("localhost".to_owned());
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|n| seen.insert(n.clone()));
        names
    }

    /// All IP addresses. A command line's certificate has none of its own: it never listens.
    pub fn ips(&self) -> Vec<IpAddr> {
        let mut ips = self.additional_ips.clone();
        if self.kind != Kind::Cli {
            ips.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        let mut seen = std::collections::BTreeSet::new();
        ips.retain(|ip| seen.insert(*ip));
        ips
    }
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PEM (PKCS #8). A secret.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// Issues a certificate with a new key, valid for `days` from `now` (and from [`crate::authority::SET_BACK`] before), and
    /// makes sure that whoever trusts this authority accepts it.
    pub fn issue(&self, subject: &Subject, days: u32, now: SystemTime) -> Result<Issued, IssueError> {
        let key = KeyPair::generate()?;
        let cert = params(subject, authority::days(days)?, now)?.signed_by(&key, &self.issuer)?;
        self.accepts(cert.der(), now)?;
        Ok(Issued { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Finds what issuing does not: names outside the authority's constraints, a key that is not the authority's.
    pub(crate) fn accepts(&self, der: &CertificateDer<'_>, now: SystemTime) -> Result<(), IssueError> {
        let unusable = |e: &dyn std::fmt::Display| {
            IssueError(format!(
                "the authority's own certificate does not allow this one ({e}): look at the domain, the additional names and the CA's name constraints"
            ))
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).map_err(|e| unusable(&e))?;
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), verify::provider())
            .build()
            .map_err(|e| unusable(&e))?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        rustls::server::danger::ClientCertVerifier::verify_client_cert(
            &*verifier,
            der,
            &[],
            UnixTime::since_unix_epoch(now),
        )
        .map_err(|e| unusable(&e))?;
        Ok(())
    }
}

/// What a certificate for this subject says, but for its key.
pub(crate) fn params(subject: &Subject, life: Duration, now: SystemTime) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    set_validity(&mut params, life, now);
    params.distinguished_name = DistinguishedName::new();
    let common = format!("{}.{}.{}", subject.kind.as_str(), subject.datacenter, subject.domain);
    params.distinguished_name.push(DnType::CommonName, common);
    for name in subject.dns_names() {
        let unfit = || IssueError(format!("{name:?} is not a DNS name"));
        rustls_pki_types::DnsName::try_from(name.trim_start_matches("*.")).map_err(|_| unfit())?;
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(|_| unfit())?));
    }
    params.subject_alt_names.extend(subject.ips().into_iter().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = match subject.kind {
        Kind::Cli => vec![ExtendedKeyUsagePurpose::ClientAuth],
        // Every part of ours both calls and is called.
        _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
