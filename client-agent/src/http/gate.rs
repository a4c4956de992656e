//! The one table of endpoints, and the one gate every request passes.

use causeway_proto::access::Access as Grant;
use http::{Method, StatusCode};

use super::failure::Failure;

/// Whether a request reads or writes, for tokens and for limits on writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Root,
    StatusLeader,
    StatusPeers,
    AgentSelf,
    AgentMembers,
    AgentServices,
    AgentService,
    AgentChecks,
    AgentJoin,
    AgentForceLeave,
    AgentLeave,
    AgentReload,
    AgentMaintenance,
    AgentMetrics,
    AgentMonitor,
    AgentToken,
    AgentHost,
    AgentVersion,
    AgentHealthById,
    AgentHealthByName,
    AgentServiceRegister,
    AgentServiceDeregister,
    AgentServiceMaintenance,
    AgentCheckRegister,
    AgentCheckDeregister,
    AgentCheckPass,
    AgentCheckWarn,
    AgentCheckFail,
    AgentCheckUpdate,
    CatalogRegister,
    CoordinateDatacenters,
    CoordinateNode,
    CoordinateNodes,
    CoordinateUpdate,
    CatalogDeregister,
    CatalogDatacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService,
    CatalogNode,
    CatalogNodeServices,
    HealthNode,
    HealthChecks,
    HealthService,
    HealthState,
    Kv,
    SessionCreate,
    SessionDestroy,
    SessionRenew,
    SessionInfo,
    SessionNode,
    SessionList,
    Snapshot,
    Txn,
    OperatorAutopilot,
    OperatorHealth,
    OperatorKeyring,
    OperatorState,
    OperatorRaft,
    OperatorRaftPeer,
    OperatorTransfer,
    OperatorUsage,
    FederationSites,
    FederationToken,
    FederationRemove,
    FederationReadmit,
    FederationDoctor,
    AclAuthorize,
    FederationState,
    FederationStates,
    MeshGateways,
    UiNode,
    UiNodes,
    UiOverview,
    UiServices,
    InternalExports,
    InternalFederation,
    InternalReplication,
    Queries,
    Query,
    Config,
    Configs,
    EventFire,
    EventList,
    Acl,
}

/// How a read may be bidden to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// It answers at once.
    No,
    /// Until the index is another (`index`, `wait`).
    Index,
    /// Until what is shown is something else (`hash`, `wait`).
    Hash,
}

/// Methods with what each does.
pub(super) type Methods = &'static [(&'static str, Access)];

/// One row: a path (one that ends in `/` takes whatever follows), its methods, and what is true of it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) pattern: &'static str,
    pub(super) methods: Methods,
    /// Where what follows the pattern says more: the methods of that, still escaped; `None`: there is no such path.
    pub(super) below: Option<fn(&str) -> Option<Methods>>,
    pub(crate) endpoint: Endpoint,
    /// What it does, for the reference page.
    pub(super) says: &'static str,
    /// Parameters of its own, beside those that all reads share.
    pub(super) params: &'static [&'static str],
    /// Whether the servers are asked, as `default`, `consistent` or `stale` says.
    pub(super) modes: bool,
    /// How it waits.
    pub(super) waits: Waits,
    /// Whether what it works on has namespaces in Consul Enterprise, so that one that is named is refused.
    pub(super) spaced: bool,
    /// Whether a failed read has Consul's headers of a read, too.
    pub(super) fails_as_read: bool,
    /// Codes beside those that all have.
    pub(super) codes: &'static [u16],
}

impl Row {
    /// Has namespaces in Consul Enterprise.
    const fn spaced(self) -> Self {
        Self { spaced: true, ..self }
    }

    /// Is a read of the servers, by mode and index.
    const fn reads(self) -> Self {
        Self { modes: true, waits: Waits::Index, ..self }
    }

    /// The same, whose failures look like reads, too.
    const fn read(self) -> Self {
        Self { fails_as_read: true, ..self.reads() }
    }

