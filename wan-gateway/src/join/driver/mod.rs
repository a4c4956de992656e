#![allow(
    clippy::disallowed_methods,
    reason = "reads the clock, keeps the book on disk, serves connections of those who join"
)]
//! The gateway's side of joining.

pub(crate) mod redeem;
pub(crate) mod removed;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use causeway_certs::authority::Authority;
use causeway_certs::issue::{Kind as CertKind, Subject};
use causeway_certs::request;
use causeway_proto::federation::v1::SiteStatus;
use prost::Message;
use quinn::{Connection, VarInt};
use tokio::sync::{Semaphore, watch};

use super::book::{Book, Verdict};
use super::pace::Pace;
use super::token::{self, Token};
use super::wire::{JoinReply, JoinRequest, Kind, Refusal};
use super::{CERTIFICATE_DAYS, CreateError, Created, MAX_LIFETIME, Secret};
use crate::config::Config;

/// Bytes of a request.
const MAX_REQUEST: usize = 8 << 10;
/// Time for all of it.
const TIME: Duration = Duration::from_secs(5);
/// Sites that join at the same moment.
const AT_ONCE: usize = 8;
/// A larger file is not ours.
const MAX_FILE: u64 = 32 << 20;
/// Code with which a connection is closed once it is done.
const DONE: u32 = 0;
/// Code for: not now.
pub(super) const BUSY: u32 = 0x4a;

/// What joining works with.
pub(crate) struct Desk {
    authority: Arc<Authority>,
    config: Arc<Config>,
    advertised: Vec<String>,
    sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    removed: Arc<ArcSwap<BTreeSet<String>>>,
    /// Only locked on threads that may block.
    book: Mutex<Book>,
    /// Never locked for long.
    pace: Mutex<Pace>,
    at_once: Semaphore,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn file(dir: &Path) -> PathBuf {
    dir.join("federation").join("tokens")
}

/// A book that cannot be read counts as empty: every token of it is refused, none is revived.
fn load(dir: Option<&Path>) -> Book {
    let Some(path) = dir.map(file) else { return Book::default() };
    let bytes = match std::fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_FILE => Err(std::io::Error::other("too large")),
        Ok(_) => std::fs::read(&path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Book::default(),
        Err(error) => Err(error),
    };
    bytes.and_then(|b| Book::decode(b.as_slice()).map_err(std::io::Error::other)).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "join tokens cannot be read; those made before are refused");
        Book::default()
    })
}

/// Writes a file of this user only, whole or not at all. Blocks.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let temporary = path.with_extension("new");
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(dir)?.sync_all()
}

impl Desk {
    /// Reads the book. Blocks.
    pub(crate) fn open(
        authority: Arc<Authority>,
        config: Arc<Config>,
        advertised: Vec<String>,
        sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
        removed: Arc<ArcSwap<BTreeSet<String>>>,
    ) -> Self {
        let book = load(config.data_dir.as_deref());
        let (book, pace) = (Mutex::new(book), Mutex::default());
        Self { authority, config, advertised, sites, removed, book, pace, at_once: Semaphore::new(AT_ONCE) }
    }

    fn keep(&self, book: &Book) -> Result<(), CreateError> {
        // Without a data directory (a trial) tokens live as long as the process.
        let Some(path) = self.config.data_dir.as_deref().map(file) else { return Ok(()) };
        write_whole(&path, &book.encode_to_vec()).map_err(|source| CreateError::Disk { path, source })
    }

    /// Makes a token and keeps it. Blocks.
    pub(crate) fn create(
        &self,
        datacenter: &str,
        lifetime: Duration,
        addresses: Vec<String>,
    ) -> Result<Created, CreateError> {
        let datacenter = causeway_proto::name::own_datacenter(datacenter)?;
        if datacenter == self.config.datacenter {
            return Err(CreateError::Own(datacenter));
        }
        if self.removed.load().contains(&datacenter) {
            return Err(CreateError::Removed(datacenter));
        }
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(CreateError::Lifetime);
        }
        let addresses = if addresses.is_empty() { self.advertised.clone() } else { addresses };
        if addresses.is_empty() {
            return Err(CreateError::NoAddress);
        }
        let shaped = |a: &String| {
            a.len() <= 262
                && a.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(bad) = addresses.iter().find(|a| !shaped(a)).or(addresses.get(token::MAX_ADDRESSES)) {
            return Err(CreateError::Address(bad.clone()));
        }
        let now = unix_now();
        let expires = now.saturating_add(lifetime.as_secs());
        let secret: [u8; 32] = rand::random();
        let made = Token {
            datacenter: datacenter.clone(),
            issuer: self.config.datacenter.clone(),
            domain: self.config.domain.clone(),
            expires,
            ..Token::new(secret, causeway_certs::join::pin(self.authority.der()), addresses.clone())
        };
        let mut held = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut book = held.clone();
        if !book.created(now, &secret, &datacenter, expires) {
            return Err(CreateError::Full);
        }
        self.keep(&book)?;
        *held = book;
        tracing::info!(datacenter, expires, "a join token was made");
        Ok(Created { text: Secret(made.render()), datacenter, expires, addresses })
    }

