//! Follows the members, holds a door a server, and sends calls.
#![allow(clippy::disallowed_methods, reason = "the one file of this feature that touches tasks, clock and chance")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use causeway_certs::dial::Dialer;
use causeway_proto::door::{Broken, Door, Request, Response};
use causeway_proto::listen::Role;
use causeway_proto::member::Members;
use causeway_proto::meta::{self, CallId};
use causeway_proto::method::{self, Kind};
use causeway_proto::rejection::Reason;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use super::choose::{self, Order, Plan, TRIES};
use super::rate::{Bucket, Rate};

/// Bytes of a request that are kept to be sent again; larger ones are refused.
const MAX_REQUEST: usize = 8 << 20;
/// Consul's text where gossip knows of no server.
const NO_SERVERS: &str = "No known Consul servers";
/// Consul's text where this agent made more calls than its `limits.rpc_rate`.
const RATE_EXCEEDED: &str = "RPC rate limit exceeded";

/// The servers of this datacenter.
#[derive(Clone)]
pub struct Servers {
    inner: Arc<Inner>,
}

struct Inner {
    rate: Mutex<Bucket>,
    /// Whether [`Inner::rate`] bounds anything, so that nobody takes its lock for nothing.
    limited: AtomicBool,
    local: Option<Door>,
    order: Mutex<Order>,
    dial: Box<dyn Fn(SocketAddr) -> Door + Send + Sync>,
    /// In the order of preference; a new list for each change.
    doors: ArcSwap<Vec<(SocketAddr, Door)>>,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Servers({:?})", self.addresses())
    }
}

impl Servers {
    /// Follows `members` until `stop`. `local`: the server in this process, which is asked first.
    pub fn new(
        members: watch::Receiver<Members>,
        dialer: Dialer,
        datacenter: String,
        local: Option<Door>,
        stop: CancellationToken,
    ) -> Self {
        // Connections to servers that are gone are forgotten by whoever owns the dialer: others may use it too.
        Self::with_dial(members, move |addr| dialer.door(addr, Role::Server), datacenter, local, stop)
    }

    fn with_dial(
        mut members: watch::Receiver<Members>,
        dial: impl Fn(SocketAddr) -> Door + Send + Sync + 'static,
        datacenter: String,
        local: Option<Door>,
        stop: CancellationToken,
    ) -> Self {
        let rate = Mutex::new(Bucket::new(Rate::of(-1.0, 0)));
        let limited = AtomicBool::new(false);
        let inner = Arc::new(Inner {
            rate,
            limited,
            local,
            order: Mutex::default(),
            dial: Box::new(dial),
            doors: ArcSwap::default(),
        });
        let mut rng = StdRng::from_os_rng();
        inner.update(&members.borrow_and_update(), &datacenter, &mut rng);
        let follower = inner.clone();
        // Ends with `stop` or with the gossip that feeds it.
        tokio::spawn(async move {
            while let Some(Ok(())) = stop.run_until_cancelled(members.changed()).await {
                let now = members.borrow_and_update().clone();
                follower.update(&now, &datacenter, &mut rng);
            }
        });
        Self { inner }
    }

    /// Lets so many calls through from now on; the others are refused with Consul's words (`limits.rpc_rate`).
    pub fn set_rate(&self, rate: Rate) {
        self.inner.rate.lock().unwrap_or_else(PoisonError::into_inner).set(rate);
        self.inner.limited.store(rate.per_second.is_finite(), Ordering::Release);
    }

    /// The servers that would be asked, in this order; the one in this process is not among them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.inner.doors.load().iter().map(|(addr, _)| *addr).collect()
    }

    /// A door that sends each call to one of the servers.
    pub fn door(&self) -> Door {
        let inner = self.inner.clone();
        Door::from_fn(move |request| {
            let inner = inner.clone();
            async move { inner.call(request).await }
        })
    }
}

impl Inner {
    fn update(&self, members: &Members, datacenter: &str, rng: &mut StdRng) {
        use causeway_proto::member::tag;
        let alive = members
            .iter()
            .filter(|m| m.is_alive() && m.is_server() && m.tag(tag::DC) == datacenter)
            .filter_map(causeway_proto::member::Member::rpc_addr)
            .collect();
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.update(alive, rng) {
            self.publish(&order);
        }
    }

