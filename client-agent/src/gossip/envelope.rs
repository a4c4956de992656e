//! The envelope around every datagram and every TCP frame: AES-GCM with a ring of keys, or plain where no key is set.
//!
//! Layout: a version byte, then either the plain bytes ([`PLAIN`]), or a 12 byte nonce and the sealed bytes with their 16 byte tag
//! ([`SEALED`]). The version byte is authenticated too, so that nobody can turn one into the other.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

use super::keyring::Ring;

/// Begins what proofs are about, so that they serve for nothing else.
const PROOF: &[u8] = b"causeway: this key of gossip is known\0";

/// First byte of an envelope without encryption.
pub const PLAIN: u8 = 0xC0;
/// First byte of an encrypted envelope.
pub const SEALED: u8 = 0xC1;
/// What an envelope adds at most: version byte, nonce, tag.
pub const OVERHEAD: usize = 1 + NONCE_LEN + 16;

/// A gossip key (option `encrypt`). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: Vec<u8>,
}

/// Why a text is no gossip key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the gossip key is not base64; make one with `causeway keygen`")]
    Base64,
    /// A length that AES-GCM knows, and our cryptographic library does not.
    #[error(
        "the gossip key is 24 bytes long (AES-192), which is not supported; make one of 32 bytes with `causeway keygen`"
    )]
    Aes192,
    /// Another length.
    #[error("the gossip key is {0} bytes long; it must be 16 or 32 bytes in base64; make one with `causeway keygen`")]
    Length(usize),
}

impl Key {
    /// Reads the option's value: base64 of 16 or 32 bytes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| KeyError::Base64)?;
        Self::new(&bytes)
    }

    /// From its 16 or 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        match bytes.len() {
            16 | 32 => Ok(Self { bytes: bytes.to_vec() }),
            24 => Err(KeyError::Aes192),
            other => Err(KeyError::Length(other)),
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Proves about these bytes that this key is known.
    pub(super) fn sign(&self, of: &[u8]) -> Vec<u8> {
        hmac::sign(&self.hmac(), &[PROOF, of].concat()).as_ref().to_vec()
    }

    /// Whether that was proven.
    pub(super) fn signed(&self, of: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.hmac(), &[PROOF, of].concat(), proof).is_ok()
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.bytes)
    }

    /// As operators write it. A secret.
    pub fn base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.bytes)
    }

    fn cipher(&self) -> Option<LessSafeKey> {
        let algorithm = if self.bytes.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
        Some(LessSafeKey::new(UnboundKey::new(algorithm, &self.bytes).ok()?))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why an envelope was refused. The texts are memberlist's, which operators know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// None of our keys fits, or the bytes were changed on the way.
    #[error("No installed keys could decrypt the message")]
    Key,
    /// It is plain, and we insist on encryption.
    #[error("Encryption is configured but remote state is not encrypted")]
    Plain,
    /// It is encrypted, and we have no key.
    #[error("Remote state is encrypted and encryption is not configured")]
    NoKey,
    /// Not an envelope of ours at all.
    #[error("not a gossip message of Causeway")]
    Malformed,
}

impl OpenError {
    /// Its number on the wire, for telling a TCP peer why it is refused.
    pub fn code(self) -> u8 {
        match self {
            Self::Key => 1,
            Self::Plain => 2,
            Self::NoKey => 3,
            Self::Malformed => 4,
        }
    }

    /// The reverse of [`Self::code`].
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Key, Self::Plain, Self::NoKey, Self::Malformed].into_iter().find(|e| e.code() == code)
    }
}

/// A ring, ready for use.
struct Keys {
    ring: Arc<Ring>,
    ciphers: Vec<LessSafeKey>,
}

impl Keys {
    fn of(ring: Ring) -> Self {
        let ciphers = ring.keys().iter().filter_map(Key::cipher).collect();
        Self { ring: Arc::new(ring), ciphers }
    }
}

/// Seals and opens envelopes with a ring of keys: the first one seals, any one opens.
pub struct Envelope {
    keys: ArcSwap<Keys>,
    verify_incoming: bool,
    verify_outgoing: bool,
}

impl Envelope {
    /// With these keys; without one, everything is plain.
    pub fn new(keys: &[Key], verify_incoming: bool, verify_outgoing: bool) -> Self {
        let keys = ArcSwap::from_pointee(Keys::of(Ring::new(keys.to_vec())));
        Self { keys, verify_incoming, verify_outgoing }
    }

