#![allow(
    clippy::disallowed_methods,
    reason = "reads the clock, asks the servers, serves connections of those who join"
)]
//! The gateway's side of joining.

pub(crate) mod redeem;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use causeway_certs::authority::Authority;
use causeway_certs::issue::{Kind as CertKind, Subject};
use causeway_certs::{notice, request};
use causeway_proto::federation::v1::SiteStatus;
use causeway_proto::member::{Members, tag};
use prost::Message;
use quinn::{Connection, VarInt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};

use super::book::{self, Entry, Verdict};
use super::pace::Pace;
use super::token::{self, Token};
use super::wire::{JoinReply, JoinRequest, Kind, Refusal};
use super::{CERTIFICATE_DAYS, CreateError, Created, MAX_LIFETIME, Secret};
use crate::config::Config;
use crate::link::driver::unix_ms;
use crate::shelf::Shelf;

/// Bytes of a request.
const MAX_REQUEST: usize = 8 << 10;
/// Time for all of it, what the servers are asked included.
const TIME: Duration = Duration::from_secs(10);
/// Time for the request to be there.
const SAY: Duration = Duration::from_secs(5);
/// Time for the addresses of our own names.
const NAMES: Duration = Duration::from_secs(1);
/// Sites that join at the same moment.
const AT_ONCE: usize = 8;
/// Another gateway redeems the same token at the same moment: looked at again this often.
const ROUNDS: usize = 4;
/// Code with which a connection is closed once it is done.
const DONE: u32 = 0;
/// Code for: not now.
pub(super) const BUSY: u32 = 0x4a;

/// What joining works with.
pub(crate) struct Desk {
    authority: Arc<Authority>,
    seal: ring::hmac::Key,
    config: Arc<Config>,
    advertised: Vec<String>,
    sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    members: watch::Receiver<Members>,
    removed: Arc<ArcSwap<BTreeSet<String>>>,
    shelf: Shelf,
    /// Never locked for long.
    pace: Mutex<Pace>,
    at_once: Semaphore,
    /// What this site exports, in words.
    exports: ArcSwap<String>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

/// What a desk is made of.
pub(crate) struct Office {
    pub(crate) authority: Arc<Authority>,
    pub(crate) config: Arc<Config>,
    pub(crate) advertised: Vec<String>,
    pub(crate) sites: watch::Receiver<Arc<Vec<SiteStatus>>>,
    pub(crate) members: watch::Receiver<Members>,
    pub(crate) removed: Arc<ArcSwap<BTreeSet<String>>>,
    pub(crate) shelf: Shelf,
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
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
    pub(crate) fn open(office: Office) -> Self {
        let Office { authority, config, advertised, sites, members, removed, shelf } = office;
        let seal = notice::derived(&authority, book::PURPOSE);
        let (pace, at_once, exports) = (Mutex::default(), Semaphore::new(AT_ONCE), ArcSwap::default());
        Self { authority, seal, config, advertised, sites, members, removed, shelf, pace, at_once, exports }
    }

    /// What those who join are told that this site exports.
    pub(crate) fn describe_exports(&self, text: String) {
        self.exports.store(Arc::new(text));
    }

    /// Makes a token and has the servers keep what is to be known of it.
    pub(crate) async fn create(
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
        let mut addresses = if addresses.is_empty() { self.peers() } else { addresses };
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
        // The new site may have no names to go by.
        let numbers = tokio::time::timeout(NAMES, numbers(&addresses)).await.unwrap_or_default();
        addresses.extend(numbers);
        addresses.truncate(token::MAX_ADDRESSES);
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
        self.make_room(now).await?;
        let entry = Entry::new(&secret, &datacenter, expires).sealed(&self.seal);
        let kept = self.shelf.put(&book::place_of(&secret), entry, 0).await.map_err(CreateError::Servers)?;
        if !kept {
            return Err(CreateError::Servers("its place is taken".to_owned()));
        }
        tracing::info!(datacenter, expires, "a join token was made");
        Ok(Created { text: Secret(made.render()), datacenter, expires, addresses })
    }