    fn broke(&self, server: SocketAddr) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.broke(server) {
            self.publish(&order);
        }
    }

    fn publish(&self, order: &Order) {
        let before = self.doors.load();
        let door = |addr: &SocketAddr| {
            let known = before.iter().find(|(known, _)| known == addr).map(|(_, door)| door.clone());
            (*addr, known.unwrap_or_else(|| (self.dial)(*addr)))
        };
        self.doors.store(Arc::new(order.servers().iter().map(door).collect()));
    }

    /// Whether one more call is within the rate.
    fn may_call(&self) -> bool {
        if !self.limited.load(Ordering::Acquire) {
            return true;
        }
        self.rate.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now().into_std())
    }

    async fn call(&self, mut request: Request) -> Result<Response, Broken> {
        if !self.may_call() {
            metrics::counter!("consul_client_rpc_exceeded").increment(1);
            return Ok(Reason::Overloaded.status(RATE_EXCEEDED).into_http());
        }
        if method::find(request.uri().path()).is_some_and(|m| m.kind == Kind::Write)
            && !request.headers().contains_key(meta::CALL)
        {
            request.headers_mut().insert(meta::CALL, CallId::new(rand::random()).value());
        }
        let doors = self.doors.load_full();
        let local = self.local.iter().map(|door| (None, door.clone()));
        let candidates: Vec<(Option<SocketAddr>, Door)> =
            local.chain(doors.iter().map(|(addr, door)| (Some(*addr), door.clone()))).take(TRIES).collect();
        if candidates.is_empty() {
            return Ok(Reason::NoLeader.status(NO_SERVERS).into_http());
        }
        let plan = choose::plan(request.uri(), request.headers());
        let start = Instant::now();
        let deadline = start + plan.deadline;
        let attempt = async {
            let (parts, body) = request.into_parts();
            let body = match Limited::new(body, MAX_REQUEST).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) if error.is::<LengthLimitError>() => {
                    return Ok(Reason::TooLarge.status("the request is larger than 8 MiB").into_http());
                }
                Err(error) => return Err(Broken(format!("the request could not be read: {error}"))),
            };
            self.try_all(candidates, &Template { parts, body, start }, plan).await
        };
        match timeout_at(deadline, attempt).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!(
                    "no server answered within {} ms; check the servers of this datacenter",
                    plan.deadline.as_millis()
                );
                Ok(Reason::Deadline.status(text).into_http())
            }
        }
    }

    async fn try_all(
        &self,
        candidates: Vec<(Option<SocketAddr>, Door)>,
        template: &Template,
        plan: Plan,
    ) -> Result<Response, Broken> {
        let mut candidates = candidates.into_iter();
        let mut running: FuturesUnordered<BoxFuture<'static, Try>> = FuturesUnordered::new();
        let mut asked = Vec::with_capacity(TRIES);
        let mut last = Err(Broken(NO_SERVERS.to_owned()));
        let mut next = true;
        loop {
            if next && let Some((addr, door)) = candidates.next() {
                asked.push(addr);
                let request = template.request();
                running.push(Box::pin(async move { (addr, door.call(request).await) }));
            }
            let hedge = plan.hedge.filter(|_| candidates.len() > 0).map(|after| Instant::now() + after);
            tokio::select! {
                biased;
                answer = running.next() => {
                    let Some((addr, answer)) = answer else { return last };
                    let again = match &answer {
                        Ok(response) => choose::is_draining(response.headers()),
                        Err(broken) => plan.repeatable || choose::never_sent(broken),
                    };
                    if !again {
                        // Those asked before are silent: the next call must not wait for them again.
                        for silent in asked.iter().take_while(|a| **a != addr).flatten() {
                            self.broke(*silent);
                        }
                        return answer;
                    }
                    if let Some(addr) = addr {
                        self.broke(addr);
                    }
                    last = answer;
                    next = true;
                }
                () = async { match hedge { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                    next = true;
                }
            }
        }
    }
}

/// Who was asked (`None`: the server in this process), and what came of it.
type Try = (Option<SocketAddr>, Result<Response, Broken>);

/// A request that can be sent again and again.
struct Template {
    parts: http::request::Parts,
    body: Bytes,
    start: Instant,
}

impl Template {
    fn request(&self) -> Request {
        let mut request = Request::new(Body::new(Full::new(self.body.clone())));
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        *request.extensions_mut() = self.parts.extensions.clone();
        if let Some(call) = CallId::of(request.headers()) {
            request.headers_mut().insert(meta::CALL, call.aged(self.start.elapsed()).value());
        }
        request
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
