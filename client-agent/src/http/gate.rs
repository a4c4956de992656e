//! The one table of endpoints, and the one gate every request passes.

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

/// One row: a path (one that ends in `/` takes whatever follows) and its methods.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) pattern: &'static str,
    methods: &'static [(&'static str, Access)],
    pub(crate) endpoint: Endpoint,
}

impl Row {
    /// Whether the path may go on after the pattern.
    fn is_prefix(&self) -> bool {
        self.pattern.ends_with('/') && self.pattern.len() > 1
    }

    /// What `Allow` says.
    pub(crate) fn allow(&self) -> String {
        let mut text = "OPTIONS".to_owned();
        for (method, _) in self.methods {
            text.push(',');
            text.push_str(method);
        }
        text
    }

    fn access(&self, method: &Method) -> Option<Access> {
        self.methods.iter().find(|(m, _)| *m == method.as_str()).map(|(_, access)| *access)
    }
}

const GET: &[(&str, Access)] = &[("GET", Access::Read)];
const POST: &[(&str, Access)] = &[("POST", Access::Write)];
const PUT: &[(&str, Access)] = &[("PUT", Access::Write)];
const KV: &[(&str, Access)] = &[("GET", Access::Read), ("PUT", Access::Write), ("DELETE", Access::Write)];
/// Spring posts; Consul takes PUT alone.
const FIRE: &[(&str, Access)] = &[("PUT", Access::Write), ("POST", Access::Write)];
const READ_PUT: &[(&str, Access)] = &[("GET", Access::Read), ("PUT", Access::Write)];
const DELETE: &[(&str, Access)] = &[("DELETE", Access::Write)];
const QUERIES: &[(&str, Access)] = &[("GET", Access::Read), ("POST", Access::Write)];
const READ_DELETE: &[(&str, Access)] = &[("GET", Access::Read), ("DELETE", Access::Write)];
/// Consul's order.
const KEYRING: &[(&str, Access)] =
    &[("GET", Access::Read), ("POST", Access::Write), ("PUT", Access::Write), ("DELETE", Access::Write)];
const ANY: &[(&str, Access)] =
    &[("GET", Access::Read), ("PUT", Access::Write), ("POST", Access::Write), ("DELETE", Access::Write)];

