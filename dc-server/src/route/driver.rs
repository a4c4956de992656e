//! Carries out what [`super::decide`] decides.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock for deadlines and draws jitter")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_proto::access::DENIED;
use causeway_proto::door::{Broken, Door, Request, Response};
use causeway_proto::listen::Peer;
use causeway_proto::member::{Member, MemberStatus, Members};
use causeway_proto::meta::{CallId, GRPC_TIMEOUT, Meta};
use causeway_proto::method::{Kind, Method, find};
use causeway_proto::rejection::{NO_LEADER, NO_PATH, Reason, UNREACHABLE};
use causeway_proto::trace;
use http_body_util::{BodyExt, Full, Limited};
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument;

use super::decide::{
    Caller, Proof, Standing, Verdict, another_may, deadline, decide, is_long, may_repeat, never_sent, read_timeout,
    weight,
};
use super::rooms::Rooms;
use super::spread;
use crate::acl::gate::{Entry, Need};
use crate::acl::{self, Acls};
use crate::consensus::driver::{LOST, STOPPED, leadership};
use crate::consensus::{Consensus, Leadership};
use crate::exports::driver::{Exports, filtered, follow};
use crate::exports::gate;
use crate::store::Store;

/// How much is let in at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls under way that are expected to end soon.
    pub calls: usize,
    /// Blocking reads and views under way.
    pub waits: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// How long a call is held while there is no leader (`rpc_hold_timeout`).
    pub hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls: 8192, waits: 131_072, body: 8 << 20, hold: Duration::from_secs(7) }
    }
}

/// The gateways of this site.
#[derive(Clone)]
pub struct Gateways {
    /// LAN members; those with a gateway's tag are used.
    pub members: watch::Receiver<Members>,
    /// Makes the door to a gateway.
    pub dial: Arc<dyn Fn(SocketAddr) -> Door + Send + Sync>,
    /// The gateway in this process.
    pub local: Option<Door>,
}

impl Gateways {
    /// Doors in the order to try: the one in this process, then the others from a random one on.
    pub fn doors(&self) -> Vec<Door> {
        let mut addresses: Vec<_> =
            self.members.borrow().iter().filter(|m| m.is_alive()).filter_map(|m| m.gateway_addr()).collect();
        if !addresses.is_empty() {
            let turn = rand::random_range(0..addresses.len());
            addresses.rotate_left(turn);
        }
        self.local.iter().cloned().chain(addresses.into_iter().map(|a| (self.dial)(a))).collect()
    }

    /// Doors for a view of another datacenter: the one gateway that follows this topic for the whole site first.
    pub fn doors_for_view(&self, datacenter: &str, ask: &[u8]) -> Vec<Door> {
        let mut addresses: Vec<_> =
            self.members.borrow().iter().filter(|m| m.is_alive()).filter_map(|m| m.gateway_addr()).collect();
        // Where ours is the only one, the way to it is short.
        if addresses.len() < 2 && self.local.is_some() {
            return self.doors();
        }
        spread::order(datacenter, ask, &mut addresses);
        addresses.into_iter().map(|a| (self.dial)(a)).chain(self.local.clone()).collect()
    }

    /// The same, each door behind another.
    #[must_use]
    pub fn with(&self, wrap: impl Fn(Door) -> Door + Clone + Send + Sync + 'static) -> Self {
        let (dial, outer) = (self.dial.clone(), wrap.clone());
        Self {
            members: self.members.clone(),
            dial: Arc::new(move |address| outer(dial(address))),
            local: self.local.clone().map(wrap),
        }
    }

    /// Whether the site has gateways at all, if only ones that do not answer now.
    pub fn known(&self) -> bool {
        let is_gateway = |m: &Member| m.status != MemberStatus::Left && m.gateway_addr().is_some();
        self.local.is_some() || self.members.borrow().iter().any(is_gateway)
    }
}

