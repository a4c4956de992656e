//! The language of Causeway: words (messages and names), the method table, and the rules both sides of a call agree on.
//!
//! This crate does no I/O and knows no role. Words are the prost messages themselves; they serve as values in the store, in
//! views and on the wire, so that there is one conversion only, from and to JSON, in `client-agent/http`.
//!
//! A call carries its [`meta`] (datacenter, token, consistency, index, wait, deadline) in headers only, so that whoever routes or
//! forwards it never decodes a body. A [`door`] is anything that takes a request for a method.

pub mod access;
pub mod bound;
pub mod door;
pub mod kinds;
pub mod listen;
pub mod member;
pub mod memory;
pub mod meta;
pub mod method;
pub mod name;
pub mod rejection;
pub mod trace;
pub mod vivaldi;

macro_rules! package {
    ($name:ident, $path:literal, $doc:literal) => {
        #[doc = $doc]
        #[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
        pub mod $name {
            pub mod v1 {
                tonic::include_proto!($path);
            }
            pub use v1::*;
        }
    };
}

package!(acl, "causeway.acl.v1", "Tokens, policies and roles; service `Acl`.");
package!(catalog, "causeway.catalog.v1", "Nodes, services and checks; service `Catalog`.");
package!(health, "causeway.health.v1", "Service `Health`.");
package!(view, "causeway.view.v1", "Live copies of topics; service `Views`.");
package!(kv, "causeway.kv.v1", "Key/value entries; service `Kv`.");
package!(session, "causeway.session.v1", "Sessions; service `Sessions`.");
package!(signing, "causeway.signing.v1", "Certificates for agents; service `Signing`.");
package!(snapshot, "causeway.snapshot.v1", "Whole states, saved and put back; service `Snapshots`.");
package!(txn, "causeway.txn.v1", "Transactions; service `Txn`.");
package!(status, "causeway.status.v1", "Service `Status`.");
package!(query, "causeway.query.v1", "Prepared queries; service `Queries`.");
package!(config, "causeway.config.v1", "Definitions of the whole federation; service `Config`.");
package!(operator, "causeway.operator.v1", "How the servers are kept; service `Operator`.");
package!(coordinate, "causeway.coordinate.v1", "Network coordinates; service `Coordinates`.");
package!(keyring, "causeway.keyring.v1", "Keys of gossip; service `Keyrings`.");
package!(event, "causeway.event.v1", "User events; service `Events`.");
package!(raft, "causeway.raft.v1", "Raft between the servers of a datacenter; service `Raft`.");
package!(command, "causeway.command.v1", "What the replicated log and snapshots carry.");
package!(federation, "causeway.federation.v1", "Between sites; services `Gossip` and `Directory`.");

impl std::fmt::Debug for signing::Authority {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("index", &self.index).finish_non_exhaustive()
    }
}
