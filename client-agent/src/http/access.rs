//! What the configuration keeps from callers, whoever they are: paths that are blocked, and who may write.

use std::net::IpAddr;

use http::{Method, StatusCode};

use super::failure::Failure;
use super::gate::Row;
use super::query::Params;
pub use crate::network::Network;

/// Who may do what over HTTP (`http_config`).
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Beginnings of paths that are refused (`block_endpoints`).
    pub blocked: Vec<String>,
    /// Networks that may write (`allow_write_http_from`); empty: all.
    pub writers: Vec<Network>,
}

impl Access {
    /// Whether a request gets further; `from`: `None` for a UNIX socket, which is in no network.
    pub(super) fn admit(&self, method: &Method, path: &str, from: Option<IpAddr>) -> Result<(), Failure> {
        if self.blocked.iter().any(|blocked| path.starts_with(blocked.as_str())) {
            return Err(Failure::new(StatusCode::FORBIDDEN, "Endpoint is blocked by agent configuration"));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let may_write = || from.is_some_and(|ip| self.writers.iter().any(|network| network.contains(ip)));
        if reads || self.writers.is_empty() || may_write() {
            return Ok(());
        }
        Err(Failure::new(StatusCode::FORBIDDEN, "Access is restricted"))
    }
}

/// Refuses a request for a namespace or an admin partition: there is none, and what was meant for one must not be read from or
/// written to the place of everybody.
pub(super) fn one_namespace(row: &Row, params: &Params, headers: &http::HeaderMap) -> Result<(), Failure> {
    if row.spaced { no_namespace(params, headers) } else { Ok(()) }
}

/// The same, for whoever looks at other things first.
pub(super) fn no_namespace(params: &Params, headers: &http::HeaderMap) -> Result<(), Failure> {
    for (header, param, what) in
        [("X-Consul-Namespace", "ns", "Namespaces"), ("X-Consul-Partition", "partition", "Partitions")]
    {
        if headers.get(header).is_some_and(|value| !value.is_empty()) {
            let text = format!("Bad request: Invalid header: {header:?} - {what} are a Consul Enterprise feature");
            return Err(Failure::bad(text));
        }
        if !params.get(param).is_empty() {
            let text =
                format!("Bad request: Invalid query parameter: {param:?} - {what} are a Consul Enterprise feature");
            return Err(Failure::bad(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.2", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "10.0.0.1", false),
        ] {
            let found = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, inside, "{address} in {network}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/x"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn blocked_paths_and_writers() {
        let access = Access { blocked: vec!["/v1/agent".into()], writers: vec![Network::parse("10.0.0.0/8").unwrap()] };
        let code = |method, path, from: Option<&str>| {
            access.admit(&method, path, from.map(|ip| ip.parse().unwrap())).map_err(|failure| failure.text).err()
        };
        let blocked = Some("Endpoint is blocked by agent configuration".to_owned());
        let restricted = Some("Access is restricted".to_owned());
        assert_eq!(code(Method::GET, "/v1/agent/self", Some("10.0.0.1")), blocked);
        assert_eq!(code(Method::GET, "/v1/kv/a", Some("192.0.2.1")), None);
        assert_eq!(code(Method::PUT, "/v1/kv/a", Some("10.0.0.1")), None);
        assert_eq!(code(Method::PUT, "/v1/kv/a", Some("192.0.2.1")), restricted);
        assert_eq!(code(Method::DELETE, "/v1/kv/a", None), restricted);
        assert_eq!(Access::default().admit(&Method::PUT, "/v1/agent/leave", None), Ok(()));
    }
}
