//! What is remembered of a token: the hash of its secret, for whom, until when, and what it bought. One entry a token, kept with the
//! site's servers ([`crate::shelf`]), so that any gateway of the site can redeem it and none can do so twice: an entry is changed
//! only from the state that was read. Who may write that store could put entries there; so each is sealed with a key that only
//! holders of the authority's key can derive, and one whose seal is broken is none.

use prost::Message;
use ring::hmac;

use super::wire::Refusal;
use crate::shelf::ROOT;

/// Tokens that wait to be used.
pub const MAX_OPEN: usize = 256;
/// Tokens in all; the oldest of those that are over go first.
pub(crate) const MAX_KEPT: usize = 512;
/// Those that are over are kept this long, seconds, so that the answer is `expired` or `used` and not `unknown`.
const REMEMBER: u64 = 30 * 24 * 3600;
/// What the key of the seals is derived for.
pub(crate) const PURPOSE: &str = "join tokens";

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
    /// Over all the others.
    #[prost(bytes = "vec", tag = "7")]
    seal: Vec<u8>,
}

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Certify, note it with [`Entry::used`], keep that, and only then answer.
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

/// Below which all entries are.
pub(crate) fn place() -> String {
    format!("{ROOT}tokens/")
}

/// Where the entry of a secret is. Half of the hash names it; the whole of it is compared.
pub(crate) fn place_of(secret: &[u8]) -> String {
    let name: String = hash(secret).iter().take(16).map(|b| format!("{b:02x}")).collect();
    place() + &name
}

/// A secret that has no entry, or one that somebody else made.
pub(crate) fn unknown() -> Verdict {
    Verdict::Refuse(
        Refusal::Unknown,
        "this site does not know the token: it was altered, or made by another site; have a new one made with `causeway federation token create`"
            .to_owned(),
    )
}

impl Entry {
    /// A new token.
    pub fn new(secret: &[u8], datacenter: &str, expires: u64) -> Self {
        Self { hash: hash(secret).to_vec(), datacenter: datacenter.to_owned(), expires, ..Self::default() }
    }

    fn unsealed(&self) -> Vec<u8> {
        Self { seal: Vec::new(), ..self.clone() }.encode_to_vec()
    }

    /// As it is kept.
    pub fn sealed(&self, key: &hmac::Key) -> Vec<u8> {
        let seal = hmac::sign(key, &self.unsealed()).as_ref().to_vec();
        Self { seal, ..self.clone() }.encode_to_vec()
    }

    /// From what was kept; `None`: not by one who holds the authority's key. The seal is compared in constant time.
    pub fn opened(bytes: &[u8], key: &hmac::Key) -> Option<Self> {
        let entry = Self::decode(bytes).ok()?;
        hmac::verify(key, &entry.unsealed(), &entry.seal).ok()?;
        Some(entry)
    }

    /// Whether it waits to be used.
    pub fn is_open(&self, now: u64) -> bool {
        self.used == 0 && now < self.expires
    }

    /// Whether it may be forgotten.
    pub fn is_old(&self, now: u64) -> bool {
        now >= self.expires.max(self.used).saturating_add(REMEMBER)
    }

    /// When it was over or will be.
    pub(crate) fn end(&self) -> u64 {
        if self.used > 0 { self.used } else { self.expires }
    }

    /// Whether it bought a certificate for this datacenter.
    pub fn was_used_by(&self, datacenter: &str) -> bool {
        self.used > 0 && self.datacenter == datacenter
    }

