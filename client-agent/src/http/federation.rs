//! `/v1/federation/*`: the sites as this one sees them, and what a gateway can be told to do about them.

use causeway_proto::federation::directory_client::DirectoryClient;
use causeway_proto::federation::{Candidate, SiteState, SiteStatus, SitesReply, SitesRequest};
use serde::Serialize;
use serde_json::Value;

use super::decode::{self, Fields};
use super::dispatch::{Call, ask};
use super::duration;
use super::failure::Failure;
use super::ports::{FederationPort, TokenRequest};
use super::render::Seq;
use super::reply::Reply;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SiteJson<'a> {
    datacenter: &'a str,
    local: bool,
    /// `linked`, `unreachable` or `left`.
    state: &'static str,
    /// How long it has been so.
    since_ms: u64,
    /// Round trip; 0: not measured.
    rtt_us: u64,
    clock_skew_ms: i64,
    path: &'a str,
    last_error: &'a str,
    gateways: Vec<GatewayJson<'a>>,
    servers: Vec<&'a str>,
    /// Sites that it has a direct link to.
    neighbours: &'a [String],
    /// What it says of its catalogue; absent: nothing yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    catalogue: Option<CatalogueJson>,
    /// Ways to it that were considered, the chosen one first.
    candidates: Vec<CandidateJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CatalogueJson {
    /// Of its last change, as in `X-Consul-Index`.
    index: u64,
    /// The same wherever the names, and how many instances of each are passing, warning and critical, are the same.
    digest: String,
    /// Names.
    services: u32,
    instances: u32,
    passing: u32,
    warning: u32,
    critical: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CandidateJson<'a> {
    path: &'a str,
    via: &'a str,
    gateway: &'a str,
    rtt_us: u64,
    /// Links in all; 1: direct, 0: not known.
    links: u32,
    chosen: bool,
    reason: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GatewayJson<'a> {
    name: &'a str,
    addresses: &'a [String],
}

pub(super) fn shown(status: &SiteStatus) -> Option<SiteJson<'_>> {
    let site = status.site.as_ref()?;
    Some(SiteJson {
        datacenter: &site.datacenter,
        local: status.local,
        state: match status.state() {
            _ if status.local => "linked",
            SiteState::Linked => "linked",
            SiteState::Left => "left",
            SiteState::Unreachable | SiteState::Unspecified => "unreachable",
        },
        since_ms: status.since_ms,
        rtt_us: status.rtt_us,
        clock_skew_ms: status.clock_skew_ms,
        path: &status.path,
        last_error: &status.last_error,
        gateways: site.gateways.iter().map(|g| GatewayJson { name: &g.name, addresses: &g.addresses }).collect(),
        servers: site.servers.iter().map(|s| s.name.as_str()).collect(),
        neighbours: &site.neighbours,
        catalogue: site.catalogue.map(|c| CatalogueJson {
            index: c.index,
            digest: format!("{:016x}", c.digest),
            services: c.services,
            instances: c.instances,
            passing: c.passing,
            warning: c.warning,
            critical: c.critical,
        }),
        candidates: status.candidates.iter().map(candidate).collect(),
    })
}

fn candidate(c: &Candidate) -> CandidateJson<'_> {
    CandidateJson {
        path: &c.path,
        via: &c.via,
        gateway: &c.gateway,
        rtt_us: c.rtt_us,
        links: c.links,
        chosen: c.chosen,
        reason: &c.reason,
    }
}

/// Asks the gateway of this process, or one of this site.
pub(super) async fn ask_sites(call: &Call<'_>, links: bool) -> Result<SitesReply, Failure> {
    if let Some(port) = &call.ctx.federation {
        return Ok(port.sites());
    }
    let meta = causeway_proto::meta::Meta { datacenter: None, ..call.meta()? };
    Ok(ask!(call, meta, DirectoryClient<_>, sites, SitesRequest { links })?.0)
}

pub(crate) async fn sites(call: &Call<'_>) -> Result<Reply, Failure> {
    let reply = ask_sites(call, false).await?;
    call.json(&Seq(reply.sites.iter().filter_map(shown)))
}

fn gateway<'a>(call: &'a Call<'_>) -> Result<&'a dyn FederationPort, Failure> {
    call.ctx.federation.as_deref().ok_or_else(|| {
        Failure::bad("this agent is no gateway: ask one (-http-addr of a process with a \"gateway\" block)")
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TokenJson {
    token: String,
    datacenter: String,
    /// Unix seconds by the gateway's clock.
    expires: u64,
    addresses: Vec<String>,
}

pub(crate) async fn token(call: &Call<'_>) -> Result<Reply, Failure> {
    let port = gateway(call)?;
    let undecoded = |e: decode::DecodeError| Failure::bad(format!("Request decode failed: {e}"));
    let none = Value::Object(serde_json::Map::new());
    let body = if call.body.is_empty() { none } else { decode::parse(&call.body).map_err(undecoded)? };
    let fields = Fields::of(&body, false).map_err(undecoded)?;
    let datacenter = fields.text("Datacenter").map_err(undecoded)?;
    if datacenter.is_empty() {
        return Err(Failure::bad("Missing Datacenter: the name that the new site will have"));
    }
    let lifetime = match fields.text("Expires").map_err(undecoded)?.as_str() {
        "" => None,
        text => Some(duration::parse(text).map_err(|e| Failure::bad(format!("Expires {text:?}: {e}")))?),
    };
    let addresses = fields.texts("Addresses").map_err(undecoded)?;
    let made = port.create_token(TokenRequest { datacenter, lifetime, addresses }).await?;
    call.json(&TokenJson {
        token: made.token,
        datacenter: made.datacenter,
        expires: made.expires,
        addresses: made.addresses,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RemovedJson {
    /// Signed with the authority's key, so that it holds at every gateway of every site; otherwise at this one.
    everywhere: bool,
}

pub(crate) async fn remove(call: &Call<'_>, removed: bool) -> Result<Reply, Failure> {
    let port = gateway(call)?;
    let datacenter = call.named("Missing the name of the datacenter")?.to_owned();
    let everywhere = port.set_removed(datacenter, removed).await?;
    call.json(&RemovedJson { everywhere })
}

pub(crate) async fn doctor(call: &Call<'_>) -> Result<Reply, Failure> {
    let port = gateway(call)?;
    let wanted = Some(call.rest.clone()).filter(|name| !name.is_empty());
    let findings = port.doctor(wanted).await?;
    call.json(&Seq(findings.iter()))
}
