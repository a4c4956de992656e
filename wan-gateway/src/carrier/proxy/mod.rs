//! HTTP CONNECT: which proxy, for whom, what is said to it and what it answers.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a proxy's answer.
pub(crate) const MAX_ANSWER: usize = 8 << 10;

/// A proxy. Its password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    address: String,
    /// `user:password`, decoded.
    credentials: Option<String>,
    /// Hosts that are dialled without it (`NO_PROXY`).
    except: Vec<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("credentials", &self.credentials.as_ref().map(|_| "hidden"))
            .field("except", &self.except)
            .finish()
    }
}

/// Why a text names no proxy. Never shows the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme.
    #[error("only proxies at http:// can be used (CONNECT; the link in it is encrypted all the same)")]
    Scheme,
    /// No host and port.
    #[error("write the proxy as \"http://host:port\" or \"http://user:password@host:port\"")]
    Form,
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The host of `host:port`, without brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Proxy {
    /// Reads `http://user:password@host:port` and a comma-separated `NO_PROXY`.
    pub fn parse(text: &str, no_proxy: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => text,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(decode(credentials).ok_or(ProxyError::Form)?), address),
            None => (None, rest),
        };
        let credentials = credentials.map(|c| if c.contains(':') { c } else { c + ":" });
        let address = match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => address.to_owned(),
            _ if address.is_empty() || address.contains(':') => return Err(ProxyError::Form),
            _ => format!("{address}:80"),
        };
        if address.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ProxyError::Form);
        }
        let except = no_proxy.split(',').map(|s| s.trim().to_ascii_lowercase()).filter(|s| !s.is_empty()).collect();
        Ok(Self { address, credentials, except })
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether `host:port` is to be dialled through it.
    pub fn serves(&self, target: &str) -> bool {
        let host = host(target).to_ascii_lowercase();
        !self.except.iter().any(|except| {
            let except = except.trim_start_matches("*.").trim_start_matches('.');
            except == "*" || host == except || host.strip_suffix(except).is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// What opens a way to `host:port`; `None`: that is no address.
    pub(crate) fn request(&self, target: &str) -> Option<String> {
        if target.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return None;
        }
        let authorization = self
            .credentials
            .as_ref()
            .map(|c| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(c)))
            .unwrap_or_default();
        Some(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n"))
    }

    /// Judges the whole head of the answer.
    pub(crate) fn verdict(&self, answer: &str) -> Result<(), String> {
        let line = answer.lines().next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let version = words.next().unwrap_or_default();
        let status = words.next().and_then(|s| s.parse::<u16>().ok());
        match status {
            Some(status) if version.starts_with("HTTP/1.") => match status {
                200..=299 => Ok(()),
                407 if self.credentials.is_some() => {
                    Err(format!("the proxy {} refuses the user or password of gateway.proxy (407)", self.address))
                }
                407 => Err(format!(
                    "the proxy {} wants a user and password: set them in gateway.proxy (407)",
                    self.address
                )),
                403 => Err(format!("the proxy {} does not allow this address or port (403)", self.address)),
                502..=504 => Err(format!("the proxy {} cannot reach it ({status})", self.address)),
                _ => Err(format!("the proxy {} answered {status}", self.address)),
            },
            _ => Err(format!("{} answers, but is no HTTP proxy", self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_passwords_never_shown() {
        let proxy = Proxy::parse("http://joe:s%40cret@proxy.corp:3128/", "").unwrap();
        assert_eq!(proxy.address(), "proxy.corp:3128");
        let request = proxy.request("gw.example:443").unwrap();
        assert!(request.starts_with("CONNECT gw.example:443 HTTP/1.1\r\nHost: gw.example:443\r\n"), "{request}");
        assert!(request.contains(&format!("Basic {}\r\n\r\n", STANDARD.encode("joe:s@cret"))), "{request}");
        assert!(!format!("{proxy:?}").contains("cret"));
        assert_eq!(Proxy::parse("proxy", "").unwrap().address(), "proxy:80");
        assert_eq!(Proxy::parse("https://p:1", ""), Err(ProxyError::Scheme));
        for bad in ["http://", "http://:80", "http://h:x", "http://a%zz@h:1", "http://h h:1"] {
            assert_eq!(Proxy::parse(bad, ""), Err(ProxyError::Form), "{bad}");
        }
        assert_eq!(proxy.request("a b:1"), None);
    }

    #[test]
    fn exceptions_are_dialled_directly() {
        let proxy = Proxy::parse("http://p:1", "local, .corp.example,10.0.0.1").unwrap();
        for (target, through) in [
            ("local:443", false),
            ("gw.corp.example:443", false),
            ("corp.example:443", false),
            ("notcorp.example:443", true),
            ("10.0.0.1:443", false),
            ("10.0.0.2:443", true),
        ] {
            assert_eq!(proxy.serves(target), through, "{target}");
        }
        assert!(!Proxy::parse("http://p:1", "*").unwrap().serves("a:1"));
    }

    #[test]
    fn refusals_are_named() {
        let open = Proxy::parse("http://p:1", "").unwrap();
        let with = Proxy::parse("http://u:secret@p:1", "").unwrap();
        assert_eq!(open.verdict("HTTP/1.1 200 Connection established\r\n\r\n"), Ok(()));
        for (proxy, answer, says) in [
            (&open, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "set them in gateway.proxy"),
            (&with, "HTTP/1.0 407 No\r\n\r\n", "refuses the user or password"),
            (&open, "HTTP/1.1 403 Forbidden\r\n\r\n", "does not allow"),
            (&open, "HTTP/1.1 502 Bad\r\n\r\n", "cannot reach"),
            (&open, "SSH-2.0-x\r\n\r\n", "no HTTP proxy"),
            (&open, "", "no HTTP proxy"),
        ] {
            let why = proxy.verdict(answer).unwrap_err();
            assert!(why.contains(says) && !why.contains("secret"), "{why}");
        }
    }
}