const fn row(pattern: &'static str, methods: &'static [(&'static str, Access)], endpoint: Endpoint) -> Row {
    Row { pattern, methods, endpoint }
}

/// Every endpoint.
pub(crate) const TABLE: &[Row] = &[
    row("/", GET, Endpoint::Root),
    row("/v1/acl/", ANY, Endpoint::Acl),
    row("/v1/agent/check/deregister/", PUT, Endpoint::AgentCheckDeregister),
    row("/v1/agent/check/fail/", PUT, Endpoint::AgentCheckFail),
    row("/v1/agent/check/pass/", PUT, Endpoint::AgentCheckPass),
    row("/v1/agent/check/register", PUT, Endpoint::AgentCheckRegister),
    row("/v1/agent/check/update/", PUT, Endpoint::AgentCheckUpdate),
    row("/v1/agent/check/warn/", PUT, Endpoint::AgentCheckWarn),
    row("/v1/agent/checks", GET, Endpoint::AgentChecks),
    row("/v1/agent/force-leave/", PUT, Endpoint::AgentForceLeave),
    row("/v1/agent/health/service/id/", GET, Endpoint::AgentHealthById),
    row("/v1/agent/health/service/name/", GET, Endpoint::AgentHealthByName),
    row("/v1/agent/host", GET, Endpoint::AgentHost),
    row("/v1/agent/join/", PUT, Endpoint::AgentJoin),
    row("/v1/agent/leave", PUT, Endpoint::AgentLeave),
    row("/v1/agent/maintenance", PUT, Endpoint::AgentMaintenance),
    row("/v1/agent/members", GET, Endpoint::AgentMembers),
    row("/v1/agent/metrics", GET, Endpoint::AgentMetrics),
    row("/v1/agent/monitor", GET, Endpoint::AgentMonitor),
    row("/v1/agent/reload", PUT, Endpoint::AgentReload),
    row("/v1/agent/self", GET, Endpoint::AgentSelf),
    row("/v1/agent/service/", GET, Endpoint::AgentService),
    row("/v1/agent/service/deregister/", PUT, Endpoint::AgentServiceDeregister),
    row("/v1/agent/service/maintenance/", PUT, Endpoint::AgentServiceMaintenance),
    row("/v1/agent/service/register", PUT, Endpoint::AgentServiceRegister),
    row("/v1/agent/services", GET, Endpoint::AgentServices),
    row("/v1/agent/token/", PUT, Endpoint::AgentToken),
    row("/v1/agent/version", GET, Endpoint::AgentVersion),
    row("/v1/catalog/datacenters", GET, Endpoint::CatalogDatacenters),
    row("/v1/catalog/deregister", PUT, Endpoint::CatalogDeregister),
    row("/v1/catalog/node-services/", GET, Endpoint::CatalogNodeServices),
    row("/v1/catalog/node/", GET, Endpoint::CatalogNode),
    row("/v1/catalog/nodes", GET, Endpoint::CatalogNodes),
    row("/v1/catalog/register", PUT, Endpoint::CatalogRegister),
    row("/v1/catalog/service/", GET, Endpoint::CatalogService),
    row("/v1/catalog/services", GET, Endpoint::CatalogServices),
    row("/v1/config", PUT, Endpoint::Configs),
    row("/v1/config/", READ_DELETE, Endpoint::Config),
    row("/v1/coordinate/datacenters", GET, Endpoint::CoordinateDatacenters),
    row("/v1/coordinate/node/", GET, Endpoint::CoordinateNode),
    row("/v1/coordinate/nodes", GET, Endpoint::CoordinateNodes),
    row("/v1/coordinate/update", PUT, Endpoint::CoordinateUpdate),
    row("/v1/event/fire/", FIRE, Endpoint::EventFire),
    row("/v1/event/list", GET, Endpoint::EventList),
    row("/v1/federation/doctor/", GET, Endpoint::FederationDoctor),
    row("/v1/federation/readmit/", PUT, Endpoint::FederationReadmit),
    row("/v1/federation/remove/", PUT, Endpoint::FederationRemove),
    row("/v1/federation/sites", GET, Endpoint::FederationSites),
    row("/v1/federation/token", PUT, Endpoint::FederationToken),
    row("/v1/health/checks/", GET, Endpoint::HealthChecks),
    row("/v1/health/node/", GET, Endpoint::HealthNode),
    row("/v1/health/service/", GET, Endpoint::HealthService),
    row("/v1/health/state/", GET, Endpoint::HealthState),
    row("/v1/internal/acl/authorize", POST, Endpoint::AclAuthorize),
    row("/v1/internal/exports", GET, Endpoint::InternalExports),
    row("/v1/internal/federation", GET, Endpoint::InternalFederation),
    row("/v1/internal/federation-state/", GET, Endpoint::FederationState),
    row("/v1/internal/federation-states", GET, Endpoint::FederationStates),
    row("/v1/internal/federation-states/mesh-gateways", GET, Endpoint::MeshGateways),
    row("/v1/internal/replication", GET, Endpoint::InternalReplication),
    row("/v1/internal/ui/catalog-overview", GET, Endpoint::UiOverview),
    row("/v1/internal/ui/node/", GET, Endpoint::UiNode),
    row("/v1/internal/ui/nodes", GET, Endpoint::UiNodes),
    row("/v1/internal/ui/services", GET, Endpoint::UiServices),
    row("/v1/kv/", KV, Endpoint::Kv),
    row("/v1/operator/autopilot/configuration", READ_PUT, Endpoint::OperatorAutopilot),
    row("/v1/operator/autopilot/health", GET, Endpoint::OperatorHealth),
    row("/v1/operator/autopilot/state", GET, Endpoint::OperatorState),
    row("/v1/operator/keyring", KEYRING, Endpoint::OperatorKeyring),
    row("/v1/operator/raft/configuration", GET, Endpoint::OperatorRaft),
    row("/v1/operator/raft/peer", DELETE, Endpoint::OperatorRaftPeer),
    row("/v1/operator/raft/transfer-leader", POST, Endpoint::OperatorTransfer),
    row("/v1/operator/usage", GET, Endpoint::OperatorUsage),
    row("/v1/query", QUERIES, Endpoint::Queries),
    row("/v1/query/", KV, Endpoint::Query),
    row("/v1/session/create", PUT, Endpoint::SessionCreate),
    row("/v1/session/destroy/", PUT, Endpoint::SessionDestroy),
    row("/v1/session/info/", GET, Endpoint::SessionInfo),
    row("/v1/session/list", GET, Endpoint::SessionList),
    row("/v1/session/node/", GET, Endpoint::SessionNode),
    row("/v1/session/renew/", PUT, Endpoint::SessionRenew),
    row("/v1/snapshot", READ_PUT, Endpoint::Snapshot),
    row("/v1/status/leader", GET, Endpoint::StatusLeader),
    row("/v1/status/peers", GET, Endpoint::StatusPeers),
    row("/v1/txn", PUT, Endpoint::Txn),
];

/// The row of a path and what follows the pattern, still escaped; the longest pattern wins.
pub(crate) fn find(path: &str) -> Option<(&'static Row, &str)> {
    // The table is sorted, so that a longer pattern comes behind the shorter one it begins with.
    TABLE.iter().rev().find_map(|row| {
        let rest = path.strip_prefix(row.pattern)?;
        (rest.is_empty() || row.is_prefix()).then_some((row, rest))
    })
}

/// Whether this caller may do this. One function for every request; it admits all until ACLs come.
pub(crate) fn admit(row: &Row, method: &Method, path: &str, token: Option<&str>) -> Result<Access, Failure> {
    let _ = (path, token);
    row.access(method).ok_or_else(|| Failure {
        allow: Some(row.allow()),
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
        assert_eq!(kv.allow(), "OPTIONS,GET,PUT,DELETE");
        assert_eq!(admit(kv, &Method::PUT, "/v1/kv/a", None), Ok(Access::Write));
        let failure = admit(kv, &Method::POST, "/v1/kv/a", None).unwrap_err();
        assert_eq!((failure.code.as_u16(), failure.text.as_str()), (405, "method POST not allowed"));
        assert_eq!(failure.allow.as_deref(), Some("OPTIONS,GET,PUT,DELETE"));
    }
}
