//! Asks the servers who a token is, and keeps the answer for a while.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_proto::access::{DefaultPolicy, Tokens, Use, compile};
use causeway_proto::acl::acl_client::AclClient;
use causeway_proto::acl::{ResolveReply, ResolveRequest};
use causeway_proto::door::Door;
use causeway_proto::meta::{Consistency, Meta};
use causeway_proto::rejection::Reason;
use ring::digest::{SHA256, digest};
use tonic::Status;

use super::{AclError, Down, Settings, Who, recovery};

/// Tokens that are kept at most.
const MOST: usize = 4096;
/// How long it is remembered that there is no such token.
const UNKNOWN: Duration = Duration::from_millis(250);
/// How long the servers may take.
const PATIENCE: Duration = Duration::from_secs(5);

struct Told {
    who: Result<Arc<Who>, AclError>,
    at: Instant,
    /// When the token's own time is over.
    until: Option<Instant>,
}

struct Inner {
    door: Door,
    settings: Settings,
    recovery: Arc<Who>,
    /// By the digest of the secret.
    told: Mutex<HashMap<[u8; 32], Told>>,
}

/// A handle; clones share what is known.
#[derive(Clone)]
pub struct Acls(Arc<Inner>);

impl std::fmt::Debug for Acls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acls").finish_non_exhaustive()
    }
}

impl Acls {
    /// `door` leads to the servers of this datacenter.
    pub fn new(door: Door, settings: Settings) -> Self {
        let recovery = recovery(&settings.node);
        Self(Arc::new(Inner { door, settings, recovery, told: Mutex::default() }))
    }

