//! A question and what the views hold, to records. Chance and the time are arguments.

use std::collections::HashSet;
use std::net::IpAddr;

use causeway_proto::catalog::{Node, ServiceHealth};
use causeway_proto::name::is_dns;
use causeway_proto::query::ExecuteReply;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rand::Rng;
use rand::seq::SliceRandom;

use super::config::Config;
use super::question::{Zones, address_label};
use super::reply::{Reply, Style, ede};
use crate::http::duration;
use crate::outside::{node_address, service_address};
use crate::views::{NodeView, ServiceView, ViewError};

/// Addresses in an answer at most, before it is cut to the message's size.
const MOST_ADDRESSES: usize = 4096;
/// SRV records in an answer at most, before it is cut to the message's size.
const MOST_SRV: usize = 1024;

/// Configuration with what is made of it once.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The zones we answer for.
    pub zones: Zones,
    /// The first zone.
    pub domain: Name,
    ns: Name,
    hostmaster: Name,
}

/// A domain that is no DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("domain {0:?} is not a DNS name: use letters, digits and - in labels of at most 63 bytes")]
pub struct BadDomain(pub String);

impl Setup {
    /// Checks the names in a configuration.
    pub fn new(mut config: Config) -> Result<Self, BadDomain> {
        config.datacenter = config.datacenter.to_lowercase();
        let plain = config.domain.trim_end_matches('.').to_lowercase();
        let bad = || BadDomain(config.domain.clone());
        if !is_dns(&plain) {
            return Err(bad());
        }
        if !config.alt_domain.is_empty() && !is_dns(config.alt_domain.trim_end_matches('.')) {
            return Err(BadDomain(config.alt_domain.clone()));
        }
        let name = |s: String| Name::from_ascii(s).map_err(|_| bad());
        Ok(Self {
            zones: Zones::new(&[&config.domain, &config.alt_domain]),
            domain: name(format!("{plain}."))?,
            ns: name(format!("ns.{plain}."))?,
            hostmaster: name(format!("hostmaster.{plain}."))?,
            config,
        })
    }

    /// How messages are written.
    pub fn style(&self) -> Style {
        Style {
            compress: !self.config.disable_compression,
            truncate: self.config.enable_truncate,
            recursion_available: !self.config.recursors.is_empty(),
        }
    }

    fn soa(&self, unix: u64) -> Record {
        let soa = &self.config.soa;
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let serial = u32::try_from(unix & u64::from(u32::MAX)).unwrap_or(0);
        let data = SOA::new(
            self.ns.clone(),
            self.hostmaster.clone(),
            serial,
            number(soa.refresh),
            number(soa.retry),
            number(soa.expire),
            soa.min_ttl,
        );
        Record::from_rdata(self.domain.clone(), soa.min_ttl, RData::SOA(data))
    }

    /// Whether addresses of this datacenter are given as seen from outside.
    fn translates(&self, dc: &str) -> bool {
        self.config.translate_wan_addrs && !dc.eq_ignore_ascii_case(&self.config.datacenter)
    }

    fn below(&self, prefix: &str) -> Option<Name> {
        Name::from_ascii(prefix).ok()?.append_domain(&self.domain).ok()
    }

    fn node_name(&self, node: &str, dc: &str) -> Option<Name> {
        if is_dns(node) { self.below(&format!("{node}.node.{dc}")) } else { None }
    }

    fn addr_name(&self, ip: IpAddr, dc: &str) -> Option<Name> {
        self.below(&format!("{}.addr.{dc}", address_label(ip)))
    }
}

/// How a question was asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The name in the question, in the client's spelling.
    pub owner: Name,
    /// The type asked for.
    pub qtype: RecordType,
    /// Over UDP; `Some` with the bytes the client takes.
    pub udp: Option<usize>,
    /// Whether the client speaks EDNS.
    pub edns: bool,
    /// Seconds since 1970, the serial number of the SOA record.
    pub unix: u64,
    /// Who asks: the subnet of EDNS or, without one, where the question is from; `None`: nobody has looked.
    pub from: Option<IpAddr>,
}

