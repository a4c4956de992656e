//! The data directory: whose it is, and that only one process uses it. Looked at before anything is written.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::options::plan::{Plan, is_uuid};

/// Why a data directory cannot be used; nothing in it was touched.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The disk says no.
    #[error(
        "data_dir {path}: {what}: {source}; check that it exists on a writable disk and belongs to the user causeway runs as"
    )]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
    /// Another node's.
    #[error(
        "data_dir {path} belongs to node {has:?} of datacenter {has_dc:?}, and this configuration is of node {wants:?} of {wants_dc:?}: set another data_dir, or correct node_name and datacenter; to rename the node for good remove {path}/identity"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The node it belongs to.
        has: String,
        /// That node's datacenter.
        has_dc: String,
        /// The node that is configured.
        wants: String,
        /// Its datacenter.
        wants_dc: String,
    },
    /// The node's UUID differs.
    #[error(
        "data_dir {path} belongs to node ID {has}, and the configuration says node_id {wants}: set another data_dir or correct node_id"
    )]
    OtherId {
        /// The directory.
        path: PathBuf,
        /// Its ID.
        has: String,
        /// The configured one.
        wants: String,
    },
    /// Consul's own.
    #[error(
        "data_dir {path} holds the Raft store of HashiCorp Consul (raft/raft.db), which Causeway cannot read: set another data_dir"
    )]
    Consul {
        /// The directory.
        path: PathBuf,
    },
    /// Damaged.
    #[error(
        "{path} is damaged ({what}): restore it from a backup, or move the data directory away to start as a new node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// In use.
    #[error("data_dir {path} is in use by another process: stop it, or set another data_dir")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A data directory that was looked at, or none.
pub struct DataDir {
    dir: Option<PathBuf>,
    /// The node's UUID.
    pub node_id: String,
    identity: String,
    lock: Option<fs::File>,
}

fn read(path: &Path) -> Result<Option<String>, DataDirError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(DataDirError::Damaged { path: path.to_owned(), what: "it is not text".into() })
        }
        Err(source) => Err(DataDirError::Io { path: path.to_owned(), what: "cannot be read", source }),
    }
}

/// A UUID of chance (version 4).
pub fn new_uuid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The host's own ID: of its mainboard, or what its installation was given.
fn host_id() -> Option<String> {
    let board = fs::read_to_string("/sys/class/dmi/id/product_uuid").ok().map(|id| id.trim().to_ascii_lowercase());
    board.filter(|id| is_uuid(id)).or_else(|| {
        let machine = fs::read_to_string("/etc/machine-id").ok()?;
        uuid_of_hex(machine.trim())
    })
}

