//! What DNS counts: answers by response code, and how long they took.
//!
//! A worker tallies a batch of packets on its stack and adds it to the shared figures once a batch, by handles that were looked up
//! once; so an answer costs an addition, whatever is measured.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

/// Response codes below this are counted by name; the extended ones, which only EDNS has, with the last.
const CODES: [&str; 12] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH",
    "NOTZONE", "OTHER",
];

/// Answers of one batch, by response code.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally([u32; CODES.len()]);

fn place(code: u8) -> usize {
    usize::from(code).min(CODES.len() - 1)
}

impl Tally {
    /// Counts an answer as it goes out: a whole DNS message.
    pub fn add(&mut self, message: &[u8]) {
        // Of the header's second pair of bytes, the low four bits.
        let code = message.get(3).map_or(u8::MAX, |b| b & 0x0f);
        if let Some(count) = self.0.get_mut(place(code)) {
            *count += 1;
        }
    }
}

/// The figures, looked up once.
pub struct Figures {
    codes: [Counter; CODES.len()],
    memory: Histogram,
    waited: Histogram,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            codes: CODES.map(|code| counter!("consul_dns_queries", "rcode" => code)),
            memory: histogram!("consul_dns_query_seconds", "from" => "memory"),
            waited: histogram!("consul_dns_query_seconds", "from" => "waited"),
        }
    }
}

impl Figures {
    /// Counts answers: response codes, and how many of each.
    pub fn answered(&self, codes: &[(u8, u64)]) {
        for (code, count) in codes {
            if let Some(counter) = self.codes.get(place(*code)) {
                counter.increment(*count);
            }
        }
    }

    /// A batch of answers from memory. The time from the first packet to the last answer is recorded once, for the question in it
    /// that waited the longest; a batch is one question where there are few.
    pub fn batch(&self, codes: &Tally, took: Duration) {
        let mut any = false;
        for (counter, count) in self.codes.iter().zip(codes.0).filter(|(_, count)| *count > 0) {
            counter.increment(u64::from(count));
            any = true;
        }
        if any {
            self.memory.record(took.as_secs_f64());
        }
    }

    /// An answer that took waiting, for a view or for another resolver.
    pub fn waited(&self, took: Duration) {
        self.waited.record(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_code() {
        let mut tally = Tally::default();
        for message in [&[0, 1, 0x84, 0x83][..], &[0, 1, 0x84, 0x80], &[0, 1, 0x84, 0x00], &[0, 1, 0, 0x0f], &[]] {
            tally.add(message);
        }
        assert_eq!(tally.0, [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
}
