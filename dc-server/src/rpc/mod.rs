//! Stand-in for the services, dropped at merge.
#![allow(missing_docs, reason = "stand-in")]
use causeway_proto::command;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Contact {
    pub is_leader: bool,
    pub known_leader: bool,
    pub last_contact: Duration,
}
pub trait Log: Send + Sync + 'static {
    fn propose(&self, command: command::Command) -> impl Future<Output = Result<command::Outcome, tonic::Status>> + Send;
    fn contact(&self) -> Contact;
    fn lock_delay(&self, key: &str) -> bool;
    fn renew_session(&self, id: &str) -> impl Future<Output = Result<(), tonic::Status>> + Send;
    fn datacenters(&self) -> impl Future<Output = Vec<String>> + Send;
}