    /// Is answered by the servers by mode, at once.
    const fn modes(self) -> Self {
        Self { modes: true, ..self }
    }

    /// Waits for another digest.
    const fn hash(self) -> Self {
        Self { waits: Waits::Hash, ..self }
    }

    /// Waits for another index, of this agent's own.
    const fn index(self) -> Self {
        Self { waits: Waits::Index, ..self }
    }

    /// Parameters of its own.
    const fn params(self, params: &'static [&'static str]) -> Self {
        Self { params, ..self }
    }

    /// Codes of its own.
    const fn codes(self, codes: &'static [u16]) -> Self {
        Self { codes, ..self }
    }

    /// Whether the path may go on after the pattern.
    fn is_prefix(&self) -> bool {
        self.pattern.ends_with('/') && self.pattern.len() > 1
    }

    /// Methods by what follows.
    const fn below(self, methods: fn(&str) -> Option<Methods>) -> Self {
        Self { below: Some(methods), ..self }
    }

    /// The methods where `rest` follows; `None`: there is no such path.
    fn methods(&self, rest: &str) -> Option<Methods> {
        self.below.map_or(Some(self.methods), |below| below(rest))
    }

    /// What `Allow` says.
    pub(crate) fn allow(&self, rest: &str) -> String {
        let mut text = "OPTIONS".to_owned();
        for (method, _) in self.methods(rest).unwrap_or_default() {
            text.push(',');
            text.push_str(method);
        }
        text
    }

    fn access(&self, method: &Method, rest: &str) -> Option<Access> {
        self.methods(rest)?.iter().find(|(m, _)| *m == method.as_str()).map(|(_, access)| *access)
    }
}

pub(super) const GET: Methods = &[("GET", Access::Read)];
pub(super) const POST: Methods = &[("POST", Access::Write)];
pub(super) const PUT: Methods = &[("PUT", Access::Write)];
pub(super) const KV: Methods = &[("GET", Access::Read), ("PUT", Access::Write), ("DELETE", Access::Write)];
/// Spring posts; Consul takes PUT alone.
const FIRE: Methods = &[("PUT", Access::Write), ("POST", Access::Write)];
const READ_PUT: Methods = &[("GET", Access::Read), ("PUT", Access::Write)];
const DELETE: Methods = &[("DELETE", Access::Write)];
const QUERIES: Methods = &[("GET", Access::Read), ("POST", Access::Write)];
const READ_DELETE: Methods = &[("GET", Access::Read), ("DELETE", Access::Write)];
/// Consul's order.
const KEYRING: Methods =
    &[("GET", Access::Read), ("POST", Access::Write), ("PUT", Access::Write), ("DELETE", Access::Write)];
const ANY: Methods =
    &[("GET", Access::Read), ("PUT", Access::Write), ("POST", Access::Write), ("DELETE", Access::Write)];

const fn row(pattern: &'static str, methods: Methods, endpoint: Endpoint, says: &'static str) -> Row {
    let (params, codes): (&[&str], &[u16]) = (&[], &[]);
    let waits = Waits::No;
    let (modes, spaced, fails_as_read, below) = (false, false, false, None);
    Row { pattern, methods, below, endpoint, says, params, modes, waits, spaced, fails_as_read, codes }
}

