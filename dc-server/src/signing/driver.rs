//! Signs, and makes the authority.
#![allow(clippy::disallowed_methods, reason = "this file reads the clock for certificates and their pace")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use causeway_certs::agents::{self, AgentRoots, Agents};
use causeway_certs::authority::{Authority, IssueError};
use causeway_proto::door::Door;
use causeway_proto::rejection::Reason;
use causeway_proto::signing::signing_server::{Signing as Service, SigningServer};
use causeway_proto::signing::{Authority as Kept, SetAuthority, SignReply, SignRequest};
use tonic::{Request, Response, Status};

use super::{Pace, Proven};
use crate::store::{State, Store};

/// Longest request, bytes.
const MAX_REQUEST: usize = 64 << 10;
/// Days that an authority of agents is valid.
const AUTHORITY_DAYS: u32 = 3650;
/// It is replaced this long before its end.
const AUTHORITY_AHEAD: Duration = Duration::from_secs(60 * 24 * 3600);

struct Signing {
    store: Arc<Store>,
    datacenter: String,
    domain: String,
    life: Duration,
    proven: Proven,
    pace: Mutex<Pace>,
}

#[tonic::async_trait]
impl Service for Signing {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let request = request.into_inner();
        if !self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            return Err(
                Reason::Overloaded.status("too many agents ask for certificates at once; ask again in a moment")
            );
        }
        if !(self.proven)(&request.csr, &request.proof) {
            let text = "an agent gets a certificate for the gossip key of this datacenter: set \"encrypt\" to it";
            return Err(Reason::Denied.status(text));
        }
        let state = self.store.state();
        let Some(kept) = state.authority() else {
            return Err(
                Reason::NoLeader.status("no leader has made the authority of agents yet; ask again in a moment")
            );
        };
        let invalid = |e: IssueError| Reason::Invalid.status(e.to_string());
        let subject = agents::subject(&self.datacenter, &self.domain, &request.dns_names, &request.ips);
        let subject = subject.map_err(invalid)?;
        let authority = Authority::from_pem(kept.certificate.as_bytes(), kept.key.as_bytes())
            .map_err(|e| Reason::Internal.status(e.to_string()))?;
        let certificate = authority.sign_for(&request.csr, &subject, self.life, SystemTime::now()).map_err(invalid)?;
        metrics::counter!("causeway_agent_certificates_total").increment(1);
        tracing::info!(node = request.node, "made a certificate for an agent");
        Ok(Response::new(SignReply { certificate, authority: kept.certificate.clone() }))
    }
}

/// What signs, for connections of [`causeway_certs::agents::SIGN_ALPN`], and nothing else.
pub(crate) fn door(store: Arc<Store>, datacenter: &str, domain: &str, life: Duration, proven: Proven) -> Door {
    let (datacenter, domain) = (datacenter.to_owned(), domain.to_owned());
    let service = Signing { store, datacenter, domain, life, proven, pace: Mutex::default() };
    Door::new(SigningServer::new(service).max_decoding_message_size(MAX_REQUEST))
}

/// Whom to believe that they are agents, as the store has it at each moment.
pub(crate) fn agents(store: Arc<Store>) -> Agents {
    let last: ArcSwapOption<(Arc<Kept>, Arc<AgentRoots>)> = ArcSwapOption::empty();
    Arc::new(move || {
        let state = store.state();
        let kept = state.authority()?;
        if let Some(last) = last.load().as_ref().filter(|last| Arc::ptr_eq(&last.0, kept)) {
            return Some(last.1.clone());
        }
        match AgentRoots::from_pem(&kept.certificate) {
            Ok(roots) => {
                let roots = Arc::new(roots);
                last.store(Some(Arc::new((kept.clone(), roots.clone()))));
                Some(roots)
            }
            Err(e) => {
                tracing::error!("{e}");
                None
            }
        }
    })
}

/// What the leader is to write: a new authority where there is none, or where it ends soon.
pub(crate) fn due(state: &State) -> Result<Option<SetAuthority>, IssueError> {
    let now = SystemTime::now();
    let kept = state.authority();
    if let Some(kept) = kept
        && Authority::from_pem(kept.certificate.as_bytes(), kept.key.as_bytes())?.ends()? > now + AUTHORITY_AHEAD
    {
        return Ok(None);
    }
    let made = Authority::create(AUTHORITY_DAYS, &[], now)?;
    let authority = Kept { certificate: made.cert_pem().to_owned(), key: made.key_pem().to_owned(), index: 0 };
    Ok(Some(SetAuthority { authority: Some(authority), replaces: kept.map_or(0, |kept| kept.index) }))
}

#[cfg(test)]
mod tests {
    use causeway_certs::request::KeyRequest;
    use causeway_proto::command::{Command, command};
    use causeway_proto::signing::signing_client::SigningClient;

    use super::*;

    fn with_authority() -> Arc<Store> {
        let store = Arc::new(Store::new());
        let set = due(&store.state()).unwrap().unwrap();
        assert!(store.apply(1, &Command { call: None, command: Some(command::Command::Authority(set)) }).outcome.done);
        assert!(due(&store.state()).unwrap().is_none(), "it is there");
        store
    }

    #[tokio::test]
    async fn who_gets_a_certificate() {
        let csr = KeyRequest::new(None).unwrap().csr;
        let proven: Proven = Arc::new(|_, proof| proof == b"right");
        let life = Duration::from_secs(3600);
        let ask = |store: &Arc<Store>, request: SignRequest| {
            let mut client = SigningClient::new(door(store.clone(), "dc1", "consul", life, proven.clone()));
            async move { client.sign(request).await.map(Response::into_inner) }
        };
        let store = with_authority();
        let good = SignRequest { csr: csr.clone(), proof: b"right".to_vec(), ..SignRequest::default() };
        let reply = ask(&store, good.clone()).await.unwrap();
        assert_eq!(reply.authority, store.state().authority().unwrap().certificate);
        let wrong = SignRequest { proof: b"wrong".to_vec(), ..good.clone() };
        assert_eq!(Reason::of(&ask(&store, wrong).await.unwrap_err()), Reason::Denied);
        let named = SignRequest { dns_names: vec!["server.dc1.consul".into()], ..good.clone() };
        assert_eq!(Reason::of(&ask(&store, named).await.unwrap_err()), Reason::Invalid);
        let broken = SignRequest { csr: b"x".to_vec(), ..good.clone() };
        assert_eq!(Reason::of(&ask(&store, broken).await.unwrap_err()), Reason::Invalid);
        let early = ask(&Arc::new(Store::new()), good).await.unwrap_err();
        assert_eq!(Reason::of(&early), Reason::NoLeader);
    }

    /// Nothing but the one method is behind the door.
    #[tokio::test]
    async fn nothing_else_is_answered() {
        let door = door(with_authority(), "dc1", "consul", Duration::from_secs(60), Arc::new(|_, _| true));
        let mut kv = causeway_proto::kv::kv_client::KvClient::new(door);
        let refused = kv.get(causeway_proto::kv::GetRequest { key: "a".into() }).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused:?}");
    }
}
