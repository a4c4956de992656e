//! The rustls configurations, one function for each kind of link.
//!
//! All of them read the [`Material`] at each handshake: renewed files count for the next connection, and a configuration may be
//! kept for as long as the process runs. None resumes a session, since resumption would skip the verification of the peer.

use std::sync::Arc;

use causeway_proto::listen::Identity;
pub use rustls::CipherSuite;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ConfigBuilder, ServerConfig, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
    WantsVerifier,
};
use rustls_pki_types::ServerName;

use crate::agents::SIGN_ALPN;
use crate::material::{LoadError, Material};
use crate::verify::{self, Clients, Demand, Rule, Servers};

pub use crate::verify::peer_identities;

/// Application protocol of a QUIC connection between gateways.
pub const WAN_ALPN: &[u8] = b"causeway-wan/1";
/// Application protocol of gRPC over TCP.
pub const RPC_ALPN: &[u8] = b"h2";
/// Application protocol of the HTTP interface.
pub const HTTPS_ALPN: &[u8] = b"http/1.1";

const ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];
const WITH_12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Configurations of which nothing but the versions of TLS is settled. Whether the cryptography in use has suites for them is found
/// out once, when certificates are loaded: what is made of these later cannot fail.
pub(crate) struct Begun {
    server_13: ConfigBuilder<ServerConfig, WantsVerifier>,
    server_12: ConfigBuilder<ServerConfig, WantsVerifier>,
    client_13: ConfigBuilder<ClientConfig, WantsVerifier>,
    client_12: ConfigBuilder<ClientConfig, WantsVerifier>,
}

impl Begun {
    pub(crate) fn new() -> Result<Self, LoadError> {
        let server = |versions: &[&'static SupportedProtocolVersion]| {
            ServerConfig::builder_with_provider(verify::provider()).with_protocol_versions(versions).map_err(no_suites)
        };
        Ok(Self {
            server_13: server(ONLY_13)?,
            server_12: server(WITH_12)?,
            client_13: client_of(ONLY_13)?,
            client_12: client_of(WITH_12)?,
        })
    }

    /// A listener of gateways.
    pub(crate) fn listener(&self) -> ConfigBuilder<ServerConfig, WantsVerifier> {
        self.server_13.clone()
    }
}

/// A caller that has no material to read.
pub(crate) fn nameless() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, LoadError> {
    client_of(ONLY_13)
}