impl Ask {
    /// How many answers are worth making, and whether more than that counts as cut.
    fn most(&self, config: &Config, most: usize) -> usize {
        match self.udp {
            None => most,
            // Also for a client that says with EDNS that it takes no more than any does.
            Some(size) if size <= 512 => config.udp_answer_limit.clamp(1, 8),
            Some(size) => most.min(size / 12 + 1),
        }
    }
}

/// The name can not exist, or there is nothing of it.
pub fn missing(setup: &Setup, ask: &Ask) -> Reply {
    let mut reply = Reply::empty(ResponseCode::NXDomain);
    reply.authorities.push(setup.soa(ask.unix));
    reply
}

fn no_data(setup: &Setup, ask: &Ask) -> Reply {
    let mut reply = Reply::empty(ResponseCode::NoError);
    reply.authorities.push(setup.soa(ask.unix));
    reply
}

/// No answer could be had.
pub fn failed(setup: &Setup, ask: &Ask, error: &ViewError) -> Reply {
    match error {
        ViewError::NoPath(_) => missing(setup, ask),
        ViewError::Denied => Reply { ede: Some(ede::PROHIBITED), ..missing(setup, ask) },
        ViewError::TooOld { .. } => {
            Reply { ede: Some(ede::NETWORK_ERROR), ede_text: error.to_string(), ..Reply::empty(ResponseCode::ServFail) }
        }
        ViewError::Unreachable(_) | ViewError::Deadline | ViewError::Stopped | ViewError::Other { .. } => {
            Reply { ede: Some(ede::NO_REACHABLE_AUTHORITY), ..Reply::empty(ResponseCode::ServFail) }
        }
    }
}

/// Names outside our zones, without recursors.
pub fn refused() -> Reply {
    Reply { authoritative: false, ..Reply::empty(ResponseCode::Refused) }
}

/// An address out of a `.addr.` name. As Consul 1.8, the record is given whatever type was asked for.
pub fn addr(setup: &Setup, ask: &Ask, ip: Option<IpAddr>) -> Reply {
    let mut reply = Reply::empty(ResponseCode::NoError);
    reply.answers.extend(ip.map(|ip| Record::from_rdata(ask.owner.clone(), setup.config.node_ttl(), of_ip(ip))));
    reply
}

/// Who has an address; nobody: the name does not exist.
pub fn ptr(setup: &Setup, ask: &Ask, nodes: &[(String, String)], services: &[(String, String)]) -> Reply {
    let names = nodes.iter().filter_map(|(node, dc)| setup.node_name(node, dc));
    let names = names.chain(services.iter().filter_map(|(s, dc)| setup.below(&format!("{s}.service.{dc}"))));
    let mut reply = Reply::empty(ResponseCode::NoError);
    reply.answers = names.map(|n| Record::from_rdata(ask.owner.clone(), 0, RData::PTR(PTR(n)))).collect();
    if reply.answers.is_empty() { missing(setup, ask) } else { reply }
}

/// The zone's SOA record, with its name servers.
pub fn soa(setup: &Setup, ask: &Ask, servers: &ServiceView, dc: &str, rng: &mut impl Rng) -> Reply {
    let mut reply = ns(setup, ask, servers, dc, rng);
    reply.authorities = std::mem::replace(&mut reply.answers, vec![setup.soa(ask.unix)]);
    for (of, _) in &mut reply.glue {
        *of = 0;
    }
    reply
}

/// The zone's name servers: up to three of the datacenter's servers.
pub fn ns(setup: &Setup, ask: &Ask, servers: &ServiceView, dc: &str, rng: &mut impl Rng) -> Reply {
    let _ = ask;
    let ttl = setup.config.node_ttl();
    let mut up: Vec<_> = servers.instances.iter().filter(|i| status(i) != Status::Critical).collect();
    up.shuffle(rng);
    let mut reply = Reply::empty(ResponseCode::NoError);
    for node in up.iter().filter_map(|i| i.node.as_ref()) {
        let Some(target) = setup.node_name(&node.name.to_lowercase(), dc) else { continue };
        if reply.answers.len() == 3 {
            break;
        }
        if let Where::Ip(ip) = place(node_address(node, setup.translates(dc))) {
            reply.glue.push((reply.answers.len(), Record::from_rdata(target.clone(), ttl, of_ip(ip))));
        }
        reply.answers.push(Record::from_rdata(setup.domain.clone(), ttl, RData::NS(NS(target))));
    }
    reply
}

