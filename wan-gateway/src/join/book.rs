//! What a gateway remembers of the tokens it made: the hash of each secret, for whom, until when, and what it bought.

use prost::Message;
use subtle::ConstantTimeEq;

use super::wire::Refusal;

/// Tokens that wait to be used.
pub const MAX_OPEN: usize = 256;
/// Tokens in all; the oldest of those that are over go first.
const MAX_KEPT: usize = 1024;
/// Those that are over are kept this long, seconds, so that the answer is `expired` or `used` and not `unknown`.
const REMEMBER: u64 = 30 * 24 * 3600;

/// One token.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Entry {
    /// SHA-256 of the secret.
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(string, tag = "2")]
    datacenter: String,
    /// Unix seconds.
    #[prost(uint64, tag = "3")]
    expires: u64,
    /// When it was used, Unix seconds; 0: not yet.
    #[prost(uint64, tag = "4")]
    used: u64,
    /// SHA-256 of the public keys that were certified.
    #[prost(bytes = "vec", tag = "5")]
    keys: Vec<u8>,
    /// The answer that was given.
    #[prost(bytes = "vec", tag = "6")]
    answer: Vec<u8>,
}

/// All of them. As a message it is the file.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Book {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Certify, note it with [`Book::used`], keep the book, and only then answer.
    Issue,
    /// The answer was lost: give it again.
    Again(Vec<u8>),
    /// No; in words.
    Refuse(Refusal, String),
}

/// How a secret is remembered.
pub fn hash(secret: &[u8]) -> [u8; 32] {
    causeway_certs::join::pin(secret)
}

impl Book {
    /// Notes a new token; `false`: too many are open.
    pub fn created(&mut self, now: u64, secret: &[u8], datacenter: &str, expires: u64) -> bool {
        self.entries.retain(|e| now < e.expires.max(e.used).saturating_add(REMEMBER));
        let open = self.entries.iter().filter(|e| e.used == 0 && now < e.expires).count();
        if open >= MAX_OPEN {
            return false;
        }
        while self.entries.len() >= MAX_KEPT {
            let Some(over) = self.entries.iter().position(|e| e.used > 0 || now >= e.expires) else { return false };
            self.entries.remove(over);
        }
        self.entries.push(Entry {
            hash: hash(secret).to_vec(),
            datacenter: datacenter.to_owned(),
            expires,
            ..Entry::default()
        });
        true
    }

    /// Compares with every entry in constant time, so that the time of an answer says nothing of a secret.
    fn find(&self, secret: &[u8]) -> Option<usize> {
        let hash = hash(secret);
        let mut found = None;
        for (i, entry) in self.entries.iter().enumerate() {
            if bool::from(entry.hash.as_slice().ct_eq(&hash)) {
                found = Some(i);
            }
        }
        found
    }

    /// What to do with a request; `keys`: hash of the public keys in it. Changes nothing.
    pub fn decide(&self, now: u64, secret: &[u8], datacenter: &str, keys: &[u8]) -> Verdict {
        let refuse = |why, text: String| Verdict::Refuse(why, text);
        let Some(entry) = self.find(secret).and_then(|i| self.entries.get(i)) else {
            return refuse(
                Refusal::Unknown,
                "the gateway does not know this token: it was altered, or made by another gateway; have a new one made with `causeway federation token create`"
                    .to_owned(),
            );
        };
        if entry.datacenter != datacenter {
            return refuse(
                Refusal::OtherName,
                format!(
                    "the token is for the datacenter {}, and this site calls itself {datacenter}: use the name, or have a token made with `causeway federation token create --datacenter {datacenter}`",
                    entry.datacenter
                ),
            );
        }
        let expired = now >= entry.expires;
        if entry.used > 0 {
            if !expired && entry.keys == keys {
                return Verdict::Again(entry.answer.clone());
            }
            return refuse(
                Refusal::Used,
                format!(
                    "the token was used already, {} ago: each serves once; have a new one made (and if that was not you, take the site away with `causeway federation remove {datacenter}`)",
                    age(now.saturating_sub(entry.used))
                ),
            );
        }
        if expired {
            return refuse(
                Refusal::Expired,
                format!(
                    "the token expired {} ago by the clock of the gateway that made it: have a new one made",
                    age(now - entry.expires)
                ),
            );
        }
        Verdict::Issue
    }

