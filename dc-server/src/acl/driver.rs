//! Who a token is, kept for a moment; and the gate around an answer.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock, and follows the streams of answers")]

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use causeway_proto::access::{ANONYMOUS, ANONYMOUS_SECRET, Authorizer, GLOBAL_MANAGEMENT_ID, NOT_FOUND, Ruleset, Use};
use causeway_proto::acl::acl_client::AclClient;
use causeway_proto::acl::{
    Bootstrap, Change, DeleteReply, DeleteRequest, ItemReply, Kind, ListRequest, OwnRequest, ReplicationReply,
    ResolveRequest, SetRequest,
};
use causeway_proto::command::{Command, command};
use causeway_proto::door::{Door, Request, Response};
use causeway_proto::meta::{AnswerMeta, FILTERED, Meta, TOKEN};
use causeway_proto::rejection::{Reason, UNREACHABLE};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;

use super::gate::{self, Sees};
use super::write::{self, changes};
use super::{Down, Identity, Settings, find, identify, identify_remote};
use crate::config::driver::by_gateways;
use crate::exports::driver::{put, take};
use crate::route::Gateways;
use crate::rpc::MAX_MESSAGE;
use crate::store::{Store, Topic};

/// Who is kept at most, of each sort.
const MOST: usize = 4096;
/// How long it is remembered that the primary knows no such token.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How long the primary may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a write may take that the primary does.
const HANDED_ON: Duration = Duration::from_secs(9);
/// How long the primary holds a question to which it has nothing new: so often the copy is known to be the same.
const HELD: Duration = Duration::from_secs(2);
/// What such a question may take beyond that.
const GRACE: Duration = Duration::from_secs(5);
/// Longest time between two tries.
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// Items copied with one entry of the log.
const PIECE: usize = 256;
/// How often the leader looks for what is missing or over.
const KEEP_EVERY: Duration = Duration::from_millis(500);
/// Questions to the primary at a time.
const QUESTIONS: usize = 64;

/// Nanoseconds of Unix time.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds of Unix time.
pub(crate) fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// What the file says that lets a bootstrap be done again; 0: nothing.
pub(crate) async fn reset_index(file: Option<&Path>) -> u64 {
    let Some(file) = file else { return 0 };
    let text = tokio::fs::read_to_string(file).await.unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Takes that file away once it has been used.
pub(crate) async fn forget_reset(file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = tokio::fs::remove_file(file).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "cannot be removed; the next bootstrap writes another index, so it does nothing");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the primary said of a token.
struct Told {
    /// `None`: there is no such token.
    who: Option<Arc<Identity>>,
    at: Instant,
}

struct Inner {
    settings: Settings,
    datacenter: String,
    /// The datacenter whose tokens hold everywhere; `None`: this one.
    primary: Option<String>,
    store: Arc<Store>,
    gateways: Gateways,
    /// By accessor, with the index of the tables that it was made of.
    own: RwLock<HashMap<String, (u64, Arc<Identity>)>>,
    /// By the digest of the secret.
    told: Mutex<HashMap<[u8; 32], Told>>,
    questions: Semaphore,
    copied: Mutex<Copied>,
}

/// How the copy of the primary stands, on the leader.
#[derive(Debug, Clone, Default)]
struct Copied {
    index: u64,
    equal: Option<Instant>,
    success_ms: u64,
    error_ms: u64,
    error: String,
}

/// Access control of a server; clones share what is known.
#[derive(Clone)]
pub struct Acls(Arc<Inner>);

impl std::fmt::Debug for Acls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acls").field("primary", &self.0.primary).finish_non_exhaustive()
    }
}

fn not_found() -> Status {
    Reason::Denied.status(NOT_FOUND)
}