    /// What to do with a request; `keys`: hash of the public keys in it. Changes nothing.
    pub fn decide(&self, now: u64, secret: &[u8], datacenter: &str, keys: &[u8]) -> Verdict {
        let refuse = |why, text: String| Verdict::Refuse(why, text);
        if self.hash != hash(secret) {
            return unknown();
        }
        if self.datacenter != datacenter {
            return refuse(
                Refusal::OtherName,
                format!(
                    "the token is for the datacenter {}, and this site calls itself {datacenter}: use the name, or have a token made with `causeway federation token create --datacenter {datacenter}`",
                    self.datacenter
                ),
            );
        }
        let expired = now >= self.expires;
        if self.used > 0 {
            if !expired && self.keys == keys {
                return Verdict::Again(self.answer.clone());
            }
            return refuse(
                Refusal::Used,
                format!(
                    "the token was used already, {} ago: each serves once; have a new one made (and if that was not you, take the site away with `causeway federation remove {datacenter}`)",
                    age(now.saturating_sub(self.used))
                ),
            );
        }
        if expired {
            return refuse(
                Refusal::Expired,
                format!(
                    "the token expired {} ago by the clock of the gateway that was asked: have a new one made",
                    age(now - self.expires)
                ),
            );
        }
        Verdict::Issue
    }

    /// The same, spent on these keys.
    #[must_use]
    pub fn used(&self, now: u64, keys: &[u8], answer: Vec<u8>) -> Self {
        // 0 means not used, even for a clock that stands at the beginning of time.
        Self { used: now.max(1), keys: keys.to_vec(), answer, ..self.clone() }
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

    fn key(of: &[u8]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, of)
    }

    fn refusal(verdict: &Verdict) -> Option<Refusal> {
        if let Verdict::Refuse(why, _) = verdict { Some(*why) } else { None }
    }

    #[test]
    fn a_token_serves_once_and_its_answer_may_be_asked_again() {
        let entry = Entry::new(b"secret", "dc3", NOW + 900);
        assert_eq!(entry.decide(NOW, b"secret", "dc3", b"k1"), Verdict::Issue);
        assert!(entry.is_open(NOW) && !entry.is_open(NOW + 900));
        let used = Entry::opened(&entry.used(NOW, b"k1", b"answer".to_vec()).sealed(&key(b"k")), &key(b"k")).unwrap();
        assert_eq!(used.decide(NOW + 1, b"secret", "dc3", b"k1"), Verdict::Again(b"answer".to_vec()));
        assert_eq!(refusal(&used.decide(NOW + 1, b"secret", "dc3", b"k2")), Some(Refusal::Used));
        assert_eq!(refusal(&used.decide(NOW + 900, b"secret", "dc3", b"k1")), Some(Refusal::Used));
        assert!(!used.is_open(NOW) && !used.is_old(NOW + 900) && used.is_old(NOW + 900 + REMEMBER));
    }

    #[test]
    fn refusals_differ() {
        let entry = Entry::new(b"secret", "dc3", NOW + 900);
        let of = |now, secret: &[u8], dc| refusal(&entry.decide(now, secret, dc, b"k"));
        assert_eq!(of(NOW, b"secreT", "dc3"), Some(Refusal::Unknown));
        assert_eq!(of(NOW, b"", "dc3"), Some(Refusal::Unknown));
        assert_eq!(of(NOW, b"secret", "dc4"), Some(Refusal::OtherName));
        assert_eq!(of(NOW + 900, b"secret", "dc3"), Some(Refusal::Expired));
        assert_eq!(of(NOW + 899, b"secret", "dc3"), None);
    }

    #[test]
    fn an_entry_that_was_touched_is_none_and_none_holds_a_secret() {
        let entry = Entry::new(b"secret", "dc3", NOW + 900);
        let bytes = entry.sealed(&key(b"k"));
        assert_eq!(Entry::opened(&bytes, &key(b"k")).map(|e| e.expires), Some(NOW + 900));
        assert_eq!(Entry::opened(&bytes, &key(b"other")), None);
        let later = Entry { expires: NOW + 9000, ..Entry::decode(bytes.as_slice()).unwrap() };
        assert_eq!(Entry::opened(&later.encode_to_vec(), &key(b"k")), None);
        assert_eq!(Entry::opened(&entry.encode_to_vec(), &key(b"k")), None);
        assert!(!bytes.windows(6).any(|w| w == b"secret") && !place_of(b"secret").contains("secret"));
        assert_ne!(place_of(b"secret"), place_of(b"other"));
    }
}
