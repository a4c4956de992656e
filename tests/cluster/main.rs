//! Real processes: a federation, or a part of it, is started, used, cut and killed. One target, so that it is linked once and that what
//! waits (most of it does) waits side by side.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../wan/mod.rs"]
mod wan;

mod acl;
mod auto_encrypt;
mod cli;
mod clitable;
mod dev;
mod distance;
mod dns_tcp;
mod events;
mod exports;
mod failover;
mod federation;
mod firewalls;
mod join;
mod keyring;
mod observability;
mod operator;
mod options;
mod realcli;
mod relay;
mod replication;
mod rubbish;
mod snapshot;
mod start;
mod tls_reload;
mod tools;
mod views;
mod watches;