/// A node of a datacenter.
pub fn node(setup: &Setup, ask: &Ask, dc: &str, view: &NodeView) -> Reply {
    let Some(node) = &view.node else { return missing(setup, ask) };
    let ttl = setup.config.node_ttl();
    let mut reply = Reply::empty(ResponseCode::NoError);
    if ask.qtype == RecordType::SRV {
        return reply;
    }
    let wanted = |t: RecordType| ask.qtype == t || ask.qtype == RecordType::ANY;
    match place(node_address(node, setup.translates(dc))) {
        Where::Ip(ip) if wanted(kind(ip)) => {
            reply.answers.push(Record::from_rdata(ask.owner.clone(), ttl, of_ip(ip)));
        }
        Where::Host(host) if [RecordType::A, RecordType::AAAA, RecordType::CNAME].into_iter().any(wanted) => {
            reply.answers.push(Record::from_rdata(ask.owner.clone(), ttl, RData::CNAME(CNAME(host.clone()))));
            reply.follow = (ask.qtype != RecordType::CNAME).then_some(host);
        }
        Where::Ip(_) | Where::Host(_) | Where::Nowhere => {}
    }
    let texts = texts(node, &ask.owner, ttl);
    if wanted(RecordType::TXT) {
        reply.answers.extend(texts);
    } else if setup.config.enable_additional_node_meta_txt {
        reply.glue.extend(texts.map(|t| (0, t)));
    }
    reply
}

/// Which service was asked for.
#[derive(Debug, Clone, Copy)]
pub struct ServiceAsk<'a> {
    /// Its name, in lower case.
    pub name: &'a str,
    /// Only instances with this tag, in lower case.
    pub tag: Option<&'a str>,
    /// The datacenter it is in.
    pub dc: &'a str,
    /// Whether a TXT question is told which that is: it could be another.
    pub tell: bool,
}

/// A service. `first`: which of the instances, counted without shuffling, comes first; `None`: chance says.
pub fn service(
    setup: &Setup,
    ask: &Ask,
    of: ServiceAsk<'_>,
    view: &ServiceView,
    first: Option<usize>,
    rng: &mut impl Rng,
) -> Reply {
    let config = &setup.config;
    let mut picked: Vec<(usize, &ServiceHealth, Status)> = view
        .instances
        .iter()
        .filter(|i| of.tag.is_none_or(|tag| has_tag(i, tag)))
        .map(|i| (&**i, status(i)))
        .filter(|(_, s)| *s == Status::Passing || (*s == Status::Warning && !config.only_passing))
        .enumerate()
        .map(|(n, (i, s))| (n, i, s))
        .collect();
    if picked.is_empty() {
        return missing(setup, ask);
    }
    if of.tell && ask.qtype == RecordType::TXT {
        let mut reply = Reply::empty(ResponseCode::NoError);
        let text = TXT::new(vec![format!("datacenter={}", of.dc)]);
        reply.answers.push(Record::from_rdata(ask.owner.clone(), config.ttl_of(of.name), RData::TXT(text)));
        return reply;
    }
    picked.shuffle(rng);
    if let Some(first) = first.map(|f| f % picked.len())
        && let Some(at) = picked.iter().position(|(n, ..)| *n == first)
    {
        picked.swap(0, at);
    }
    if ask.qtype == RecordType::SRV {
        srv(setup, ask, of, &picked, None)
    } else {
        addresses(setup, ask, of, &picked, None)
    }
}

