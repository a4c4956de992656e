//! The file of known members, for finding them again after a restart.
#![allow(clippy::disallowed_methods, reason = "driver: disk")]

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

const HEAD: &str = "causeway gossip members 1";
/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Our last generation.
    pub(super) generation: u64,
    /// Gossip addresses and names of the others.
    pub(super) peers: Vec<(SocketAddr, String)>,
}

pub(super) fn render(known: &Known) -> String {
    let mut text = format!("{HEAD}\ngeneration {}\n", known.generation);
    for (addr, name) in &known.peers {
        text.push_str(&format!("peer {addr} {name}\n"));
    }
    text
}

/// Lines that make no sense are passed over: the file only helps.
pub(super) fn parse(text: &str) -> Known {
    let mut known = Known::default();
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return known;
    }
    for line in lines {
        match line.split_once(' ') {
            Some(("generation", n)) => known.generation = n.parse().unwrap_or(0),
            Some(("peer", peer)) => {
                let peer = peer.split_once(' ').and_then(|(addr, name)| Some((addr.parse().ok()?, name.to_owned())));
                known.peers.extend(peer);
            }
            _ => {}
        }
    }
    known
}

/// Reads the file; none is no members.
pub(super) fn load(path: &Path) -> io::Result<Known> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// Replaces the file in one step.
pub(super) fn store(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let known = Known {
            generation: 5,
            peers: vec![("1.2.3.4:5".parse().unwrap(), "a".to_owned()), ("[::1]:6".parse().unwrap(), "b".to_owned())],
        };
        assert_eq!(parse(&render(&known)), known);
    }

    #[test]
    fn damage_is_passed_over() {
        assert_eq!(parse("something else\npeer 1.2.3.4:5"), Known::default());
        assert_eq!(parse(&format!("{HEAD}\npeer x\n\u{0}\npeer 1.2.3.4:5\npeer 1.2.3.4:5 a\n")).peers.len(), 1);
    }
}
