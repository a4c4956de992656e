//! Who is who: authorities, names in certificates, TLS configurations, and the two drivers that put them to use: [`dial`] makes
//! doors to other processes, [`serve`] accepts their calls.
//!
//! Every link inside a federation verifies the other end's name, `role.datacenter.domain` ([`causeway_proto::listen::Identity`]).

pub mod dial;
pub mod material;
pub mod serve;

pub use causeway_proto::listen::{Identity, Peer, Role};