/// What a prepared query gave: every instance, in its order, with its TTL. Nothing, because a datacenter could not be asked, is
/// no proof that the name does not exist.
pub fn prepared(setup: &Setup, ask: &Ask, found: &ExecuteReply) -> Reply {
    if found.instances.is_empty() {
        if found.unreachable {
            return Reply { ede: Some(ede::NO_REACHABLE_AUTHORITY), ..Reply::empty(ResponseCode::ServFail) };
        }
        return missing(setup, ask);
    }
    let picked: Vec<_> = found.instances.iter().enumerate().map(|(n, i)| (n, i, status(i))).collect();
    let name = found.service.to_lowercase();
    let of = ServiceAsk { name: &name, tag: None, dc: &found.datacenter, tell: false };
    let ttl = duration::parse(&found.dns_ttl).ok().map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
    let ttl = ttl.filter(|_| !found.dns_ttl.is_empty());
    if ask.qtype == RecordType::SRV {
        srv(setup, ask, of, &picked, ttl)
    } else {
        addresses(setup, ask, of, &picked, ttl)
    }
}

/// `ttl`: what a prepared query says; `None`: as configured for the service.
fn addresses(
    setup: &Setup,
    ask: &Ask,
    of: ServiceAsk<'_>,
    picked: &[(usize, &ServiceHealth, Status)],
    ttl: Option<u32>,
) -> Reply {
    let config = &setup.config;
    let ttl = ttl.unwrap_or_else(|| config.ttl_of(of.name));
    let any = ask.qtype == RecordType::ANY;
    let mut most = ask.most(config, MOST_ADDRESSES);
    let limited = config.a_record_limit > 0 && config.a_record_limit <= most;
    if limited {
        most = config.a_record_limit;
    }
    let mut reply = Reply::empty(ResponseCode::NoError);
    let translate = setup.translates(of.dc);
    let mut seen = HashSet::new();
    let mut host = None;
    for (_, instance, _) in picked {
        let (Some(service), Some(node)) = (&instance.service, &instance.node) else { continue };
        let (own, _) = service_address(service, translate);
        match place(if own.is_empty() { node_address(node, translate) } else { own }) {
            Where::Ip(ip) if (any || kind(ip) == ask.qtype) && seen.insert(ip) => {
                if reply.answers.len() == most {
                    reply.cut = !limited;
                    break;
                }
                reply.answers.push(Record::from_rdata(ask.owner.clone(), ttl, of_ip(ip)));
            }
            Where::Host(name) if host.is_none() => host = Some(name),
            Where::Ip(_) | Where::Host(_) | Where::Nowhere => {}
        }
    }
    let addresses = [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::CNAME];
    if reply.answers.is_empty()
        && addresses.contains(&ask.qtype)
        && let Some(host) = host
    {
        reply.answers.push(Record::from_rdata(ask.owner.clone(), ttl, RData::CNAME(CNAME(host.clone()))));
        reply.follow = (ask.qtype != RecordType::CNAME).then_some(host);
    }
    if reply.answers.is_empty() { no_data(setup, ask) } else { reply }
}

