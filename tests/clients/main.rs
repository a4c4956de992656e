//! Clients of Consul as they are, unchanged, each driven against our executable: what a client does with the answers is the measure,
//! not that it ended with 0. `SUBJECT=/path/to/consul` asks the real one instead, to show that a script is right.
//!
//! A client that is not on the machine is skipped, loudly, with the words that bring it; `.ci/clients` brings all of them (`CLIENTS=1
//! .ci/run` calls it), those of no package of the system below `target/clients` or `CLIENTS_DIR`.

#![allow(unreachable_pub, reason = "a test is a crate of its own")]
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[path = "../harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "the suite of conformance uses more of it")]
#[path = "../conformance/subject.rs"]
mod subject;

mod consulfs;
mod haproxy;
mod libraries;
mod nameservers;
mod patroni;
mod prometheus;
mod registrator;
mod tools;
