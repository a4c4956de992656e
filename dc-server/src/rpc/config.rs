//! Service `Config`.

use std::time::Duration;

use causeway_proto::command::command::Command;
use causeway_proto::config::config_server::Config;
use causeway_proto::config::{ApplyReply, ApplyRequest, EntriesReply, Entry, ListRequest, Verb};
use causeway_proto::kinds;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::{Log, Service, answer_within};
use crate::config;
use crate::store::Topic;

/// Longest time a write takes that the primary datacenter does.
const HANDED_ON: Duration = Duration::from_secs(9);

fn refused(error: &config::ConfigError) -> Status {
    Reason::Refused.status(error.to_string())
}

#[tonic::async_trait]
impl<L: Log> Config for Service<L> {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let headers = request.metadata().as_ref();
        let meta = Meta::read(headers);
        let left = answer_within(headers).map_or(HANDED_ON, |left| left.min(HANDED_ON));
        let mut request = request.into_inner();
        let Some(entry) = &mut request.entry else { return Err(Reason::Invalid.status("a config entry is missing")) };
        let verb = request.verb.try_into().unwrap_or(Verb::Unspecified);
        match verb {
            Verb::Unspecified => return Err(Reason::Invalid.status("Unknown config entry operation")),
            Verb::Delete => config::check_kind(&entry.kind).map_err(|e| refused(&e))?,
            Verb::Set | Verb::Cas => config::check(entry).map_err(|e| refused(&e))?,
        }
        for dc in entry.resolver.iter_mut().filter_map(|r| r.failover.as_mut()).flat_map(|f| &mut f.datacenters) {
            *dc = dc.to_lowercase();
        }
        entry.origin.clear();
        if verb != Verb::Delete && kinds::WITHOUT_EFFECT.contains(&entry.kind.as_str()) {
            tracing::info!(
                kind = entry.kind,
                name = entry.name,
                "a config entry of this kind is kept and has no effect"
            );
        }
        let (kind, name) = (entry.kind.clone(), entry.name.clone());
        if let Some(copy) = &self.copy {
            let primary = copy.primary();
            if request.handed_on {
                return Err(Reason::Refused.status(format!(
                    "datacenter {} was asked as the primary, and has {primary:?} as its own primary_datacenter: set the same on all servers",
                    self.datacenter
                )));
            }
            let meta = Meta { datacenter: Some(primary.to_owned()), hops: meta.hops + 1, ..meta };
            let (call, own) = (meta.call, request.clone());
            request.handed_on = true;
            let reply =
                self.log.apply_config(&meta, request, left).await.map_err(|status| match Reason::of(&status) {
                    reason @ (Reason::Unreachable | Reason::Doubtful | Reason::NoPath | Reason::Deadline) => reason.status(format!(
                        "config entries are written in the primary datacenter {primary:?}, which cannot be reached: {}",
                        status.message()
                    )),
                    _ => status,
                })?;
            // One that was written here before there was a primary is deleted here, too.
            let state = self.store.state();
            if verb == Verb::Delete
                && state.configs(&kind, &name).0.iter().any(|e| e.origin.is_empty() && !name.is_empty())
            {
                self.write(call, Command::Config(own)).await?;
            }
            return Ok(Response::new(reply));
        }
        let outcome = self.write(meta.call, Command::Config(request)).await?;
        Ok(Response::new(ApplyReply { done: outcome.done }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<EntriesReply>, Status> {
        let ListRequest { kind, name } = request.get_ref();
        if !kind.is_empty() {
            config::check_kind(kind).map_err(|e| refused(&e))?;
        }
        let mut response = self
            .read(&request, &[Topic::Configs], |state| {
                let (entries, index) = state.configs(kind, name);
                (EntriesReply { entries: entries.iter().map(|e| Entry::clone(e)).collect(), source: None }, index)
            })
            .await?;
        // Only the leader follows the primary.
        let copy = self.copy.as_ref().filter(|_| self.log.contact().is_leader);
        response.get_mut().source = copy.map(|copy| copy.source());
        Ok(response)
    }
}