fn srv(
    setup: &Setup,
    ask: &Ask,
    of: ServiceAsk<'_>,
    picked: &[(usize, &ServiceHealth, Status)],
    ttl: Option<u32>,
) -> Reply {
    let config = &setup.config;
    let (ttl, node_ttl) = ttl.map_or_else(|| (config.ttl_of(of.name), config.node_ttl()), |ttl| (ttl, ttl));
    let most = ask.most(config, MOST_SRV);
    let mut reply = Reply::empty(ResponseCode::NoError);
    let translate = setup.translates(of.dc);
    let mut seen = HashSet::new();
    let mut glued = HashSet::new();
    for (_, instance, status) in picked {
        let (Some(service), Some(node)) = (&instance.service, &instance.node) else { continue };
        if !seen.insert((&node.name, &service.address, service.port)) {
            continue;
        }
        let (own, port) = service_address(service, translate);
        let (target, glue) = if own.is_empty() {
            match place(node_address(node, translate)) {
                // A node whose name is no DNS name is found by its address.
                Where::Ip(ip) => (setup.node_name(&node.name, of.dc).or_else(|| setup.addr_name(ip, of.dc)), Some(ip)),
                Where::Host(host) => (Some(host), None),
                Where::Nowhere => (None, None),
            }
        } else {
            match place(own) {
                Where::Ip(ip) => (setup.addr_name(ip, of.dc), Some(ip)),
                Where::Host(host) => (Some(host), None),
                Where::Nowhere => (None, None),
            }
        };
        let Some(target) = target else { continue };
        if reply.answers.len() == most {
            reply.cut = true;
            break;
        }
        let at = reply.answers.len();
        let port = u16::try_from(port).unwrap_or(0);
        let data = SRV::new(1, weight(service.weights.as_ref(), *status), port, target.clone());
        reply.answers.push(Record::from_rdata(ask.owner.clone(), ttl, RData::SRV(data)));
        if let Some(ip) = glue
            && glued.insert(target.clone())
        {
            reply.glue.push((at, Record::from_rdata(target, node_ttl, of_ip(ip))));
        }
        if config.enable_additional_node_meta_txt
            && !node.meta.is_empty()
            && let Some(name) = setup.node_name(&node.name, of.dc)
            && glued.insert(Name::from_ascii("txt").ok().and_then(|t| t.append_domain(&name).ok()).unwrap_or_default())
        {
            reply.glue.extend(texts(node, &name, node_ttl).map(|t| (at, t)));
        }
    }
    if reply.answers.is_empty() { no_data(setup, ask) } else { reply }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Passing,
    Warning,
    Critical,
}

fn status(instance: &ServiceHealth) -> Status {
    let worst = instance.checks.iter().map(|c| match c.status.as_str() {
        "passing" => Status::Passing,
        "warning" => Status::Warning,
        _ => Status::Critical,
    });
    worst.max().unwrap_or(Status::Passing)
}

fn has_tag(instance: &ServiceHealth, tag: &str) -> bool {
    instance.service.as_ref().is_some_and(|s| s.tags.iter().any(|t| t.to_lowercase() == tag))
}

fn weight(weights: Option<&causeway_proto::catalog::Weights>, status: Status) -> u16 {
    let weight = match (weights, status) {
        (None, _) => 1,
        (Some(w), Status::Warning) => w.warning,
        (Some(w), _) => w.passing,
    };
    u16::try_from(weight.clamp(0, i32::from(u16::MAX))).unwrap_or(1)
}

enum Where {
    Ip(IpAddr),
    Host(Name),
    Nowhere,
}

fn place(address: &str) -> Where {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Where::Ip(ip);
    }
    let plain = address.trim_end_matches('.');
    if !is_dns(plain) {
        return Where::Nowhere;
    }
    match Name::from_ascii(plain) {
        Ok(mut name) => {
            name.set_fqdn(true);
            Where::Host(name)
        }
        Err(_) => Where::Nowhere,
    }
}

fn kind(ip: IpAddr) -> RecordType {
    if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn of_ip(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn texts<'a>(node: &'a Node, owner: &'a Name, ttl: u32) -> impl Iterator<Item = Record> + 'a {
    node.meta.iter().map(move |(key, value)| {
        let text = if key.starts_with("rfc1035-") { value.clone() } else { rfc1464(key, value) };
        // A string in a TXT record has 255 bytes at most.
        let parts: Vec<&[u8]> = if text.is_empty() { vec![b""] } else { text.as_bytes().chunks(255).collect() };
        Record::from_rdata(owner.clone(), ttl, RData::TXT(TXT::from_bytes(parts)))
    })
}

/// `key=value`, with what would be misread behind a backquote (RFC 1464).
fn rfc1464(key: &str, value: &str) -> String {
    let mut text = String::with_capacity(key.len() + value.len() + 1);
    let inner = key.trim_matches([' ', '\t']);
    let start = key.find(inner).unwrap_or(0);
    for (at, c) in key.char_indices() {
        let outer = at < start || at >= start + inner.len();
        if c == '`' || c == '=' || (outer && matches!(c, ' ' | '\t')) {
            text.push('`');
        }
        text.push(c);
    }
    text.push('=');
    text.push_str(&value.replace('`', "``"));
    text
}
