//! The gateways: how the datacenters of a federation reach each other.
//!
//! Gateways of different sites hold QUIC connections with mutual TLS, or TLS over TCP where UDP is blocked; a call crosses as one stream, undecoded. Whichever end
//! dialled, either site can call the other. [`Gateway::door`] takes calls for other datacenters; calls from other sites go to the
//! door of [`World::servers`].
//!
//! | module | question | shape |
//! |---|---|---|
//! | [`directory`] | who is where, and who says so | machine |
//! | [`path`] | which way to a datacenter | decision |
//! | [`link`] | the life of connections and of dialling | machine + driver |
//! | [`carrier`] | what carries a link: QUIC, TCP, a proxy | translator + driver |
//! | [`admission`] | what may cross | decision |
//! | [`forward`] | a call goes out: frames, retries | translator + driver |
//! | [`views`] | one remote stream for all who follow a topic | machine + driver |
//! | [`accept`] | a call comes in | decision + driver |
//! | [`relay`] | links through other sites: who carries them, which, when | decision + machine + driver |
//! | [`join`] | how a new site gets its certificates | machine + driver |
//! | [`membership`] | which sites were removed, and by whose word | machine + driver |
//! | [`shelf`] | what the gateways of one site keep together | driver |
//! | [`doctor`] | what stands between two sites | decision + driver |
//! | [`sight`] | what is told of each link | decision + driver |
//! | `qlog` | traces of connections, on demand | translator + driver |
//! | [`gateway`] | all of it together | driver |

pub mod accept;
pub mod admission;
pub mod carrier;
mod catalogue;
pub mod config;
pub mod directory;
pub mod doctor;
pub mod forward;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
pub mod join;
pub mod link;
pub mod membership;
pub mod path;
mod qlog;
pub mod relay;
pub mod shelf;
pub mod sight;
#[cfg(test)]
mod simulation;
mod task;
mod tls;
pub mod views;

#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod corpus;

pub use carrier::{Proxy, ProxyError};
pub use config::{Config, Congestion, Limits};
pub use gateway::{Extras, Gateway, StartError, World};
pub use shelf::Shelf;
