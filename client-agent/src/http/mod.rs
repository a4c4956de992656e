//! The agent's HTTP API, as Consul 1.8.7 speaks it.
//!
//! A request goes through [`driver`] (trace, clock, body, compression), the [`gate`] (one table of endpoints) and the file of its
//! URL family, which asks a server through a door, or the agent's own parts through [`ports`]. JSON is known in this folder only.

pub mod access;
mod acl;
mod agent;
pub mod archive;
mod autopilot;
mod body;
mod catalog;
mod config;
pub(crate) mod containers;
mod coordinate;
mod decode;
mod dispatch;
pub mod driver;
pub mod duration;
mod event;
pub(crate) mod exec;
mod failure;
mod federation;
pub mod figures;
mod filter;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod health;
mod internal;
pub mod kept;
mod keyring;
mod kv;
pub mod naming;
mod operator;
pub mod ports;
mod prepared;
mod progress;
mod query;
pub mod reference;
mod render;
mod reply;
mod session;
mod shape;
mod sight;
mod snapshot;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod txn;
mod ui;
mod view;

pub use config::config_entry;
pub mod watch;

pub use driver::{Api, Limits, Listener, router, serve};
pub use ports::{Context, Info};
