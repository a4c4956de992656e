//! Causeway: service discovery for many datacenters behind many firewalls. This executable reads options, builds the parts, hands
//! them to each other, and drains them at the end; the parts are in the crates beside it.
#![allow(clippy::disallowed_methods, reason = "the root wires the parts to the world")]
#![allow(unreachable_pub, reason = "in an executable nothing is reached from outside; pub marks what a module offers")]

mod command;
#[cfg(test)]
#[path = "../fuzz/corpus.rs"]
mod corpus;
mod datadir;
mod dev;
#[cfg(test)]
mod fuzz;
mod log;
mod options;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    command::main(&args)
}