    /// Notes what a token bought.
    pub fn used(&mut self, now: u64, secret: &[u8], keys: &[u8], answer: Vec<u8>) {
        if let Some(entry) = self.find(secret).and_then(|i| self.entries.get_mut(i)) {
            // 0 means not used, even for a clock that stands at the beginning of time.
            entry.used = now.max(1);
            entry.keys = keys.to_vec();
            entry.answer = answer;
        }
    }
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn refusal(verdict: &Verdict) -> Option<Refusal> {
        if let Verdict::Refuse(why, _) = verdict { Some(*why) } else { None }
    }

    fn restarted(book: &Book) -> Book {
        Book::decode(book.encode_to_vec().as_slice()).unwrap()
    }

    #[test]
    fn a_token_serves_once_and_its_answer_may_be_asked_again() {
        let mut book = Book::default();
        assert!(book.created(NOW, b"secret", "dc3", NOW + 900));
        assert_eq!(book.decide(NOW, b"secret", "dc3", b"k1"), Verdict::Issue);
        // Nothing was kept of a decision that was not carried out.
        assert_eq!(book.decide(NOW, b"secret", "dc3", b"k2"), Verdict::Issue);
        book.used(NOW, b"secret", b"k1", b"answer".to_vec());
        let book = restarted(&book);
        assert_eq!(book.decide(NOW + 1, b"secret", "dc3", b"k1"), Verdict::Again(b"answer".to_vec()));
        assert_eq!(refusal(&book.decide(NOW + 1, b"secret", "dc3", b"k2")), Some(Refusal::Used));
        assert_eq!(refusal(&book.decide(NOW + 900, b"secret", "dc3", b"k1")), Some(Refusal::Used));
    }

    #[test]
    fn refusals_differ_and_change_nothing() {
        let mut book = Book::default();
        assert!(book.created(NOW, b"secret", "dc3", NOW + 900));
        let before = book.clone();
        let of = |now, secret: &[u8], dc| refusal(&book.decide(now, secret, dc, b"k"));
        assert_eq!(of(NOW, b"secreT", "dc3"), Some(Refusal::Unknown));
        assert_eq!(of(NOW, b"", "dc3"), Some(Refusal::Unknown));
        assert_eq!(of(NOW, b"secret", "dc4"), Some(Refusal::OtherName));
        assert_eq!(of(NOW + 900, b"secret", "dc3"), Some(Refusal::Expired));
        assert_eq!(of(NOW + 899, b"secret", "dc3"), None);
        assert_eq!(book, before);
    }

    #[test]
    fn the_book_is_bounded_and_holds_no_secret() {
        let mut book = Book::default();
        for i in 0..MAX_OPEN {
            assert!(book.created(NOW, format!("secret-{i}").as_bytes(), "dc3", NOW + 900));
        }
        assert!(!book.created(NOW, b"more", "dc3", NOW + 900));
        assert!(book.created(NOW + 900, b"more", "dc3", NOW + 1800));
        assert_eq!(refusal(&book.decide(NOW + 900, b"secret-0", "dc3", b"k")), Some(Refusal::Expired));
        for i in 0..2 * MAX_KEPT as u64 {
            assert!(book.created(NOW + 900 + i, &i.to_be_bytes(), "dc3", NOW + 901 + i));
        }
        assert!(book.entries.len() <= MAX_KEPT);
        let bytes = book.encode_to_vec();
        assert!(!bytes.windows(4).any(|w| w == b"more"));
        assert!(book.created(NOW + 900 + REMEMBER * 2, b"x", "dc3", NOW + 1000 + REMEMBER * 2));
        assert_eq!(book.entries.len(), 1);
    }
}
