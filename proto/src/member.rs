//! Members of a datacenter as LAN gossip knows them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What gossip knows of a member's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberStatus {
    /// Answers probes (a suspected member still counts as alive).
    Alive,
    /// Is about to leave.
    Leaving,
    /// Left of its own will, or was forced out.
    Left,
    /// Stopped answering.
    Failed,
}

impl MemberStatus {
    /// The word `members` prints.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Leaving => "leaving",
            Self::Left => "left",
            Self::Failed => "failed",
        }
    }

    /// Serf's number for it, as `/v1/agent/members` shows.
    pub fn code(self) -> u8 {
        match self {
            Self::Alive => 1,
            Self::Leaving => 2,
            Self::Left => 3,
            Self::Failed => 4,
        }
    }
}

/// Names of the tags a member carries. Consul's own names where Consul has one.
pub mod tag {
    /// `consul` for a server, `node` for a client agent.
    pub const ROLE: &str = "role";
    /// Datacenter.
    pub const DC: &str = "dc";
    /// Node UUID.
    pub const ID: &str = "id";
    /// Port of a server's RPC, on the member's address.
    pub const PORT: &str = "port";
    /// Version of the executable.
    pub const BUILD: &str = "build";
    /// `1`: the agent has access control.
    pub const ACLS: &str = "acls";
    /// `bootstrap_expect` of a server, where set.
    pub const EXPECT: &str = "expect";
    /// Port of a gateway's LAN RPC, on the member's address. Its presence makes the member a gateway.
    pub const GATEWAY: &str = "gw";
    /// Addresses, comma separated, at which the gateway can be dialled from other sites.
    pub const GATEWAY_WAN: &str = "gw_wan";
    /// `1` where the server's or gateway's LAN RPC speaks TLS.
    pub const TLS: &str = "tls";
    /// Raft identity of a server, decimal.
    pub const RAFT: &str = "raft_id";
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Node name, unique in the datacenter.
    pub name: String,
    /// Gossip address.
    pub addr: SocketAddr,
    /// Its tags; see [`tag`].
    pub tags: BTreeMap<String, String>,
    /// Alive, leaving, left or failed.
    pub status: MemberStatus,
}

impl Member {
    /// A tag's value, empty where it has none.
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    /// The node's UUID, or empty.
    pub fn id(&self) -> &str {
        self.tag(tag::ID)
    }

    /// Its address, as servers and gateways listen on it too.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }

    /// Whether it is a server of the datacenter.
    pub fn is_server(&self) -> bool {
        self.tag(tag::ROLE) == "consul"
    }

    /// Whether it answers.
    pub fn is_alive(&self) -> bool {
        self.status == MemberStatus::Alive
    }

    /// Where a server's RPC listens.
    pub fn rpc_addr(&self) -> Option<SocketAddr> {
        if !self.is_server() {
            return None;
        }
        Some(SocketAddr::new(self.ip(), self.tag(tag::PORT).parse().ok()?))
    }

    /// Where a gateway's LAN RPC listens.
    pub fn gateway_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip(), self.tag(tag::GATEWAY).parse().ok()?))
    }

    /// Addresses at which a gateway can be dialled from other sites; none: it only dials out.
    pub fn gateway_wan(&self) -> impl Iterator<Item = &str> {
        self.tag(tag::GATEWAY_WAN).split(',').filter(|address| !address.is_empty())
    }
}

/// All members, by name; a new list for each change.
pub type Members = Arc<Vec<Member>>;
