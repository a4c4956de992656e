//! Real processes: a federation, or a part of it, is started, used, cut and killed. One target, so that it is linked once and that what
//! waits (most of it does) waits side by side.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[path = "../harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
#[path = "../lab/mod.rs"]
mod lab;
#[path = "../wan/mod.rs"]
mod wan;

mod dev;
mod events;
mod exports;
mod failover;
mod federation;
mod firewalls;
mod join;
mod namespaces;
mod observability;
mod operator;
mod options;
mod relay;
mod replication;
mod snapshot;
mod start;
mod views;
mod watches;