    /// The keys.
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.keys.load().ring)
    }

    /// Replaces the keys.
    pub fn set_ring(&self, ring: Ring) {
        self.keys.store(Arc::new(Keys::of(ring)));
    }

    /// Whether what is sent is encrypted.
    pub fn encrypts(&self) -> bool {
        !self.keys.load().ciphers.is_empty() && self.verify_outgoing
    }

    /// Wraps `plain`. The nonce must be fresh and random for each call.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
        if let Some(key) = self.keys.load().ciphers.first().filter(|_| self.verify_outgoing) {
            let mut body = plain.to_vec();
            let sealed =
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from([SEALED]), &mut body);
            // ring refuses only bodies of more than 64 GiB. An empty packet is dropped by any receiver; nothing leaks.
            if sealed.is_ok() {
                out.push(SEALED);
                out.extend_from_slice(&nonce);
                out.extend_from_slice(&body);
            }
        } else {
            out.push(PLAIN);
            out.extend_from_slice(plain);
        }
        out
    }

    /// Unwraps what a peer sent.
    pub fn open(&self, envelope: &[u8]) -> Result<Vec<u8>, OpenError> {
        let keys = self.keys.load();
        match envelope.split_first() {
            Some((&PLAIN, plain)) if keys.ciphers.is_empty() || !self.verify_incoming => Ok(plain.to_vec()),
            Some((&PLAIN, _)) => Err(OpenError::Plain),
            Some((&SEALED, _)) if keys.ciphers.is_empty() => Err(OpenError::NoKey),
            Some((&SEALED, rest)) => {
                let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Malformed)?;
                for key in &keys.ciphers {
                    // Opening in place spoils the buffer where the key is wrong, so each key gets its own copy.
                    let mut body = sealed.to_vec();
                    let nonce = Nonce::assume_unique_for_key(*nonce);
                    if let Ok(plain) = key.open_in_place(nonce, Aad::from([SEALED]), &mut body) {
                        let len = plain.len();
                        body.truncate(len);
                        return Ok(body);
                    }
                }
                Err(OpenError::Key)
            }
            _ => Err(OpenError::Malformed),
        }
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envelope({} keys)", self.keys.load().ciphers.len())
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    fn key(byte: u8, len: usize) -> Key {
        Key::new(&vec![byte; len]).unwrap()
    }

    #[test]
    fn a_key_is_proven_and_not_told() {
        let (ours, other) = (key(7, 32), key(8, 32));
        let proof = ours.sign(b"about this");
        assert!(ours.signed(b"about this", &proof));
        assert!(!ours.signed(b"about that", &proof) && !other.signed(b"about this", &proof));
        assert!(!ours.signed(b"about this", b""));
        let ring = Ring::new(vec![other, ours]);
        assert!(ring.proves(b"about this", &proof), "any key of the ring");
        assert!(!ring.proves(b"about this", b"") && Ring::default().proves(b"about this", b""));
    }

    #[test]
    fn keys_of_the_right_lengths_only() {
        assert!(Key::new(&[1; 16]).is_ok() && Key::new(&[1; 32]).is_ok());
        assert_eq!(Key::new(&[1; 24]).unwrap_err(), KeyError::Aes192);
        assert_eq!(Key::new(&[1; 5]).unwrap_err(), KeyError::Length(5));
        assert_eq!(Key::parse("not base64!").unwrap_err(), KeyError::Base64);
        assert!(Key::parse("pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=").is_ok());
        assert_eq!(format!("{:?}", key(7, 16)), "Key(..)");
    }

    #[test]
    fn any_key_of_the_ring_opens_and_the_first_one_seals() {
        let old = Envelope::new(&[key(1, 16)], true, true);
        let both = Envelope::new(&[key(2, 32), key(1, 16)], true, true);
        let new = Envelope::new(&[key(2, 32)], true, true);
        assert_eq!(both.open(&old.seal([9; 12], b"hello")).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(new.open(&both.seal([9; 12], b"hello")).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(old.open(&both.seal([9; 12], b"hello")), Err(OpenError::Key));
    }

    #[test]
    fn plain_and_sealed_do_not_mix_unless_allowed() {
        let plain = Envelope::new(&[], true, true);
        let sealed = Envelope::new(&[key(1, 16)], true, true);
        let lax = Envelope::new(&[key(1, 16)], false, false);
        assert_eq!(plain.open(&sealed.seal([0; 12], b"x")), Err(OpenError::NoKey));
        assert_eq!(sealed.open(&plain.seal([0; 12], b"x")), Err(OpenError::Plain));
        assert_eq!(lax.open(&plain.seal([0; 12], b"x")).as_deref(), Ok(&b"x"[..]));
        assert_eq!(lax.open(&sealed.seal([0; 12], b"x")).as_deref(), Ok(&b"x"[..]));
        assert_eq!(plain.open(&lax.seal([0; 12], b"x")).as_deref(), Ok(&b"x"[..]));
        assert!(!lax.encrypts() && !plain.encrypts() && sealed.encrypts());
    }

    #[test]
    fn the_overhead_is_as_stated() {
        let sealed = Envelope::new(&[key(1, 16)], true, true);
        assert_eq!(sealed.seal([0; 12], b"abc").len(), 3 + OVERHEAD);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let envelope = Envelope::new(&[key(3, 32)], true, true);
        let good = envelope.seal([4; 12], b"a message of some length");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(envelope.open(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        let envelope = Envelope::new(&[key(3, 16)], true, true);
        let mut rng = SmallRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = vec![0; rng.random_range(0..80)];
            rng.fill(&mut bytes[..]);
            if rng.random() && !bytes.is_empty() {
                bytes[0] = SEALED;
            }
            assert!(envelope.open(&bytes).is_err());
        }
    }

    #[test]
    fn codes_go_both_ways() {
        for e in [OpenError::Key, OpenError::Plain, OpenError::NoKey, OpenError::Malformed] {
            assert_eq!(OpenError::from_code(e.code()), Some(e));
        }
        assert_eq!(OpenError::from_code(0), None);
    }
}
