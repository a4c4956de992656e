//! Addresses of another datacenter's nodes and services as they are seen from here (`translate_wan_addrs`): where there is a `wan`
//! address, it stands for the one inside.

use causeway_proto::catalog::{Node, Service};

/// A node's address.
pub(crate) fn node_address(node: &Node, translate: bool) -> &str {
    match node.tagged_addresses.get("wan") {
        Some(wan) if translate && !wan.is_empty() => wan,
        _ => &node.address,
    }
}

/// A service's address (empty: its node's) and port. They go together: never one from inside with the other from outside.
pub(crate) fn service_address(service: &Service, translate: bool) -> (&str, i32) {
    let wan = |name: &str| service.tagged_addresses.get(name).filter(|a| !a.address.is_empty());
    match wan("wan").or_else(|| wan("wan_ipv4")).filter(|_| translate) {
        Some(a) => (&a.address, if a.port == 0 { service.port } else { a.port }),
        None => (&service.address, service.port),
    }
}
