//! Service `Queries`.

use std::time::Duration;

use causeway_proto::catalog::ServiceHealth;
use causeway_proto::command::command::Command;
use causeway_proto::meta::Meta;
use causeway_proto::query::queries_server::Queries;
use causeway_proto::query::{
    ApplyReply, ApplyRequest, ExecuteRemoteRequest, ExecuteReply, ExecuteRequest, ExplainReply, GetRequest,
    ListRequest, PreparedQuery, QueriesReply, Verb,
};
use causeway_proto::rejection::Reason;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tonic::{Request, Response, Status};

use super::session::uuid;
use super::{Log, Service, answer_within, call_id, driver};
use crate::query::failover::{candidates, patience};
use crate::query::{select, template, validate};
use crate::store::Topic;
use crate::store::query::is_template;

/// Longest time an execution takes, with all the datacenters that it asks.
const WHOLE: Duration = Duration::from_secs(9);
/// Consul's text for an ID that is none.
const BAD_ID: &str = "failed prepared query lookup: index error: UUID must be 36 characters";
const NOT_FOUND: &str = "Query not found";

fn not_there(id: &str) -> Status {
    Reason::Refused.status(format!("Cannot modify non-existent prepared query: '{id}'"))
}

impl<L: Log> Service<L> {
    /// The query for an ID or a name, filled in.
    fn resolved(&self, id_or_name: &str) -> Result<PreparedQuery, Status> {
        let query = self.store.state().resolve_query(id_or_name);
        let query = query.ok_or_else(|| Reason::NotFound.status(NOT_FOUND))?;
        if is_template(&query) && query.id == id_or_name {
            return Err(Reason::Refused.status("prepared query templates can only be resolved up by name, not by ID"));
        }
        template::render(&query, id_or_name).map_err(|error| Reason::Refused.status(error.to_string()))
    }

    /// The node of an address, as the catalog has it; empty: none.
    fn node_at(&self, ip: &str) -> String {
        if ip.is_empty() {
            return String::new();
        }
        let nodes = self.store.state().nodes(&Default::default()).0;
        nodes.iter().find(|node| node.address == ip).map(|node| node.name.clone()).unwrap_or_default()
    }

    /// What there is in this datacenter, what is near to that node first.
    fn here(&self, query: &PreparedQuery, limit: i64, near: &str) -> ExecuteReply {
        let service = query.service.clone().unwrap_or_default();
        // Tags are compared below, as some may say what must not be there.
        let state = self.store.state();
        let (instances, _) = state.service_health(&service.service, &[], &Default::default());
        let seed = (self.chance)() as u64;
        let mut instances = select::select(&service, instances, &mut SmallRng::seed_from_u64(seed));
        state.sort_by_distance(near, &mut instances, |i| i.node.as_ref().map_or("", |node| &node.name));
        select::itself_first(&mut instances, near);
        select::limit(&mut instances, limit);
        ExecuteReply {
            instances: instances.iter().map(|instance| ServiceHealth::clone(instance)).collect(),
            service: service.service,
            dns_ttl: query.dns_ttl.clone(),
            datacenter: self.datacenter.clone(),
            ..ExecuteReply::default()
        }
    }

    /// Asks the other datacenters that the query names, one after the other.
    async fn elsewhere(
        &self,
        meta: &Meta,
        left: Duration,
        query: PreparedQuery,
        limit: i64,
        empty: ExecuteReply,
    ) -> ExecuteReply {
        let failover = query.service.as_ref().and_then(|s| s.failover.clone()).unwrap_or_default();
        if failover == Default::default() {
            return empty;
        }
        let clock = driver::deadline(left);
        // A gateway that is silent must not take the time of the datacenters.
        let asked = tokio::time::timeout(patience(left, false), self.log.others());
        let known = asked.await.ok().flatten();
        let order = candidates(&failover, known.as_deref(), &self.datacenter);
        // Without a word from the gateways nobody knows whom the nearest would be.
        let mut failed = known.is_none();
        let mut asked = 0;
        for (at, dc) in order.iter().enumerate() {
            let time = patience(clock.left(), at + 1 == order.len());
            if time.is_zero() {
                failed = true;
                break;
            }
            asked += 1;
            let meta = Meta {
                datacenter: Some(dc.clone()),
                token: if query.token.is_empty() { meta.token.clone() } else { Some(query.token.clone()) },
                hops: meta.hops + 1,
                consistency: meta.consistency,
                // A site must not learn from us what a third would not tell it.
                from: meta.from.clone(),
                trace: meta.trace,
                ..Meta::default()
            };
            let request = ExecuteRemoteRequest { query: Some(query.clone()), limit };
            match self.log.execute_remote(&meta, request, time).await {
                Ok(reply) if !reply.instances.is_empty() => return ExecuteReply { failovers: asked, ..reply },
                Ok(_) => {}
                Err(status) => {
                    failed = true;
                    tracing::debug!(datacenter = %dc, error = status.message(), "a prepared query could not be asked there");
                }
            }
        }
        ExecuteReply { failovers: asked, unreachable: failed, ..empty }
    }
}

