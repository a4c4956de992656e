//! Under fire: real servers are used by many while they are killed, paused, cut off and robbed of their disks, and what their clients
//! were told is judged. Prints its seed.
//!
//! ```text
//! cargo test --test fire                                            short, as part of `cargo test`
//! FIRE=10m cargo test --test fire -- linear --nocapture             long; SEED=n, SERVERS=5, FAULTS=Pause,Cut
//! FIRE=1000 cargo test --test fire -- crash --nocapture             so many rounds of crashes
//! tests/fire/bugs.sh                                                known bugs are put back, each is to be found
//! ```
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]
#![allow(unreachable_pub, reason = "a crate of its own")]

mod check;
#[cfg(target_os = "linux")]
mod clients;
#[cfg(target_os = "linux")]
mod crash;
#[cfg(target_os = "linux")]
#[path = "../harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
mod http;
#[cfg(target_os = "linux")]
#[path = "../lab/mod.rs"]
mod lab;
#[cfg(target_os = "linux")]
mod linear;
#[cfg(target_os = "linux")]
mod site;

/// Past the capture of outputs: that something was not tested must be seen.
#[cfg(target_os = "linux")]
fn skip(what: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIP fire: {what}: {why}");
}
