//! The task that follows gossip and fills the ring; ids for events that begin here.
#![allow(clippy::disallowed_methods, reason = "owns a task and draws ids")]

use std::sync::Arc;

use causeway_proto::door::Door;
use causeway_proto::event::events_server::{Events as Service, EventsServer};
use causeway_proto::event::{FireReply, FireRequest};
use causeway_proto::rejection::Reason;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Air, Event, EventError, Filters, INTERNAL, Ring, VERSION, from_message};
use crate::registry::Registry;

/// Calls for jobs that may wait to be taken; who is slower misses the oldest.
const CALLS: usize = 16;

/// What is on this node: its services' ids and tags, looked at when an event comes.
pub type Services = Arc<dyn Fn(&Filters) -> bool + Send + Sync>;

struct Inner {
    air: Arc<dyn Air>,
    ring: watch::Sender<Ring>,
    calls: broadcast::Sender<Arc<Event>>,
}

/// The events of this agent. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Begins to keep what is heard and meant for this node. The task ends with `stop`, or when nobody carries events any more.
    pub fn start(
        air: Arc<dyn Air>,
        heard: broadcast::Receiver<Arc<Event>>,
        node: String,
        registry: Registry,
        stop: CancellationToken,
    ) -> Self {
        Self::start_with(air, heard, is_meant(node, registry), stop)
    }

    /// As [`Events::start`], with what is on this node from elsewhere.
    pub(crate) fn start_with(
        air: Arc<dyn Air>,
        heard: broadcast::Receiver<Arc<Event>>,
        meant: Services,
        stop: CancellationToken,
    ) -> Self {
        let events = Self(Arc::new(Inner {
            air,
            ring: watch::Sender::new(Ring::default()),
            calls: broadcast::Sender::new(CALLS),
        }));
        let keeper = events.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(keeper.keep(heard, meant)).await;
        });
        events
    }

    async fn keep(self, mut heard: broadcast::Receiver<Arc<Event>>, meant: Services) {
        loop {
            let event = match heard.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events came faster than they could be looked at; the oldest were missed");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            if event.version > VERSION {
                tracing::warn!(
                    name = event.name,
                    version = event.version,
                    "an event of a format that is too new; upgrade this agent"
                );
                continue;
            }
            match Filters::of(&event) {
                Ok(filters) if !meant(&filters) => continue,
                Ok(_) if event.name == INTERNAL => {
                    // Nobody listens where remote execution is off.
                    let _ = self.0.calls.send(event);
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(name = event.name, %error, "an event whose filter cannot be used");
                    continue;
                }
            }
            tracing::debug!(name = event.name, id = super::uuid(event.id), "new event");
            metrics::counter!("causeway_events_received_total").increment(1);
            self.0.ring.send_modify(|ring| ring.push(event));
        }
    }

    /// A new event: it gets its id here.
    pub fn draft(name: String, payload: Vec<u8>) -> Event {
        Event { id: rand::random(), name, payload, version: VERSION, ..Event::default() }
    }

    /// Whether an event can be fired, here or elsewhere; its size is judged where that is done.
    pub fn check(event: &Event) -> Result<(), EventError> {
        if event.name.is_empty() {
            return Err(EventError::NoName);
        }
        Filters::of(event)?;
        Ok(())
    }

    /// Fires an event in this datacenter.
    pub async fn fire(&self, event: Event) -> Result<(), EventError> {
        Self::check(&event)?;
        self.0.air.fire(event).await?;
        metrics::counter!("causeway_events_fired_total").increment(1);
        Ok(())
    }

    /// The ring, and to be told of changes.
    pub fn watch(&self) -> watch::Receiver<Ring> {
        self.0.ring.subscribe()
    }

    /// Calls for remote execution that are meant for this node.
    pub fn calls(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.calls.subscribe()
    }

    /// Service `Events`, for the server in this process: what other sites fire here.
    pub fn door(&self) -> Door {
        Door::new(EventsServer::new(self.clone()))
    }
}

fn is_meant(node: String, registry: Registry) -> Services {
    Arc::new(move |filters| {
        let local = registry.snapshot();
        filters.take(&node, local.services.iter().map(|(id, s)| (id.as_str(), s.service.tags.as_slice())))
    })
}

#[tonic::async_trait]
impl Service for Events {
    async fn fire(&self, request: Request<FireRequest>) -> Result<Response<FireReply>, Status> {
        let message = request.into_inner().event.ok_or_else(|| Reason::Invalid.status("an event is missing"))?;
        let event = from_message(message).map_err(|e| Reason::Invalid.status(e.to_string()))?;
        Events::fire(self, event).await.map_err(|e| Reason::Refused.status(e.to_string()))?;
        Ok(Response::new(FireReply {}))
    }
}
