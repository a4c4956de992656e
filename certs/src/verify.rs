//! Who may be at the other end: the chain to a trusted authority, the time, and the name for the role.
//!
//! The roots are read at each handshake, so renewed authorities count at once. Names are compared as whole labels with
//! [`Identity`]; a wildcard in a certificate never makes a role.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use causeway_proto::listen::{Identity, Role};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::material::{Current, Material};

/// How far a certificate's times may be off: clocks of sites half an hour apart must not cut them off from each other.
pub const TOLERANCE: Duration = Duration::from_secs(3600);

/// The cryptography in use.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

/// What a peer's certificate must say, beside being of our authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing more.
    Authority,
    /// This name.
    Identity(Identity),
    /// Gateway of this datacenter, or of any.
    Gateway(Option<String>),
    /// The name that was dialled, or this one in its place, as web browsers compare it.
    Host(Option<ServerName<'static>>),
}

/// The certificate is of our authority, and not for who acts with it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate speaks for [{has}], and {needed} is needed")]
pub struct WrongName {
    /// The DNS names in it.
    pub has: String,
    /// The name that was asked for.
    pub needed: String,
}

impl std::fmt::Debug for WrongName {
    /// As `Display`: rustls shows the errors of verifiers in this form.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The identities that a peer's chain (its own certificate first) proves. Only of a chain that a handshake accepted.
pub fn peer_identities(chain: &[CertificateDer<'_>], domain: &str) -> Vec<Identity> {
    chain.first().map(|leaf| identities_of(leaf, domain)).unwrap_or_default()
}

pub(crate) fn identities_of(leaf: &CertificateDer<'_>, domain: &str) -> Vec<Identity> {
    let domain = domain.to_ascii_lowercase();
    dns_names(leaf).iter().filter_map(|name| Identity::parse(name, &domain)).collect()
}

/// The DNS names of a certificate, in lower case.
fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    match webpki::EndEntityCert::try_from(leaf) {
        Ok(cert) => cert.valid_dns_names().map(str::to_ascii_lowercase).collect(),
        Err(_) => Vec::new(),
    }
}

/// Verifies the chain of one that we dialled.
pub(crate) fn chain_of_server(
    current: &Current,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
    let algorithms = provider().signature_verification_algorithms.all;
    tolerant(now, |now| {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &current.roots,
            intermediates,
            now,
            algorithms,
        )
    })
}

/// Verifies the chain of one that dialled us.
pub(crate) fn chain_of_client(
    current: &Current,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Error> {
    let Some(callers) = &current.callers else {
        return Err(CertificateError::UnknownIssuer.into());
    };
    tolerant(now, |now| callers.verify_client_cert(leaf, intermediates, now).map(drop))
}

/// Tries again an hour earlier or later where only the time is wrong.
pub(crate) fn tolerant(now: UnixTime, verify: impl Fn(UnixTime) -> Result<(), Error>) -> Result<(), Error> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let first = match verify(now) {
        Ok(()) => return Ok(()),
        Err(e) => e,
    };
    let seconds = match &first {
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => now.as_secs().saturating_sub(TOLERANCE.as_secs()),
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            now.as_secs().saturating_add(TOLERANCE.as_secs())
        }
        _ => return Err(first),
    };
    verify(UnixTime::since_unix_epoch(Duration::from_secs(seconds))).map_err(|_| match WrongTime::of(&first, now) {
        Some(wrong) => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))),
        None => first,
    })
}

/// A certificate is not valid now, and a clock that is off by less than [`TOLERANCE`] would not make it so.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the certificate is {}valid {when}, and the clock of this machine says {now}; clocks may be {} minutes apart: set both machines' clocks (NTP), or have the certificate renewed",
    if *.early { "not yet " } else { "no longer " },
    TOLERANCE.as_secs() / 60
)]
pub struct WrongTime {
    /// Whether it is too early for it.
    pub early: bool,
    /// From when or until when it is valid.
    pub when: String,
    /// What our clock says.
    pub now: String,
}

