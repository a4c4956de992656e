//! Certificates that the servers of a datacenter make for its agents (`auto_encrypt`).
//!
//! They are of an authority of the servers' own, not of the federation's: servers believe it of those who call them, and of agents
//! only ([`AgentRoots`]). Nobody who dials believes it, so that no such certificate answers in a server's name, whatever it says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_proto::listen::Role;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authority::{IssueError, SET_BACK};
use crate::issue::{Kind, Subject};
use crate::material::LoadError;
use crate::verify::{self, WrongName};

/// Application protocol of an agent that asks for its certificate, and shows none.
pub const SIGN_ALPN: &[u8] = b"causeway-agents/1";
/// Names and addresses that an agent may want beside its own.
pub const MAX_NAMES: usize = 32;

/// Whoever this authority certifies is an agent.
pub struct AgentRoots(Arc<dyn ClientCertVerifier>);

impl std::fmt::Debug for AgentRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentRoots")
    }
}

/// Says which authority certifies agents now; asked at each handshake with a caller of no other authority.
pub type Agents = Arc<dyn Fn() -> Option<Arc<AgentRoots>> + Send + Sync>;

impl AgentRoots {
    /// Of the authority's certificate, PEM.
    pub fn from_pem(pem: &str) -> Result<Self, LoadError> {
        let unusable = |e: &dyn std::fmt::Display| LoadError(format!("the authority of agents cannot be used: {e}"));
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| unusable(&e))?;
        roots.add(der).map_err(|e| unusable(&e))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), verify::provider()).build();
        Ok(Self(verifier.map_err(|e| unusable(&e))?))
    }

    /// Whether this is an agent's certificate, and nobody else's.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        domain: &str,
    ) -> Result<(), Error> {
        verify::tolerant(now, |now| self.0.verify_client_cert(leaf, intermediates, now).map(drop))?;
        let names = verify::identities_of(leaf, domain);
        if !names.is_empty() && names.iter().all(|name| name.role == Role::Agent) {
            return Ok(());
        }
        let has = names.iter().map(causeway_proto::listen::Identity::dns_name).collect::<Vec<_>>().join(", ");
        let wrong = WrongName { has, needed: format!("agent.<datacenter>.{domain}, and no other role,") };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))))
    }
}

/// What the certificate of an agent says: that it is one of this datacenter, and the names and addresses that it asked for, for
/// its own HTTPS. Names of the federation's domain are not for asking.
pub fn subject(datacenter: &str, domain: &str, names: &[String], ips: &[String]) -> Result<Subject, IssueError> {
    if names.len() + ips.len() > MAX_NAMES {
        return Err(IssueError(format!(
            "auto_encrypt.dns_san and ip_san together may hold {MAX_NAMES} names and addresses"
        )));
    }
    for name in names {
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        let under = lower == domain || lower.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        if lower.is_empty() || lower.contains('*') || under {
            return Err(IssueError(format!(
                "auto_encrypt.dns_san names {name:?}: neither wildcards nor names of the domain {domain} are given to agents"
            )));
        }
    }
    let address = |text: &String| {
        text.parse::<IpAddr>()
            .map_err(|_| IssueError(format!("auto_encrypt.ip_san names {text:?}, which is no address")))
    };
    Ok(Subject {
        kind: Kind::Client,
        datacenter: datacenter.to_owned(),
        domain: domain.to_owned(),
        node: None,
        additional_dns: names.to_vec(),
        additional_ips: ips.iter().map(address).collect::<Result<_, _>>()?,
    })
}

/// When a certificate is to be replaced: after two thirds of its life. `not_before` is [`SET_BACK`] before it was made.
pub fn renewal(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let made = not_before + SET_BACK;
    let life = not_after.duration_since(made).unwrap_or(Duration::ZERO);
    made + life / 3 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_may_be_called() {
        let of = |names: &[&str], ips: &[&str]| {
            let owned = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            subject("dc1", "consul", &owned(names), &owned(ips))
        };
        let made = of(&["web.example.net"], &["10.0.0.1", "::1"]).unwrap();
        assert_eq!(
            made.dns_names(),
            ["web.example.net", "client.dc1.consul", "agent.dc1.consul", "localhost"],
            "as Consul names its client, and as our own links do"
        );
        assert_eq!(made.additional_ips.len(), 2);
        for name in ["server.dc1.consul", "Gateway.dc2.CONSUL.", "x.server.dc1.consul", "consul", "*.example.net", ""] {
            assert!(of(&[name], &[]).is_err(), "{name}");
        }
        assert!(of(&["notconsul", "a.notconsul"], &[]).is_ok());
        assert!(of(&[], &["10.0.0.256"]).unwrap_err().to_string().contains("ip_san"));
        assert!(of(&["a"; MAX_NAMES + 1], &[]).is_err());
    }

    #[test]
    fn renewed_after_two_thirds() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let day = Duration::from_secs(86_400);
        assert_eq!(renewal(made - SET_BACK, made + 3 * day), made + 2 * day);
        assert_eq!(renewal(made, made), made + SET_BACK, "a life of none does not panic");
    }
}
