//! What a prepared query may say. The texts are Consul's (measured on 1.8.7).

use causeway_proto::query::PreparedQuery;

use super::template;
use crate::store::query::is_template;

/// Longest text in a query, in bytes: a query is read at every execution.
const MOST_TEXT: usize = 4096;
/// Most datacenters, targets, tags and the like in a list.
const MOST_ENTRIES: usize = 256;

/// Why a query was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// A field makes no sense.
    #[error("Invalid prepared query: {0}")]
    Field(String),
    /// The template makes no sense.
    #[error("failed compiling template: {0}")]
    Template(#[from] template::Bad),
}

fn field(text: impl Into<String>) -> Invalid {
    Invalid::Field(text.into())
}

/// Checks a query before it is written.
pub(crate) fn check(query: &PreparedQuery) -> Result<(), Invalid> {
    let service = query.service.clone().unwrap_or_default();
    if query.name.is_empty() && query.session.is_empty() && !is_template(query) {
        return Err(field("Must be bound to a session"));
    }
    if service.service.is_empty() {
        return Err(field("Must provide a Service name to query"));
    }
    if service.connect {
        return Err(field("Service.Connect is not supported: there is no mesh here; leave it out"));
    }
    let failover = service.failover.clone().unwrap_or_default();
    if failover.nearest_n < 0 {
        return Err(field(format!("Bad NearestN '{}', must be >= 0", failover.nearest_n)));
    }
    let datacenters = failover.datacenters.map(|list| list.values).unwrap_or_default();
    if !failover.targets.is_empty() && (failover.nearest_n > 0 || !datacenters.is_empty()) {
        return Err(field("Targets cannot be populated with NearestN or Datacenters"));
    }
    if failover.targets.iter().any(|target| !target.peer.is_empty()) {
        return Err(field("Targets cannot name a Peer here; name its Datacenter"));
    }
    let lists = [&service.tags, &service.ignore_check_ids].map(|list| list.as_ref().map_or(0, |l| l.values.len()));
    if lists.into_iter().chain([datacenters.len(), failover.targets.len()]).any(|entries| entries > MOST_ENTRIES) {
        return Err(field(format!("a list may have {MOST_ENTRIES} entries")));
    }
    for (key, value) in service.node_meta.iter().flat_map(|map| &map.values) {
        if key.is_empty() {
            return Err(field(format!("Couldn't load metadata pair ('{key}', '{value}'): Key cannot be blank")));
        }
    }
    if let Some(regexp) = query.template.as_ref().map(|t| &t.regexp).filter(|text| text.len() > MOST_TEXT) {
        return Err(field(format!("Template.Regexp may have {MOST_TEXT} bytes, not {}", regexp.len())));
    }
    check_ttl(&query.dns_ttl)?;
    template::check(query)?;
    Ok(())
}

fn check_ttl(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Ok(());
    }
    let (negative, plain) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let nanos =
        nanoseconds(plain).ok_or_else(|| field(format!("Bad DNS TTL '{text}': time: invalid duration \"{text}\"")))?;
    if negative && nanos > 0 {
        return Err(field(format!("DNS TTL '-{nanos}', must be >=0")));
    }
    Ok(())
}

/// A duration as Go writes it, without its sign.
pub(crate) fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, tail) = rest.split_at_checked(end)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    // Go's durations end at 292 years.
    (total < 9.2e18).then_some(total as u64)
}