impl Acls {
    /// Of this server. `primary`: another datacenter that has the tokens for all.
    pub fn new(
        settings: Settings,
        datacenter: String,
        primary: Option<String>,
        store: Arc<Store>,
        gateways: Gateways,
    ) -> Self {
        let (own, told, copied) = (RwLock::default(), Mutex::default(), Mutex::default());
        let questions = Semaphore::new(QUESTIONS);
        Self(Arc::new(Inner { settings, datacenter, primary, store, gateways, own, told, questions, copied }))
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The datacenter that has the tokens for all, where that is another.
    pub fn primary(&self) -> Option<&str> {
        self.0.primary.as_deref()
    }

    /// Who a token of this server's own store is; `None`: it is not there, or its time has passed.
    pub fn own(&self, secret: Option<&str>) -> Option<Arc<Identity>> {
        let inner = &*self.0;
        let state = inner.store.state();
        let token = find(&state, secret, now_ms())?;
        let index = state.acl_index(Kind::Unspecified);
        let kept = inner.own.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, who)) = kept.get(&token.accessor_id)
            && *at == index
        {
            return Some(who.clone());
        }
        drop(kept);
        let who = identify(&state, token, &inner.datacenter, inner.settings.default)
            .inspect_err(|error| tracing::error!(accessor = token.accessor_id, %error, "a token's rules cannot be read; it is refused"))
            .ok()?;
        let who = Arc::new(who);
        let mut kept = inner.own.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.insert(token.accessor_id.clone(), (index, who.clone()));
        Some(who)
    }

    /// Whether the store has this secret, whether or not its time has passed.
    fn has(&self, secret: Option<&str>) -> bool {
        self.0.store.state().acl_by_secret(secret.unwrap_or(ANONYMOUS_SECRET)).is_some()
    }

    /// Who a token is. One that nobody knows is refused, whatever the reason that nobody knows it.
    pub async fn resolve(&self, secret: Option<&str>) -> Result<Arc<Identity>, Status> {
        if let Some(who) = self.own(secret) {
            return Ok(who);
        }
        if self.has(secret) {
            return Err(not_found());
        }
        let Some(secret) = secret.filter(|secret| *secret != ANONYMOUS_SECRET) else {
            return Ok(self.nobody());
        };
        match &self.0.primary {
            Some(primary) => self.ask(primary, secret).await,
            None => Err(not_found()),
        }
    }

    /// Who shows no token where there is none for such callers yet.
    fn nobody(&self) -> Arc<Identity> {
        let authorizer = Arc::new(Authorizer::new(&Ruleset::default(), self.0.settings.default));
        Arc::new(Identity { accessor: ANONYMOUS.to_owned(), local: false, expires_ms: 0, authorizer, told: None })
    }

    /// Who a token is by what the primary says, or said.
    async fn ask(&self, primary: &str, secret: &str) -> Result<Arc<Identity>, Status> {
        let inner = &*self.0;
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        let mut before = None;
        if let Some(told) = lock(&inner.told).get(&key) {
            let holds = if told.who.is_some() { inner.settings.ttl } else { UNKNOWN };
            if told.at.elapsed() < holds {
                return told.who.clone().filter(|who| !over(who)).ok_or_else(not_found);
            }
            before = told.who.clone();
        }
        let Ok(_one) = inner.questions.try_acquire() else {
            return self.without_primary(before, &Reason::Overloaded.status("too many questions to the primary"));
        };
        let meta =
            Meta { datacenter: Some(primary.to_owned()), token: Some(secret.to_owned()), hops: 1, ..Meta::default() };
        let gateways = &inner.gateways;
        match by_gateways!(AclClient, gateways, meta, PATIENCE, ResolveRequest {}, resolve) {
            Ok(reply) => {
                let reply = reply.into_inner();
                let who = identify_remote(reply.clone(), now_ms(), &inner.datacenter, inner.settings.default);
                let who = who.ok().filter(|_| reply.enabled).map(Arc::new);
                self.remember(key, who.clone());
                who.ok_or_else(not_found)
            }
            Err(status) if Reason::of(&status) == Reason::Denied => {
                self.remember(key, None);
                Err(not_found())
            }
            Err(status) => self.without_primary(before, &status),
        }
    }

    /// What holds while the primary cannot be asked: only who was known may go on.
    fn without_primary(&self, before: Option<Arc<Identity>>, why: &Status) -> Result<Arc<Identity>, Status> {
        let known = before.filter(|who| !over(who) && self.0.settings.down == Down::Extend);
        tracing::debug!(
            error = why.message(),
            known = known.is_some(),
            "the primary datacenter cannot be asked of a token"
        );
        known.ok_or_else(not_found)
    }

    fn remember(&self, key: [u8; 32], who: Option<Arc<Identity>>) {
        let mut told = lock(&self.0.told);
        if told.len() >= MOST {
            told.retain(|_, told| told.who.is_some());
        }
        if told.len() < MOST {
            told.insert(key, Told { who, at: Instant::now() });
        }
    }

    /// The gateways, past which no token goes that holds here only.
    fn out(&self) -> Gateways {
        let acls = self.clone();
        self.0.gateways.with(move |door| acls.leaving(door))
    }

    /// Has the primary do a write.
    pub(crate) async fn hand_on_set(&self, meta: &Meta, request: SetRequest) -> Result<ItemReply, Status> {
        let gateways = self.out();
        by_gateways!(AclClient, gateways, meta, HANDED_ON, request, set).map(tonic::Response::into_inner)
    }

    /// Has the primary delete something.
    pub(crate) async fn hand_on_delete(&self, meta: &Meta, request: DeleteRequest) -> Result<DeleteReply, Status> {
        let gateways = self.out();
        by_gateways!(AclClient, gateways, meta, HANDED_ON, request, delete).map(tonic::Response::into_inner)
    }

    /// Asks the primary for the token of the call.
    pub(crate) async fn hand_on_own(&self, meta: &Meta) -> Result<ItemReply, Status> {
        let gateways = &self.0.gateways;
        by_gateways!(AclClient, gateways, meta, HANDED_ON, OwnRequest {}, own).map(tonic::Response::into_inner)
    }

    /// How the copy of the primary's tokens, policies and roles stands, as the leader knows.
    pub(crate) fn replication(&self) -> ReplicationReply {
        let Some(primary) = &self.0.primary else { return ReplicationReply::default() };
        let copied = lock(&self.0.copied).clone();
        let lag = copied.equal.map_or(Duration::ZERO, |at| at.elapsed());
        ReplicationReply {
            enabled: true,
            running: copied.equal.is_some(),
            source: primary.clone(),
            index: copied.index,
            role_index: copied.index,
            token_index: copied.index,
            success_ms: copied.success_ms,
            error_ms: copied.error_ms,
            error: copied.error,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Follows the primary until it is dropped. `propose` writes one command to the log and returns once it is applied, or failed.
    pub(crate) async fn copy<F: Future<Output = ()>>(&self, gateways: &Gateways, propose: impl Fn(Command) -> F) {
        let inner = &*self.0;
        let Some(primary) = &inner.primary else { return };
        *lock(&inner.copied) = Copied::default();
        let (mut index, mut failures) = (0, 0_u32);
        loop {
            match self.copy_once(primary, gateways, index, &propose).await {
                Ok(at) => {
                    (index, failures) = (at, 0);
                    let mut copied = lock(&inner.copied);
                    (copied.index, copied.equal, copied.success_ms) = (at, Some(Instant::now()), now_ms());
                    copied.error.clear();
                }
                Err(status) => {
                    (index, failures) = (0, failures.saturating_add(1));
                    let mut copied = lock(&inner.copied);
                    if copied.error != status.message() {
                        tracing::warn!(
                            primary,
                            error = status.message(),
                            "tokens, policies and roles cannot be copied"
                        );
                    }
                    (copied.error_ms, copied.error) = (now_ms(), status.message().to_owned());
                }
            }
            let lag = lock(&inner.copied).equal.map(|at| at.elapsed());
            if let Some(lag) = lag {
                metrics::gauge!("causeway_acl_replication_lag_seconds").set(lag.as_secs_f64());
            }
            if failures > 0 {
                let most = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(MOST_PAUSE);
                tokio::time::sleep(most.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            }
        }
    }

    /// Makes our copies equal to what the primary has once that is newer; the index it is good for.
    async fn copy_once<F: Future<Output = ()>>(
        &self,
        primary: &str,
        gateways: &Gateways,
        index: u64,
        propose: &impl Fn(Command) -> F,
    ) -> Result<u64, Status> {
        let meta = Meta {
            datacenter: Some(primary.to_owned()),
            min_index: index,
            wait: Some(HELD),
            hops: 1,
            ..Meta::default()
        };
        let asked = ListRequest { copies: true, ..ListRequest::default() };
        let reply = by_gateways!(AclClient, gateways, meta, HELD + GRACE, asked, list)?;
        let at = AnswerMeta::of(&reply).index;
        let reply = reply.into_inner();
        if reply.redacted {
            let text = "acl.tokens.replication may not see secrets: give it a policy with acl = \"write\" in the primary datacenter";
            return Err(Reason::Denied.status(text));
        }
        let ours = || {
            let state = self.0.store.state();
            [Kind::Policy, Kind::Role, Kind::Token].map(|kind| state.acls(kind).0).concat()
        };
        let (delete, set) = changes(primary, &ours(), &reply.items);
        let count = delete.len() + set.len();
        let first = (!delete.is_empty()).then(|| Change { delete, copied: true, ..Change::default() });
        let pieces = set.chunks(PIECE).map(|set| Change { set: set.to_vec(), copied: true, ..Change::default() });
        for change in first.into_iter().chain(pieces) {
            propose(Command { call: None, command: Some(command::Command::Acl(change)) }).await;
        }
        if count > 0 {
            tracing::info!(primary, count, "tokens, policies and roles copied");
            let (delete, set) = changes(primary, &ours(), &reply.items);
            if delete.len() + set.len() > 0 {
                return Err(Reason::Internal.status("what was copied could not all be written"));
            }
        }
        Ok(at)
    }

    /// What a leader of the datacenter that has the tokens sees to: what is built in is there, and what is over goes.
    pub(crate) async fn keep<F: Future<Output = ()>>(&self, propose: impl Fn(Command) -> F) {
        let inner = &*self.0;
        loop {
            let state = inner.store.state();
            let mut change = Change { delete: state.acl_expired(now_ms()), ..Change::default() };
            if inner.primary.is_none() {
                if state.acl_policy(GLOBAL_MANAGEMENT_ID).is_none() {
                    change.set.push(write::global_management());
                }
                if state.acl_by_secret(ANONYMOUS_SECRET).is_none() {
                    change.set.push(write::anonymous(now_ns()));
                }
                if let Some(secret) = &inner.settings.initial_management
                    && state.acl_by_secret(secret).is_none()
                {
                    let accessor = crate::rpc::uuid(rand::random());
                    change.set.push(write::management(accessor, secret.clone(), "Initial Management Token", now_ns()));
                    // Nobody may come and make another one.
                    change.bootstrap = (state.acl_bootstrap() == 0).then(Bootstrap::default);
                }
            }
            drop(state);
            if !(change.delete.is_empty() && change.set.is_empty()) {
                propose(Command { call: None, command: Some(command::Command::Acl(change)) }).await;
            }
            tokio::time::sleep(KEEP_EVERY).await;
        }
    }

    /// Done when a token is no more what it was: who asked anew would be told something else.
    pub async fn lapse(&self, secret: Option<&str>, was: &Arc<Identity>) {
        loop {
            let mut changes = self.0.store.watch(&[Topic::Acls]);
            match self.resolve(secret).await {
                Ok(now) if Arc::ptr_eq(&now, was) || now.is(was) => {}
                _ => return,
            }
            let mut wait = Duration::from_secs(3600);
            if was.expires_ms > 0 {
                wait = wait.min(Duration::from_millis(was.expires_ms.saturating_sub(now_ms()) + 1));
            }
            if self.own(secret).is_none() {
                wait = wait.min(self.0.settings.ttl.max(UNKNOWN));
            }
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    }

    /// A door out of this datacenter, by which no token leaves that holds here only.
    pub fn leaving(&self, door: Door) -> Door {
        let acls = self.clone();
        Door::from_fn(move |request: Request| {
            let (door, acls) = (door.clone(), acls.clone());
            async move {
                let secret = request.headers().get(TOKEN).and_then(|v| v.to_str().ok());
                let state = acls.0.store.state();
                let local = secret.and_then(|secret| state.acl_by_secret(secret)).is_some_and(|token| token.local);
                // As the other datacenter would say, which does not know it.
                if local { Ok(not_found().into_http()) } else { door.call(request).await }
            }
        })
    }

    /// A door for what this server copies from other datacenters: with the token that is for that, and whole or not at all.
    pub fn copying(&self, door: Door) -> Door {
        let acls = self.clone();
        Door::from_fn(move |mut request: Request| {
            let (door, acls) = (door.clone(), acls.clone());
            async move {
                if !request.headers().contains_key(TOKEN)
                    && let Some(secret) = acls.0.settings.tokens.of(Use::Replication)
                    && let Ok(mut value) = HeaderValue::from_str(&secret)
                {
                    value.set_sensitive(true);
                    request.headers_mut().insert(TOKEN, value);
                }
                let response = door.call(request).await?;
                if response.headers().contains_key(FILTERED) {
                    let text = "acl.tokens.replication may not read all of what is copied; nothing is copied: give it a policy that may";
                    return Ok(Reason::Denied.status(text).into_http());
                }
                Ok(response)
            }
        })
    }
}

fn over(who: &Identity) -> bool {
    who.expires_ms != 0 && who.expires_ms <= now_ms()
}

/// An answer that was made here, of one message with its prefix.
pub fn answer(message: Bytes) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body.map_err(|never| match never {})));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer without what the caller may not see.
pub async fn filtered(response: Response, sees: Sees, who: &Authorizer) -> Result<Response, Status> {
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned();
    let mut buffer = BytesMut::from(whole.to_bytes().as_ref());
    let mut out = BytesMut::with_capacity(buffer.len());
    let mut left_out = false;
    while let Some(message) = take(&mut buffer)? {
        let (message, less) = gate::leave(sees, who, message)?;
        left_out |= less;
        put(&mut out, &message);
    }
    if left_out {
        parts.headers.insert(FILTERED, HeaderValue::from_static("true"));
    }
    let body = Full::new(out.freeze()).with_trailers(async move { trailers.map(Ok) });
    Ok(Response::from_parts(parts, Body::new(body)))
}

struct Following {
    body: Body,
    buffer: BytesMut,
    sees: Option<Sees>,
    who: Arc<Identity>,
    lapse: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

/// A view without what its reader may not see. It ends when that changes, so that its follower asks again.
pub fn follow(
    response: Response,
    sees: Option<Sees>,
    who: Arc<Identity>,
    secret: Option<String>,
    acls: Acls,
) -> Response {
    response.map(|body| {
        let was = who.clone();
        let lapse = Box::pin(async move { acls.lapse(secret.as_deref(), &was).await });
        let following = Following { body, buffer: BytesMut::new(), sees, who, lapse, over: false };
        Body::new(StreamBody::new(futures::stream::unfold(following, |mut following| async move {
            let frame = following.next().await?;
            Some((frame, following))
        })))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        while !self.over {
            let frame = tokio::select! {
                biased;
                () = &mut self.lapse => return Some(self.end()),
                frame = self.body.frame() => frame?,
            };
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(other)) => return Some(Ok(other)),
                Err(status) => return Some(Err(status)),
            };
            let Some(sees) = self.sees else { return Some(Ok(Frame::data(data))) };
            self.buffer.extend_from_slice(&data);
            match self.messages(sees) {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Some(Ok(Frame::data(out))),
                Err(status) => return Some(Err(status)),
            }
        }
        None
    }

    fn messages(&mut self, sees: Sees) -> Result<Bytes, Status> {
        let mut out = BytesMut::new();
        while let Some(message) = take(&mut self.buffer)? {
            put(&mut out, &gate::leave(sees, &self.who.authorizer, message)?.0);
        }
        Ok(out.freeze())
    }

    /// A refusal that sends the follower to ask anew.
    fn end(&mut self) -> Result<Frame<Bytes>, Status> {
        self.over = true;
        let mut trailers = HeaderMap::new();
        // Fails only for a text that cannot be a header.
        let _ = Reason::Draining.status("what the token may see was changed; ask again").add_header(&mut trailers);
        Ok(Frame::trailers(trailers))
    }
}
