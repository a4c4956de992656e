//! What links show and demand, from the certificates of `causeway-certs`.

use std::sync::Arc;

use causeway_proto::listen::Identity;
use rustls_pki_types::CertificateDer;

type Client = dyn Fn(Option<&str>) -> Arc<rustls::ClientConfig> + Send + Sync;
type Identities = dyn Fn(&[CertificateDer<'_>]) -> Vec<Identity> + Send + Sync;

/// TLS of a gateway's links. Both ends show a certificate `gateway.<datacenter>.<domain>`.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<rustls::ServerConfig>,
    /// For a dial; the datacenter that must answer, where it is known.
    pub(crate) client: Arc<Client>,
    /// Names that a peer's certificate proves.
    pub(crate) identities: Arc<Identities>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// From a gateway's certificate files.
    pub(crate) fn of(material: &Arc<causeway_certs::material::Material>, domain: &str) -> Self {
        let (for_client, domain) = (Arc::clone(material), domain.to_owned());
        Self {
            server: causeway_certs::link::wan_server(material),
            client: Arc::new(move |dc| causeway_certs::link::wan_client(&for_client, dc)),
            identities: Arc::new(move |chain| causeway_certs::link::peer_identities(chain, &domain)),
        }
    }
}