impl std::fmt::Debug for WrongTime {
    /// As `Display`: rustls shows the errors of verifiers in this form.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl WrongTime {
    fn of(error: &Error, now: UnixTime) -> Option<Self> {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let Error::InvalidCertificate(error) = error else { return None };
        let (early, when) = match error {
            ExpiredContext { not_after, .. } => (false, format!("(it ended {})", written(*not_after))),
            NotValidYetContext { not_before, .. } => (true, format!("(it begins {})", written(*not_before))),
            Expired => (false, String::new()),
            NotValidYet => (true, String::new()),
            _ => return None,
        };
        Some(Self { early, when, now: written(now) })
    }
}

/// A time as people write it, UTC.
pub fn written(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    x509_parser::time::ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| format!("{seconds} s after 1970"), |t| t.to_string())
}

/// Whether the names of a verified certificate satisfy the rule. `dialled`: the name that a client asked for.
pub(crate) fn satisfies(
    rule: &Rule,
    leaf: &CertificateDer<'_>,
    domain: &str,
    dialled: Option<&ServerName<'_>>,
) -> Result<(), Error> {
    let needed = match rule {
        Rule::Authority => return Ok(()),
        Rule::Host(instead) => {
            let Some(name) = instead.as_ref().or(dialled) else { return Ok(()) };
            let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
            return rustls::client::verify_server_name(&parsed, name);
        }
        Rule::Identity(expect) => {
            if identities_of(leaf, &expect.domain).iter().any(|i| same(i, expect)) {
                return Ok(());
            }
            expect.dns_name()
        }
        Rule::Gateway(datacenter) => {
            let fits = |i: &Identity| {
                i.role == Role::Gateway && datacenter.as_ref().is_none_or(|dc| i.datacenter.eq_ignore_ascii_case(dc))
            };
            if identities_of(leaf, domain).iter().any(fits) {
                return Ok(());
            }
            format!("gateway.{}.{domain}", datacenter.as_deref().unwrap_or("<datacenter>"))
        }
    };
    let wrong = WrongName { has: dns_names(leaf).join(", "), needed };
    Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
}

/// DNS names do not tell capitals from small letters.
fn same(a: &Identity, b: &Identity) -> bool {
    a.role == b.role && a.datacenter.eq_ignore_ascii_case(&b.datacenter) && a.domain.eq_ignore_ascii_case(&b.domain)
}

/// Verifies those whom we dial.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) material: Arc<Material>,
    pub(crate) rule: Rule,
}

/// Whether those who dial us must show a certificate: may change at any time, and counts for whoever connects from then on.
#[derive(Debug, Clone, Default)]
pub struct Demand(Arc<AtomicBool>);

impl Demand {
    /// So it is now.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// So it is from now on.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

impl From<bool> for Demand {
    fn from(on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(on)))
    }
}

/// Verifies those who dial us.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) material: Arc<Material>,
    pub(crate) rule: Rule,
    /// Whether they must show a certificate; one that is shown is verified in any case.
    pub(crate) mandatory: Demand,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        chain_of_server(&self.material.current(), end_entity, intermediates, now)?;
        satisfies(&self.rule, end_entity, self.material.domain(), Some(server_name))?;
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

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        // Without authorities nothing could be verified, so nothing is asked for.
        self.mandatory.is_on() || self.material.has_authorities()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory.is_on()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: the roots may change while this verifier lives, and our clients have one certificate to show.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Err(unknown) = chain_of_client(&self.material.current(), end_entity, intermediates, now) {
            // Where anyone may call, agents may; nobody else is believed for what their authority says.
            return match self.material.agents().filter(|_| self.rule == Rule::Authority) {
                Some(agents) => agents
                    .verify(end_entity, intermediates, now, self.material.domain())
                    .map(|()| ClientCertVerified::assertion()),
                None => Err(unknown),
            };
        }
        satisfies(&self.rule, end_entity, self.material.domain(), None)?;
        Ok(ClientCertVerified::assertion())
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

/// Takes whoever answers; only for those who asked for it (`tls_skip_verify`).
#[derive(Debug)]
pub(crate) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
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
