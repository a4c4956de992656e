//! The rustls configurations, one function for each kind of link.
//!
//! All of them read the [`Material`] at each handshake: renewed files count for the next connection, and a configuration may be
//! kept for as long as the process runs. None resumes a session, since resumption would skip the verification of the peer.

use std::sync::Arc;

use causeway_proto::listen::Identity;
pub use rustls::CipherSuite;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use crate::material::Material;
use crate::verify::{self, Clients, Rule, Servers};

pub use crate::verify::peer_identities;

/// Application protocol of a QUIC connection between gateways.
pub const WAN_ALPN: &[u8] = b"causeway-wan/1";
/// Application protocol of gRPC over TCP.
pub const RPC_ALPN: &[u8] = b"h2";
/// Application protocol of the HTTP interface.
pub const HTTPS_ALPN: &[u8] = b"http/1.1";

pub(crate) const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];
const WITH_12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// For listeners of gRPC in the own datacenter: agents, servers and gateways call. `verify_incoming`: who shows no certificate of
/// our authority is refused; without it a caller may stay nameless (one that is shown is verified all the same).
pub fn rpc_server(material: &Arc<Material>, verify_incoming: bool) -> Arc<ServerConfig> {
    server(material, Rule::Authority, verify_incoming, ONLY_13, RPC_ALPN)
}

/// For calls in the own datacenter: the other end must prove `expect`.
pub fn rpc_client(material: &Arc<Material>, expect: &Identity) -> Arc<ClientConfig> {
    client(material, Rule::Identity(expect.clone()), ONLY_13, RPC_ALPN)
}

/// For QUIC listeners of a gateway: only gateways of the federation, of any datacenter, get in.
pub fn wan_server(material: &Arc<Material>) -> Arc<ServerConfig> {
    server(material, Rule::Gateway(None), true, ONLY_13, WAN_ALPN)
}

/// For QUIC connections to a gateway: of this datacenter, or of any where it is not known yet.
pub fn wan_client(material: &Arc<Material>, expect_datacenter: Option<&str>) -> Arc<ClientConfig> {
    client(material, Rule::Gateway(expect_datacenter.map(str::to_owned)), ONLY_13, WAN_ALPN)
}

/// For the HTTP interface (`ports.https`); TLS 1.2 too.
pub fn https_server(material: &Arc<Material>, verify_incoming: bool) -> Arc<ServerConfig> {
    https_server_by(material, verify_incoming, &HttpsRules::default())
}

/// The same, by rules of the operator.
pub fn https_server_by(material: &Arc<Material>, verify_incoming: bool, rules: &HttpsRules) -> Arc<ServerConfig> {
    let mut provider = verify::provider();
    if !rules.suites.is_empty() {
        let wanted = |suite: &SupportedCipherSuite| suite.tls13().is_some() || rules.suites.contains(&suite.suite());
        Arc::make_mut(&mut provider).cipher_suites.retain(wanted);
    }
    let versions = if rules.only_13 { ONLY_13 } else { WITH_12 };
    let mut config = server_config(material, Rule::Authority, verify_incoming, (provider, versions), HTTPS_ALPN);
    config.ignore_client_order = rules.prefer_server;
    Arc::new(config)
}

/// What an operator may say about TLS of the HTTP interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpsRules {
    /// TLS 1.3 and nothing older.
    pub only_13: bool,
    /// Cipher suites of TLS 1.2; empty: all there are. Those of TLS 1.3 are always on. See [`suites`].
    pub suites: Vec<CipherSuite>,
    /// Whether our order goes before the client's.
    pub prefer_server: bool,
}

/// Names of cipher suites, by commas, as Go spells them. `Err`: the name that nobody knows. CBC ones, which Go has and we have not,
/// are in the second list.
pub fn suites(names: &str) -> Result<(Vec<CipherSuite>, Vec<String>), String> {
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let provider = verify::provider();
        // Go's name of the suites of ChaCha20 has no hash.
        let alike = |suite: &SupportedCipherSuite| {
            let ours = format!("{:?}", suite.suite());
            ours == name || ours.strip_suffix("_SHA256") == Some(name)
        };
        match provider.cipher_suites.iter().find(|suite| alike(suite)) {
            Some(suite) => found.push(suite.suite()),
            None if name.starts_with("TLS_") && (name.contains("_CBC_SHA") || name.starts_with("TLS_RSA_WITH_")) => {
                without.push(name.to_owned());
            }
            None => return Err(name.to_owned()),
        }
    }
    Ok((found, without))
}

/// For calls to an HTTP interface or a health check's target. `server_name`: the name to verify in place of the one dialled
/// (`CONSUL_TLS_SERVER_NAME`, `tls_server_name`); text that is neither a DNS name nor an IP address verifies nobody.
pub fn https_client(material: &Arc<Material>, server_name: Option<&str>) -> Arc<ClientConfig> {
    // A name that cannot be read must refuse everybody; `.invalid` (RFC 2606) is in no certificate.
    let name = server_name.map(|n| {
        ServerName::try_from(n.to_owned())
            .or_else(|_| ServerName::try_from("unreadable.invalid"))
            .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
    });
    client(material, Rule::Host(name), WITH_12, HTTPS_ALPN)
}

/// For health checks with `tls_skip_verify`, and `CONSUL_HTTP_SSL_VERIFY=false`: encrypted, and nothing is known of who is at the
/// other end. Shows no certificate.
pub fn https_client_unverified() -> Arc<ClientConfig> {
    let mut config = with_versions(ClientConfig::builder_with_provider(verify::provider()), WITH_12)
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTPS_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn server(
    material: &Arc<Material>,
    rule: Rule,
    mandatory: bool,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[u8],
) -> Arc<ServerConfig> {
    Arc::new(server_config(material, rule, mandatory, (verify::provider(), versions), alpn))
}

fn server_config(
    material: &Arc<Material>,
    rule: Rule,
    mandatory: bool,
    (provider, versions): (Arc<CryptoProvider>, &[&'static SupportedProtocolVersion]),
    alpn: &[u8],
) -> ServerConfig {
    let verifier = Arc::new(Clients { material: material.clone(), rule, mandatory });
    let mut config = with_versions(ServerConfig::builder_with_provider(provider), versions)
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Own(material.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn client(
    material: &Arc<Material>,
    rule: Rule,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let verifier = Arc::new(Servers { material: material.clone(), rule });
    let mut config = with_versions(ClientConfig::builder_with_provider(verify::provider()), versions)
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Own(material.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[allow(
    clippy::expect_used,
    reason = "the versions are this file's constants and ring has suites for both; nobody's input gets here"
)]
pub(crate) fn with_versions<S: rustls::ConfigSide>(
    builder: rustls::ConfigBuilder<S, rustls::WantsVersions>,
    versions: &[&'static SupportedProtocolVersion],
) -> rustls::ConfigBuilder<S, rustls::WantsVerifier> {
    builder.with_protocol_versions(versions).expect("ring has suites for TLS 1.2 and 1.3")
}

/// Shows what the material holds at the moment of the handshake.
#[derive(Debug)]
struct Own(Arc<Material>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current().key.clone()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current().key.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.has_certificate()
    }
}
