//! `agent/health/service/*`: the worst of a service's checks as an HTTP code, for load balancers.

use std::sync::Arc;

use causeway_proto::access::Access;
use causeway_proto::catalog::{Check, Service};
use http::{HeaderName, StatusCode, header};
use serde::Serialize;

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::ports::Local;
use super::super::render::{AgentHealthCheckJson, AgentServiceJson};
use super::super::reply::Reply;

const REASON: HeaderName = HeaderName::from_static("x-consul-reason");

/// How a service is, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Health {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
        }
    }

    fn code(self) -> StatusCode {
        match self {
            Self::Passing => StatusCode::OK,
            Self::Warning => StatusCode::TOO_MANY_REQUESTS,
            Self::Critical | Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn of(check: &Check) -> Self {
        if check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:") {
            return Self::Maintenance;
        }
        match check.status.as_str() {
            "passing" => Self::Passing,
            "warning" => Self::Warning,
            _ => Self::Critical,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceHealth<'a> {
    aggregated_status: &'static str,
    service: Option<AgentServiceJson<'a>>,
    checks: Option<Vec<AgentHealthCheckJson<'a>>>,
}

/// A service's own checks and those of the node, and the worst of them.
fn aggregate<'a>(local: &'a Local, service: &'a Service) -> (Health, ServiceHealth<'a>) {
    let bears = |check: &&Arc<Check>| check.service_id.is_empty() || check.service_id == service.id;
    let checks: Vec<_> = local.checks.values().filter(bears).collect();
    let worst = checks.iter().map(|check| Health::of(check)).max().unwrap_or(Health::Passing);
    let entry = ServiceHealth {
        aggregated_status: worst.as_str(),
        service: Some(AgentServiceJson { service, hash: None }),
        checks: Some(checks.into_iter().map(|check| AgentHealthCheckJson(check)).collect()),
    };
    (worst, entry)
}

fn wants_text(call: &Call<'_>) -> bool {
    call.params.get("format") == "text"
        || call.headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == b"text/plain")
}

fn reply<T: Serialize + ?Sized>(call: &Call<'_>, health: Health, body: &T) -> Result<Reply, Failure> {
    let reply = if wants_text(call) { Reply::text(health.as_str()) } else { call.json(body)? };
    Ok(reply.status(health.code()).header(REASON, health.as_str()))
}

/// Consul's answer for what is not there: no failure, a 404 with a reason.
fn absent<T: Serialize + ?Sized>(call: &Call<'_>, reason: &str, body: &T) -> Result<Reply, Failure> {
    let reply = if wants_text(call) { Reply::text(reason) } else { call.json(body)? };
    Ok(reply.status(StatusCode::NOT_FOUND).header(REASON, reason))
}

pub(crate) fn by_id(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    if call.rest.is_empty() {
        return Err(Failure::internal("Bad request: Missing serviceID"));
    }
    let local = call.ctx.registry.snapshot();
    match local.services.get(&call.rest) {
        Some(service) => {
            call.must(|who| who.service(&service.name, Access::Read))?;
            let (health, entry) = aggregate(&local, service);
            reply(call, health, &entry)
        }
        None => {
            let nothing = ServiceHealth { aggregated_status: Health::Critical.as_str(), service: None, checks: None };
            absent(call, &format!("ServiceId {} not found", call.rest), &nothing)
        }
    }
}

pub(crate) fn by_name(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    if call.rest.is_empty() {
        return Err(Failure::internal("Bad request: Missing service Name"));
    }
    call.must(|who| who.service(&call.rest, Access::Read))?;
    let local = call.ctx.registry.snapshot();
    let (health, entries): (Vec<_>, Vec<_>) = local
        .services
        .values()
        .filter(|service| service.name == call.rest)
        .map(|service| aggregate(&local, service))
        .unzip();
    match health.into_iter().max() {
        Some(worst) => reply(call, worst, &entries),
        None => absent(call, &format!("ServiceName {} Not Found", call.rest), &entries),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_counts() {
        let check = |id: &str, service: &str, status: &str| {
            let check = Check { id: id.into(), service_id: service.into(), status: status.into(), ..Check::default() };
            (id.to_owned(), Arc::new(check))
        };
        let service = Service { id: "w".into(), ..Service::default() };
        let health = |checks: &[(String, Arc<Check>)]| {
            let local = Local { checks: checks.iter().cloned().collect(), ..Local::default() };
            aggregate(&local, &service).0
        };
        assert_eq!(health(&[]), Health::Passing);
        assert_eq!(health(&[check("a", "w", "warning"), check("b", "other", "critical")]), Health::Warning);
        assert_eq!(health(&[check("a", "w", "passing"), check("n", "", "critical")]), Health::Critical);
        assert_eq!(
            health(&[check("a", "w", "critical"), check("_node_maintenance", "", "critical")]),
            Health::Maintenance
        );
    }
}