    /// Whether a token for this datacenter was redeemed, as far as is remembered; no, where the servers cannot be asked.
    pub(crate) async fn has_certified(&self, datacenter: &str) -> bool {
        let kept = self.shelf.list(&book::place(), 0, Duration::ZERO).await;
        let (kept, _) = kept
            .inspect_err(|error| tracing::warn!(error, "it cannot be seen which tokens were used"))
            .unwrap_or_default();
        kept.iter().filter_map(|kept| Entry::opened(&kept.value, &self.seal)).any(|entry| entry.was_used_by(datacenter))
    }

    /// Forgets tokens that are long over, and what is no token.
    async fn make_room(&self, now: u64) -> Result<(), CreateError> {
        let servers = CreateError::Servers;
        let (kept, _) = self.shelf.list(&book::place(), 0, Duration::ZERO).await.map_err(servers)?;
        let (mut open, mut over) = (0, Vec::new());
        for kept in kept {
            match Entry::opened(&kept.value, &self.seal) {
                Some(entry) if entry.is_open(now) => open += 1,
                Some(entry) => over.push((entry.is_old(now), entry.end(), kept)),
                None => over.push((true, 0, kept)),
            }
        }
        if open >= book::MAX_OPEN {
            return Err(CreateError::Full);
        }
        over.sort_by_key(|(_, end, _)| *end);
        let excess = (open + over.len() + 1).saturating_sub(book::MAX_KEPT);
        for (i, (old, _, kept)) in over.iter().enumerate() {
            if *old || i < excess {
                // Changed since: then it is not old any more.
                self.shelf.delete(&kept.key, kept.index).await.map_err(servers)?;
            }
        }
        Ok(())
    }

    /// Gateways of our site that can be dialled, this one first.
    fn peers(&self) -> Vec<String> {
        let mut peers = self.advertised.clone();
        let sites = self.sites.borrow();
        let own = sites.iter().filter(|s| s.local).filter_map(|s| s.site.as_ref());
        let told = own.flat_map(|s| &s.gateways).flat_map(|g| &g.addresses).cloned();
        let members = self.members.borrow();
        let lan = members.iter().filter(|m| m.is_alive()).flat_map(|m| m.tag(tag::GATEWAY_WAN).split(','));
        for address in told.chain(lan.filter(|a| !a.is_empty()).map(str::to_owned)) {
            if !peers.contains(&address) {
                peers.push(address);
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

    /// Does a request. The secret is spent only together with the certificates, and the servers keep both before anybody is
    /// answered.
    async fn answer(&self, from: IpAddr, request: &[u8]) -> JoinReply {
        let mut reply = self.decide(request).await;
        if !matches!(reply.refusal(), Refusal::None | Refusal::Busy) {
            self.failed(from);
        }
        reply.unix_ms = unix_ms();
        self.exports.load().as_str().clone_into(&mut reply.exports);
        reply
    }

    async fn decide(&self, request: &[u8]) -> JoinReply {
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
        let keys = book::hash(&keys);
        let place = book::place_of(&request.secret);
        for _ in 0..ROUNDS {
            match self.redeem(&request, &keys, &place).await {
                Ok(Some(reply)) => return reply,
                // Another gateway was faster: what it did counts.
                Ok(None) => {}
                Err(why) => {
                    tracing::warn!(
                        datacenter = request.datacenter,
                        why,
                        "a site wants to join, and the servers that keep tokens do not answer"
                    );
                    return JoinReply::refused(
                        Refusal::Busy,
                        format!("the servers of {} do not answer its gateway now ({why})", self.config.datacenter),
                    );
                }
            }
        }
        JoinReply::refused(Refusal::Busy, "others use the same token at this moment")
    }

    async fn redeem(&self, request: &JoinRequest, keys: &[u8], place: &str) -> Result<Option<JoinReply>, String> {
        let now = unix_now();
        let kept = self.shelf.get(place).await?;
        let found = kept.and_then(|kept| Some((Entry::opened(&kept.value, &self.seal)?, kept.index)));
        let verdict = match &found {
            Some((entry, _)) => entry.decide(now, &request.secret, &request.datacenter, keys),
            None => book::unknown(),
        };
        Ok(Some(match (verdict, found) {
            (Verdict::Refuse(refusal, text), _) => {
                tracing::warn!(datacenter = request.datacenter, ?refusal, "a site that wanted to join was refused");
                JoinReply::refused(refusal, text)
            }
            (Verdict::Again(answer), _) => match JoinReply::decode(answer.as_slice()) {
                Ok(reply) => reply,
                Err(e) => JoinReply::refused(Refusal::Failed, format!("the answer given before cannot be read: {e}")),
            },
            (Verdict::Issue, _) if self.removed.load().contains(&request.datacenter) => JoinReply::refused(
                Refusal::Unknown,
                format!("{} was removed from the federation after the token was made", request.datacenter),
            ),
            (Verdict::Issue, Some((entry, index))) => {
                let certificates = match self.certify(&request.datacenter, &request.requests) {
                    Ok(certificates) => certificates,
                    Err(e) => {
                        let text = format!("the keys could not be signed: {e}");
                        return Ok(Some(JoinReply::refused(Refusal::Failed, text)));
                    }
                };
                let reply = JoinReply {
                    certificates,
                    authorities: self.authority.cert_pem().to_owned(),
                    peers: self.peers(),
                    ..JoinReply::default()
                };
                let spent = entry.used(now, keys, reply.encode_to_vec()).sealed(&self.seal);
                if !self.shelf.put(place, spent, index).await? {
                    return Ok(None);
                }
                tracing::info!(datacenter = request.datacenter, "a site joined: its keys are signed");
                reply
            }
            (Verdict::Issue, None) => return Ok(None),
        }))
    }

    fn allows(&self, from: IpAddr) -> bool {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now(), from)
    }

    fn failed(&self, from: IpAddr) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).failed(Instant::now(), from);
    }

