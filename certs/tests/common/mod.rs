//! What the tests share: directories that vanish, authorities, material, a small service.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]
#![allow(missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use causeway_certs::authority::Authority;
use causeway_certs::issue::{Kind, Subject};
use causeway_certs::material::{Files, Material};
use causeway_proto::door::Door;
use causeway_proto::listen::Peer;
use causeway_proto::status::status_server::{Status, StatusServer};
use causeway_proto::status::{
    ExportsReply, ExportsRequest, LeaderReply, LeaderRequest, PeersReply, PeersRequest, RaftConfigurationReply,
    RaftConfigurationRequest, ReplicationReply, ReplicationRequest, StatsReply, StatsRequest,
};

/// A directory of one test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("causeway-certs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn authority() -> Authority {
    Authority::create(30, &[], SystemTime::now()).unwrap()
}

pub fn subject(kind: Kind, datacenter: &str) -> Subject {
    Subject {
        kind,
        datacenter: datacenter.to_owned(),
        domain: "consul".to_owned(),
        node: None,
        additional_dns: Vec::new(),
        additional_ips: Vec::new(),
    }
}

/// Files of a certificate issued as if it were `at`.
pub fn files(dir: &Dir, authority: &Authority, subject: &Subject, at: SystemTime) -> Files {
    let name = format!("{}-{}", subject.datacenter, subject.kind.as_str());
    let issued = authority.issue(subject, 1, at).unwrap();
    Files {
        ca: vec![dir.write("ca.pem", authority.cert_pem())],
        cert: Some(dir.write(&format!("{name}.pem"), issued.cert_pem)),
        key: Some(dir.write(&format!("{name}-key.pem"), issued.key_pem)),
    }
}

pub fn material(dir: &Dir, authority: &Authority, kind: Kind, datacenter: &str) -> Arc<Material> {
    Material::load(files(dir, authority, &subject(kind, datacenter), SystemTime::now()), "consul").unwrap()
}

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/consul-1.8.7").join(name)
}

/// Waits until the condition holds, 10 s at most.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Answers who calls: `Leader` with the caller's peer, `Peers` panics, `Stats` never answers.
#[derive(Default)]
pub struct Who;

#[tonic::async_trait]
impl Status for Who {
    async fn leader(&self, r: tonic::Request<LeaderRequest>) -> Result<tonic::Response<LeaderReply>, tonic::Status> {
        let peer = r.extensions().get::<Peer>().ok_or_else(|| tonic::Status::internal("no peer"))?;
        let names: Vec<_> = peer.identities.iter().map(|i| i.dns_name()).collect();
        assert!(peer.addr.is_some());
        Ok(tonic::Response::new(LeaderReply { address: format!("{}:{}", peer.verified, names.join(",")) }))
    }

    async fn exports(&self, _: tonic::Request<ExportsRequest>) -> Result<tonic::Response<ExportsReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked in these tests"))
    }

    async fn replication(
        &self,
        _: tonic::Request<ReplicationRequest>,
    ) -> Result<tonic::Response<ReplicationReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked in these tests"))
    }

    async fn peers(&self, _: tonic::Request<PeersRequest>) -> Result<tonic::Response<PeersReply>, tonic::Status> {
        panic!("as the test wants it");
    }

    async fn raft_configuration(
        &self,
        _: tonic::Request<RaftConfigurationRequest>,
    ) -> Result<tonic::Response<RaftConfigurationReply>, tonic::Status> {
        Err(tonic::Status::failed_precondition("no, with trailers"))
    }

    async fn stats(&self, _: tonic::Request<StatsRequest>) -> Result<tonic::Response<StatsReply>, tonic::Status> {
        std::future::pending().await
    }
}

pub fn who() -> Door {
    Door::new(tonic::service::Routes::new(StatusServer::new(Who)).prepare())
}