/// Every endpoint.
pub(crate) const TABLE: &[Row] = &[
    row("/", GET, Endpoint::Root, "Says `Consul Agent`."),
    row("/v1/acl/", ANY, Endpoint::Acl, "Access control: tokens, policies, roles, `bootstrap`, `replication`; 401 `ACL support disabled` where it is off. The endpoints of Consul before 1.4 are gone: 410.").below(super::acl::path::methods).params(&["dc", "policy", "role"]).modes().codes(&[401, 404, 410]),
    row("/v1/agent/check/deregister/", PUT, Endpoint::AgentCheckDeregister, "Removes a check of this agent.").spaced().codes(&[500]),
    row("/v1/agent/check/fail/", PUT, Endpoint::AgentCheckFail, "A TTL check says `critical`.").params(&["note"]).spaced().codes(&[404, 500]),
    row("/v1/agent/check/pass/", PUT, Endpoint::AgentCheckPass, "A TTL check says `passing`.").params(&["note"]).spaced().codes(&[404, 500]),
    row("/v1/agent/check/register", PUT, Endpoint::AgentCheckRegister, "Adds a check to this node or (`ServiceID`) to a service of it.").spaced(),
    row("/v1/agent/check/update/", PUT, Endpoint::AgentCheckUpdate, "A TTL check says what the body says: `Status`, `Output`.").spaced().codes(&[404, 500]),
    row("/v1/agent/check/warn/", PUT, Endpoint::AgentCheckWarn, "A TTL check says `warning`.").params(&["note"]).spaced().codes(&[404, 500]),
    row("/v1/agent/checks", GET, Endpoint::AgentChecks, "Checks of this agent, by ID.").params(&["filter"]).spaced(),
    row("/v1/agent/force-leave/", PUT, Endpoint::AgentForceLeave, "A failed member counts as left; `prune`: is forgotten.").params(&["prune", "wan"]),
    row("/v1/agent/health/service/id/", GET, Endpoint::AgentHealthById, "Health of a service of this agent; the code says it: 200 passing, 429 warning, 503 critical.").params(&["format"]).spaced().codes(&[404, 429, 503]),
    row("/v1/agent/health/service/name/", GET, Endpoint::AgentHealthByName, "The same of all its instances here, the worst for the code.").params(&["format"]).spaced().codes(&[404, 429, 503]),
    row("/v1/agent/host", GET, Endpoint::AgentHost, "The machine: memory, CPUs, disk."),
    row("/v1/agent/join/", PUT, Endpoint::AgentJoin, "Joins the member at this address.").params(&["wan"]),
    row("/v1/agent/leave", PUT, Endpoint::AgentLeave, "Leaves the datacenter and ends."),
    row("/v1/agent/maintenance", PUT, Endpoint::AgentMaintenance, "Maintenance of the node, on or off.").params(&["enable", "reason"]),
    row("/v1/agent/members", GET, Endpoint::AgentMembers, "Members of the datacenter, as gossip has them.").params(&["wan", "segment"]),
    row("/v1/agent/metrics", GET, Endpoint::AgentMetrics, "Metrics of the last ten seconds; `format=prometheus`: totals.").params(&["format"]),
    row("/v1/agent/monitor", GET, Endpoint::AgentMonitor, "The log from now on, a line each.").params(&["loglevel", "logjson"]),
    row("/v1/agent/reload", PUT, Endpoint::AgentReload, "Reads the configuration again; 500 and the reason where it cannot be used, and all stays as it was.").codes(&[500]),
    row("/v1/agent/self", GET, Endpoint::AgentSelf, "This agent: `Config`, `DebugConfig`, `Coord`, `Member`, `Stats`, `Meta`."),
    row("/v1/agent/service/", GET, Endpoint::AgentService, "A service of this agent, with the digest of what is shown.").params(&["hash", "wait"]).spaced().hash().codes(&[404]),
    row("/v1/agent/service/deregister/", PUT, Endpoint::AgentServiceDeregister, "Removes a service of this agent with its checks.").spaced(),
    row("/v1/agent/service/maintenance/", PUT, Endpoint::AgentServiceMaintenance, "Maintenance of a service, on or off.").params(&["enable", "reason"]).spaced().codes(&[404]),
    row("/v1/agent/service/register", PUT, Endpoint::AgentServiceRegister, "Adds a service to this agent, with its checks.").params(&["replace-existing-checks"]).spaced(),
    row("/v1/agent/services", GET, Endpoint::AgentServices, "Services of this agent, by ID.").params(&["filter"]).spaced(),
    row("/v1/agent/token/", PUT, Endpoint::AgentToken, "Sets a token that the agent uses: `default`, `agent`, `agent_master` (`agent_recovery`), `replication`.").codes(&[401, 404]),
    row("/v1/agent/version", GET, Endpoint::AgentVersion, "What runs here."),
    row("/v1/catalog/datacenters", GET, Endpoint::CatalogDatacenters, "All known datacenters, the nearest first.").params(&["cached"]),
    row("/v1/catalog/deregister", PUT, Endpoint::CatalogDeregister, "Takes a node, service or check out of the catalog.").params(&["dc"]).spaced(),
    row("/v1/catalog/node-services/", GET, Endpoint::CatalogNodeServices, "A node with its services, as a list.").params(&["dc", "filter"]).spaced().read(),
    row("/v1/catalog/node/", GET, Endpoint::CatalogNode, "A node with its services, by ID.").params(&["dc", "filter"]).spaced().read(),
    row("/v1/catalog/nodes", GET, Endpoint::CatalogNodes, "All nodes.").params(&["dc", "near", "node-meta", "filter"]).read(),
    row("/v1/catalog/register", PUT, Endpoint::CatalogRegister, "Puts a node, service or checks into the catalog.").params(&["dc"]).spaced(),
    row("/v1/catalog/service/", GET, Endpoint::CatalogService, "Instances of a service.").params(&["dc", "tag", "near", "node-meta", "filter"]).spaced().read(),
    row("/v1/catalog/services", GET, Endpoint::CatalogServices, "Names of services with their tags.").params(&["dc", "node-meta", "cached"]).spaced().read(),
    row("/v1/config", PUT, Endpoint::Configs, "Writes a config entry.").params(&["dc", "cas"]).spaced(),
    row("/v1/config/", READ_DELETE, Endpoint::Config, "A config entry, or (without a name) all of a kind; DELETE removes one.").params(&["dc", "cas"]).spaced().reads().codes(&[404]),
    row("/v1/coordinate/datacenters", GET, Endpoint::CoordinateDatacenters, "Where the sites are, by the round trips between their gateways.").codes(&[401]),
    row("/v1/coordinate/node/", GET, Endpoint::CoordinateNode, "Network coordinates of a node.").params(&["dc", "segment"]).read().codes(&[401, 404]),
    row("/v1/coordinate/nodes", GET, Endpoint::CoordinateNodes, "Network coordinates of all nodes.").params(&["dc", "segment"]).read().codes(&[401]),
    row("/v1/coordinate/update", PUT, Endpoint::CoordinateUpdate, "Says where a node is that no agent runs on.").params(&["dc"]).codes(&[401]),
    row("/v1/event/fire/", FIRE, Endpoint::EventFire, "Fires a user event; the body is its payload.").params(&["dc", "node", "service", "tag"]),
    row("/v1/event/list", GET, Endpoint::EventList, "The last 256 user events that this agent heard; the index is that of the last one.").params(&["name", "index", "wait"]).index(),
    row("/v1/federation/doctor/", GET, Endpoint::FederationDoctor, "Looks at what links to other sites need, at each end.").codes(&[404]),
    row("/v1/federation/readmit/", PUT, Endpoint::FederationReadmit, "Lets a site in again that was removed.").codes(&[404]),
    row("/v1/federation/remove/", PUT, Endpoint::FederationRemove, "Takes a site out of the federation, everywhere.").codes(&[404]),
    row("/v1/federation/sites", GET, Endpoint::FederationSites, "The sites that this gateway knows.").codes(&[404]),
    row("/v1/federation/token", PUT, Endpoint::FederationToken, "Makes a token to join with.").codes(&[404]),
    row("/v1/health/checks/", GET, Endpoint::HealthChecks, "Checks of a service.").params(&["dc", "near", "node-meta", "filter"]).spaced().read(),
    row("/v1/health/node/", GET, Endpoint::HealthNode, "Checks of a node.").params(&["dc", "filter"]).spaced().read(),
    row("/v1/health/service/", GET, Endpoint::HealthService, "Instances of a service with their checks; those of the nearest site where none here would do (`service-resolver`).").params(&["dc", "tag", "near", "node-meta", "passing", "filter"]).spaced().read(),
    row("/v1/health/state/", GET, Endpoint::HealthState, "Checks in a state (`any`: all).").params(&["dc", "near", "node-meta", "filter"]).spaced().read(),
    row("/v1/internal/acl/authorize", POST, Endpoint::AclAuthorize, "What the token may do: a list of `Resource`, `Access` and `Segment`, each answered with `Allow`.").codes(&[401]),
    row("/v1/internal/exports", GET, Endpoint::InternalExports, "What other sites may ask of this one."),
    row("/v1/internal/federation", GET, Endpoint::InternalFederation, "Each link of the gateway, and why it is as it is."),
    row("/v1/internal/federation-state/", GET, Endpoint::FederationState, "Consul's mesh gateways: there are none.").codes(&[404]),
    row("/v1/internal/federation-states", GET, Endpoint::FederationStates, "Consul's mesh gateways: there are none."),
    row("/v1/internal/federation-states/mesh-gateways", GET, Endpoint::MeshGateways, "Consul's mesh gateways: there are none."),
    row("/v1/internal/replication", GET, Endpoint::InternalReplication, "Keys that are copied from other sites, and how far behind."),
    row("/v1/internal/ui/catalog-overview", GET, Endpoint::UiOverview, "Counts of nodes, services and checks by health, for a UI.").params(&["dc"]),
    row("/v1/internal/ui/node/", GET, Endpoint::UiNode, "A node with services and checks, for a UI.").params(&["dc"]).spaced().read(),
    row("/v1/internal/ui/nodes", GET, Endpoint::UiNodes, "All of them.").params(&["dc", "filter"]).spaced().read(),
    row("/v1/internal/ui/services", GET, Endpoint::UiServices, "Services with counts by health, for a UI.").params(&["dc", "filter"]).spaced().read(),
    row("/v1/kv/", KV, Endpoint::Kv, "A key, or (`recurse`, `keys`) those below it. PUT writes, DELETE removes; `true` or `false` says whether it was done.").params(&["dc", "recurse", "keys", "separator", "raw", "flags", "cas", "acquire", "release"]).spaced().reads().codes(&[404, 413]),
    row("/v1/operator/autopilot/configuration", READ_PUT, Endpoint::OperatorAutopilot, "How servers are kept; PUT changes it.").params(&["dc", "cas"]).reads(),
    row("/v1/operator/autopilot/health", GET, Endpoint::OperatorHealth, "Health of each server; 429 where one is not healthy.").params(&["dc"]).codes(&[429]),
    row("/v1/operator/autopilot/state", GET, Endpoint::OperatorState, "The same, with roles and times.").params(&["dc"]),
    row("/v1/operator/keyring", KEYRING, Endpoint::OperatorKeyring, "Keys of gossip in all sites; POST installs one, PUT makes it the one that encrypts, DELETE removes one.").params(&["local-only", "relay-factor"]),
    row("/v1/operator/raft/configuration", GET, Endpoint::OperatorRaft, "The servers that Raft knows.").params(&["dc", "stale"]),
    row("/v1/operator/raft/peer", DELETE, Endpoint::OperatorRaftPeer, "Takes a server out of Raft.").params(&["dc", "id", "address"]),
    row("/v1/operator/raft/transfer-leader", POST, Endpoint::OperatorTransfer, "Hands leadership over.").params(&["id"]),
    row("/v1/operator/usage", GET, Endpoint::OperatorUsage, "Counts of nodes, services and instances.").params(&["dc", "global"]),
    row("/v1/query", QUERIES, Endpoint::Queries, "All prepared queries; POST makes one.").params(&["dc"]).reads(),
    row("/v1/query/", KV, Endpoint::Query, "A prepared query; `/execute` runs it, `/explain` shows what it would run; PUT changes it, DELETE removes it.").params(&["dc", "limit", "near"]).reads().codes(&[404]),
    row("/v1/session/create", PUT, Endpoint::SessionCreate, "Makes a session.").params(&["dc"]).spaced(),
    row("/v1/session/destroy/", PUT, Endpoint::SessionDestroy, "Ends a session.").params(&["dc"]).spaced(),
    row("/v1/session/info/", GET, Endpoint::SessionInfo, "A session.").params(&["dc"]).spaced().read(),
    row("/v1/session/list", GET, Endpoint::SessionList, "All sessions.").params(&["dc"]).spaced().read(),
    row("/v1/session/node/", GET, Endpoint::SessionNode, "Sessions of a node.").params(&["dc"]).spaced().read(),
    row("/v1/session/renew/", PUT, Endpoint::SessionRenew, "Renews the TTL of a session.").params(&["dc"]).spaced().codes(&[404]),
    row("/v1/snapshot", READ_PUT, Endpoint::Snapshot, "An archive of the whole state; PUT puts one back, all of it or nothing.").params(&["dc"]).modes().codes(&[413]),
    row("/v1/status/leader", GET, Endpoint::StatusLeader, "Address of the leader.").params(&["dc"]),
    row("/v1/status/peers", GET, Endpoint::StatusPeers, "Addresses of the servers.").params(&["dc"]),
    row("/v1/txn", PUT, Endpoint::Txn, "Up to 64 operations on keys, nodes, services and checks: all or none; 409 and the errors where none was done.").params(&["dc"]).spaced().modes().codes(&[409, 413]),
];

