//! Doors to other processes of the own datacenter.

mod driver;

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::door::Door;
use causeway_proto::listen::{Identity, Role};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::link;
use crate::material::Material;

/// Time that a connect attempt may take, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing was heard for this long is asked for a sign of life.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// Without a sign of life for this long after the question the connection is given up, and every call on it with it.
pub const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes doors: gRPC channels over TCP, with TLS where there is material, each verified to be `role.datacenter.domain`.
#[derive(Debug, Clone)]
pub struct Dialer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tls: Option<Arc<Material>>,
    datacenter: String,
    domain: String,
    doors: Mutex<HashMap<(SocketAddr, Role), Door>>,
}

impl Dialer {
    /// A dialer for one datacenter; `tls: None` speaks in clear.
    pub fn new(tls: Option<Arc<Material>>, datacenter: &str, domain: &str) -> Self {
        Self(Arc::new(Inner {
            tls,
            datacenter: datacenter.to_owned(),
            domain: domain.to_owned(),
            doors: Mutex::default(),
        }))
    }

    /// The door to this address. Connects at the first call, again after a failure, shares one connection between all that ask for
    /// the same address and role. A connect attempt ends after 1 s, and all that wait for it get its outcome; a connection on
    /// which nothing is heard for 3 s ([`PING_EVERY`] and [`PING_TIMEOUT`]) is given up.
    ///
    /// A [`causeway_proto::door::Broken`] whose text begins with `connect` means that nothing was sent, so that even a write may
    /// be tried elsewhere; any other text leaves that open.
    ///
    /// A call that carries `grpc-timeout` is answered with a refusal ([`causeway_proto::rejection::Reason::Deadline`]) when no
    /// answer began within it. A connection lives until the last door to it and the last answer on it are dropped.
    pub fn door(&self, addr: SocketAddr, role: Role) -> Door {
        let mut doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.entry((addr, role)).or_insert_with(|| self.make(addr, role)).clone()
    }

    /// Forgets connections to addresses that are not in this list.
    pub fn retain(&self, addrs: &[SocketAddr]) {
        self.0.doors.lock().unwrap_or_else(PoisonError::into_inner).retain(|(addr, _), _| addrs.contains(addr));
    }

    /// A door to what a server signs certificates of agents with ([`crate::agents`]), on a connection of its own; `None` without TLS.
    pub fn signing_door(&self, addr: SocketAddr) -> Option<Door> {
        self.0.tls.is_some().then(|| self.make_with(addr, Role::Server, link::sign_client))
    }

    fn make(&self, addr: SocketAddr, role: Role) -> Door {
        self.make_with(addr, role, link::rpc_client)
    }

    fn make_with(
        &self,
        addr: SocketAddr,
        role: Role,
        config: impl Fn(&Arc<Material>, &Identity) -> Arc<rustls::ClientConfig>,
    ) -> Door {
        let expect = Identity { role, datacenter: self.0.datacenter.clone(), domain: self.0.domain.clone() };
        let name = expect.dns_name();
        let tls = match &self.0.tls {
            None => None,
            Some(material) => match ServerName::try_from(name.clone()) {
                Ok(server_name) => Some((TlsConnector::from(config(material, &expect)), server_name)),
                Err(_) => {
                    let text = format!(
                        "{name:?} is not a DNS name, so no certificate can prove it: look at datacenter and domain"
                    );
                    return Door::closed(causeway_proto::rejection::Reason::Internal.status(text));
                }
            },
        };
        driver::door(Target { addr, name, tls })
    }
}

/// Whom to dial, and how.
struct Target {
    addr: SocketAddr,
    /// `server.dc1.consul`, for texts.
    name: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// What went wrong, with whom, and what to look at.
    fn explain(&self, doing: &str, error: &(dyn Error + 'static), hint: &str) -> String {
        let how = if self.tls.is_some() { "TLS" } else { "clear text" };
        let mut text = format!("{doing} {} ({}, {how}) failed", self.addr, self.name);
        let mut last = String::new();
        let mut next = Some(error);
        while let Some(e) = next {
            let part = e.to_string();
            // Libraries often repeat the text of what lies below.
            if !part.is_empty() && !last.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
                last = part;
            }
            next = e.source();
        }
        if !hint.is_empty() {
            text.push_str(": ");
            text.push_str(hint);
        }
        text
    }

    /// What to look at when a connection broke before anything was heard from the other end.
    fn never_heard(&self) -> &'static str {
        if self.tls.is_some() {
            "it never answered on this connection; it may refuse our certificate"
        } else {
            "it never answered on this connection; it may want TLS (ca_file, cert_file, key_file)"
        }
    }
}

/// What to look at after a failed TLS handshake.
fn handshake_hint(e: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
    match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => "the other end speaks no TLS; it runs without certificates",
        Some(_) => "",
        None if matches!(e.kind(), UnexpectedEof | ConnectionReset) => {
            "it may speak no TLS; it may run without certificates"
        }
        None => "",
    }
}

/// Reads gRPC's deadline, `100m`: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read() {
        for (text, ms) in
            [("1S", 1000), ("250m", 250), ("2M", 120_000), ("1H", 3_600_000), ("5000u", 5), ("9000000n", 9)]
        {
            assert_eq!(grpc_timeout(text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "1é"] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_text_names_the_address_and_the_cause() {
        let target = Target { addr: "10.0.0.1:8300".parse().unwrap(), name: "server.dc1.consul".to_owned(), tls: None };
        let text = target.explain("connecting to", &std::io::Error::other("refused"), "start it");
        assert_eq!(text, "connecting to 10.0.0.1:8300 (server.dc1.consul, clear text) failed: refused: start it");
    }
}
