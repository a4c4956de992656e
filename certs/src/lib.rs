//! Who is who: authorities, names in certificates, TLS configurations, and the two drivers that put them to use: [`dial`] makes
//! doors to other processes, [`serve`] accepts their calls.
//!
//! Every link inside a federation verifies the other end's name, `role.datacenter.domain` ([`causeway_proto::listen::Identity`]).
//!
//! [`material`] holds what a party shows and trusts and takes up renewed files; [`link`] makes one rustls configuration for each
//! kind of link from it; [`verify`] decides who may be at the other end. [`authority`], [`issue`] and [`tls`] make certificates.

pub mod agents;
pub mod authority;
pub mod dial;
pub mod issue;
pub mod join;
pub mod link;
pub mod material;
pub mod notice;
pub mod request;
pub mod serve;
pub mod tls;

pub mod verify;

pub use causeway_proto::listen::{Identity, Peer, Role};