    /// Gateways of our site that can be dialled, this one first.
    fn peers(&self) -> Vec<String> {
        let mut peers = self.advertised.clone();
        let sites = self.sites.borrow();
        let own = sites.iter().filter(|s| s.local).filter_map(|s| s.site.as_ref());
        for address in own.flat_map(|s| &s.gateways).flat_map(|g| &g.addresses) {
            if !peers.contains(address) {
                peers.push(address.clone());
            }
        }
        peers.truncate(token::MAX_ADDRESSES);
        peers
    }

    fn certify(
        &self,
        datacenter: &str,
        requests: &[Vec<u8>],
    ) -> Result<Vec<String>, causeway_certs::authority::IssueError> {
        let now = SystemTime::now();
        let kinds = [CertKind::Gateway, CertKind::Server, CertKind::Client];
        kinds
            .into_iter()
            .zip(requests)
            .map(|(kind, csr)| {
                let subject = Subject {
                    kind,
                    datacenter: datacenter.to_owned(),
                    domain: self.config.domain.clone(),
                    node: None,
                    additional_dns: Vec::new(),
                    additional_ips: Vec::new(),
                };
                self.authority.sign(csr, &subject, CERTIFICATE_DAYS, now)
            })
            .collect()
    }

    /// Does a request. The secret is spent only together with the certificates, and both are on disk before anybody is answered.
    /// Blocks.
    fn answer(&self, from: IpAddr, request: &[u8]) -> JoinReply {
        let reply = self.decide(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner), request);
        if reply.refusal() != Refusal::None {
            self.failed(from);
        }
        reply
    }

    fn decide(&self, book: &mut Book, request: &[u8]) -> JoinReply {
        let malformed =
            |why: &str| JoinReply::refused(Refusal::Malformed, format!("the request makes no sense: {why}"));
        let Ok(request) = JoinRequest::decode(request) else { return malformed("it cannot be read") };
        if request.requests.len() != Kind::ALL.len() {
            return malformed("three keys are to be signed, for gateway, server and agent");
        }
        let mut keys = Vec::new();
        for csr in &request.requests {
            match request::public_key(csr) {
                Ok(key) => keys.extend(key),
                Err(e) => return malformed(&e.to_string()),
            }
        }
        let keys = super::book::hash(&keys);
        let now = unix_now();
        match book.decide(now, &request.secret, &request.datacenter, &keys) {
            Verdict::Refuse(refusal, text) => {
                tracing::warn!(datacenter = request.datacenter, ?refusal, "a site that wanted to join was refused");
                JoinReply::refused(refusal, text)
            }
            Verdict::Again(answer) => match JoinReply::decode(answer.as_slice()) {
                Ok(reply) => reply,
                Err(e) => JoinReply::refused(Refusal::Failed, format!("the answer given before cannot be read: {e}")),
            },
            Verdict::Issue if self.removed.load().contains(&request.datacenter) => JoinReply::refused(
                Refusal::Unknown,
                format!("{} was removed from the federation after the token was made", request.datacenter),
            ),
            Verdict::Issue => {
                let certificates = match self.certify(&request.datacenter, &request.requests) {
                    Ok(certificates) => certificates,
                    Err(e) => return JoinReply::refused(Refusal::Failed, format!("the keys could not be signed: {e}")),
                };
                let reply = JoinReply {
                    certificates,
                    authorities: self.authority.cert_pem().to_owned(),
                    peers: self.peers(),
                    ..JoinReply::default()
                };
                let mut next = book.clone();
                next.used(now, &request.secret, &keys, reply.encode_to_vec());
                if let Err(e) = self.keep(&next) {
                    return JoinReply::refused(
                        Refusal::Failed,
                        format!("the gateway could not note that the token is used ({e}); it still serves"),
                    );
                }
                *book = next;
                tracing::info!(datacenter = request.datacenter, "a site joined: its keys are signed");
                reply
            }
        }
    }

    fn allows(&self, from: IpAddr) -> bool {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now(), from)
    }

    fn failed(&self, from: IpAddr) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).failed(Instant::now(), from);
    }
}

/// Whether the other end of a connection asks to join.
pub(crate) fn asks_to_join(conn: &Connection) -> bool {
    conn.handshake_data()
        .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .is_some_and(|data| data.protocol.as_deref() == Some(causeway_certs::join::JOIN_ALPN))
}

/// Serves one connection of a site that joins: one stream, one request, within [`TIME`].
pub(crate) async fn serve(desk: Arc<Desk>, conn: Connection) {
    conn.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    conn.set_max_concurrent_bi_streams(VarInt::from_u32(1));
    let from = conn.remote_address().ip().to_canonical();
    let permit = desk.at_once.try_acquire();
    if permit.is_err() || !desk.allows(from) {
        metrics::counter!("causeway_gateway_joins_refused_total").increment(1);
        conn.close(VarInt::from_u32(BUSY), b"");
        return;
    }
    let work = async {
        let (mut send, mut recv) = conn.accept_bi().await.ok()?;
        let bytes = recv.read_to_end(MAX_REQUEST).await.ok()?;
        let desk = Arc::clone(&desk);
        let reply = tokio::task::spawn_blocking(move || desk.answer(from, &bytes)).await.ok()?;
        send.write_all(&reply.encode_to_vec()).await.ok()?;
        send.finish().ok()?;
        // Until they have it.
        let _ = send.stopped().await;
        Some(())
    };
    let done = tokio::time::timeout(TIME, work).await;
    if !matches!(done, Ok(Some(()))) {
        desk.failed(from);
    }
    conn.close(VarInt::from_u32(DONE), b"");
}
