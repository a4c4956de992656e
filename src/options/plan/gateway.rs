//! The gateway block: what makes a process a gateway of its site.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use causeway_certs::material::Files;

use crate::options::{ConfigError, Settings, table as t};

/// A gateway between sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Address other sites dial, UDP and TCP; `None`: this site only dials out.
    pub listen: Option<SocketAddr>,
    /// What other sites are told to dial.
    pub advertise: Vec<String>,
    /// Gateways of other sites to dial.
    pub peers: Vec<String>,
    /// Port for the servers of the own site.
    pub lan_port: u16,
    /// Whether BBR (else CUBIC) controls congestion.
    pub bbr: bool,
    /// Whether links of other sites are carried.
    pub relay: bool,
    /// Where traces of QUIC links are written.
    pub qlog_dir: Option<PathBuf>,
    /// The gateway's certificate, key and authorities.
    pub tls: Files,
    /// The authority's key, where new sites can join at this gateway.
    pub ca_key: Option<PathBuf>,
    /// How TCP links get out where nothing does directly.
    pub proxy: GatewayProxy,
}

/// Which HTTP proxy a gateway may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayProxy {
    /// The one that `HTTPS_PROXY` names, except for the hosts of `NO_PROXY`.
    Environment,
    /// None.
    Off,
    /// This one.
    Through(causeway_gateway::Proxy),
}

/// Reads the block; `None`: there is none, or it is switched off.
pub(super) fn plan(s: &Settings, advertise: IpAddr, tls: Option<&Files>) -> Result<Option<GatewayPlan>, ConfigError> {
    let keys = [
        &t::GATEWAY_ENABLED,
        &t::GATEWAY_LISTEN,
        &t::GATEWAY_ADVERTISE,
        &t::GATEWAY_PEERS,
        &t::GATEWAY_LAN_PORT,
        &t::GATEWAY_CONGESTION,
        &t::GATEWAY_RELAY,
        &t::GATEWAY_PROXY,
        &t::GATEWAY_CERT_FILE,
        &t::GATEWAY_KEY_FILE,
        &t::GATEWAY_CA_KEY_FILE,
    ];
    let Some(first) = keys.into_iter().find(|def| s.is_set(def)) else { return Ok(None) };
    if !s.on(&t::GATEWAY_ENABLED) {
        return Ok(None);
    }
    let mut files = tls.cloned().unwrap_or(Files { ca: Vec::new(), cert: None, key: None });
    if let (Some(cert), Some(key)) = (s.some_text(&t::GATEWAY_CERT_FILE), s.some_text(&t::GATEWAY_KEY_FILE)) {
        (files.cert, files.key) = (Some(cert.into()), Some(key.into()));
    }
    if files.cert.is_none() || files.ca.is_empty() {
        return Err(s.error(first, "makes this process a gateway, which needs \"ca_file\", \"cert_file\" and \"key_file\": make them with `causeway tls cert create -gateway`"));
    }
    let listen = match s.text(&t::GATEWAY_LISTEN).as_str() {
        "none" => None,
        text => Some(text.parse::<SocketAddr>().map_err(|_| {
            s.error(
                &t::GATEWAY_LISTEN,
                format!("is {text:?}; write it as \"0.0.0.0:443\", or \"none\" to dial out only"),
            )
        })?),
    };
    let mut advertised = s.list(&t::GATEWAY_ADVERTISE);
    if let Some(listen) = listen
        && advertised.is_empty()
    {
        let ip = if listen.ip().is_unspecified() { advertise } else { listen.ip() };
        advertised.push(SocketAddr::new(ip, listen.port()).to_string());
    }
    let peers = s.list(&t::GATEWAY_PEERS);
    for (def, list) in [(&t::GATEWAY_PEERS, &peers), (&t::GATEWAY_ADVERTISE, &advertised)] {
        for peer in list {
            if peer.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
                return Err(s.error(def, format!("holds {peer:?}; write host:port")));
            }
        }
    }
    let congestion = s.text(&t::GATEWAY_CONGESTION);
    if !matches!(congestion.as_str(), "bbr" | "cubic") {
        return Err(s.error(&t::GATEWAY_CONGESTION, format!("is {congestion:?}; it must be bbr or cubic")));
    }
    let proxy = match s.some_text(&t::GATEWAY_PROXY).as_deref() {
        None => GatewayProxy::Environment,
        Some("none") => GatewayProxy::Off,
        // The value may hold a password: it is not shown.
        Some(text) => GatewayProxy::Through(
            causeway_gateway::Proxy::parse(text, "")
                .map_err(|e| s.error(&t::GATEWAY_PROXY, format!("cannot be used: {e}")))?,
        ),
    };
    Ok(Some(GatewayPlan {
        listen,
        advertise: advertised,
        peers,
        lan_port: u16::try_from(s.bounded(&t::GATEWAY_LAN_PORT, 0..=65535)?).unwrap_or(0),
        bbr: congestion == "bbr",
        relay: s.on(&t::GATEWAY_RELAY),
        qlog_dir: s.some_text(&t::GATEWAY_QLOG_DIR).map(PathBuf::from),
        tls: files,
        ca_key: s.some_text(&t::GATEWAY_CA_KEY_FILE).map(PathBuf::from),
        proxy,
    }))
}
