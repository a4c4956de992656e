//! Carries errands about keys to all members, over TCP, each sealed, each with a deadline; and keeps the file of keys.
#![allow(clippy::disallowed_methods, reason = "driver: disk and deadlines")]

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use causeway_proto::door::Door;
use causeway_proto::keyring::keyrings_server::{Keyrings, KeyringsServer};
use causeway_proto::keyring::{OperateReply, OperateRequest, Verb};
use causeway_proto::rejection::Reason;
use futures::StreamExt;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};

use super::tcp;
use super::{Gossip, Link};
use crate::gossip::StartError;
use crate::gossip::envelope::{Key, KeyError};
use crate::gossip::keyring::{Errand, Refused, Report, Ring, Said};
use crate::gossip::wire::Frame;

/// Members asked at a time.
const AT_ONCE: usize = 32;
/// A member has so long to answer; those through whom it is asked otherwise, twice that.
const PATIENCE: Duration = Duration::from_secs(2);
/// All of it takes no longer, less than what the HTTP API waits.
const WHOLE: Duration = Duration::from_secs(8);
/// Members through whom one is asked that does not answer, at most (as Consul's relay factor).
const MOST_RELAYS: u32 = 5;
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// The keys to begin with: those of the file, which is made from the configured ones where there is none.
pub(super) async fn open(file: Option<&Path>, configured: Vec<Key>) -> Result<Ring, StartError> {
    let Some(path) = file.map(Path::to_owned) else { return Ok(Ring::new(configured)) };
    let shown = path.display().to_string();
    let wrong = |why: String| StartError::Keyring { path: shown.clone(), why };
    let opened = tokio::task::spawn_blocking(move || {
        let text = match std::fs::File::open(&path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(MAX_FILE).read_to_string(&mut text).map_err(|e| e.to_string())?;
                text
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let ring = Ring::new(configured);
                if !ring.keys().is_empty() {
                    store(&path, &ring).map_err(|e| e.to_string())?;
                }
                return Ok(ring);
            }
            Err(e) => return Err(e.to_string()),
        };
        let ring = Ring::parse(&text).map_err(|e| e.to_string())?;
        if configured.iter().any(|key| !ring.keys().contains(key)) {
            tracing::warn!(path = %path.display(),
                "\"encrypt\" is not among the keys of the keyring file, which counts; change keys with `causeway keyring`");
        }
        Ok(ring)
    });
    match opened.await {
        Ok(opened) => opened.map_err(wrong),
        Err(_) => Err(wrong("reading it failed".to_owned())),
    }
}

/// Replaces the file in one step; only its owner may read it.
fn store(path: &Path, ring: &Ring) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("keyring.new");
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(ring.render().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

/// Does an errand on this node: first on disk, then in the envelope.
pub(super) async fn here(link: &Link, errand: &Errand) -> Result<Ring, Refused> {
    // One at a time, so that none is lost.
    let _turn = link.keys.lock().await;
    let old = link.envelope.ring();
    let new = old.after(errand)?;
    if new == *old {
        return Ok(new);
    }
    if let Some(path) = link.key_file.clone() {
        let ring = new.clone();
        let written = tokio::task::spawn_blocking(move || {
            store(&path, &ring)
                .inspect_err(|error| tracing::error!(path = %path.display(), %error, "the keyring cannot be written"))
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return Err(Refused::File);
        }
    }
    link.envelope.set_ring(new.clone());
    tracing::info!(keys = new.keys().len(), "the gossip keyring has changed");
    Ok(new)
}

/// What a member asks of us; `sealed`: whether it proved that it has a key.
pub(super) async fn serve(link: &Link, frame: Frame, sealed: bool) -> Frame {
    if !sealed || !link.envelope.encrypts() {
        // Without keys there is nothing to hide, and the answer says so.
        let none = link.envelope.ring().keys().is_empty();
        return Frame::NotDone(match frame {
            _ if !none => Refused::InClear,
            Frame::Errand(Errand::List) | Frame::HandOn(Errand::List, ..) => Refused::Empty,
            _ => Refused::NoRing,
        });
    }
    let done = match frame {
        Frame::Errand(errand) => here(link, &errand).await,
        Frame::HandOn(errand, name, addr) => {
            let known = link.members.borrow().iter().any(|m| m.name == *name && m.addr == addr && m.is_alive());
            if !known {
                return Frame::NotDone(Refused::Stranger);
            }
            match timeout(PATIENCE, tcp::errand(link, addr, &Frame::Errand(errand))).await {
                Ok(Ok(said)) => said,
                Ok(Err(_)) | Err(_) => Err(Refused::Silent),
            }
        }
        _ => Err(Refused::Stranger),
    };
    match done {
        Ok(ring) => Frame::Keys(ring),
        Err(why) => Frame::NotDone(why),
    }
}

async fn ask(link: &Link, addr: SocketAddr, frame: &Frame, within: Duration) -> Said {
    match timeout(within, tcp::errand(link, addr, frame)).await {
        Ok(Ok(said)) => Ok(said),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("dial tcp {addr}: i/o timeout")),
    }
}

/// Asks a member and, where it does not answer, others to ask it.
async fn there(link: &Link, name: &str, addr: SocketAddr, errand: &Errand, others: &[SocketAddr]) -> Said {
    let said = ask(link, addr, &Frame::Errand(errand.clone()), PATIENCE).await;
    if said.is_ok() || others.is_empty() {
        return said;
    }
    let frame = Frame::HandOn(errand.clone(), name.into(), addr);
    let handed = others.iter().map(|other| Box::pin(ask(link, *other, &frame, PATIENCE * 2)));
    let mut handed: futures::stream::FuturesUnordered<_> = handed.collect();
    while let Some(answer) = handed.next().await {
        // Whoever cannot reach it either is no answer of its own.
        if answer.is_ok() && !matches!(answer, Ok(Err(Refused::Stranger | Refused::Silent))) {
            return answer;
        }
    }
    said
}

impl Gossip {
    /// Whether gossip is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.link().envelope.encrypts()
    }

    /// Proves, about these bytes, that this node knows the key of gossip; empty where gossip is in clear.
    pub fn proof(&self, of: &[u8]) -> Vec<u8> {
        self.link().envelope.ring().proof(of)
    }

    /// Whether somebody proved that; always so where gossip is in clear.
    pub fn proves(&self, of: &[u8], proof: &[u8]) -> bool {
        self.link().envelope.ring().proves(of, proof)
    }

    /// Service `Keyrings`, for the server in this process.
    pub fn keyring_door(&self) -> Door {
        Door::new(KeyringsServer::new(self.clone()))
    }

    /// Does an errand on this node and on every other member that is alive. Who does not answer is asked through `relays` others.
    pub async fn keyring(&self, errand: Errand, relays: u32) -> Report {
        let link = self.link();
        let own = self.0.name.clone();
        let until = Instant::now() + WHOLE;
        let mut said: Vec<(String, Said)> = Vec::new();
        if !link.envelope.ring().keys().is_empty() && !link.envelope.encrypts() {
            return Report::refused(self.alive(), &Refused::InClear.to_string());
        }
        said.push((own.clone(), Ok(here(link, &errand).await)));
        let members = link.members.borrow().clone();
        let others: Vec<_> =
            members.iter().filter(|m| m.name != own && m.is_alive()).map(|m| (m.name.clone(), m.addr)).collect();
        let relays = usize::try_from(relays.min(MOST_RELAYS)).unwrap_or_default();
        let mut asked = Vec::new();
        for (at, (name, addr)) in others.iter().cloned().enumerate() {
            // Those behind it in the list: each member helps a few.
            let helpers = others.iter().cycle().skip(at + 1).take(relays.min(others.len() - 1));
            let helpers: Vec<_> = helpers.map(|(_, addr)| *addr).collect();
            let errand = &errand;
            asked.push(async move {
                let asked = timeout_at(until, there(link, &name, addr, errand, &helpers)).await;
                let late = || Err("the time for asking all members was over".to_owned());
                (name, asked.unwrap_or_else(|_| late()))
            });
        }
        said.extend(futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);
        Report::of(&errand, said)
    }

    /// Names of the members that are alive, this one among them.
    fn alive(&self) -> Vec<String> {
        self.link().members.borrow().iter().filter(|m| m.is_alive()).map(|m| m.name.clone()).collect()
    }
}

