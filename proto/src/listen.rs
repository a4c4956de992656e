//! Who is at the other end of an accepted connection; listeners put a [`Peer`] into each request's extensions.

use std::net::SocketAddr;

/// What part of Causeway a certificate speaks for: the first label of its name, `server.dc1.consul`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A server of a datacenter.
    Server,
    /// A gateway between datacenters.
    Gateway,
    /// An agent.
    Agent,
}

impl Role {
    /// As in the certificate's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
        }
    }
}

/// A name that a certificate proves: role, datacenter, domain (`server.dc1.consul`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What it speaks for.
    pub role: Role,
    /// Of which datacenter.
    pub datacenter: String,
    /// The federation's domain, without a dot at its end.
    pub domain: String,
}

impl Identity {
    /// The DNS name in the certificate.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.{}", self.role.as_str(), self.datacenter, self.domain)
    }

    /// Reads a DNS name of a certificate; `None` where it is not `role.datacenter.domain`.
    pub fn parse(dns_name: &str, domain: &str) -> Option<Self> {
        let rest = dns_name.strip_suffix(domain)?.strip_suffix('.')?;
        let (role, datacenter) = rest.split_once('.')?;
        let role = match role {
            "server" => Role::Server,
            "gateway" => Role::Gateway,
            "agent" => Role::Agent,
            _ => return None,
        };
        if datacenter.is_empty() || datacenter.contains('.') {
            return None;
        }
        Some(Self { role, datacenter: datacenter.to_owned(), domain: domain.to_owned() })
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` in this process.
    pub addr: Option<SocketAddr>,
    /// What its certificate proves; `None` where the link has no TLS, or none of the names is one of ours.
    pub identities: Vec<Identity>,
    /// Whether the link is encrypted and the peer showed a certificate of our authority.
    pub verified: bool,
}

impl Peer {
    /// A call that does not leave this process.
    pub fn in_process() -> Self {
        Self { addr: None, identities: Vec::new(), verified: true }
    }

    /// Whether its certificate speaks for this role of this datacenter.
    pub fn is(&self, role: Role, datacenter: &str) -> bool {
        self.identities.iter().any(|i| i.role == role && i.datacenter == datacenter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates() {
        let id = Identity::parse("server.dc1.consul", "consul").unwrap();
        assert_eq!((id.role, id.datacenter.as_str()), (Role::Server, "dc1"));
        assert_eq!(id.dns_name(), "server.dc1.consul");
        for bad in [
            "server.dc1.other",
            "king.dc1.consul",
            "server.consul",
            "server.a.b.consul",
            "server..consul",
            "xserver.dc1.consul",
        ] {
            assert_eq!(Identity::parse(bad, "consul"), None, "{bad}");
        }
    }
}
