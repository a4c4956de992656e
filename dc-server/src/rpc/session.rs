//! Service `Sessions`.

use causeway_proto::command::command::Command;
use causeway_proto::rejection::Reason;
use causeway_proto::session::sessions_server::Sessions;
use causeway_proto::session::{
    CreateReply, CreateRequest, DestroyReply, DestroyRequest, GetRequest, ListRequest, RenewRequest, Session,
    SessionsReply,
};
use tonic::{Request, Response, Status};

use super::{Log, Service, call_id};
use crate::store::Topic;

/// Longest time to live of a session, in milliseconds (Consul's 24 h).
const MAX_TTL_MS: u64 = 24 * 3600 * 1000;
/// Most checks a session may hang on.
const MAX_CHECKS: usize = 1024;

fn check_id(id: &str) -> Result<(), Status> {
    match id.len() {
        36 => Ok(()),
        // Consul's text.
        _ => Err(Reason::Refused.status("failed session lookup: index error: UUID must be 36 characters")),
    }
}

/// A version 4 UUID of these random bits.
pub(crate) fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let (a, b, c, d) = (bits >> 96, bits >> 80 & 0xffff, bits >> 64 & 0xffff, bits >> 48 & 0xffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", bits & 0xffff_ffff_ffff)
}

/// As Go prints a duration of whole seconds.
fn go_seconds(ms: u64) -> String {
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, m) => format!("{m}m{s}s"),
        (h, m) => format!("{h}h{m}m{s}s"),
    }
}

impl<L: Log> Service<L> {
    fn check_session(&self, session: &Session) -> Result<(), Status> {
        if session.node.is_empty() {
            return Err(Reason::Refused.status("Must provide Node"));
        }
        if !matches!(session.behavior.as_str(), "" | "release" | "delete") {
            return Err(Reason::Refused.status(format!("Invalid Behavior setting '{}'", session.behavior)));
        }
        let least = self.limits.session_ttl_min_ms;
        if session.ttl_ms != 0 && !(least..=MAX_TTL_MS).contains(&session.ttl_ms) {
            let (ns, least, most) = (u128::from(session.ttl_ms) * 1_000_000, go_seconds(least), go_seconds(MAX_TTL_MS));
            return Err(Reason::Refused.status(format!("Invalid Session TTL '{ns}', must be between [{least}={most}]")));
        }
        let checks = session.node_checks.len() + session.service_checks.len();
        if checks > MAX_CHECKS {
            return Err(Reason::Refused.status(format!("a session may have {MAX_CHECKS} checks, not {checks}")));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl<L: Log> Sessions for Service<L> {
    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        let call = call_id(&request);
        let mut session = request.into_inner().session.unwrap_or_default();
        self.check_session(&session)?;
        let state = self.store.state();
        // A defective source of chance must not keep this busy; the store refuses nothing here that the first draw does not give.
        let id = match call {
            // Asked for again it is the same session, so the answer is the same too.
            Some(call) => Some(uuid(call.id)),
            None => (0..4).map(|_| uuid((self.chance)())).find(|id| state.session(id).0.is_none()),
        };
        let id = id.ok_or_else(|| Reason::Internal.status("no free session ID found; try again"))?;
        id.clone_into(&mut session.id);
        self.write(call, Command::SessionCreate(session)).await?;
        Ok(Response::new(CreateReply { id }))
    }

    async fn destroy(&self, request: Request<DestroyRequest>) -> Result<Response<DestroyReply>, Status> {
        let call = call_id(&request);
        let request = request.into_inner();
        check_id(&request.id)?;
        self.write(call, Command::SessionDestroy(request)).await?;
        Ok(Response::new(DestroyReply {}))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<SessionsReply>, Status> {
        let id = &request.get_ref().id;
        check_id(id)?;
        let (session, index) = self.store.state().session(id);
        if session.is_some() {
            self.log.renew_session(id).await?;
        }
        let sessions = session.iter().map(|session| Session::clone(session)).collect();
        Ok(self.answer(index).response(SessionsReply { sessions }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<SessionsReply>, Status> {
        let id = &request.get_ref().id;
        check_id(id)?;
        // The index is that of the table.
        self.read(&request, &[Topic::Sessions], |state| {
            let (session, index) = state.session(id);
            (SessionsReply { sessions: session.iter().map(|session| Session::clone(session)).collect() }, index)
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<SessionsReply>, Status> {
        let node = Some(request.get_ref().node.as_str()).filter(|node| !node.is_empty());
        self.read(&request, &[Topic::Sessions], |state| {
            let (sessions, index) = state.sessions(node);
            (SessionsReply { sessions: sessions.iter().map(|session| Session::clone(session)).collect() }, index)
        })
        .await
    }
}
