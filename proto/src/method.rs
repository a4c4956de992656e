//! The method table: what each gRPC method is, known before a body is read. Who routes, retries or admits a call asks here.

/// What a method does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads; may be repeated, and answered by any server where the caller allows a stale answer.
    Read,
    /// Writes; the leader's. Repeated where it has a name ([`crate::meta::CallId`]), or surely nothing happened.
    Write,
    /// A view: a stream of changes; any server's.
    Stream,
    /// Any server answers of itself, never handed on to the leader.
    Local,
    /// Between the servers of one datacenter only; never crosses to another and needs a server's certificate.
    Servers,
    /// Between gateways, or asked of a gateway by its own site.
    Gateways,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Whether another datacenter may be asked for it.
    pub crosses: bool,
}

const fn row(path: &'static str, kind: Kind, crosses: bool) -> Method {
    Method { path, kind, crosses }
}

/// Every method, by path.
pub const TABLE: &[Method] = &[
    row("/causeway.acl.v1.Acl/Bootstrap", Kind::Write, false),
    row("/causeway.acl.v1.Acl/Delete", Kind::Write, true),
    row("/causeway.acl.v1.Acl/Get", Kind::Read, true),
    row("/causeway.acl.v1.Acl/List", Kind::Read, true),
    row("/causeway.acl.v1.Acl/Own", Kind::Read, true),
    row("/causeway.acl.v1.Acl/Replication", Kind::Read, true),
    row("/causeway.acl.v1.Acl/Resolve", Kind::Read, true),
    row("/causeway.acl.v1.Acl/Set", Kind::Write, true),
    row("/causeway.catalog.v1.Catalog/Datacenters", Kind::Local, false),
    row("/causeway.catalog.v1.Catalog/Deregister", Kind::Write, true),
    row("/causeway.catalog.v1.Catalog/Inventory", Kind::Read, true),
    row("/causeway.catalog.v1.Catalog/ListNodes", Kind::Read, true),
    row("/causeway.catalog.v1.Catalog/ListServices", Kind::Read, true),
    row("/causeway.catalog.v1.Catalog/NodeServices", Kind::Read, true),
    row("/causeway.catalog.v1.Catalog/Register", Kind::Write, true),
    row("/causeway.catalog.v1.Catalog/ServiceNodes", Kind::Read, true),
    row("/causeway.catalog.v1.Catalog/Summary", Kind::Read, false),
    row("/causeway.config.v1.Config/Apply", Kind::Write, true),
    row("/causeway.config.v1.Config/List", Kind::Read, true),
    row("/causeway.coordinate.v1.Coordinates/Datacenters", Kind::Local, false),
    row("/causeway.coordinate.v1.Coordinates/ListNodes", Kind::Read, true),
    row("/causeway.coordinate.v1.Coordinates/Node", Kind::Read, true),
    row("/causeway.coordinate.v1.Coordinates/Update", Kind::Write, true),
    row("/causeway.event.v1.Events/Fire", Kind::Local, true),
    row("/causeway.federation.v1.Directory/Sites", Kind::Gateways, false),
    row("/causeway.federation.v1.Gossip/Echo", Kind::Gateways, false),
    row("/causeway.federation.v1.Gossip/Exchange", Kind::Gateways, false),
    row("/causeway.health.v1.Health/ChecksInState", Kind::Read, true),
    row("/causeway.health.v1.Health/NodeChecks", Kind::Read, true),
    row("/causeway.health.v1.Health/ServiceChecks", Kind::Read, true),
    row("/causeway.health.v1.Health/ServiceHealth", Kind::Read, true),
    row("/causeway.keyring.v1.Keyrings/Operate", Kind::Local, true),
    row("/causeway.kv.v1.Kv/Apply", Kind::Write, true),
    row("/causeway.kv.v1.Kv/Get", Kind::Read, true),
    row("/causeway.kv.v1.Kv/Keys", Kind::Read, true),
    row("/causeway.kv.v1.Kv/List", Kind::Read, true),
    row("/causeway.operator.v1.Operator/GetAutopilot", Kind::Read, true),
    row("/causeway.operator.v1.Operator/Health", Kind::Read, true),
    row("/causeway.operator.v1.Operator/RemovePeer", Kind::Write, true),
    row("/causeway.operator.v1.Operator/SetAutopilot", Kind::Write, true),
    row("/causeway.operator.v1.Operator/TransferLeader", Kind::Write, true),
    row("/causeway.operator.v1.Operator/Usage", Kind::Read, true),
    row("/causeway.query.v1.Queries/Apply", Kind::Write, true),
    row("/causeway.query.v1.Queries/Execute", Kind::Read, true),
    row("/causeway.query.v1.Queries/ExecuteRemote", Kind::Read, true),
    row("/causeway.query.v1.Queries/Explain", Kind::Read, true),
    row("/causeway.query.v1.Queries/Get", Kind::Read, true),
    row("/causeway.query.v1.Queries/List", Kind::Read, true),
    row("/causeway.raft.v1.Raft/Append", Kind::Servers, false),
    row("/causeway.raft.v1.Raft/Snapshot", Kind::Servers, false),
    row("/causeway.raft.v1.Raft/Transfer", Kind::Servers, false),
    row("/causeway.raft.v1.Raft/Vote", Kind::Servers, false),
    row("/causeway.session.v1.Sessions/Create", Kind::Write, true),
    row("/causeway.session.v1.Sessions/Destroy", Kind::Write, true),
    row("/causeway.session.v1.Sessions/Get", Kind::Read, true),
    row("/causeway.session.v1.Sessions/List", Kind::Read, true),
    row("/causeway.session.v1.Sessions/Renew", Kind::Write, true),
    // On connections of its own: see `causeway_certs::agents`.
    row("/causeway.signing.v1.Signing/Sign", Kind::Local, false),
    row("/causeway.snapshot.v1.Snapshots/Restore", Kind::Write, true),
    row("/causeway.snapshot.v1.Snapshots/Save", Kind::Read, true),
    row("/causeway.status.v1.Status/Exports", Kind::Local, true),
    row("/causeway.status.v1.Status/Leader", Kind::Local, true),
    row("/causeway.status.v1.Status/Peers", Kind::Local, true),
    row("/causeway.status.v1.Status/RaftConfiguration", Kind::Local, true),
    row("/causeway.status.v1.Status/Replication", Kind::Read, true),
    row("/causeway.status.v1.Status/Stats", Kind::Local, false),
    row("/causeway.txn.v1.Txn/Apply", Kind::Write, true),
    row("/causeway.txn.v1.Txn/Read", Kind::Read, true),
    row("/causeway.view.v1.Views/Subscribe", Kind::Stream, true),
];

