#![allow(clippy::disallowed_methods, reason = "keeps last known addresses on disk")]
//! Last known records on disk, so that a gateway that restarts finds the others though the peers it was configured with have gone.

use std::io::Write;
use std::path::{Path, PathBuf};

use causeway_proto::federation::v1::{GossipFrame, Site};
use prost::Message;

/// The file below the data directory: an encoded `causeway.federation.v1.GossipFrame`.
const FILE: &str = "wan-sites.pb";
/// A larger file is not ours.
const MAX_FILE: u64 = 16 << 20;

fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Reads what was kept. A missing file is an empty one; a damaged one is reported and left alone until it is next written.
pub(crate) fn load(dir: &Path) -> Vec<Site> {
    let path = file(dir);
    let bytes = match std::fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_FILE => Err(std::io::Error::other("too large")),
        Ok(_) => std::fs::read(&path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error),
    };
    match bytes.and_then(|b| GossipFrame::decode(b.as_slice()).map_err(std::io::Error::other)) {
        Ok(frame) => frame.sites,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "known sites cannot be read; starting with the configured peers");
            Vec::new()
        }
    }
}

/// Writes them, whole or not at all. Blocks: for a thread that may.
pub(crate) fn save(dir: &Path, sites: Vec<Site>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let temporary = dir.join(format!("{FILE}.new"));
    let bytes = GossipFrame { sites, ..GossipFrame::default() }.encode_to_vec();
    let mut out = std::fs::File::create(&temporary)?;
    out.write_all(&bytes)?;
    out.sync_all()?;
    std::fs::rename(&temporary, file(dir))?;
    std::fs::File::open(dir)?.sync_all()
}

/// The key of QUIC's stateless resets, made at the first start. With the same key after a restart, packets for connections of the
/// life before are answered with a reset that the other end believes, so that it dials again at once.
pub(crate) fn reset_key(dir: &Path) -> std::io::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt;

    let path = dir.join("wan-reset.key");
    match std::fs::read(&path) {
        Ok(bytes) => {
            if let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::create_dir_all(dir)?;
    let key: [u8; 32] = rand::random();
    let temporary = dir.join("wan-reset.key.new");
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(&key)?;
    out.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_over_a_restart_and_damage_is_survived() {
        let dir = std::env::temp_dir().join(format!("causeway-gateway-{}-{}", std::process::id(), line!()));
        let sites =
            vec![Site { datacenter: "b".into(), gateway: "g".into(), incarnation: 4, version: 2, ..Site::default() }];
        assert!(load(&dir).is_empty());
        let key = reset_key(&dir).unwrap();
        assert_eq!(reset_key(&dir).unwrap(), key);
        save(&dir, sites.clone()).unwrap();
        assert_eq!(load(&dir), sites);
        std::fs::write(file(&dir), b"\xff\xff\xff").unwrap();
        assert!(load(&dir).is_empty());
        save(&dir, sites.clone()).unwrap();
        assert_eq!(load(&dir), sites);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
