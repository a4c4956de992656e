//! What links show and demand, from the certificates of `causeway-certs`.

use std::sync::Arc;

use causeway_certs::authority::Authority;
use causeway_certs::link;
use causeway_certs::material::Material;
use causeway_proto::listen::Identity;
use rustls_pki_types::CertificateDer;

/// Application protocol of a TLS connection over TCP between gateways.
pub(crate) const TCP_ALPN: &[u8] = b"causeway-wan-tcp/1";

/// Application protocol of a TLS connection through other sites.
pub(crate) const RELAY_ALPN: &[u8] = b"causeway-wan-relay/1";

/// TLS of a gateway's links. Both ends show a certificate `gateway.<datacenter>.<domain>`.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    material: Arc<Material>,
    domain: Arc<str>,
    /// Where it is there, sites may join here.
    authority: Option<Arc<Authority>>,
}

impl Tls {
    pub(crate) fn new(material: Arc<Material>, domain: &str, authority: Option<Arc<Authority>>) -> Self {
        Self { material, domain: domain.into(), authority }
    }

    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        match &self.authority {
            Some(authority) => causeway_certs::join::wan_server(&self.material, authority),
            None => link::wan_server(&self.material),
        }
    }

    /// For a dial; the datacenter that must answer, where it is known.
    pub(crate) fn client(&self, expect: Option<&str>) -> Arc<rustls::ClientConfig> {
        link::wan_client(&self.material, expect)
    }

    /// As [`Tls::server`], over TCP.
    pub(crate) fn tcp_server(&self) -> Arc<rustls::ServerConfig> {
        let mut config = self.server().as_ref().clone();
        config.alpn_protocols = vec![TCP_ALPN.to_vec()];
        if self.authority.is_some() {
            config.alpn_protocols.push(causeway_certs::join::JOIN_ALPN.to_vec());
        }
        Arc::new(config)
    }

    /// What we show and trust.
    pub(crate) fn material(&self) -> &Arc<Material> {
        &self.material
    }

    /// As [`Tls::client`], over TCP.
    pub(crate) fn tcp_client(&self, expect: Option<&str>) -> Arc<rustls::ClientConfig> {
        let mut config = self.client(expect).as_ref().clone();
        config.alpn_protocols = vec![TCP_ALPN.to_vec()];
        Arc::new(config)
    }

    /// As [`Tls::server`], through other sites.
    pub(crate) fn relay_server(&self) -> Arc<rustls::ServerConfig> {
        let mut config = link::wan_server(&self.material).as_ref().clone();
        config.alpn_protocols = vec![RELAY_ALPN.to_vec()];
        Arc::new(config)
    }

    /// As [`Tls::client`], through other sites: who answers must be a gateway of this datacenter.
    pub(crate) fn relay_client(&self, target: &str) -> Arc<rustls::ClientConfig> {
        let mut config = self.client(Some(target)).as_ref().clone();
        config.alpn_protocols = vec![RELAY_ALPN.to_vec()];
        Arc::new(config)
    }

    /// Names that a peer's certificate proves.
    pub(crate) fn identities(&self, chain: &[CertificateDer<'_>]) -> Vec<Identity> {
        link::peer_identities(chain, &self.domain)
    }
}