    /// The agent's tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.0.settings.tokens
    }

    fn told(&self) -> MutexGuard<'_, HashMap<[u8; 32], Told>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who a token is. Without a word from the servers only who was known before may go on.
    pub async fn resolve(&self, secret: Option<&str>) -> Result<Arc<Who>, AclError> {
        let inner = &*self.0;
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, secret.unwrap_or_default().as_bytes()).as_ref());
        // By their digests, so that no time tells how much of it was right.
        let own = inner.settings.tokens.of(Use::Recovery);
        if let (Some(own), Some(_)) = (own, secret)
            && digest(&SHA256, own.as_bytes()).as_ref() == key
        {
            return Ok(inner.recovery.clone());
        }
        let mut before = None;
        if let Some(told) = self.told().get(&key) {
            let holds = if told.who.is_ok() { inner.settings.ttl } else { UNKNOWN };
            if told.until.is_some_and(|until| until <= Instant::now()) {
                return Err(AclError::NotFound);
            }
            if told.at.elapsed() < holds {
                return told.who.clone();
            }
            before = told.who.clone().ok();
        }
        match tokio::time::timeout(PATIENCE, self.ask(secret)).await {
            Ok(Ok(reply)) => {
                let now = Instant::now();
                let until =
                    (reply.expires_in_ms > 0).then(|| now.checked_add(Duration::from_millis(reply.expires_in_ms)));
                let who = self.identify(&reply);
                self.remember(key, Told { who: who.clone(), at: now, until: until.flatten() });
                who
            }
            Ok(Err(status)) if Reason::of(&status) == Reason::Denied => {
                let told = Told { who: Err(AclError::NotFound), at: Instant::now(), until: None };
                self.remember(key, told);
                Err(AclError::NotFound)
            }
            // Nobody answers.
            _ => before.filter(|_| inner.settings.down == Down::Extend).ok_or(AclError::NotFound),
        }
    }

    async fn ask(&self, secret: Option<&str>) -> Result<ResolveReply, Status> {
        let meta = Meta { token: secret.map(str::to_owned), consistency: Consistency::Stale, ..Meta::default() };
        let mut client = AclClient::new(self.0.door.clone());
        match client.resolve(meta.request(ResolveRequest {})).await {
            // A follower may be a moment behind whoever made the token.
            Err(status) if Reason::of(&status) == Reason::Denied => {
                let meta = Meta { consistency: Consistency::Default, ..meta };
                client.resolve(meta.request(ResolveRequest {})).await.map(tonic::Response::into_inner)
            }
            answered => answered.map(tonic::Response::into_inner),
        }
    }

    fn identify(&self, reply: &ResolveReply) -> Result<Arc<Who>, AclError> {
        if !reply.enabled {
            return Err(AclError::Disabled);
        }
        let default = if reply.default_allow { DefaultPolicy::Allow } else { DefaultPolicy::Deny };
        let dc = &self.0.settings.datacenter;
        let authorizer = compile(dc, &reply.policies, &reply.service_identities, &reply.node_identities, default)
            .map_err(|error| {
                tracing::error!(accessor = reply.accessor_id, %error, "a token's rules cannot be read; it is refused");
                AclError::NotFound
            })?;
        Ok(Arc::new(Who { accessor: reply.accessor_id.clone(), local: reply.local, authorizer }))
    }

    fn remember(&self, key: [u8; 32], of: Told) {
        let mut told = self.told();
        if told.len() >= MOST {
            told.retain(|_, told| told.who.is_ok());
        }
        if told.len() < MOST {
            told.insert(key, of);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use causeway_proto::access::Access;
    use causeway_proto::acl::Policy;
    use causeway_proto::acl::acl_server::{Acl, AclServer};
    use causeway_proto::acl::{
        BootstrapRequest, DeleteReply, DeleteRequest, GetRequest, ItemReply, ItemsReply, ListRequest, OwnRequest,
        ReplicationReply, ReplicationRequest, SetRequest,
    };
    use tonic::{Request, Response};

    use super::*;

    /// Servers that know one token, `good`, while they are up.
    #[derive(Default)]
    struct Servers {
        down: AtomicU8,
        asked: AtomicUsize,
    }

    struct Fake(Arc<Servers>);

    #[tonic::async_trait]
    impl Acl for Fake {
        async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveReply>, Status> {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            if self.0.down.load(Ordering::SeqCst) == 1 {
                return Err(Reason::Unreachable.status("down"));
            }
            let meta = Meta::read(request.metadata().as_ref());
            let rules = match meta.token.as_deref() {
                Some("good") => "agent_prefix \"\" { policy = \"write\" }",
                None => "",
                Some(_) => return Err(Reason::Denied.status("ACL not found")),
            };
            Ok(Response::new(ResolveReply {
                enabled: true,
                policies: vec![Policy { rules: rules.into(), ..Policy::default() }],
                ..ResolveReply::default()
            }))
        }

        async fn bootstrap(&self, _: Request<BootstrapRequest>) -> Result<Response<ItemReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn set(&self, _: Request<SetRequest>) -> Result<Response<ItemReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn get(&self, _: Request<GetRequest>) -> Result<Response<ItemReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn own(&self, _: Request<OwnRequest>) -> Result<Response<ItemReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn list(&self, _: Request<ListRequest>) -> Result<Response<ItemsReply>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn replication(&self, _: Request<ReplicationRequest>) -> Result<Response<ReplicationReply>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    fn agent(down: Down, ttl: Duration) -> (Acls, Arc<Servers>) {
        let servers = Arc::new(Servers::default());
        let tokens = Tokens::default();
        tokens.set(Use::Recovery, "mend");
        let settings = Settings { datacenter: "dc1".into(), node: "n1".into(), down, ttl, tokens };
        (Acls::new(Door::new(AclServer::new(Fake(servers.clone()))), settings), servers)
    }

    #[tokio::test]
    async fn who_was_known_goes_on_while_the_servers_are_down_and_nobody_else_does() {
        let (acls, servers) = agent(Down::Extend, Duration::ZERO);
        assert!(acls.resolve(Some("good")).await.unwrap().authorizer.agent("n1", Access::Write));
        servers.down.store(1, Ordering::SeqCst);
        assert!(acls.resolve(Some("good")).await.is_ok());
        assert_eq!(acls.resolve(Some("made up")).await, Err(AclError::NotFound), "at the first request, too");
        let (acls, servers) = agent(Down::Deny, Duration::ZERO);
        assert!(acls.resolve(Some("good")).await.is_ok());
        servers.down.store(1, Ordering::SeqCst);
        assert_eq!(acls.resolve(Some("good")).await, Err(AclError::NotFound));
    }

    #[tokio::test]
    async fn servers_are_asked_once_a_while() {
        let (acls, servers) = agent(Down::Extend, Duration::from_secs(30));
        for _ in 0..3 {
            assert!(acls.resolve(Some("good")).await.is_ok());
        }
        assert_eq!(servers.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_recovery_token_mends_this_agent_and_no_other() {
        let (acls, servers) = agent(Down::Deny, Duration::ZERO);
        servers.down.store(1, Ordering::SeqCst);
        let who = acls.resolve(Some("mend")).await.unwrap();
        let may = &who.authorizer;
        assert!(may.agent("n1", Access::Write) && !may.agent("n2", Access::Read) && may.node("n2", Access::Read));
        assert!(!may.key("a", Access::Read) && !may.operator(Access::Read));
    }
}
