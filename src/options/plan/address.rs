//! Addresses: of this host, and as options name them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use super::Listen;
use crate::options::{ConfigError, Def, Settings, sockaddr, table as t};

/// The host's name, where a node is not named.
pub(super) fn host_name() -> String {
    let from_file = std::fs::read_to_string("/etc/hostname").ok();
    let from_proc = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command =
        || std::process::Command::new("hostname").output().ok().and_then(|o| String::from_utf8(o.stdout).ok());
    from_proc()
        .or(from_file)
        .or_else(from_command)
        .map(|s| s.trim().to_owned())
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// The address this host reaches others from. Nothing is sent: connecting a UDP socket only asks the routing table.
pub(super) fn outward_address() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().ok().filter(|ip| !ip.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Fills in address templates over the addresses of this machine.
pub fn expand(s: &Settings, def: &Def, text: &str) -> Result<String, ConfigError> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    sockaddr::expand(text, &sockaddr::host(outward_address())).map_err(|e| s.error(def, format!("({text}) {e}")))
}

/// Reads addresses and ports of options.
pub(super) struct Checker<'a>(pub(super) &'a Settings);

impl Checker<'_> {
    /// The addresses that an option names, templates filled in.
    pub(super) fn ips(&self, def: &Def) -> Result<Vec<IpAddr>, ConfigError> {
        let text = expand(self.0, def, &self.0.text(def))?;
        let read = |text: &str| {
            let ip = text.trim_matches(['[', ']']).parse();
            ip.map_err(|_| self.0.error(def, format!("is {text:?}, which is no IP address")))
        };
        text.split_whitespace().map(read).collect()
    }

    /// The first of them, as Consul takes it.
    pub(super) fn ip(&self, def: &Def) -> Result<Option<IpAddr>, ConfigError> {
        Ok(self.ips(def)?.first().copied())
    }

    /// One of a kind, for a tag.
    pub(super) fn of_kind(&self, def: &Def, v4: bool) -> Result<Option<IpAddr>, ConfigError> {
        let ip = self.ip(def)?;
        if ip.is_some_and(|ip| ip.is_ipv4() != v4) {
            let kind = if v4 { "IPv4" } else { "IPv6" };
            return Err(self.0.error(def, format!("is {:?}, which is no {kind} address", self.0.text(def))));
        }
        Ok(ip)
    }

    pub(super) fn port(&self, def: &Def) -> Result<Option<u16>, ConfigError> {
        let n = self.0.number(def);
        if n == -1 {
            return Ok(None);
        }
        u16::try_from(n)
            .map(Some)
            .map_err(|_| self.0.error(def, format!("is {n}; a port is from 0 to 65535, or -1 for none")))
    }

    /// `addresses.x`, else `client_addr`: IP addresses, or with `unix://` (where allowed) a path.
    pub(super) fn listen(&self, def: &Def, port: Option<u16>, unix: bool) -> Result<Vec<Listen>, ConfigError> {
        let used = if self.0.is_set(def) { def } else { &t::CLIENT_ADDR };
        let mut out = Vec::new();
        for text in expand(self.0, used, &self.0.text(used))?.split_whitespace() {
            if let Some(path) = text.strip_prefix("unix://") {
                if !unix {
                    return Err(self.0.error(used, "names a UNIX socket, which only HTTP can listen on"));
                }
                out.push(Listen::Unix(PathBuf::from(path)));
                continue;
            }
            let Some(port) = port else { continue };
            let ip: IpAddr = text
                .trim_matches(['[', ']'])
                .parse()
                .map_err(|_| self.0.error(used, format!("is {text:?}, which is no IP address")))?;
            out.push(Listen::Tcp(SocketAddr::new(ip, port)));
        }
        Ok(out)
    }

    pub(super) fn sockets(&self, def: &Def, port: Option<u16>) -> Result<Vec<SocketAddr>, ConfigError> {
        let listens = self.listen(def, port, false)?;
        Ok(listens
            .into_iter()
            .filter_map(|l| match l {
                Listen::Tcp(addr) => Some(addr),
                Listen::Unix(_) => None,
            })
            .collect())
    }
}