/// The row of a path; `None`: not known here (a newer peer's method), to be answered with `UNIMPLEMENTED`.
pub fn find(path: &str) -> Option<&'static Method> {
    TABLE.binary_search_by(|row| row.path.cmp(path)).ok().map(|i| &TABLE[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found() {
        assert!(TABLE.windows(2).all(|w| w[0].path < w[1].path));
        for row in TABLE {
            assert_eq!(find(row.path).map(|r| r.path), Some(row.path));
        }
        assert!(find("/causeway.kv.v1.Kv/Nothing").is_none());
    }

    /// Every method of every schema has its row, and no row is left over.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the schemas are files")]
    fn every_schema_method_has_a_row() {
        fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let (mut package, mut service) = (String::new(), String::new());
                for line in text.lines().map(str::trim) {
                    if let Some(rest) = line.strip_prefix("package ") {
                        package = rest.trim_end_matches(';').to_owned();
                    } else if let Some(rest) = line.strip_prefix("service ") {
                        service = rest.trim_end_matches([' ', '{']).to_owned();
                    } else if let Some(rest) = line.strip_prefix("rpc ") {
                        let name = rest.split('(').next().unwrap();
                        found.push(format!("/{package}.{service}/{name}"));
                    }
                }
            }
        }
        let mut found = Vec::new();
        walk(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema"), &mut found);
        found.sort();
        let rows: Vec<_> = TABLE.iter().map(|r| r.path.to_owned()).collect();
        assert_eq!(found, rows);
    }
}
