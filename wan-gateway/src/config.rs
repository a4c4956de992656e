//! What a gateway is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Congestion control of the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// Keeps its rate under random loss; p99 at 1 % loss is 60 times lower than with [`Congestion::Cubic`].
    #[default]
    Bbr,
    /// Fairer to TCP; for links that lose next to nothing.
    Cubic,
}

/// Bounds on what other sites and own servers can make a gateway hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls under way towards one datacenter; more are refused as overloaded.
    pub calls_out: usize,
    /// Calls under way from one datacenter; more are refused as overloaded.
    pub calls_in: usize,
    /// Bytes of one request's body.
    pub request_bytes: usize,
    /// Bytes that one connection may send us ahead of our reading.
    pub receive_window: u32,
    /// Bytes that one stream may send us ahead of our reading.
    pub stream_window: u32,
    /// Connections that are up.
    pub connections: usize,
    /// Streams of relayed links that one neighbour may have through us, or to us; each holds at most two stream windows.
    pub relayed: usize,
    /// Views of other sites that are shared; more are streams of their own.
    pub views: usize,
    /// Subscribers of all of them; more are refused as overloaded.
    pub view_subscribers: usize,
    /// Bytes that they may take up; a view that does not fit is ended as overloaded.
    pub view_bytes: usize,
    /// Handshakes under way before newcomers must prove their address (QUIC Retry).
    pub handshakes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            calls_out: 4096,
            calls_in: 4096,
            request_bytes: 16 << 20,
            receive_window: 16 << 20,
            stream_window: 2 << 20,
            connections: 1024,
            relayed: 256,
            views: 8192,
            view_subscribers: 131_072,
            view_bytes: 256 << 20,
            handshakes: 64,
        }
    }
}

/// What a gateway is told when it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Node name.
    pub node_name: String,
    /// Own datacenter.
    pub datacenter: String,
    /// The federation's domain, without a dot at its end.
    pub domain: String,
    /// Address to accept links at, UDP and TCP; `None`: only dial out.
    pub listen: Option<SocketAddr>,
    /// `host:port` at which other sites can dial us. Empty: `listen`, where it names an address.
    pub advertise: Vec<String>,
    /// `host:port` of gateways of other sites to dial (`retry_join_wan`).
    pub peers: Vec<String>,
    /// Where last known addresses are kept over a restart; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// Congestion control.
    pub congestion: Congestion,
    /// Where traces of QUIC connections are written, one file each, in the format qlog; `None`: nowhere. May be changed later by
    /// [`crate::Gateway::set_qlog`].
    pub qlog_dir: Option<PathBuf>,
    /// Whether other sites may be linked through this gateway. What it carries for them is encrypted from end to end.
    pub relay: bool,
    /// HTTP CONNECT proxy for TCP links, where nothing gets out directly.
    pub proxy: Option<crate::carrier::Proxy>,
}

impl Config {
    /// What other sites are told to dial.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Vec<String> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        match self.listen {
            Some(listen) if !listen.ip().is_unspecified() => {
                vec![SocketAddr::new(listen.ip(), bound.port()).to_string()]
            }
            _ => Vec::new(),
        }
    }
}