/// The layer around a server's services.
pub struct Router {
    consensus: Arc<Consensus>,
    services: Door,
    gateways: Gateways,
    datacenter: String,
    tls: bool,
    limits: Limits,
    calls: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    /// For calls to other datacenters.
    away: Rooms,
    draining: watch::Receiver<bool>,
    exports: Exports,
    store: Arc<Store>,
    acls: Option<Acls>,
}

/// One call while it is carried out.
#[derive(Clone)]
struct Call {
    method: &'static Method,
    meta: Meta,
    caller: Caller,
    parts: http::request::Parts,
    body: Bytes,
    start: Instant,
    deadline: Instant,
    hold: Instant,
}

/// What came of one try.
enum Tried {
    Answer(Response),
    /// Surely nothing happened, or it may be asked again: once there is another leader, or in a moment.
    Again,
    /// The same, for a write that may have happened; what to say where it cannot be asked again.
    Doubt(Status),
}

impl Router {
    /// A router in front of these services.
    #[allow(clippy::too_many_arguments, reason = "built in one place, from parts that have nothing else in common")]
    pub fn new(
        consensus: Arc<Consensus>,
        services: Door,
        gateways: Gateways,
        datacenter: String,
        tls: bool,
        limits: Limits,
        draining: watch::Receiver<bool>,
        exports: Exports,
        store: Arc<Store>,
        acls: Option<Acls>,
    ) -> Self {
        let (calls, waits) = (Arc::new(Semaphore::new(limits.calls)), Arc::new(Semaphore::new(limits.waits)));
        let away = Rooms::new(limits.calls / 4, limits.waits / 4);
        Self {
            consensus,
            services,
            gateways,
            datacenter,
            tls,
            limits,
            calls,
            waits,
            away,
            draining,
            exports,
            store,
            acls,
        }
    }

    /// The router as a door.
    pub fn door(self: Arc<Self>) -> Door {
        let router = self;
        Door::from_fn(move |request| {
            let router = router.clone();
            async move {
                match Box::pin(router.enter(request)).await {
                    Ok(response) => Ok::<_, Broken>(response),
                    Err(status) => Ok(status.into_http()),
                }
            }
        })
    }

    fn decide(&self, method: &Method, meta: &Meta, caller: Caller) -> Verdict {
        let here = Standing {
            datacenter: &self.datacenter,
            leadership: self.consensus.leadership(),
            draining: *self.draining.borrow(),
            tls: self.tls,
        };
        decide(method, meta, caller, &here)
    }

    /// Whether a read by this process itself may be answered from this store now, as [`Router::door`] would answer it: admitted by
    /// the same decision, and proven to be current where it must be. Takes no place among [`Limits::calls`]: it holds nothing.
    pub async fn admits(&self, method: &Method, meta: &Meta) -> bool {
        if is_long(method, meta) {
            return false;
        }
        let proof = match self.decide(method, meta, Caller::Inside) {
            Verdict::Here(Proof::None) => return true,
            Verdict::Here(proof) => proof,
            _ => return false,
        };
        // No deadline: that of a round, which each caller has at most two of, is shorter than any call's.
        self.consensus.make_current(proof == Proof::Quorum).await.is_ok()
    }