/// 32 hexadecimal digits as a UUID.
fn uuid_of_hex(hex: &str) -> Option<String> {
    let whole = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    whole.then(|| format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// A node's UUID from that of its host, as Consul makes it: hosts of one batch differ little, so it is a digest.
fn of_host(host: &str) -> Option<String> {
    let digest = ring::digest::digest(&ring::digest::SHA512, host.as_bytes());
    let hex: String = digest.as_ref().iter().take(16).map(|b| format!("{b:02x}")).collect();
    uuid_of_hex(&hex)
}

/// Looks whether the directory is this node's. Nothing is written.
pub fn inspect(plan: &Plan) -> Result<DataDir, DataDirError> {
    let identity = format!("node_name {}\ndatacenter {}\n", plan.node_name, plan.datacenter);
    let hosts = || host_id().as_deref().and_then(of_host).filter(|_| plan.host_node_id);
    let fresh = || plan.node_id.clone().or_else(hosts).unwrap_or_else(new_uuid);
    let Some(dir) = &plan.data_dir else {
        return Ok(DataDir { dir: None, node_id: fresh(), identity, lock: None });
    };
    if dir.join("raft/raft.db").exists() {
        return Err(DataDirError::Consul { path: dir.clone() });
    }
    if dir.exists() && !dir.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(DataDirError::Io { path: dir.clone(), what: "is no directory", source });
    }
    if let Some(text) = read(&dir.join("identity"))?
        && text != identity
    {
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
        let (Some(has), Some(has_dc)) = (field("node_name"), field("datacenter")) else {
            return Err(DataDirError::Damaged { path: dir.join("identity"), what: "it names no node".into() });
        };
        let (wants, wants_dc) = (plan.node_name.clone(), plan.datacenter.clone());
        return Err(DataDirError::Foreign { path: dir.clone(), has, has_dc, wants, wants_dc });
    }
    let id_file = dir.join("node-id");
    let node_id = match read(&id_file)? {
        None => fresh(),
        Some(text) => {
            let has = text.trim().to_ascii_lowercase();
            if !is_uuid(&has) {
                return Err(DataDirError::Damaged { path: id_file, what: "it holds no UUID".into() });
            }
            if let Some(wants) = plan.node_id.as_ref().filter(|w| **w != has) {
                return Err(DataDirError::OtherId { path: dir.clone(), has, wants: wants.clone() });
            }
            has
        }
    };
    Ok(DataDir { dir: Some(dir.clone()), node_id, identity, lock: None })
}

impl DataDir {
    /// Makes the directory this node's: creates it, locks it, writes who it belongs to.
    pub fn claim(&mut self) -> Result<(), DataDirError> {
        let Some(dir) = self.dir.clone() else { return Ok(()) };
        let io = |path: &Path, what| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, what, source }
        };
        fs::create_dir_all(&dir).map_err(io(&dir, "cannot be created"))?;
        let lock_path = dir.join("LOCK");
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io(&lock_path, "cannot be opened"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DataDirError::InUse { path: dir }),
            Err(fs::TryLockError::Error(source)) => {
                return Err(DataDirError::Io { path: lock_path, what: "cannot be locked", source });
            }
        }
        self.lock = Some(lock);
        for (name, text) in [("node-id", format!("{}\n", self.node_id)), ("identity", self.identity.clone())] {
            let path = dir.join(name);
            if path.exists() {
                continue;
            }
            let tmp = dir.join(format!("{name}.tmp"));
            let write = || -> std::io::Result<()> {
                let mut file = fs::File::create(&tmp)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&tmp, &path)?;
                fs::File::open(&dir)?.sync_all()
            };
            write().map_err(io(&path, "cannot be written"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Settings;

    fn plan(dir: &Path, more: &str) -> Plan {
        let mut settings = Settings::default();
        settings.read_text("t", &format!(r#"{{"data_dir":{dir:?},"bind_addr":"127.0.0.1"{more}}}"#), false).unwrap();
        crate::options::plan::plan(&settings).ok().unwrap()
    }

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("causeway-datadir-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_directory_stays_its_nodes() {
        let dir = temp("owner");
        let mut first = inspect(&plan(&dir, r#","node_name":"a""#)).unwrap();
        assert!(!dir.exists(), "looking writes nothing");
        first.claim().unwrap();
        let again = inspect(&plan(&dir, r#","node_name":"a""#)).unwrap();
        assert_eq!(again.node_id, first.node_id);
        let other = inspect(&plan(&dir, r#","node_name":"b""#)).err().unwrap();
        assert!(matches!(other, DataDirError::Foreign { .. }), "{other}");
        let mut second = inspect(&plan(&dir, r#","node_name":"a""#)).unwrap();
        assert!(matches!(second.claim(), Err(DataDirError::InUse { .. })));
        let id =
            inspect(&plan(&dir, r#","node_name":"a","node_id":"00000000-0000-4000-8000-000000000000""#)).err().unwrap();
        assert!(matches!(id, DataDirError::OtherId { .. }), "{id}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn damage_is_named() {
        let dir = temp("damage");
        fs::create_dir_all(dir.join("raft")).unwrap();
        fs::write(dir.join("node-id"), "xx").unwrap();
        assert!(matches!(inspect(&plan(&dir, "")), Err(DataDirError::Damaged { .. })));
        fs::write(dir.join("raft/raft.db"), "").unwrap();
        assert!(matches!(inspect(&plan(&dir, "")), Err(DataDirError::Consul { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}
