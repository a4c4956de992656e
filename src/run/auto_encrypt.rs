//! `auto_encrypt.tls`: an agent without a certificate asks the servers for one, keeps it in its data directory and renews it.
//!
//! Servers are found by gossip and verified by the authorities in `ca_file`; what they are asked is asked on connections on which a
//! caller without a certificate is answered nothing else ([`causeway_certs::agents`]). Everything that shows a certificate reads it
//! at each handshake, so that nothing is torn down when another takes its place.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_agent::gossip::Gossip;
use causeway_agent::servers::Servers;
use causeway_agent::sync::Sync;
use causeway_certs::agents::renewal;
use causeway_certs::dial::Dialer;
use causeway_certs::material::{Files, LoadError, Material};
use causeway_certs::request::KeyRequest;
use causeway_proto::listen::Role;
use causeway_proto::meta::Meta;
use causeway_proto::rejection::Reason;
use causeway_proto::signing::signing_client::SigningClient;
use causeway_proto::signing::{SignReply, SignRequest};
use causeway_proto::status::LeaderRequest;
use causeway_proto::status::status_client::StatusClient;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::options::plan::{Asks, Plan};

/// Time for one server to answer.
const TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether the certificate still serves.
const LOOK: Duration = Duration::from_secs(20);
/// Between attempts, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// These files, with the certificate that the servers made, where there is one that can be used.
pub(super) fn files(plan: &Plan, files: &Files) -> Files {
    let Some(asks) = plan.asks.as_ref().filter(|_| files.cert.is_none()) else { return files.clone() };
    let with = with(files.clone(), asks);
    let agent = |m: Arc<Material>| m.require(Role::Agent, &plan.datacenter).is_ok();
    if Material::for_agent(with.clone(), &plan.domain).is_ok_and(agent) { with } else { files.clone() }
}

/// Reads these files; those of an agent that asks the servers need no certificate of an authority in them.
pub(super) fn load(plan: &Plan, of: &Files) -> Result<Arc<Material>, LoadError> {
    match plan.asks.is_some() && of.cert.is_none() {
        true => Material::for_agent(files(plan, of), &plan.domain),
        false => Material::load(of.clone(), &plan.domain),
    }
}

fn with(files: Files, asks: &Asks) -> Files {
    Files { cert: Some(asks.file.clone()), key: Some(asks.file.clone()), ..files }
}

/// Keeps this agent's certificate.
pub(super) struct Keeper {
    pub(super) asks: Asks,
    pub(super) node: String,
    pub(super) datacenter: String,
    pub(super) token: Option<String>,
    /// What shows it: of RPC first.
    pub(super) materials: Vec<Arc<Material>>,
    pub(super) dialer: Dialer,
    pub(super) servers: Servers,
    pub(super) gossip: Gossip,
    pub(super) sync: Arc<Sync>,
    /// To be called when there is another.
    pub(super) renewed: Box<dyn Fn() + Send + std::marker::Sync>,
}

impl Keeper {
    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut members = self.gossip.members();
        let (mut failures, mut refused, mut told) = (0_u32, false, String::new());
        loop {
            // Another member may be the first server.
            members.mark_unchanged();
            if self.servers.addresses().is_empty() {
                let _ = timeout(LOOK, members.changed()).await;
                tokio::time::sleep(jittered(RETRY.0 / 5)).await;
                continue;
            }
            let left = self.left();
            if !left.is_zero() && !refused {
                tokio::time::sleep(left.min(jittered(LOOK))).await;
                refused = self.is_refused().await;
                continue;
            }
            match self.ask().await {
                Ok(()) => (failures, refused, told) = (0, false, String::new()),
                Err(why) => {
                    // Said once, while nothing else is wrong.
                    if why != told && failures > 0 {
                        tracing::warn!("no certificate from the servers yet (auto_encrypt.tls): {why}");
                        told = why;
                    }
                    let pause = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
                    failures += 1;
                    tokio::time::sleep(jittered(pause)).await;
                }
            }
        }
    }

    /// How long the certificate serves before it is to be renewed; nothing where there is none.
    fn left(&self) -> Duration {
        let Some(rpc) = self.materials.first().filter(|m| m.has_certificate()) else { return Duration::ZERO };
        renewal(rpc.not_before(), rpc.not_after()).duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Whether no server takes it any more: their authority may be another, after all of them lost what they knew.
    async fn is_refused(&self) -> bool {
        let mut status = StatusClient::new(self.servers.door());
        let asked = timeout(TIME, status.leader(LeaderRequest {})).await;
        matches!(asked, Ok(Err(status)) if Reason::of(&status) == Reason::Unreachable)
    }

    /// Asks one server after the other.
    async fn ask(&self) -> Result<(), String> {
        let request = KeyRequest::new(None).map_err(|e| e.to_string())?;
        let ask = SignRequest {
            node: self.node.clone(),
            proof: self.gossip.proof(&request.csr),
            csr: request.csr,
            dns_names: self.asks.names.clone(),
            ips: self.asks.ips.clone(),
        };
        let mut why = "no server is known".to_owned();
        for addr in self.servers.addresses() {
            let Some(door) = self.dialer.signing_door(addr) else { continue };
            let mut client = SigningClient::new(door);
            let meta = Meta { token: self.token.clone(), ..Meta::default() };
            match timeout(TIME, client.sign(meta.request(ask.clone()))).await {
                Ok(Ok(reply)) => return self.take(reply.into_inner(), &request.key_pem).await,
                Ok(Err(status)) => why = explained(status.message()),
                Err(_) => why = format!("{addr}: no answer within {} s", TIME.as_secs()),
            }
        }
        Err(why)
    }

    /// Keeps it, and shows it from now on.
    async fn take(&self, reply: SignReply, key: &str) -> Result<(), String> {
        let text = format!("{}{}{key}", reply.certificate, reply.authority);
        let file = self.asks.file.clone();
        let written = tokio::task::spawn_blocking(move || write(&file, &text)).await.map_err(|e| e.to_string())?;
        written.map_err(|e| format!("{} cannot be written: {e}", self.asks.file.display()))?;
        for material in &self.materials {
            let staged = material.stage(with(material.files(), &self.asks)).map_err(|e| e.to_string())?;
            staged.require(Role::Agent, &self.datacenter).map_err(|e| e.to_string())?;
            material.adopt(staged);
        }
        tracing::info!(file = %self.asks.file.display(), "the servers made a certificate for this agent");
        (self.renewed)();
        // What was refused without it is told now.
        self.sync.compare_now();
        Ok(())
    }
}

/// What to do, where that is known.
fn explained(why: &str) -> String {
    if why.contains("NoApplicationProtocol") {
        return format!("{why}: it makes no certificates for agents; set auto_encrypt.allow_tls on the servers");
    }
    why.to_owned()
}

/// Agents that start together do not ask together.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.75..1.0))
}

/// Its owner's alone, and whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let half = path.with_extension("pem.tmp");
    let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&half, path)
}
