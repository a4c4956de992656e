//! The authority of a federation: a P-256 key and the certificate that all trust.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Certificates are valid from this long before they were issued, so that a machine whose clock lags takes them at once.
pub const SET_BACK: Duration = Duration::from_secs(2 * 24 * 3600);
/// Longest life of a certificate, in days.
pub const MAX_DAYS: u32 = 36_500;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IssueError(pub String);

impl From<rcgen::Error> for IssueError {
    fn from(e: rcgen::Error) -> Self {
        Self(format!("failed to make the certificate: {e}"))
    }
}

/// Whoever holds this can make certificates that the federation accepts.
pub struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Authority {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one with a new key, valid for `days` from `now` (1 to [`MAX_DAYS`]). `permitted`: the DNS domains it may issue for;
    /// empty: any.
    pub fn create(days: u32, permitted: &[String], now: SystemTime) -> Result<Self, IssueError> {
        let key = KeyPair::generate()?;
        // Two authorities of one federation (the old, the new) need names that differ, so that chains are built right.
        let print = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
        let short: String = print.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Causeway");
        name.push(DnType::CommonName, format!("Causeway Agent CA {short}"));

        let mut params = CertificateParams::default();
        set_validity(&mut params, self::days(days)?, now);
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if !permitted.is_empty() {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: permitted.iter().cloned().map(GeneralSubtree::DnsName).collect(),
                excluded_subtrees: Vec::new(),
            });
        }
        let cert = params.self_signed(&key)?;
        let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
        Ok(Self { der: cert.der().clone(), issuer: Issuer::new(params, key), cert_pem, key_pem })
    }

    /// One that was made before, by us or by Consul's CLI. The key may be PKCS #8 or SEC 1.
    pub fn from_pem(cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, IssueError> {
        let der = CertificateDer::from_pem_slice(cert_pem)
            .map_err(|e| IssueError(format!("the CA file holds no certificate in PEM form: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|e| IssueError(format!("the CA's key file holds no private key in PEM form: {e}")))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| IssueError(format!("the CA's certificate cannot be read: {e}")))?;
        if !parsed.is_ca() {
            return Err(IssueError("the CA file holds a certificate that is not of an authority".to_owned()));
        }
        let key = match &key {
            PrivateKeyDer::Sec1(key) => {
                let curve = parsed.public_key().algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
                if curve.map(|c| c.to_id_string()).as_deref() != Some("1.2.840.10045.3.1.7") {
                    let text = "the CA's key is an EC key of another curve than P-256: convert it with `openssl pkcs8 -topk8 -nocrypt`";
                    return Err(IssueError(text.to_owned()));
                }
                KeyPair::try_from(&PrivatePkcs8KeyDer::from(p256_sec1_to_pkcs8(key.secret_sec1_der())?))
            }
            key => KeyPair::try_from(key),
        }
        .map_err(|e| IssueError(format!("the CA's key cannot be used: {e}")))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(IssueError(
                "the CA's key does not belong to the CA's certificate: look whether -ca and -key name a pair"
                    .to_owned(),
            ));
        }
        let (cert_pem, key_pem) = (String::from_utf8_lossy(cert_pem).into_owned(), key.serialize_pem());
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { issuer, der, cert_pem, key_pem })
    }

    /// Its certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Until when its certificate is valid.
    pub fn ends(&self) -> Result<SystemTime, IssueError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.der)
            .map_err(|e| IssueError(format!("the CA's certificate cannot be read: {e}")))?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
    }

    /// Its private key, PEM (PKCS #8). A secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

/// How long so many days are, where a certificate may be valid for them.
pub(crate) fn days(days: u32) -> Result<Duration, IssueError> {
    if days == 0 || days > MAX_DAYS {
        return Err(IssueError(format!("-days must be between 1 and {MAX_DAYS}")));
    }
    Ok(Duration::from_secs(u64::from(days) * 24 * 3600))
}

/// From [`SET_BACK`] before now to `life` after now.
pub(crate) fn set_validity(params: &mut CertificateParams, life: Duration, now: SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Whole seconds: certificates know no finer time. The bound (the year 2100) keeps a mad clock within the range of dates.
    let now = Duration::from_secs(since.as_secs().min(4_102_444_800));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(SET_BACK);
    params.not_after = epoch + (now + life);
}

/// Wraps a bare EC key (RFC 5915, as Consul writes it) into PKCS #8 (RFC 5208), the one form that ring takes.
fn p256_sec1_to_pkcs8(sec1: &[u8]) -> Result<Vec<u8>, IssueError> {
    // INTEGER 0; SEQUENCE { OID id-ecPublicKey, OID prime256v1 }
    const HEAD: &[u8] = &[
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    fn length(of: usize) -> Result<Vec<u8>, IssueError> {
        match u8::try_from(of) {
            Ok(short) if short < 0x80 => Ok(vec![short]),
            Ok(long) => Ok(vec![0x81, long]),
            Err(_) => Err(IssueError("the CA's key is too long for a P-256 key".to_owned())),
        }
    }
    let mut inner = HEAD.to_vec();
    inner.push(0x04);
    inner.extend(length(sec1.len())?);
    inner.extend_from_slice(sec1);
    let mut out = vec![0x30];
    out.extend(length(inner.len())?);
    out.extend(inner);
    Ok(out)
}
