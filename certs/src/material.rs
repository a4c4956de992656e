//! Certificates and keys as loaded from files, and taken up anew when the files change.

mod driver;
mod parse;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use causeway_proto::listen::{Identity, Role};

use crate::agents::{AgentRoots, Agents};
use crate::link::Begun;

pub(crate) use parse::Current;

/// Where a party's certificate, key and authorities lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM files (or directories of them) of the authorities that are trusted. Empty: nobody is trusted, which does for a
    /// listener that asks no certificate of its callers.
    pub ca: Vec<PathBuf>,
    /// PEM file: own certificate and intermediates. `None`: we show none.
    pub cert: Option<PathBuf>,
    /// PEM file: its key.
    pub key: Option<PathBuf>,
}

/// Why certificates could not be taken up; names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// Files that were read and found good, and not taken up yet: see [`Material::stage`].
pub struct Staged {
    files: Files,
    domain: String,
    current: Current,
}

/// What a party shows and trusts. Cheap to read, replaced in one step by [`Material::reload`]; connections made later use the new.
pub struct Material {
    files: ArcSwap<Files>,
    domain: String,
    current: ArcSwap<Current>,
    changes: tokio::sync::watch::Sender<u64>,
    begun: Begun,
    /// Whether our own certificate must be of an authority that we trust.
    own_is_trusted: bool,
    agents: OnceLock<Agents>,
}

impl Material {
    /// Loads and checks: the key fits the certificate, the certificate is signed by one of the authorities and is not expired.
    ///
    /// Reads the disk; a clock may be an hour off ([`crate::verify::TOLERANCE`]). Authorities that expired are left out.
    pub fn load(files: Files, domain: &str) -> Result<Arc<Self>, LoadError> {
        Self::of(files, domain, true)
    }

    /// The same for an agent whose certificate the servers make ([`crate::agents`]): of an authority that only they know.
    pub fn for_agent(files: Files, domain: &str) -> Result<Arc<Self>, LoadError> {
        Self::of(files, domain, false)
    }

    fn of(files: Files, domain: &str, own_is_trusted: bool) -> Result<Arc<Self>, LoadError> {
        let current = driver::load(&files, domain, own_is_trusted)?;
        Ok(Arc::new(Self {
            files: ArcSwap::from_pointee(files),
            domain: domain.to_owned(),
            current: ArcSwap::from_pointee(current),
            changes: tokio::sync::watch::Sender::new(0),
            begun: Begun::new()?,
            own_is_trusted,
            agents: OnceLock::new(),
        }))
    }

    /// Lets agents in that this authority certified, where anyone of our authority is let in.
    pub fn trust_agents(&self, agents: Agents) {
        // Once, while everything is put together.
        let _ = self.agents.set(agents);
    }

    pub(crate) fn agents(&self) -> Option<Arc<AgentRoots>> {
        self.agents.get().and_then(|agents| agents())
    }

    /// Trusts the authorities that the operating system trusts and shows nothing: for checks and commands that speak to the
    /// world outside the federation.
    pub fn system() -> Result<Arc<Self>, LoadError> {
        Self::load(Files { ca: vec![driver::system_bundle()?], cert: None, key: None }, "")
    }

    /// Reads the files again; `Ok(true)` where something changed. What is in use stays in use on an error.
    pub fn reload(&self) -> Result<bool, LoadError> {
        let files = self.files.load_full();
        Ok(self.take(driver::load(&files, &self.domain, self.own_is_trusted)?))
    }

    /// Reads these files, and checks them as [`Material::load`] does. Nothing is taken up until [`Material::adopt`], so that
    /// several can be read before one is changed.
    pub fn stage(&self, files: Files) -> Result<Staged, LoadError> {
        Ok(Staged {
            current: driver::load(&files, &self.domain, self.own_is_trusted)?,
            files,
            domain: self.domain.clone(),
        })
    }

    /// Takes up what was staged; `true` where something changed.
    pub fn adopt(&self, staged: Staged) -> bool {
        self.files.store(Arc::new(staged.files));
        self.take(staged.current)
    }

    fn take(&self, new: Current) -> bool {
        if new.digest == self.current.load().digest {
            return false;
        }
        self.current.store(Arc::new(new));
        self.changes.send_modify(|count| *count += 1);
        true
    }

    /// Counts how often something else was taken up; who waits for its change hears of each.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells the certificate that we show from another; empty where there is none.
    pub fn shown(&self) -> Vec<u8> {
        let current = self.current.load();
        current.key.as_ref().and_then(|key| key.cert.first()).map_or_else(Vec::new, |cert| cert.to_vec())
    }

    /// Who our own certificate says we are: its names of the form `role.datacenter.domain`.
    pub fn identities(&self) -> Vec<Identity> {
        self.current.load().identities.clone()
    }

    /// From when our own certificate is valid; without one, the youngest authority.
    pub fn not_before(&self) -> SystemTime {
        self.current.load().not_before
    }

    /// Until when our own certificate (and its intermediates) is valid; without one, the authority that expires first.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// Whether there is a certificate to show.
    pub fn has_certificate(&self) -> bool {
        self.current.load().key.is_some()
    }

    /// Whether any authority is trusted.
    pub fn has_authorities(&self) -> bool {
        !self.current.load().roots.is_empty()
    }

    /// The files that are in use.
    pub fn files(&self) -> Files {
        Files::clone(&self.files.load())
    }

    /// The federation's domain, as given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Says clearly what is missing where our own certificate does not speak for this role of this datacenter, so that a wrong
    /// file shows at start and not as refused handshakes later.
    pub fn require(&self, role: Role, datacenter: &str) -> Result<(), LoadError> {
        let wanted = Identity { role, datacenter: datacenter.to_owned(), domain: self.domain.clone() };
        require(&wanted, &self.current.load().identities, &self.files.load())
    }

    pub(crate) fn begun(&self) -> &Begun {
        &self.begun
    }

    pub(crate) fn current(&self) -> arc_swap::Guard<Arc<Current>> {
        self.current.load()
    }
}

impl Staged {
    /// As [`Material::require`], before it is taken up.
    pub fn require(&self, role: Role, datacenter: &str) -> Result<(), LoadError> {
        let wanted = Identity { role, datacenter: datacenter.to_owned(), domain: self.domain.clone() };
        require(&wanted, &self.current.identities, &self.files)
    }
}

fn require(wanted: &Identity, has: &[Identity], files: &Files) -> Result<(), LoadError> {
    let datacenter = &wanted.datacenter;
    if has.contains(wanted) {
        return Ok(());
    }
    let kind = match wanted.role {
        Role::Server => "-server",
        Role::Gateway => "-gateway",
        Role::Agent => "-client",
    };
    let Some(cert) = &files.cert else {
        return Err(LoadError(format!("no certificate is configured, and one for {} is needed", wanted.dns_name())));
    };
    let has: Vec<_> = has.iter().map(Identity::dns_name).collect();
    Err(LoadError(format!(
        "{}: speaks for [{}], and {} is needed: issue one with `causeway tls cert create {kind} -dc {datacenter}`",
        cert.display(),
        has.join(", "),
        wanted.dns_name(),
    )))
}

impl std::fmt::Debug for Material {
    /// Names files and identities, never keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.current.load().identities.iter().map(Identity::dns_name).collect();
        f.debug_struct("Material")
            .field("files", &self.files.load())
            .field("identities", &names)
            .finish_non_exhaustive()
    }
}
