//! Service `Acl`. Whether the caller may do this was decided before a handler runs ([`crate::acl::gate`]).

use causeway_proto::access::{DISABLED, DefaultPolicy, NOT_FOUND};
use causeway_proto::acl::acl_server::Acl;
use causeway_proto::acl::item::Item as Of;
use causeway_proto::acl::{
    Bootstrap, BootstrapRequest, Change, DeleteReply, DeleteRequest, GetRequest, Item, ItemReply, ItemsReply, Kind,
    ListRequest, OwnRequest, ReplicationReply, ReplicationRequest, ResolveReply, ResolveRequest, SetRequest,
};
use causeway_proto::command::command::Command;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use tonic::{Request, Response, Status};

use super::session::uuid;
use super::{Log, Service};
use crate::acl::driver::{forget_reset, now_ms, now_ns, reset_index};
use crate::acl::write::{self, Drawn, WriteError};
use crate::acl::{Acls, holdings};
use crate::store::{Topic, acl_reference};

fn refused(error: &WriteError) -> Status {
    Reason::Refused.status(error.to_string())
}

fn not_found() -> Status {
    Reason::Denied.status(NOT_FOUND)
}

impl<L: Log> Service<L> {
    fn acls(&self) -> Result<&Acls, Status> {
        self.acls.as_ref().ok_or_else(|| Reason::Refused.status(DISABLED))
    }

    /// Where something is written: the primary, for all that holds everywhere; `None`: here.
    fn written_elsewhere(&self, local: bool, handed_on: bool, meta: &Meta) -> Result<Option<Meta>, Status> {
        let Some(primary) = self.acls()?.primary().filter(|_| !local) else { return Ok(None) };
        if handed_on {
            return Err(Reason::Refused.status(format!(
                "datacenter {} was asked as the primary, and has {primary:?} as its own primary_datacenter: set the same on all servers",
                self.datacenter
            )));
        }
        Ok(Some(Meta { datacenter: Some(primary.to_owned()), hops: meta.hops + 1, ..meta.clone() }))
    }

    /// Whether the store has a token that holds here alone.
    fn is_local(&self, kind: Kind, id: &str) -> bool {
        let item = if kind == Kind::Token { self.store.state().acl(kind, id, "").0 } else { None };
        matches!(item.and_then(|item| item.item), Some(Of::Token(token)) if token.local)
    }

    /// What was written, as the store has it: of a write that was asked for twice, what the first one made.
    fn written(&self, item: &Item) -> Result<Response<ItemReply>, Status> {
        let of = acl_reference(item);
        let (item, _) = self.store.state().acl(of.kind(), &of.id, "");
        if item.is_none() {
            return Err(Reason::Doubtful.status("it was written, and is gone again"));
        }
        Ok(Response::new(ItemReply { item }))
    }
}

