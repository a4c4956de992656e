//! The handler that hickory-server asks; it serves TCP.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hickory_proto::op::{Header, HeaderCounts, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::answer::{Ask, Setup};
use super::desk::{client_edns, unwelcome};
use super::figures::Figures;
use super::reply::{Head, Reply};
use super::resolve;
use crate::failover::Failover;
use crate::views::Views;
use causeway_proto::trace::Trace;

/// The world as the handler needs it, so that it need not reach for it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The time that goes by.
    pub now: fn() -> Instant,
    /// The time of day.
    pub unix: fn() -> SystemTime,
    /// A number nobody can foresee.
    pub chance: fn() -> u64,
}

impl Clock {
    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        (self.unix)().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }
}

/// What every question is answered with.
#[derive(Debug)]
pub struct Shared {
    /// Where answers come from.
    pub views: Views,
    /// Which site answers for a plain name.
    pub failover: Option<Failover>,
    /// How they are given.
    pub setup: ArcSwap<Setup>,
    /// How many may be waited for.
    pub waiting: Arc<Semaphore>,
    /// The world.
    pub clock: Clock,
    /// What is counted.
    pub figures: Figures,
}

impl Shared {
    /// A reply that takes waiting: under a trace of its own, which goes with every call that is made for it.
    pub async fn later(&self, setup: &Setup, ask: &Ask, tcp: bool, deadline: Instant) -> Reply {
        let chance = self.clock.chance;
        let began = (self.clock.now)();
        let trace = Trace::begin((u128::from(chance()) << 64) | u128::from(chance()), chance());
        let (id, own) = (trace.id(), trace.span());
        let span = tracing::debug_span!("dns", trace = %id, span = %own, name = %ask.owner, kind = %ask.qtype);
        let views = self.views.under(trace);
        let work = resolve::later(setup, &views, self.failover.as_ref(), ask, tcp, deadline, self.clock.now)
            .instrument(span.clone());
        let late = || Reply::empty(ResponseCode::ServFail);
        let reply = tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| late());
        let took = (self.clock.now)().saturating_duration_since(began);
        self.figures.waited(took);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        span.in_scope(|| tracing::debug!(ms, code = %reply.code, answers = reply.answers.len(), "question answered"));
        reply
    }

    /// How long a question may take: 2 s, or as long as all recursors may take, up to 10 s.
    pub fn patience(&self, setup: &Setup) -> Duration {
        let recursors = u32::try_from(setup.config.recursors.len()).unwrap_or(u32::MAX);
        let recursion = setup.config.recursor_timeout.saturating_mul(recursors);
        recursion.clamp(Duration::from_secs(2), Duration::from_secs(10))
    }
}

/// The handler.
#[derive(Debug, Clone)]
pub struct Handler(pub Arc<Shared>);

impl Handler {
    async fn handle(&self, request: &Request, mut out: impl ResponseHandler) -> ResponseInfo {
        let shared = &*self.0;
        let setup = shared.setup.load_full();
        let head = Head {
            id: request.metadata.id,
            op_code: request.metadata.op_code,
            recursion_desired: request.metadata.recursion_desired,
            checking_disabled: request.metadata.checking_disabled,
            edns: request.edns.as_ref().map(client_edns),
        };
        let reply = match request.queries.queries() {
            [query] => {
                let query = query.original();
                let ask = Ask {
                    owner: query.name().clone(),
                    qtype: query.query_type(),
                    udp: None,
                    edns: head.edns.is_some(),
                    unix: shared.clock.seconds(),
                    from: head.client().or(Some(request.src().ip())),
                };
                let mut reply = match unwelcome(&head, query) {
                    Some(code) => Reply { authoritative: false, ..Reply::empty(code) },
                    None => self.reply(&setup, &ask).await,
                };
                reply.fit_tcp(&head, query, setup.style());
                reply
            }
            _ => Reply { authoritative: false, ..Reply::empty(ResponseCode::FormErr) },
        };
        shared.figures.answered(&[(reply.code.low(), 1)]);
        let edns = reply.edns(&head);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let metadata = reply.metadata(&head, setup.style(), reply.cut);
        let none: [&Record; 0] = [];
        let message =
            builder.build(metadata, &reply.answers, &reply.authorities, none, reply.glue.iter().map(|(_, r)| r));
        match out.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer over TCP could not be sent");
                let mut metadata = Metadata::new(head.id, MessageType::Response, head.op_code);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }

    async fn reply(&self, setup: &Setup, ask: &Ask) -> Reply {
        let shared = &*self.0;
        let now = (shared.clock.now)();
        let mut rng = SmallRng::seed_from_u64((shared.clock.chance)());
        let failover = shared.failover.as_ref();
        if let Some(ready) = resolve::now(setup, &shared.views, failover, ask, now, None, &mut rng) {
            return ready.reply;
        }
        let Ok(_permit) = shared.waiting.try_acquire() else { return Reply::empty(ResponseCode::ServFail) };
        let deadline = now + shared.patience(setup);
        shared.later(setup, ask, true, deadline).await
    }
}

// Written out, as the trait's own macro would have to be a dependency for this one method.
impl RequestHandler for Handler {
    fn handle_request<'s, 'r, 'f, R, T>(
        &'s self,
        request: &'r Request,
        response_handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'f>>
    where
        R: 'f + ResponseHandler,
        T: 'f + Time,
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        Box::pin(self.handle(request, response_handle))
    }
}
