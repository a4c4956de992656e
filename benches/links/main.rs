//! What links between sites cost and survive, measured here and, where `CONSUL_BIN` names it, on the real Consul in the same run,
//! alternating: two datacenters in two network namespaces of Linux with a round trip of 80 ms between them, that loses packets and is
//! cut. There is no NAT, which Consul could not pass: its servers must reach each other at every address and port.
//!
//! `CONSUL_BIN=/path/to/consul cargo bench --bench links [-- ROW ...]`; rows: cold loss change cut hung gateway. Needs root, `ip` and `nft`,
//! and says so and measures nothing elsewhere. `ROUNDS=3` sets the repeats (medians are printed); `LONG_CUT=600` adds a
//! cut of so many seconds to each round.
#![allow(clippy::disallowed_methods, reason = "a benchmark touches the world")]
#![allow(unreachable_pub, reason = "a benchmark is a crate of its own")]

#[cfg(target_os = "linux")]
#[path = "../../tests/harness/mod.rs"]
mod harness;
#[cfg(target_os = "linux")]
#[path = "../../tests/lab/mod.rs"]
mod lab;
#[cfg(target_os = "linux")]
mod reads;
#[cfg(target_os = "linux")]
mod rows;
#[cfg(target_os = "linux")]
mod subject;
#[cfg(target_os = "linux")]
mod table;

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("links: needs Linux; nothing is measured here");
}

#[cfg(target_os = "linux")]
fn main() {
    if let Some(why) = lab::lacking() {
        println!("links: needs root, ip and nft; nothing is measured here ({why})");
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let on = |row: &str| wanted.is_empty() || wanted.iter().any(|w| w == row);
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(3);
    let consul = std::env::var("CONSUL_BIN").ok();
    if consul.is_none() {
        println!("CONSUL_BIN is not set: the peer's column stays empty");
    }
    let mut table = table::Table::default();
    if ["cold", "loss", "change", "cut", "hung"].iter().any(|row| on(row)) {
        let mut subjects = vec![subject::Subject::causeway("links", 1)];
        subjects.extend(consul.as_ref().map(|bin| subject::Subject::consul(bin, "links-consul", 1)));
        for subject in &mut subjects {
            subject.start();
        }
        for round in 0..rounds {
            for subject in &subjects {
                rows::bare(subject, &mut table);
                if on("cold") {
                    rows::cold(subject, round, &mut table);
                }
                if on("loss") {
                    rows::loss(subject, round, &mut table);
                }
                if on("change") {
                    rows::change(subject, &mut table);
                }
                if on("cut") {
                    rows::cut(subject, &mut table);
                }
                if on("hung") {
                    rows::hung(subject, &mut table);
                }
            }
        }
    }
    if on("gateway") {
        let mut subjects = vec![subject::Subject::causeway("links-two", 2)];
        subjects.extend(consul.as_ref().map(|bin| subject::Subject::consul(bin, "links-three", 3)));
        for subject in &mut subjects {
            subject.start();
        }
        for _ in 0..rounds {
            for subject in &mut subjects {
                rows::gateway(subject, &mut table);
            }
        }
    }
    table.print();
    println!(
        "\nRTT: the wire's nominal 80 ms. \"Above the round trip\" is above what a bare UDP echo took in the same round. Not comparable \
         at all: sites behind NAT or firewalls, relays, NAT rebinding and the end of UDP (`cargo test --test namespaces`): Consul has \
         no answer there."
    );
}