    /// Done when no call is under way but those that wait for a change, which their callers make again elsewhere.
    pub async fn idle(&self) {
        // Looked at from time to time: who waited in line for all places would make new calls find none, and not that we drain.
        while self.calls.available_permits() < self.limits.calls {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Handles a call, within a span where that is shown.
    async fn enter(&self, mut request: Request) -> Result<Response, Status> {
        // What servers say to each other all the time is no part of any question.
        if !tracing::enabled!(tracing::Level::DEBUG)
            || find(request.uri().path()).is_none_or(|m| m.kind == Kind::Servers)
        {
            return self.handle(request).await;
        }
        let start = Instant::now();
        let caller = Caller::of(request.extensions().get::<Peer>(), &self.datacenter);
        let trace = trace::renew(request.headers_mut(), rand::random(), rand::random());
        let (method, id, own) = (request.uri().path(), trace.id(), trace.span());
        let span = tracing::debug_span!("call", trace = %id, span = %own, method, ?caller);
        let result = self.handle(request).instrument(span.clone()).await;
        let refused = match &result {
            Ok(response) => Status::from_header_map(response.headers()).filter(|s| s.code() != tonic::Code::Ok),
            Err(status) => Some(status.clone()),
        };
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        span.in_scope(|| match refused {
            None => tracing::debug!(ms, "call answered"),
            Some(status) => tracing::debug!(ms, code = ?status.code(), why = status.message(), "call refused"),
        });
        result
    }

    async fn handle(&self, request: Request) -> Result<Response, Status> {
        // A method that is not known here is answered so by the services.
        let Some(method) = find(request.uri().path()) else { return self.local(request).await };
        let mut meta = Meta::read(request.headers());
        // Whoever asks first for a write gives it its name.
        if method.kind == Kind::Write && meta.call.is_none() {
            meta.call = Some(CallId::new(rand::random()));
        }
        let caller = Caller::of(request.extensions().get::<Peer>(), &self.datacenter);
        if method.kind == Kind::Servers {
            return match self.decide(method, &meta, caller) {
                Verdict::Here(_) => self.local(request).await,
                Verdict::Refuse(reason, text) => Err(reason.status(text)),
                _ => Err(Reason::Invalid.status("this is asked of the server itself")),
            };
        }
        let permit = self.enter_room(method, &meta)?;
        let asked = request.headers().get(GRPC_TIMEOUT).and_then(|v| v.to_str().ok()).and_then(read_timeout);
        let start = Instant::now();
        let end = start + deadline(method, &meta, asked);
        let (parts, body) = request.into_parts();
        let body = match timeout_at(end, Limited::new(body, self.limits.body).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Reason::TooLarge.status(format!("the request is larger than {} bytes", self.limits.body)));
            }
            Ok(Err(error)) => return Err(Reason::Invalid.status(format!("the request did not arrive whole: {error}"))),
            Err(_) => return Err(late()),
        };
        let hold = end.min(start + self.limits.hold);
        let call = Call { method, meta, caller, parts, body, start, deadline: end, hold };
        let response = self.carry_out(&call).await?;
        Ok(response.map(|body| keep(body, permit)))
    }

    /// A place for the call: among our own, or among those to the datacenter that it goes to.
    fn enter_room(&self, method: &Method, meta: &Meta) -> Result<OwnedSemaphorePermit, Status> {
        let long = is_long(method, meta);
        if let Some(to) = meta.datacenter.as_deref().filter(|to| *to != self.datacenter) {
            return self.away.enter(to, long).ok_or_else(|| {
                metrics::counter!("causeway_route_away_refused_total").increment(1);
                Reason::Overloaded
                    .status(format!("too many calls to {to} are under way on this server; it may not answer any more"))
            });
        }
        let room = if long { &self.waits } else { &self.calls };
        let text = "too many calls are under way on this server; try again later";
        room.clone().try_acquire_owned().map_err(|_| Reason::Overloaded.status(text))
    }

    async fn carry_out(&self, call: &Call) -> Result<Response, Status> {
        let mut doubt = None;
        let done = self.until_done(call, &mut doubt).await;
        // What stopped the second try says nothing of the first.
        done.map_err(|status| match (doubt, Reason::of(&status)) {
            (Some(doubt), Reason::NoLeader | Reason::Deadline | Reason::Draining | Reason::Overloaded) => doubt,
            _ => status,
        })
    }