/// The row of a path and what follows the pattern, still escaped; the longest pattern wins.
pub(crate) fn find(path: &str) -> Option<(&'static Row, &str)> {
    // The table is sorted, so that a longer pattern comes behind the shorter one it begins with.
    TABLE
        .iter()
        .rev()
        .find_map(|row| {
            let rest = path.strip_prefix(row.pattern)?;
            (rest.is_empty() || row.is_prefix()).then_some((row, rest))
        })
        .filter(|(row, rest)| row.methods(rest).is_some())
}

/// What a request needs of the caller's token, where there is access control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing, as in Consul.
    Open,
    /// The servers look: nothing but what they say is answered.
    Servers,
    /// A known token; the handler looks at what it is about, or leaves out what may not be seen.
    Known,
    /// This agent.
    Agent(Grant),
    /// The servers and sites.
    Operator(Grant),
    /// This node.
    Node(Grant),
    /// Keys of gossip.
    Keyring(Grant),
}

/// The gate's other half: what each endpoint needs. Every endpoint has its line, or this does not compile.
pub(crate) fn need(endpoint: Endpoint, method: &Method) -> Need {
    use Endpoint as E;
    use Grant::{Read, Write};
    let by_method = |need: fn(Grant) -> Need| if *method == Method::GET { need(Read) } else { need(Write) };
    match endpoint {
        // Consul's own: who leads, which datacenters there are, where they are.
        E::Root | E::StatusLeader | E::StatusPeers | E::CatalogDatacenters | E::CoordinateDatacenters => Need::Open,
        // That there are none.
        E::FederationState | E::FederationStates | E::MeshGateways => Need::Operator(Read),
        E::AgentSelf | E::AgentMetrics | E::AgentMonitor | E::AgentVersion => Need::Agent(Read),
        E::AgentJoin | E::AgentLeave | E::AgentReload | E::AgentToken => Need::Agent(Write),
        E::AgentForceLeave => Need::Operator(Write),
        E::AgentHost => Need::Operator(Read),
        E::AgentMaintenance => Need::Node(Write),
        E::AgentMembers
        | E::AgentServices
        | E::AgentService
        | E::AgentChecks
        | E::AgentHealthById
        | E::AgentHealthByName
        | E::AgentServiceRegister
        | E::AgentServiceDeregister
        | E::AgentServiceMaintenance
        | E::AgentCheckRegister
        | E::AgentCheckDeregister
        | E::AgentCheckPass
        | E::AgentCheckWarn
        | E::AgentCheckFail
        | E::AgentCheckUpdate
        | E::EventFire
        | E::EventList
        | E::AclAuthorize => Need::Known,
        // By the gateway in this process, or of what servers tell anyone of their site.
        E::FederationSites | E::FederationDoctor | E::InternalFederation | E::InternalExports => Need::Operator(Read),
        E::FederationToken | E::FederationRemove | E::FederationReadmit => Need::Operator(Write),
        // It asks every site, which look again.
        E::OperatorKeyring => by_method(Need::Keyring),
        // Servers tell each other without a token.
        E::OperatorRaft => by_method(Need::Operator),
        E::CatalogRegister
        | E::CoordinateNode
        | E::CoordinateNodes
        | E::CoordinateUpdate
        | E::CatalogDeregister
        | E::CatalogNodes
        | E::CatalogServices
        | E::CatalogService
        | E::CatalogNode
        | E::CatalogNodeServices
        | E::HealthNode
        | E::HealthChecks
        | E::HealthService
        | E::HealthState
        | E::Kv
        | E::SessionCreate
        | E::SessionDestroy
        | E::SessionRenew
        | E::SessionInfo
        | E::SessionNode
        | E::SessionList
        | E::Snapshot
        | E::Txn
        | E::OperatorAutopilot
        | E::OperatorHealth
        | E::OperatorState
        | E::OperatorRaftPeer
        | E::OperatorTransfer
        | E::OperatorUsage
        | E::UiNode
        | E::UiNodes
        | E::UiOverview
        | E::UiServices
        | E::InternalReplication
        | E::Queries
        | E::Query
        | E::Config
        | E::Configs
        | E::Acl => Need::Servers,
    }
}

