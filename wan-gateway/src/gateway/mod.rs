//! A gateway as a whole: what it is given, what it offers.

mod driver;

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_certs::material::Material;
use causeway_proto::door::Door;
use causeway_proto::member::Members;
use tokio::sync::watch;

pub use driver::Gateway;

/// What a gateway is handed of the rest of its site.
#[derive(Debug, Clone)]
pub struct World {
    /// Certificate, key and authorities of this gateway.
    pub material: Arc<Material>,
    /// The servers of this site; takes the calls that come from other sites.
    pub servers: Door,
    /// Members of this datacenter, as LAN gossip knows them; other sites are told of its servers.
    pub members: watch::Receiver<Members>,
}

/// What makes a gateway one of several of its site, and one where sites may join.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// Certifies new sites and signs who is removed.
    pub authority: Option<Arc<causeway_certs::authority::Authority>>,
    /// What the gateways of the site keep together; `None`: this one shares nothing.
    pub shelf: Option<crate::shelf::Shelf>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket.
    #[error("cannot open UDP {}: {source}; choose another address for the gateway or stop what uses it", addr.map_or_else(|| "[::]:0".to_owned(), |a| a.to_string()))]
    Bind {
        /// What was to be opened; `None`: any port.
        addr: Option<SocketAddr>,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// What is on disk cannot be read.
    #[error(
        "{path} cannot be read: {source}; it names the sites that were removed from the federation: restore it, or delete it to readmit them all"
    )]
    Removed {
        /// Which file.
        path: std::path::PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The TCP socket.
    #[error("cannot open TCP {addr}: {source}; choose another address for the gateway or stop what uses it")]
    BindTcp {
        /// What was to be opened.
        addr: SocketAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be used for QUIC.
    #[error("the certificates cannot be used for links: {0}")]
    Tls(String),
    /// A name that is not allowed.
    #[error(transparent)]
    Name(#[from] causeway_proto::name::NameError),
}
