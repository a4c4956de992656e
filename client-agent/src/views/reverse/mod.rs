//! Who has an address. Asked for seldom, so it is read from the catalog, not kept as a view.

mod driver;

pub(super) use driver::Reverse;

use std::collections::HashMap;
use std::net::IpAddr;

use causeway_proto::catalog::{Node, ServiceNode};

/// Who has one address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// Names of services, where no node has the address.
    pub services: Vec<String>,
}

impl Owners {
    /// Whether nobody has it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.services.is_empty()
    }
}

/// Names by address.
pub(super) type Index = HashMap<IpAddr, Vec<String>>;

/// Nodes by address.
pub(super) fn nodes(nodes: Vec<Node>) -> Index {
    let mut by_ip = Index::new();
    for node in nodes {
        if let Ok(ip) = node.address.parse() {
            by_ip.entry(ip).or_default().push(node.name);
        }
    }
    by_ip
}

/// Adds one service's instances that have an address of their own.
pub(super) fn add(by_ip: &mut Index, instances: &[ServiceNode]) {
    for service in instances.iter().filter_map(|i| i.service.as_ref()) {
        if let Ok(ip) = service.address.parse() {
            let names = by_ip.entry(ip).or_default();
            if !names.contains(&service.name) {
                names.push(service.name.clone());
            }
        }
    }
}