    async fn until_done(&self, call: &Call, doubt: &mut Option<Status>) -> Result<Response, Status> {
        loop {
            let verdict = self.decide(call.method, &call.meta, call.caller);
            tracing::debug!(?verdict, "decided who answers");
            let tried = match verdict {
                Verdict::Refuse(reason, text) => return Err(reason.status(text)),
                Verdict::Away(_) | Verdict::Gateway => return self.away(call).await,
                Verdict::Here(proof) => match &call.meta.from {
                    None => self.guarded(call, proof).await?,
                    Some(from) => self.exported(call, from, proof).await?,
                },
                Verdict::Leader(leader) => self.leader(call, leader).await?,
                Verdict::Hold => Tried::Again,
            };
            match tried {
                Tried::Answer(response) => return Ok(response),
                Tried::Again => self.hold(call).await?,
                Tried::Doubt(status) => {
                    metrics::counter!("causeway_route_writes_repeated_total").increment(1);
                    *doubt = Some(status);
                    self.hold(call).await?;
                }
            }
        }
    }

    /// Waits for another leader, or a moment.
    async fn hold(&self, call: &Call) -> Result<(), Status> {
        if Instant::now() >= call.hold {
            return Err(Reason::NoLeader.status(NO_LEADER));
        }
        let mut metrics = self.consensus.metrics();
        let before = self.consensus.leadership();
        let changed = async {
            while leadership(&metrics.borrow_watched(), self.consensus.id()) == before {
                if metrics.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        // Never at once, and not all at the same time.
        let jitter = Duration::from_millis(rand::random_range(5..25));
        let moment = Duration::from_millis(rand::random_range(80..160));
        let _ = timeout_at(call.hold.min(Instant::now() + moment), changed).await;
        tokio::time::sleep_until(call.hold.min(Instant::now() + jitter)).await;
        Ok(())
    }

    /// For another site: what is exported to it.
    async fn exported(&self, call: &Call, from: &str, proof: Proof) -> Result<Tried, Status> {
        loop {
            let mut changes = self.exports.watch();
            let rights = changes.borrow_and_update().rights(from, &self.datacenter);
            let admitted =
                gate::enter(call.method.path, &rights, &call.body, &self.store.state()).inspect_err(|status| {
                    metrics::counter!("causeway_exports_refused_total", "from" => from.to_owned()).increment(1);
                    tracing::debug!(from, why = status.message(), "not exported");
                })?;
            let inner = Call { body: admitted.body.clone(), ..call.clone() };
            let tried = if call.method.kind == Kind::Read {
                tokio::select! {
                    tried = self.guarded(&inner, proof) => tried?,
                    // A read that waits for a change is looked at anew.
                    Ok(()) = changes.changed() => continue,
                }
            } else {
                self.guarded(&inner, proof).await?
            };
            return Ok(match tried {
                Tried::Again | Tried::Doubt(_) => tried,
                Tried::Answer(response) if refusal(&response).is_some() => Tried::Answer(response),
                Tried::Answer(response) if call.method.kind == Kind::Stream => {
                    Tried::Answer(follow(response, admitted, rights, changes, self.store.clone()))
                }
                Tried::Answer(response) => Tried::Answer(filtered(response, &admitted, &rights, &self.store).await?),
            });
        }
    }

    /// For a token: what it may do, and what of the answer it may see.
    async fn guarded(&self, call: &Call, proof: Proof) -> Result<Tried, Status> {
        let Some(acls) = &self.acls else { return self.here(call, proof).await };
        let path = call.method.path;
        let need = acl::gate::need(path).ok_or_else(|| Reason::Denied.status(DENIED))?;
        if need == Need::Open {
            return self.here(call, proof).await;
        }
        loop {
            let captured = acl::gate::captured(path, &call.body, &self.store.state());
            let secret = captured.as_deref().or(call.meta.token.as_deref());
            let who = acls.resolve(secret).await?;
            let rights = &who.authorizer;
            let entry = if rights.is_everything() {
                Entry::Whole
            } else {
                let state = self.store.state();
                let entry = acl::gate::enter(need, rights, &call.body, &state, acls.settings().key_list);
                acl::gate::refine(
                    path,
                    entry.inspect_err(|status| {
                        metrics::counter!("causeway_acl_refused_total").increment(1);
                        tracing::debug!(accessor = who.accessor, path, why = status.message(), "refused");
                    })?,
                )
            };
            if let Entry::Answer(message) = entry {
                return Ok(Tried::Answer(acl::driver::answer(message)));
            }
            let tried = if call.method.kind == Kind::Read && is_long(call.method, &call.meta) {
                tokio::select! {
                    tried = self.here(call, proof) => tried?,
                    // A read that waits for a change is looked at anew.
                    () = acls.lapse(secret, &who) => continue,
                }
            } else {
                self.here(call, proof).await?
            };
            let sees = if let Entry::Part(sees) = entry { Some(sees) } else { None };
            return Ok(match (tried, sees) {
                (tried @ (Tried::Again | Tried::Doubt(_)), _) => tried,
                (Tried::Answer(response), _) if refusal(&response).is_some() => Tried::Answer(response),
                (Tried::Answer(response), sees) if call.method.kind == Kind::Stream => {
                    let secret = secret.map(str::to_owned);
                    Tried::Answer(acl::driver::follow(response, sees, who.clone(), secret, acls.clone()))
                }
                (Tried::Answer(response), Some(sees)) => {
                    Tried::Answer(acl::driver::filtered(response, sees, rights).await?)
                }
                (tried, None) => tried,
            });
        }
    }

    async fn here(&self, call: &Call, proof: Proof) -> Result<Tried, Status> {
        if proof != Proof::None {
            match timeout_at(call.deadline, self.consensus.make_current(proof == Proof::Quorum)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(Tried::Again),
                Err(_) => return Err(late()),
            }
        }
        let long = proof != Proof::None && is_long(call.method, &call.meta);
        let request = call.request(&call.meta);
        let response = tokio::select! {
            response = timeout_at(call.deadline, self.local(request)) => response.map_err(|_| late())??,
            // Who waits for a change must not wait at a server that learns of none.
            () = self.deposed(), if long => return Ok(Tried::Again),
        };
        if long && timeout_at(call.deadline, self.consensus.make_current(false)).await.map_err(|_| late())?.is_err() {
            return Ok(Tried::Again);
        }
        Ok(judge(call, response, true))
    }

    /// Returns when this server does not lead any more.
    async fn deposed(&self) {
        let mut metrics = self.consensus.metrics();
        while matches!(leadership(&metrics.borrow_watched(), self.consensus.id()), Leadership::Here(_)) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    async fn leader(&self, call: &Call, leader: u64) -> Result<Tried, Status> {
        let membership = self.consensus.membership();
        let Some(door) = self.consensus.network().door(leader, membership.get_node(&leader)) else {
            return Ok(Tried::Again);
        };
        match timeout_at(call.deadline, door.call(call.onward())).await {
            Ok(Ok(response)) => Ok(judge(call, response, false)),
            Ok(Err(broken)) if call.method.kind != Kind::Write || never_sent(&broken) => Ok(Tried::Again),
            Ok(Err(broken)) => Ok(Tried::Doubt(Reason::Doubtful.status(format!(
                "the connection to the leader failed while the write was under way ({broken}); it may or may not have happened"
            )))),
            Err(_) => Err(late()),
        }
    }

    /// By a gateway of our own site.
    async fn away(&self, call: &Call) -> Result<Response, Status> {
        let doors = match (call.method.kind, call.meta.datacenter.as_deref()) {
            (Kind::Stream, Some(to)) => self.gateways.doors_for_view(to, &call.body),
            _ => self.gateways.doors(),
        };
        if doors.is_empty() {
            // A site that has gateways which are down is cut off, not alone: what it knew of others goes on existing.
            let known = self.gateways.known();
            let cut = || Reason::Unreachable.status(format!("{UNREACHABLE}: no gateway of {} is up", self.datacenter));
            return Err(if known { cut() } else { Reason::NoPath.status(NO_PATH) });
        }
        let repeat = may_repeat(call.method, &call.meta);
        let mut refused: Option<Response> = None;
        for door in doors {
            match timeout_at(call.deadline, door.call(call.onward())).await {
                Ok(Ok(response)) => match refusal(&response) {
                    // A gateway that has no way at the moment, or that began just now and knows nobody yet; another may.
                    Some(reason) if another_may(reason, repeat) => {
                        let told = refused.as_ref().and_then(refusal);
                        if told.is_none_or(|told| weight(reason) >= weight(told)) {
                            refused = Some(response);
                        }
                    }
                    Some(Reason::Draining) => {}
                    _ => return Ok(response),
                },
                Ok(Err(broken)) if call.method.kind != Kind::Write || never_sent(&broken) => {}
                Ok(Err(broken)) => {
                    let text = format!("{UNREACHABLE} ({broken}); the write may or may not have happened");
                    refused = Some(Reason::Doubtful.status(text).into_http());
                    if !repeat {
                        break;
                    }
                }
                Err(_) => return Err(late()),
            }
        }
        // The gateway knows more of why than we do.
        refused.map_or_else(
            || Err(Reason::Unreachable.status(format!("{UNREACHABLE}: no gateway of {} answers", self.datacenter))),
            Ok,
        )
    }

    async fn local(&self, request: Request) -> Result<Response, Status> {
        self.services.call(request).await.map_err(|broken| Reason::Internal.status(broken.to_string()))
    }
}

impl Call {
    fn request(&self, meta: &Meta) -> Request {
        let mut parts = self.parts.clone();
        let meta = Meta { call: meta.call.map(|id| id.aged(self.start.elapsed())), ..meta.clone() };
        meta.write(&mut parts.headers);
        Request::from_parts(parts, Body::new(Full::new(self.body.clone())))
    }

    /// The request as it is handed on: one hop further, with what is left of its time.
    fn onward(&self) -> Request {
        let meta = Meta { hops: self.meta.hops + 1, ..self.meta.clone() };
        let mut request = self.request(&meta);
        let left = self.deadline.saturating_duration_since(Instant::now()).as_millis().min(99_999_999);
        // A view has no end.
        if self.method.kind == Kind::Stream {
            request.headers_mut().remove(GRPC_TIMEOUT);
        } else if let Ok(value) = format!("{left}m").parse() {
            request.headers_mut().insert(GRPC_TIMEOUT, value);
        }
        request.extensions_mut().clear();
        request
    }
}

/// Why an answer that is only a refusal refuses.
fn refusal(response: &Response) -> Option<Reason> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() != tonic::Code::Ok).then(|| Reason::of(&status))
}

/// Whether the answer says that nothing was done and another server, or this one later, would do it.
fn again(response: &Response) -> bool {
    matches!(refusal(response), Some(Reason::NoLeader | Reason::Draining))
}

/// What to make of an answer that came, from this server or another.
fn judge(call: &Call, response: Response, here: bool) -> Tried {
    if again(&response) {
        return Tried::Again;
    }
    // Only these doubts are resolved by asking again.
    let lost = |text: &str| text == LOST || (text == STOPPED && !here);
    match Status::from_header_map(response.headers()) {
        Some(status) if may_repeat(call.method, &call.meta) && lost(status.message()) => Tried::Doubt(status),
        _ => Tried::Answer(response),
    }
}

fn late() -> Status {
    Reason::Deadline.status("the deadline of the call passed")
}

/// The body holds the permit until its last byte is taken or it is dropped.
fn keep(body: Body, permit: OwnedSemaphorePermit) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _held = &permit;
        frame
    }))
}
