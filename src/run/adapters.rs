//! The agent's parts as its HTTP API wants to see them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_agent::gossip::Gossip;
use causeway_agent::http::ports::{CachedReads, CachedService, Local, LocalMembers, LocalRegistry, PortError};
use causeway_agent::registry::definition::{CheckDefinition, Secret, ServiceDefinition, Source, Status};
use causeway_agent::registry::{ChangeError, RegisterError, Registry};
use causeway_agent::views::Views;
use causeway_proto::coordinate::Coordinate;
use causeway_proto::door::{Door, Request};
use causeway_proto::member::Members;
use causeway_proto::meta::Meta;
use futures::future::BoxFuture;

/// Calls of a gateway's own agent: those for other sites go out here, without the round over a server, which would take them for calls
/// that another site sent on.
pub fn by_way_of(gateway: Door, servers: Door, own: &str) -> Door {
    let own: Arc<str> = own.into();
    Door::from_fn(move |request: Request| {
        let away = Meta::read(request.headers()).datacenter.is_some_and(|dc| !dc.eq_ignore_ascii_case(&own));
        let door = if away { gateway.clone() } else { servers.clone() };
        async move { door.call(request).await }
    })
}

/// The registry.
pub struct RegistryPort(pub Registry);

fn refused(e: RegisterError) -> PortError {
    match e {
        RegisterError::Invalid(_) => PortError::Invalid(e.to_string()),
        RegisterError::Refused(_) | RegisterError::Disk(_) => PortError::Failed(e.to_string()),
    }
}

fn unchanged(e: ChangeError) -> PortError {
    match e {
        ChangeError::NoService(_) | ChangeError::NoCheck(_) => PortError::NotFound(e.to_string()),
        ChangeError::NoTtl(_) | ChangeError::Disk(_) => PortError::Failed(e.to_string()),
    }
}

impl LocalRegistry for RegistryPort {
    fn snapshot(&self) -> Arc<Local> {
        let local = self.0.snapshot();
        Arc::new(Local {
            services: local.services.iter().map(|(id, s)| (id.clone(), Arc::new(s.service.clone()))).collect(),
            checks: local.checks.iter().map(|(id, c)| (id.clone(), Arc::new(c.check.clone()))).collect(),
        })
    }

    fn changed(&self) -> BoxFuture<'static, ()> {
        let mut changed = self.0.changed();
        changed.mark_unchanged();
        Box::pin(async move {
            let _ = changed.changed().await;
        })
    }

    fn add_service(&self, definition: ServiceDefinition, replace: bool) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.add_service(definition, Source::Api, replace).await.map_err(refused) })
    }

    fn remove_service(&self, id: String) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.remove_service(&id).await.map(|_| ()).map_err(unchanged) })
    }

    fn add_check(&self, definition: CheckDefinition) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.add_check(definition, Source::Api).await.map_err(refused) })
    }

    fn remove_check(&self, id: String) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.remove_check(&id).await.map(|_| ()).map_err(unchanged) })
    }

    fn update_ttl(&self, id: String, status: Status, output: String) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.update_ttl(&id, status, &output).map_err(unchanged) })
    }

    fn node_maintenance(&self, reason: Option<String>) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            let text = reason.as_deref().unwrap_or_default();
            self.0.set_node_maintenance(reason.is_some(), text, Secret::default()).await.map_err(unchanged)
        })
    }

    fn service_maintenance(&self, id: String, reason: Option<String>) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move {
            let text = reason.as_deref().unwrap_or_default();
            self.0.set_service_maintenance(&id, reason.is_some(), text, Secret::default()).await.map_err(unchanged)
        })
    }
}

/// LAN gossip.
pub struct MembersPort(pub Gossip);

impl LocalMembers for MembersPort {
    fn members(&self) -> Members {
        self.0.members().borrow().clone()
    }

    fn join(&self, addresses: Vec<String>, deadline: Duration) -> BoxFuture<'_, Result<usize, PortError>> {
        Box::pin(async move { self.0.join(&addresses, deadline).await.map_err(|e| PortError::Failed(e.to_string())) })
    }

    fn force_leave(&self, node: String, prune: bool) -> BoxFuture<'_, Result<(), PortError>> {
        Box::pin(async move { self.0.force_leave(&node, prune).await.map_err(|e| PortError::Failed(e.to_string())) })
    }

    fn coordinate(&self) -> Option<Coordinate> {
        self.0.coordinate()
    }

    fn stats(&self) -> BTreeMap<String, String> {
        self.0.stats()
    }
}

/// Views.
pub struct ViewsPort(pub Views);

impl CachedReads for ViewsPort {
    fn service<'a>(
        &'a self,
        datacenter: Option<&'a str>,
        service: &'a str,
        _token: Option<&'a str>,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<CachedService, tonic::Status>> {
        Box::pin(async move {
            let dc = datacenter.unwrap_or_else(|| self.0.datacenter());
            let hit = self.0.peek_service(dc, service).is_some();
            let fresh = self.0.service(datacenter, service, Instant::now() + deadline).await;
            let fresh = fresh.map_err(|e| e.reason().status(e.to_string()))?;
            let (instances, index) = (fresh.value.instances.clone(), fresh.index);
            Ok(CachedService { instances, index, age: fresh.age, down: fresh.down, hit })
        })
    }
}