fn client_of(
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, LoadError> {
    ClientConfig::builder_with_provider(verify::provider()).with_protocol_versions(versions).map_err(no_suites)
}

fn no_suites(error: rustls::Error) -> LoadError {
    LoadError(format!(
        "this build has no cryptography for TLS 1.2 and 1.3 ({error}): build it with rustls' feature `ring`"
    ))
}

/// For listeners of gRPC in the own datacenter: agents, servers and gateways call. `verify_incoming`: who shows no certificate of
/// our authority is refused; without it a caller may stay nameless (one that is shown is verified all the same).
pub fn rpc_server(material: &Arc<Material>, verify_incoming: bool) -> Arc<ServerConfig> {
    server(material, Rule::Authority, verify_incoming, material.begun().server_13.clone(), RPC_ALPN)
}

/// The same, where that may change. `sign`: agents may ask for their certificates ([`SIGN_ALPN`]) without one. TLS cannot demand a
/// certificate of one protocol only: then it demands none, and whoever shows none and speaks another protocol must be turned away
/// by the caller of this, as [`Demand`] says, before anything is read.
pub(crate) fn rpc_server_by(material: &Arc<Material>, demand: &Demand, sign: bool) -> Arc<ServerConfig> {
    let mandatory = if sign { Demand::default() } else { demand.clone() };
    let begun = material.begun().server_13.clone();
    let mut config = server_config(material, Rule::Authority, mandatory, begun, RPC_ALPN);
    if sign {
        config.alpn_protocols.push(SIGN_ALPN.to_vec());
    }
    Arc::new(config)
}

/// For an agent that asks for its certificate: the other end must prove `expect`, and is shown nothing.
pub(crate) fn sign_client(material: &Arc<Material>, expect: &Identity) -> Arc<ClientConfig> {
    let verifier = Arc::new(Servers { material: material.clone(), rule: Rule::Identity(expect.clone()) });
    let begun = material.begun().client_13.clone();
    let mut config = begun.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![SIGN_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// For calls in the own datacenter: the other end must prove `expect`.
pub fn rpc_client(material: &Arc<Material>, expect: &Identity) -> Arc<ClientConfig> {
    client(material, Rule::Identity(expect.clone()), material.begun().client_13.clone(), RPC_ALPN)
}

/// For QUIC listeners of a gateway: only gateways of the federation, of any datacenter, get in.
pub fn wan_server(material: &Arc<Material>) -> Arc<ServerConfig> {
    server(material, Rule::Gateway(None), true, material.begun().listener(), WAN_ALPN)
}

/// For QUIC connections to a gateway: of this datacenter, or of any where it is not known yet.
pub fn wan_client(material: &Arc<Material>, expect_datacenter: Option<&str>) -> Arc<ClientConfig> {
    let rule = Rule::Gateway(expect_datacenter.map(str::to_owned));
    client(material, rule, material.begun().client_13.clone(), WAN_ALPN)
}

/// For the HTTP interface (`ports.https`); TLS 1.2 too.
pub fn https_server(material: &Arc<Material>, verify_incoming: bool) -> Arc<ServerConfig> {
    server(material, Rule::Authority, verify_incoming, material.begun().server_12.clone(), HTTPS_ALPN)
}

/// The same, by rules of the operator.
pub fn https_server_by(material: &Arc<Material>, verify_incoming: bool, rules: &Https) -> Arc<ServerConfig> {
    let mut config = server_config(material, Rule::Authority, verify_incoming.into(), rules.begun.clone(), HTTPS_ALPN);
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

/// Rules that are known to be possible.
#[derive(Debug, Clone)]
pub struct Https {
    begun: ConfigBuilder<ServerConfig, WantsVerifier>,
    prefer_server: bool,
}

impl HttpsRules {
    /// Settles them, once for all connections. Fails where the cryptography in use has no suites for them.
    pub fn settle(&self) -> Result<Https, LoadError> {
        let mut provider = verify::provider();
        if !self.suites.is_empty() {
            let wanted = |suite: &SupportedCipherSuite| suite.tls13().is_some() || self.suites.contains(&suite.suite());
            Arc::make_mut(&mut provider).cipher_suites.retain(wanted);
        }
        let versions = if self.only_13 { ONLY_13 } else { WITH_12 };
        let begun =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(no_suites)?;
        Ok(Https { begun, prefer_server: self.prefer_server })
    }
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
    client(material, Rule::Host(name), material.begun().client_12.clone(), HTTPS_ALPN)
}

/// For health checks with `tls_skip_verify`, and `CONSUL_HTTP_SSL_VERIFY=false`: encrypted, and nothing is known of who is at the
/// other end. Shows no certificate.
pub fn https_client_unverified() -> Result<Arc<ClientConfig>, LoadError> {
    let mut config = client_of(WITH_12)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTPS_ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    material: &Arc<Material>,
    rule: Rule,
    mandatory: bool,
    begun: ConfigBuilder<ServerConfig, WantsVerifier>,
    alpn: &[u8],
) -> Arc<ServerConfig> {
    Arc::new(server_config(material, rule, mandatory.into(), begun, alpn))
}

fn server_config(
    material: &Arc<Material>,
    rule: Rule,
    mandatory: Demand,
    begun: ConfigBuilder<ServerConfig, WantsVerifier>,
    alpn: &[u8],
) -> ServerConfig {
    let verifier = Arc::new(Clients { material: material.clone(), rule, mandatory });
    let mut config = begun.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(Own(material.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn client(
    material: &Arc<Material>,
    rule: Rule,
    begun: ConfigBuilder<ClientConfig, WantsVerifier>,
    alpn: &[u8],
) -> Arc<ClientConfig> {
    let verifier = Arc::new(Servers { material: material.clone(), rule });
    let mut config = begun
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Own(material.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
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
