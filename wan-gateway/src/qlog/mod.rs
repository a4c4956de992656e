//! Traces of QUIC connections in the format qlog, for tools such as qvis: one file a connection, on demand (`gateway.qlog_dir`).
//!
//! Bounded: bytes of a file, files of a directory, records that wait for the disk. What does not fit is left out, whole records at a
//! time; a connection never waits for its trace.

pub(crate) mod driver;

use std::net::SocketAddr;

/// Bytes of one file; what comes after them is not recorded. About 80 000 packets.
const MAX_BYTES: u64 = 16 << 20;
/// Files in the directory; the oldest go.
const MAX_FILES: usize = 32;
/// How files of ours begin and end; others in the directory are left alone.
const PREFIX: &str = "causeway-";
const SUFFIX: &str = ".sqlog";

/// Name of a file. Sorted by name they are sorted by age.
fn file_name(unix_ms: u64, number: u64, dialled: bool, remote: SocketAddr) -> String {
    let how = if dialled { "to" } else { "from" };
    let remote: String = remote.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{PREFIX}{unix_ms:014}-{number:04}-{how}-{remote}{SUFFIX}")
}

/// The files that must go before another is opened.
fn surplus(mut names: Vec<String>) -> Vec<String> {
    names.retain(|n| n.starts_with(PREFIX) && n.ends_with(SUFFIX));
    names.sort();
    let keep = MAX_FILES - 1;
    names.truncate(names.len().saturating_sub(keep));
    names
}

/// Makes whole records of what is written piece by piece, as many as fit.
#[derive(Debug, Default)]
struct Records {
    unfinished: Vec<u8>,
    taken: u64,
}

impl Records {
    /// Takes a piece; gives the record that it ends.
    fn push(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        if self.taken > MAX_BYTES {
            return None;
        }
        self.unfinished.extend_from_slice(piece);
        // Line feeds occur at the end of records only: within, JSON escapes them.
        if !piece.ends_with(b"\n") {
            return None;
        }
        let record = std::mem::take(&mut self.unfinished);
        self.taken += record.len() as u64;
        (self.taken <= MAX_BYTES).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_age_and_only_ours_go() {
        let remote: SocketAddr = "[::1]:443".parse().unwrap();
        let first = file_name(999, 1, true, remote);
        assert_eq!(first, "causeway-00000000000999-0001-to-___1__443.sqlog");
        assert!(first < file_name(1000, 0, false, remote));
        let mut names: Vec<String> = (0..40).map(|n| file_name(n, 0, true, remote)).collect();
        names.extend(["notes.txt".to_owned(), "causeway-server.pem".to_owned()]);
        let gone = surplus(names);
        assert_eq!(gone.len(), 40 - (MAX_FILES - 1));
        assert_eq!(gone[0], file_name(0, 0, true, remote));
        assert!(surplus(vec![first]).is_empty());
    }

    #[test]
    fn records_are_whole_and_bounded() {
        let mut records = Records::default();
        assert_eq!(records.push(b"\x1e"), None);
        assert_eq!(records.push(b"{\"a\":1}"), None);
        assert_eq!(records.push(b"\n"), Some(b"\x1e{\"a\":1}\n".to_vec()));
        let big = vec![b'x'; 1 << 20];
        let mut bytes = 0;
        for _ in 0..20 {
            records.push(&big);
            bytes += records.push(b"\n").map_or(0, |r| r.len() as u64);
        }
        assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES - (2 << 20), "{bytes}");
        assert!(records.unfinished.is_empty());
    }
}