    /// Whether one more may be served now.
    fn admits(&self, from: IpAddr) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let permit = self.at_once.try_acquire().ok().filter(|_| self.allows(from));
        if permit.is_none() {
            metrics::counter!("causeway_gateway_joins_refused_total").increment(1);
        }
        permit
    }
}

/// The numbers behind those addresses that are names.
async fn numbers(addresses: &[String]) -> Vec<String> {
    let mut out = Vec::new();
    for name in addresses.iter().filter(|a| a.parse::<SocketAddr>().is_err()) {
        if let Ok(found) = tokio::net::lookup_host(name.as_str()).await {
            // What is local to this machine is of no use to others.
            out.extend(found.filter(|a| !a.ip().is_loopback()).map(|a| a.to_string()));
        }
    }
    out
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
    let Some(_permit) = desk.admits(from) else {
        conn.close(VarInt::from_u32(BUSY), b"");
        return;
    };
    let work = async {
        let request = async {
            let (send, mut recv) = conn.accept_bi().await.ok()?;
            Some((send, recv.read_to_end(MAX_REQUEST).await.ok()?))
        };
        let (mut send, bytes) = tokio::time::timeout(SAY, request).await.ok()??;
        let reply = desk.answer(from, &bytes).await;
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

/// The same over TLS on TCP: a length (4 bytes, big endian) and the request; the answer likewise.
pub(crate) async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(desk: Arc<Desk>, mut stream: S, from: SocketAddr) {
    let from = from.ip().to_canonical();
    let Some(_permit) = desk.admits(from) else {
        let busy = JoinReply::refused(Refusal::Busy, "it takes no attempts from here for a minute: too many failed");
        let _ = tokio::time::timeout(SAY, write_message(&mut stream, &busy.encode_to_vec())).await;
        return;
    };
    let work = async {
        let request = read_message(&mut stream, MAX_REQUEST);
        let bytes = tokio::time::timeout(SAY, request).await.ok()?.ok()?;
        let reply = desk.answer(from, &bytes).await;
        write_message(&mut stream, &reply.encode_to_vec()).await.ok()?;
        stream.shutdown().await.ok()
    };
    let done = tokio::time::timeout(TIME, work).await;
    if !matches!(done, Ok(Some(()))) {
        desk.failed(from);
    }
}

/// Reads a length and so many bytes.
pub(super) async fn read_message<S: AsyncRead + Unpin>(stream: &mut S, limit: usize) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > limit {
        return Err(std::io::Error::other("the message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Writes a length and the bytes.
pub(super) async fn write_message<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_u32(length).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}
