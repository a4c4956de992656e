//! Doors to other processes of the own datacenter.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway_proto::door::Door;
use causeway_proto::listen::Role;

use crate::material::Material;

/// Makes doors: gRPC channels over TCP, with TLS where there is material, each verified to be `role.datacenter.domain`.
#[derive(Debug, Clone)]
pub struct Dialer {
    _tls: Option<Arc<Material>>,
    _datacenter: String,
}

impl Dialer {
    /// A dialer for one datacenter; `tls: None` speaks in clear.
    pub fn new(tls: Option<Arc<Material>>, datacenter: &str, _domain: &str) -> Self {
        Self { _tls: tls, _datacenter: datacenter.to_owned() }
    }

    /// The door to this address. Connects at the first call, again after a failure, shares one connection between all that ask for
    /// the same address and role. A connect attempt ends after 1 s; a connection on which nothing is heard for 2 s is given up.
    pub fn door(&self, _addr: SocketAddr, _role: Role) -> Door {
        Door::closed(tonic::Status::unavailable("not built yet"))
    }

    /// Forgets connections to addresses that are not in this list.
    pub fn retain(&self, _addrs: &[SocketAddr]) {}
}