/// Where Go's decoder finds the first fault in a text that is no base64.
fn fault(text: &str) -> usize {
    let is = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    text.bytes().position(|b| !is(b)).unwrap_or(text.len() / 4 * 4)
}

#[tonic::async_trait]
impl Keyrings for Gossip {
    async fn operate(&self, request: Request<OperateRequest>) -> Result<Response<OperateReply>, Status> {
        let request = request.into_inner();
        let key = match request.verb() {
            Verb::Unspecified => return Err(Reason::Invalid.status("Invalid keyring operation")),
            Verb::List => None,
            _ => Some(Key::parse(&request.key)),
        };
        let report = match (request.verb(), key) {
            (_, Some(Err(KeyError::Base64))) => {
                let error = Some(format!("illegal base64 data at input byte {}", fault(&request.key)));
                Report { error, ..Report::default() }
            }
            (_, Some(Err(KeyError::Length(_)))) => Report::refused(self.alive(), "key size must be 16, 24 or 32 bytes"),
            (_, Some(Err(why @ KeyError::Aes192))) => Report::refused(self.alive(), &why.to_string()),
            (Verb::Install, Some(Ok(key))) => self.keyring(Errand::Install(key), request.relay_factor).await,
            (Verb::Use, Some(Ok(key))) => self.keyring(Errand::Use(key), request.relay_factor).await,
            (Verb::Remove, Some(Ok(key))) => self.keyring(Errand::Remove(key), request.relay_factor).await,
            _ => self.keyring(Errand::List, request.relay_factor).await,
        };
        Ok(Response::new(OperateReply {
            datacenter: self.0.datacenter.clone(),
            messages: report.messages,
            keys: report.keys,
            primary_keys: report.primary,
            nodes: report.nodes,
            error: report.error.unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_where_go_finds_them() {
        for (text, at) in [("abc", 0), ("abcdefg", 4), ("ab!d", 2), ("", 0)] {
            assert_eq!(fault(text), at, "{text}");
        }
    }

    #[tokio::test]
    async fn the_file_is_kept_and_counts() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("causeway-keyring-{}", std::process::id()));
        let path = dir.join("serf/local.keyring");
        let key = |byte| Key::new(&[byte; 32]).unwrap();
        let first = open(Some(&path), vec![key(1)]).await.unwrap();
        assert_eq!(first, Ring::new(vec![key(1)]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(Some(&path), vec![key(2)]).await.unwrap(), first, "the file counts");
        assert_eq!(open(Some(&path), vec![]).await.unwrap(), first);
        assert_eq!(open(None, vec![key(2)]).await.unwrap(), Ring::new(vec![key(2)]));
        std::fs::write(&path, "nonsense").unwrap();
        let error = open(Some(&path), vec![]).await.unwrap_err().to_string();
        assert!(error.contains("local.keyring") && error.contains("not a JSON list"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(open(Some(&path), vec![]).await.unwrap(), Ring::default());
        assert!(!path.exists(), "without keys there is no file");
    }
}