/// Whether there is such a method here. Who may use it is told by [`need`], once the token is known.
pub(crate) fn admit(row: &Row, method: &Method, rest: &str) -> Result<Access, Failure> {
    row.access(method, rest).ok_or_else(|| Failure {
        allow: Some(row.allow(rest)),
        ..Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_rows() {
        assert!(TABLE.windows(2).all(|w| w[0].pattern < w[1].pattern));
        let endpoints: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.endpoint as usize).collect();
        assert_eq!(endpoints.len(), TABLE.len());
        assert_eq!(endpoints.last(), Some(&(TABLE.len() - 1)), "metrics count on it");
        for (path, wanted) in [
            ("/", Some((Endpoint::Root, ""))),
            ("/v1/kv/a/b", Some((Endpoint::Kv, "a/b"))),
            ("/v1/kv/", Some((Endpoint::Kv, ""))),
            ("/v1/agent/service/register", Some((Endpoint::AgentServiceRegister, ""))),
            ("/v1/agent/service/web", Some((Endpoint::AgentService, "web"))),
            ("/v1/agent/service/deregister/web", Some((Endpoint::AgentServiceDeregister, "web"))),
            ("/v1/acl/tokens", Some((Endpoint::Acl, "tokens"))),
            ("/v1/acl/nope", None),
            ("/v1/agent/selfx", None),
            ("/v1/foo", None),
            ("/foo", None),
            ("", None),
        ] {
            assert_eq!(find(path).map(|(r, rest)| (r.endpoint, rest)), wanted, "{path}");
        }
    }

    #[test]
    fn methods() {
        let (kv, _) = find("/v1/kv/a").unwrap();
        assert_eq!(kv.allow("a"), "OPTIONS,GET,PUT,DELETE");
        assert_eq!(admit(kv, &Method::PUT, "a"), Ok(Access::Write));
        let failure = admit(kv, &Method::POST, "a").unwrap_err();
        assert_eq!((failure.code.as_u16(), failure.text.as_str()), (405, "method POST not allowed"));
        assert_eq!(failure.allow.as_deref(), Some("OPTIONS,GET,PUT,DELETE"));
    }
}
