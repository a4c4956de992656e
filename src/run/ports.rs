//! Whether the ports are free: looked at before anything on disk is touched, so that a taken one ends the start at once with the
//! key that names it.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::options::plan::{Listen, Plan};

/// A port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{addr} ({proto}) cannot be had: {source}; stop the process that has it, or set {key:?}")]
pub struct PortError {
    addr: SocketAddr,
    proto: &'static str,
    key: &'static str,
    source: std::io::Error,
}

/// Tries every address that the plan will listen at, and lets it go again.
pub fn probe(plan: &Plan) -> Result<(), PortError> {
    let tcp = |addr: SocketAddr, key| {
        TcpListener::bind(addr).map(|_| ()).map_err(|source| PortError { addr, proto: "TCP", key, source })
    };
    let udp = |addr: SocketAddr, key| {
        UdpSocket::bind(addr).map(|_| ()).map_err(|source| PortError { addr, proto: "UDP", key, source })
    };
    tcp(plan.gossip_bind, "ports.serf_lan")?;
    udp(plan.gossip_bind, "ports.serf_lan")?;
    if plan.server {
        tcp(SocketAddr::new(plan.bind, plan.rpc_port), "ports.server")?;
    }
    for addr in &plan.dns {
        tcp(*addr, "ports.dns")?;
        udp(*addr, "ports.dns")?;
    }
    for listen in &plan.http {
        if let Listen::Tcp(addr) = listen {
            tcp(*addr, "ports.http")?;
        }
    }
    for addr in &plan.https {
        tcp(*addr, "ports.https")?;
    }
    if let Some(gateway) = &plan.gateway {
        tcp(SocketAddr::new(plan.bind, gateway.lan_port), "gateway.lan_port")?;
        if let Some(addr) = gateway.listen {
            udp(addr, "gateway.listen")?;
            tcp(addr, "gateway.listen")?;
        }
    }
    Ok(())
}
