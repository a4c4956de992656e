//! What an agent looks at in its configuration before it touches anything, beyond each key by itself. `validate` looks at the same.

use std::collections::HashMap;
use std::net::SocketAddr;

use causeway_agent::registry;

use super::limits;
use super::sinks::Sinks;
use super::{http, settings};
use crate::options::plan::{Listen, Plan};
use crate::options::{ConfigError, table as t};

/// Whether an agent would start with this, as far as the configuration says. Gives what the user is to be warned of.
///
/// # Errors
/// The first key that makes no sense, with what it may be; two parts at one address.
pub fn check(plan: &Plan) -> Result<Vec<String>, ConfigError> {
    crate::log::check(&plan.settings)?;
    registry::check_meta(&plan.node_meta).map_err(|e| plan.settings.error(&t::NODE_META, format!("invalid: {e}")))?;
    settings::dns(plan)?;
    settings::naming(plan)?;
    settings::coordinate_pace(plan)?;
    settings::check_output_max_size(plan)?;
    settings::gossip(plan, "")?;
    http::access(plan)?;
    http::response_headers(plan)?;
    http::max_header_bytes(plan)?;
    limits::Wanted::of(plan)?;
    Sinks::of(&plan.settings)?;
    apart(plan)?;
    let mut warnings = plan.settings.warnings().to_vec();
    if !causeway_proto::name::is_dns(&plan.node_name) || plan.node_name.contains('.') {
        warnings.push(format!(
            "the node name {:?} cannot be found by DNS: a name of letters, digits and dashes can",
            plan.node_name
        ));
    }
    Ok(warnings)
}

/// No two listeners at one address.
fn apart(plan: &Plan) -> Result<(), ConfigError> {
    let mut taken: HashMap<SocketAddr, &str> = HashMap::new();
    let http = plan.http.iter().filter_map(|listen| match listen {
        Listen::Tcp(addr) => Some(("HTTP", *addr)),
        Listen::Unix(..) => None,
    });
    let servers = plan.server.then(|| ("RPC", SocketAddr::new(plan.bind, plan.rpc_port)));
    let all = (plan.dns.iter().map(|addr| ("DNS", *addr)))
        .chain(http)
        .chain(plan.https.iter().map(|addr| ("HTTPS", *addr)))
        .chain(servers)
        .chain([("Serf LAN", plan.gossip_bind)]);
    for (name, addr) in all.filter(|(_, addr)| addr.port() != 0) {
        if let Some(other) = taken.insert(addr, name).filter(|other| *other != name) {
            let text = format!("{name} address {addr} already configured for {other}: give one of them another port");
            return Err(ConfigError::new("configuration", text));
        }
    }
    Ok(())
}