#[tonic::async_trait]
impl<L: Log> Acl for Service<L> {
    async fn bootstrap(&self, request: Request<BootstrapRequest>) -> Result<Response<ItemReply>, Status> {
        let acls = self.acls()?;
        if let Some(primary) = acls.primary() {
            return Err(Reason::Refused.status(format!("the bootstrap is done in the primary datacenter {primary:?}")));
        }
        let meta = Meta::read(request.metadata().as_ref());
        let call = meta.call;
        if meta.from.is_some() {
            return Err(not_found());
        }
        if acls.settings().initial_management.is_some() && self.store.state().acl_bootstrap() == 0 {
            // The leader is about to do it.
            return Err(Reason::Denied.status("Permission denied: ACL bootstrap no longer allowed (reset index: 0)"));
        }
        let reset_file = acls.settings().reset_file.as_deref();
        let reset_index = reset_index(reset_file).await;
        let accessor = uuid(call.map_or_else(|| (self.chance)(), |call| call.id));
        let token = write::management(accessor, uuid((self.chance)()), "Bootstrap Token (Global Management)", now_ns());
        let change =
            Change { bootstrap: Some(Bootstrap { reset_index }), set: vec![token.clone()], ..Change::default() };
        self.write(call, Command::Acl(change)).await.map_err(|status| match Reason::of(&status) {
            Reason::Refused => Reason::Denied.status(format!("Permission denied: {}", status.message())),
            _ => status,
        })?;
        forget_reset(reset_file).await;
        self.written(&token)
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<ItemReply>, Status> {
        let meta = Meta::read(request.metadata().as_ref());
        let request = request.into_inner();
        let item = request.item.clone().ok_or_else(|| Reason::Invalid.status("an item is missing"))?;
        let of = acl_reference(&item);
        let local = match &item.item {
            Some(Of::Token(token)) if request.create => token.local,
            _ => self.is_local(of.kind(), &of.id),
        };
        if let Some(meta) = self.written_elsewhere(local, request.handed_on, &meta)? {
            let acls = self.acls()?;
            return acls.hand_on_set(&meta, SetRequest { handed_on: true, ..request }).await.map(Response::new);
        }
        let state = self.store.state();
        let id = uuid(meta.call.map_or_else(|| (self.chance)(), |call| call.id));
        let drawn = Drawn { id, secret: uuid((self.chance)()), now_ns: now_ns() };
        let again = self.was_done(meta.call);
        let item = write::prepare(&state, item, request.create, drawn, again).map_err(|e| refused(&e))?;
        let change = Change { set: vec![item.clone()], ..Change::default() };
        self.write(meta.call, Command::Acl(change)).await?;
        self.written(&item)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let meta = Meta::read(request.metadata().as_ref());
        let request = request.into_inner();
        let of = request.r#ref.clone().unwrap_or_default();
        let caller = self.acls()?.resolve(meta.token.as_deref()).await?;
        write::may_delete(of.kind(), &of.id, &caller.accessor).map_err(|e| refused(&e))?;
        if let Some(meta) = self.written_elsewhere(self.is_local(of.kind(), &of.id), request.handed_on, &meta)? {
            let acls = self.acls()?;
            return acls.hand_on_delete(&meta, DeleteRequest { handed_on: true, ..request }).await.map(Response::new);
        }
        self.write(meta.call, Command::Acl(Change { delete: vec![of], ..Change::default() })).await?;
        Ok(Response::new(DeleteReply {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<ItemReply>, Status> {
        let _ = self.acls()?;
        let GetRequest { id, name, .. } = request.get_ref();
        let kind = request.get_ref().kind();
        if name.is_empty() && id.len() != 36 {
            let what = match kind {
                Kind::Token => "token",
                Kind::Role => "role",
                _ => "policy",
            };
            let text = format!("failed acl {what} lookup: index error: UUID must be 36 characters");
            return Err(Reason::Refused.status(text));
        }
        self.read(&request, &[Topic::Acls], |state| {
            let (item, index) = state.acl(kind, id, name);
            (ItemReply { item }, index)
        })
        .await
    }

    async fn own(&self, request: Request<OwnRequest>) -> Result<Response<ItemReply>, Status> {
        let acls = self.acls()?;
        let meta = Meta::read(request.metadata().as_ref());
        let secret = meta.token.as_deref().ok_or_else(not_found)?;
        let state = self.store.state();
        let from_elsewhere = meta.from.is_some();
        if let Some(token) = crate::acl::find(&state, Some(secret), now_ms()) {
            if token.local && from_elsewhere {
                return Err(not_found());
            }
            let (item, index) = state.acl(Kind::Token, &token.accessor_id, "");
            return Ok(self.answer(index).response(ItemReply { item }));
        }
        match acls.primary().filter(|_| !from_elsewhere) {
            Some(primary) if state.acl_by_secret(secret).is_none() => {
                let meta = Meta { datacenter: Some(primary.to_owned()), hops: meta.hops + 1, ..meta };
                let reply = acls.hand_on_own(&meta).await.map_err(|_| not_found())?;
                Ok(self.answer(1).response(reply))
            }
            _ => Err(not_found()),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ItemsReply>, Status> {
        let _ = self.acls()?;
        let ListRequest { policy, role, copies, .. } = request.get_ref();
        let kind = request.get_ref().kind();
        self.read(&request, &[Topic::Acls], |state| {
            if *copies {
                let mut items = [Kind::Policy, Kind::Role, Kind::Token].map(|kind| state.acls(kind).0).concat();
                items.retain(|item| !matches!(&item.item, Some(Of::Token(token)) if token.local));
                return (ItemsReply { items, redacted: false }, state.acl_index(Kind::Unspecified));
            }
            let (mut items, index) = state.acls(kind);
            let names =
                |links: &[causeway_proto::acl::Link], id: &str| id.is_empty() || links.iter().any(|link| link.id == id);
            items.retain(|item| match &item.item {
                Some(Of::Token(token)) => names(&token.policies, policy) && names(&token.roles, role),
                Some(Of::Role(it)) => names(&it.policies, policy),
                _ => true,
            });
            (ItemsReply { items, redacted: false }, index)
        })
        .await
    }

    async fn resolve(&self, request: Request<ResolveRequest>) -> Result<Response<ResolveReply>, Status> {
        let Some(acls) = &self.acls else { return Ok(Response::new(ResolveReply::default())) };
        let meta = Meta::read(request.metadata().as_ref());
        let who = acls.resolve(meta.token.as_deref()).await?;
        if who.local && meta.from.is_some() {
            return Err(not_found());
        }
        let expires_in_ms = if who.expires_ms == 0 { 0 } else { who.expires_ms.saturating_sub(now_ms()).max(1) };
        let default_allow = acls.settings().default == DefaultPolicy::Allow;
        if let Some(told) = &who.told {
            let told = ResolveReply::clone(told);
            return Ok(Response::new(ResolveReply { expires_in_ms, default_allow, enabled: true, ..told }));
        }
        let state = self.store.state();
        let token = crate::acl::find(&state, meta.token.as_deref(), now_ms());
        let held = token.map(|token| holdings(&state, token)).unwrap_or_default();
        Ok(Response::new(ResolveReply {
            accessor_id: who.accessor.clone(),
            local: who.local,
            service_identities: held.services,
            node_identities: held.nodes,
            expires_in_ms,
            default_allow,
            enabled: true,
            policies: held.policies.iter().map(|it| causeway_proto::acl::Policy::clone(it)).collect(),
        }))
    }

    async fn replication(&self, _: Request<ReplicationRequest>) -> Result<Response<ReplicationReply>, Status> {
        Ok(self.answer(1).response(self.acls()?.replication()))
    }
}
