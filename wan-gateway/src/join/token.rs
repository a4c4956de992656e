//! The token as text: `causeway1.` and base64url of the message and a checksum, so that any slip of a copy shows before anything is
//! dialled.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

/// What each token begins with; another version will begin otherwise.
const PREFIX: &str = "causeway1.";
/// Bytes of checksum.
const SUM: usize = 8;
/// Longest text taken.
const MAX_TEXT: usize = 8192;
/// Addresses in a token.
pub const MAX_ADDRESSES: usize = 16;

/// What a token says.
#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub struct Token {
    /// `host:port` of gateways to ask.
    #[prost(string, repeated, tag = "1")]
    pub addresses: Vec<String>,
    /// Fingerprint of the authority ([`causeway_certs::join::pin`]).
    #[prost(bytes = "vec", tag = "2")]
    pub pin: Vec<u8>,
    /// Serves once. 32 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) secret: Vec<u8>,
    /// For whom.
    #[prost(string, tag = "4")]
    pub datacenter: String,
    /// The datacenter that made it.
    #[prost(string, tag = "5")]
    pub issuer: String,
    /// The federation's domain.
    #[prost(string, tag = "6")]
    pub domain: String,
    /// Unix seconds by the issuer's clock; to be shown, the issuer decides.
    #[prost(uint64, tag = "7")]
    pub expires: u64,
}

impl std::fmt::Debug for Token {
    /// Never shows the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("datacenter", &self.datacenter).finish_non_exhaustive()
    }
}

/// The text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not even its beginning.
    #[error("this is no join token: one begins with \"causeway1.\" (`causeway federation token create` prints it)")]
    NoToken,
    /// Damaged.
    #[error("the token was altered or cut short on its way: copy it whole, in one line, and try again")]
    Altered,
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; SUM];
    out.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    out
}

impl Token {
    /// A token; the secret is 32 random bytes.
    pub fn new(secret: [u8; 32], pin: [u8; 32], addresses: Vec<String>) -> Self {
        Self { addresses, pin: pin.to_vec(), secret: secret.to_vec(), ..Self::default() }
    }

    /// Its secret.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// The authority's fingerprint.
    pub(crate) fn pin(&self) -> Result<[u8; 32], TokenError> {
        <[u8; 32]>::try_from(self.pin.as_slice()).map_err(|_| TokenError::Altered)
    }

    /// As text.
    pub fn render(&self) -> String {
        let mut bytes = self.encode_to_vec();
        bytes.extend(sum(&bytes));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// From text; spaces around it do not matter.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?;
        if text.len() > MAX_TEXT {
            return Err(TokenError::Altered);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Altered)?;
        let (message, checksum) =
            bytes.len().checked_sub(SUM).map(|at| bytes.split_at(at)).ok_or(TokenError::Altered)?;
        if checksum != sum(message) {
            return Err(TokenError::Altered);
        }
        let token = Self::decode(message).map_err(|_| TokenError::Altered)?;
        let whole = token.secret.len() == 32
            && token.pin.len() == 32
            && (1..=MAX_ADDRESSES).contains(&token.addresses.len())
            && causeway_proto::name::own_datacenter(&token.datacenter).is_ok_and(|name| name == token.datacenter)
            && causeway_proto::name::datacenter(&token.issuer).is_ok()
            && causeway_proto::name::is_dns(&token.domain);
        if whole { Ok(token) } else { Err(TokenError::Altered) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            datacenter: "dc3".into(),
            issuer: "dc1".into(),
            domain: "consul".into(),
            expires: 1_700_000_000,
            ..Token::new([7; 32], [9; 32], vec!["gw.example:443".into(), "192.0.2.1:443".into()])
        }
    }

    #[test]
    fn there_and_back() {
        let text = token().render();
        assert_eq!(Token::parse(&format!(" {text}\n")), Ok(token()));
    }

    #[test]
    fn every_altered_byte_is_found() {
        let text = token().render();
        for i in 0..text.len() {
            for other in ["A", "b", "-", "=", " "] {
                let mut bad = text.clone();
                bad.replace_range(i..=i, other);
                // A space at the end is trimmed, and then a byte is missing.
                assert!(bad == text || Token::parse(&bad).is_err(), "{i} {other}");
            }
            assert!(Token::parse(&text[..i]).is_err(), "cut at {i}");
            assert!(Token::parse(&format!("{}{}", &text[..i], &text[i + 1..])).is_err(), "without {i}");
        }
        assert_eq!(Token::parse("hello"), Err(TokenError::NoToken));
    }

    #[test]
    fn a_message_that_lacks_something_is_refused() {
        for bad in [
            Token { addresses: vec![], ..token() },
            Token { addresses: vec!["a:1".into(); 17], ..token() },
            Token { pin: vec![1], ..token() },
            Token { secret: vec![], ..token() },
            Token { datacenter: "A.b".into(), ..token() },
            Token { domain: String::new(), ..token() },
        ] {
            assert_eq!(Token::parse(&bad.render()), Err(TokenError::Altered), "{}", bad.datacenter);
        }
    }
}
