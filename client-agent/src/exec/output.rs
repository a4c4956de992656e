//! Output of a job, cut into the pieces that are written as keys. Pure.

/// Bytes of a piece; Consul's.
const PIECE: usize = 4096;
/// Pieces of one job at most, 16 MiB: each is a write of the whole datacenter's log.
const MOST: usize = 4096;
/// What stands where the rest was left out.
const CUT: &[u8] = b"\n(more output was left out)\n";

/// Collects output and gives it out in pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    held: Vec<u8>,
    given: usize,
}

impl Pieces {
    /// Takes what was read; gives the pieces that are full now.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        if self.given >= MOST {
            return Vec::new();
        }
        self.held.extend_from_slice(bytes);
        let mut full = Vec::new();
        while self.held.len() >= PIECE {
            let rest = self.held.split_off(PIECE);
            full.push(std::mem::replace(&mut self.held, rest));
            self.given += 1;
            if self.given >= MOST {
                self.held.clear();
                full.push(CUT.to_vec());
            }
        }
        full
    }

    /// Whether something waits for more.
    pub(super) fn pending(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held, which may be nothing.
    pub(super) fn flush(&mut self) -> Vec<u8> {
        self.given += usize::from(self.pending());
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lose_nothing() {
        let text: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        for step in [1, 7, 4095, 4096, 4097, 10_000] {
            let mut pieces = Pieces::default();
            let mut out: Vec<Vec<u8>> = text.chunks(step).flat_map(|c| pieces.add(c)).collect();
            assert!(out.iter().all(|p| p.len() == PIECE));
            assert!(pieces.pending());
            out.push(pieces.flush());
            assert!(!pieces.pending());
            assert_eq!(out.concat(), text, "{step}");
        }
    }

    #[test]
    fn a_flood_is_cut() {
        let mut pieces = Pieces::default();
        let out: Vec<Vec<u8>> = (0..2 * MOST).flat_map(|_| pieces.add(&[b'x'; PIECE])).collect();
        assert_eq!(out.len(), MOST + 1);
        assert_eq!(out.last().unwrap(), CUT);
        assert!(!pieces.pending() && pieces.flush().is_empty());
    }
}
