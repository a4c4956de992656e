#![allow(clippy::disallowed_methods, missing_docs, reason = "tests touch the world")]
//! Gateways on real sockets, in one process and over the emulator of a WAN. One target, so that it is linked once and that what waits
//! (most of it does) waits side by side.

#[path = "../support/load.rs"]
mod load;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/wan.rs"]
mod wan;

mod blocked;
mod calls;
mod cut;
mod failures;
mod join;
mod membership;
mod mesh;
mod relay;
mod rough;
mod sight;
mod views;
mod weather;
mod writes;
