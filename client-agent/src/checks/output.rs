//! Output of a check, kept within bounds while it comes in; and Consul's way to print times. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// The last bytes of what was written.
#[derive(Debug)]
pub(crate) struct Tail {
    limit: usize,
    kept: VecDeque<u8>,
    total: u64,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, kept: VecDeque::new(), total: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = bytes.get(bytes.len().saturating_sub(self.limit)..).unwrap_or_default();
        let excess = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        self.kept.drain(..excess.min(self.kept.len()));
        self.kept.extend(bytes);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What was kept, as text.
    pub(super) fn text(&self) -> String {
        let (a, b) = self.kept.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).into_owned()
    }

    /// As [`Tail::text`], and says how much was left out, as Consul does.
    pub(crate) fn captured(&self) -> String {
        if self.total > self.limit as u64 {
            format!("Captured {} of {} bytes\n...\n{}", self.limit, self.total, self.text())
        } else {
            self.text()
        }
    }
}

/// A time as Go prints it: `1m30s`, `1.5s`, `500ms`.
pub(super) fn go_duration(duration: Duration) -> String {
    let decimal = |whole: u128, part: u128, digits: usize, unit: &str| {
        if part == 0 {
            return format!("{whole}{unit}");
        }
        let text = format!("{whole}.{part:0digits$}");
        format!("{}{unit}", text.trim_end_matches('0'))
    };
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return decimal(nanos / 1_000, nanos % 1_000, 3, "µs");
    }
    if nanos < 1_000_000_000 {
        return decimal(nanos / 1_000_000, nanos % 1_000_000, 6, "ms");
    }
    let seconds = decimal(nanos / 1_000_000_000 % 60, nanos % 1_000_000_000, 9, "s");
    let minutes = nanos / 60_000_000_000;
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_kept() {
        for pieces in [vec!["abcdefghij"], vec!["abc", "defgh", "ij"], vec!["a", "", "bcdefghi", "j"]] {
            let mut tail = Tail::new(4);
            pieces.iter().for_each(|p| tail.write(p.as_bytes()));
            assert_eq!(tail.captured(), "Captured 4 of 10 bytes\n...\nghij");
        }
        let mut tail = Tail::new(4);
        tail.write(b"abcd");
        assert_eq!(tail.captured(), "abcd");
    }

    #[test]
    fn times_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (500, "500ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
