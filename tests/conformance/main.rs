//! Conformance, seen from outside: the same questions over HTTP and DNS to this product, or to the real Consul with
//! `SUBJECT=/path/to/consul`; both must pass. The scripts in `scripts/` hold questions and Consul's own answers, recorded from it with
//! `RECORD=1 SUBJECT=/path/to/consul`. Where we differ on purpose, the step names a row of `differences.rs` and holds our answer too
//! (recorded with `RECORD=1`).

#![allow(unreachable_pub, reason = "a test is a crate of its own")]
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[path = "../harness/mod.rs"]
mod harness;

mod cli;
mod client;
mod differences;
mod recursor;
mod rows;
mod script;
mod snapshot;
mod subject;
mod target;
mod timing;

use subject::Subject;

#[test]
fn key_value() {
    let subject = Subject::start("kv");
    script::run(&subject, &["session", "kv", "txn"]);
}

#[test]
fn catalog_and_agent() {
    let subject = Subject::start("catalog");
    script::run(&subject, &["errors", "catalog", "health", "agent", "event"]);
}

#[test]
fn checks_that_run() {
    let subject = Subject::start("check");
    script::run(&subject, &["check"]);
}

#[test]
fn operators() {
    let subject = Subject::start("operator");
    script::run(&subject, &["operator"]);
}

#[test]
fn distances_and_keys() {
    let subject = Subject::start("distance");
    script::run(&subject, &["coordinate"]);
}

#[test]
fn dns() {
    let subject = Subject::start("dns");
    script::run(&subject, &["dns"]);
}

#[test]
fn prepared_queries() {
    let subject = Subject::start("query");
    script::run(&subject, &["query"]);
}

/// Who may do what, and what is said to whoever may not.
#[test]
fn access_control() {
    let subject = Subject::start_guarded("acl");
    script::run(&subject, &["acl"]);
}

/// The subject's own command line on the subject's own agents.
#[test]
fn command_line() {
    let subject = Subject::start("cli");
    script::run(&subject, &["cli"]);
}

/// Over IPv4 and IPv6, for names of others.
#[test]
fn names_of_others() {
    let (dead, alive) = (harness::free_port(), harness::free_port());
    recursor::start(alive);
    let subject = Subject::start_resolving("recursor", &[dead, alive]);
    script::run(&subject, &["recursor"]);
    let agent = subject.node("agent");
    let over_v6 = client::get_v6(agent.http, "/v1/status/leader").unwrap();
    assert!(over_v6.starts_with("HTTP/1.1 200") && over_v6.contains("127.0.0.1"), "{over_v6}");
}

#[test]
fn archives() {
    let subject = Subject::start("archives");
    snapshot::run(&subject);
}

#[test]
fn agents_and_overviews() {
    let subject = Subject::start("itself");
    script::run(&subject, &["http", "itself"]);
}

#[test]
fn waiting_and_locks() {
    let subject = Subject::start("timing");
    timing::run(&subject);
}

#[test]
fn two_datacenters() {
    let subject = Subject::start_two("two");
    script::run(&subject, &["federation"]);
}