#[tonic::async_trait]
impl<L: Log> Queries for Service<L> {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyReply>, Status> {
        let call = call_id(&request);
        let mut request = request.into_inner();
        let verb = request.verb();
        let mut query = request.query.take().unwrap_or_default();
        let state = self.store.state();
        query.origin.clear();
        let copied = state.query(&query.id).0.filter(|old| !old.origin.is_empty());
        if let (Verb::Update | Verb::Delete, Some(old)) = (verb, copied) {
            return Err(Reason::Refused.status(format!(
                "prepared query {:?} is copied from {} (replicate_prepared_queries): change it there, with ?dc={}",
                old.name, old.origin, old.origin
            )));
        }
        match verb {
            Verb::Create if !query.id.is_empty() => {
                return Err(Reason::Refused.status("ID must be empty when creating a new prepared query"));
            }
            Verb::Create => {
                let id = match call {
                    Some(call) => Some(uuid(call.id)),
                    None => (0..4).map(|_| uuid((self.chance)())).find(|id| state.query(id).0.is_none()),
                };
                query.id = id.ok_or_else(|| Reason::Internal.status("no free query ID found; try again"))?;
            }
            Verb::Update | Verb::Delete if query.id.len() != 36 => {
                return Err(Reason::Refused.status(format!("Prepared Query lookup failed: {BAD_ID}")));
            }
            Verb::Update | Verb::Delete if state.query(&query.id).0.is_none() && !self.was_done(call) => {
                return Err(not_there(&query.id));
            }
            Verb::Update | Verb::Delete => {}
            Verb::Unspecified => return Err(Reason::Invalid.status("Unknown prepared query operation")),
        }
        if verb != Verb::Delete {
            validate::check(&query).map_err(|error| Reason::Refused.status(error.to_string()))?;
        }
        let id = query.id.clone();
        request.query = Some(query);
        self.write(call, Command::Query(request)).await?;
        Ok(Response::new(ApplyReply { id }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<QueriesReply>, Status> {
        let id = &request.get_ref().id;
        if id.len() != 36 {
            return Err(Reason::Refused.status(BAD_ID));
        }
        self.read(&request, &[Topic::Queries], |state| {
            let (query, index) = state.query(id);
            (QueriesReply { queries: query.iter().map(|query| PreparedQuery::clone(query)).collect() }, index)
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<QueriesReply>, Status> {
        self.read(&request, &[Topic::Queries], |state| {
            let (queries, index) = state.queries();
            (QueriesReply { queries: queries.iter().map(|query| PreparedQuery::clone(query)).collect() }, index)
        })
        .await
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteReply>, Status> {
        let headers = request.metadata().as_ref();
        let meta = Meta::read(headers);
        let left = answer_within(headers).map_or(WHOLE, |left| left.min(WHOLE));
        let ExecuteRequest { id_or_name, limit, near, agent, ip } = request.get_ref();
        let query = self.resolved(id_or_name)?;
        let near = match (near.as_str(), query.service.as_ref().map_or("", |service| &service.near)) {
            ("", own) => own,
            (asked, _) => asked,
        };
        let near = match near {
            "_agent" => agent.clone(),
            "_ip" => self.node_at(ip),
            node => node.to_owned(),
        };
        let mut reply = self.here(&query, *limit, &near);
        if reply.instances.is_empty() {
            reply = self.elsewhere(&meta, left, query, *limit, reply).await;
        }
        Ok(self.answer(1).response(reply))
    }

    async fn execute_remote(&self, request: Request<ExecuteRemoteRequest>) -> Result<Response<ExecuteReply>, Status> {
        let ExecuteRemoteRequest { query, limit } = request.into_inner();
        Ok(self.answer(1).response(self.here(&query.unwrap_or_default(), limit, "")))
    }

    async fn explain(&self, request: Request<ExecuteRequest>) -> Result<Response<ExplainReply>, Status> {
        let query = self.resolved(&request.get_ref().id_or_name)?;
        Ok(self.answer(1).response(ExplainReply { query: Some(query) }))
    }
}
