//! `agent/members`, `agent/join`, `agent/force-leave`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use causeway_proto::access::Access;
use causeway_proto::federation::directory_client::DirectoryClient;
use causeway_proto::federation::{Server, Site, SiteState, SiteStatus, SitesReply, SitesRequest};
use causeway_proto::member::{Member, MemberStatus, tag};

use super::super::dispatch::{Call, ask};
use super::super::failure::Failure;
use super::super::render::{MemberJson, Seq, member_tags};
use super::super::reply::Reply;

/// How long joining may take.
const JOIN: Duration = Duration::from_secs(10);

/// What is shown of a member, with its address as text.
pub(crate) fn shown<'a>(member: &'a Member, addr: &'a str) -> MemberJson<'a> {
    MemberJson { name: &member.name, addr, port: member.addr.port(), tags: member_tags(member), status: member.status }
}

pub(crate) async fn list(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    // `_all` is what Consul's own command line sends.
    if !matches!(call.params.get("segment"), "" | "_all") {
        let text = match call.ctx.info.server {
            true => "Network segments are not supported in this version of Consul".to_owned(),
            false => format!("segment {:?} not found", call.params.get("segment")),
        };
        return Err(Failure::internal(text));
    }
    if !call.params.get("wan").is_empty() {
        return wan(call).await;
    }
    let members = call.ctx.members.members();
    let seen = |name: &str| call.may(|who| who.node(name, Access::Read));
    let members: Vec<_> = members.iter().filter(|member| seen(&member.name)).collect();
    let addrs: Vec<String> = members.iter().map(|member| member.ip().to_string()).collect();
    call.json(&Seq(members.iter().zip(&addrs).map(|(member, addr)| shown(member, addr))))
}

/// One server of one site, as Consul's WAN members: named `node.dc`.
#[derive(Debug, PartialEq, Eq)]
struct WanMember {
    name: String,
    addr: String,
    port: u16,
    datacenter: String,
    status: MemberStatus,
    /// The site's clock minus ours, milliseconds; `None` for our own site and for one that is not linked.
    clock_skew_ms: Option<String>,
}

/// The servers of every site, by name. A site that cannot be reached counts as failed with all its servers.
fn wan_members(reply: &SitesReply) -> Vec<WanMember> {
    let mut all: Vec<WanMember> = Vec::new();
    for status in &reply.sites {
        let Some(site) = &status.site else { continue };
        let alive = match status.state() {
            _ if status.local => MemberStatus::Alive,
            SiteState::Unreachable => MemberStatus::Failed,
            SiteState::Left => MemberStatus::Left,
            SiteState::Linked | SiteState::Unspecified => MemberStatus::Alive,
        };
        let linked = !status.local && status.state() == SiteState::Linked;
        let skew = linked.then(|| status.clock_skew_ms.to_string());
        for server in &site.servers {
            let (addr, port) = match server.address.parse::<SocketAddr>() {
                Ok(addr) => (addr.ip().to_string(), addr.port()),
                Err(_) => (server.address.clone(), 0),
            };
            all.push(WanMember {
                name: format!("{}.{}", server.name, site.datacenter),
                addr,
                port,
                datacenter: site.datacenter.clone(),
                status: alive,
                clock_skew_ms: skew.clone(),
            });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The own servers, for a site without a gateway: it is a federation of one.
fn own_site(members: &[Member], datacenter: &str) -> SitesReply {
    let servers = members
        .iter()
        .filter_map(|member| Some(Server { name: member.name.clone(), address: member.rpc_addr()?.to_string() }));
    let site = Site { datacenter: datacenter.to_owned(), servers: servers.collect(), ..Site::default() };
    SitesReply {
        sites: vec![SiteStatus { site: Some(site), local: true, ..SiteStatus::default() }],
        ..SitesReply::default()
    }
}

/// What is told of a server of a site.
fn wan_tags<'a>(member: &'a WanMember, acls: &'a str, build: &'a str, port: &'a str) -> BTreeMap<String, &'a str> {
    let skew = member.clock_skew_ms.as_deref().map(|skew| ("clock_skew_ms".to_owned(), skew));
    let known = [
        (tag::DC, member.datacenter.as_str()),
        (tag::ROLE, "consul"),
        (tag::PORT, port),
        // Every site speaks the interfaces of one version of Consul.
        (tag::BUILD, build),
        // Access control is on in all sites of a federation, or in none.
        ("acls", acls),
        ("ft_fs", "1"),
        ("raft_vsn", "3"),
        ("segment", ""),
        ("vsn", "2"),
        ("vsn_min", "2"),
        ("vsn_max", "3"),
    ];
    let known = known.map(|(name, value)| (name.to_owned(), value));
    known.into_iter().chain(skew).collect()
}

async fn wan(call: &Call<'_>) -> Result<Reply, Failure> {
    let known = call.ctx.members.members();
    let reply = if known.iter().any(|member| member.gateway_addr().is_some()) {
        let meta = causeway_proto::meta::Meta { datacenter: None, ..call.meta()? };
        ask!(call, meta, DirectoryClient<_>, sites, SitesRequest::default())?.0
    } else {
        own_site(&known, &call.ctx.info.datacenter)
    };
    let mut members = wan_members(&reply);
    members.retain(|member| call.may(|who| who.node(&member.name, Access::Read)));
    let build = format!("{}:", call.ctx.info.version);
    let acls = if call.ctx.acls.is_some() { "1" } else { "0" };
    let ports: Vec<String> = members.iter().map(|member| member.port.to_string()).collect();
    call.json(&Seq(members.iter().zip(&ports).map(|(member, port)| MemberJson {
        name: &member.name,
        addr: &member.addr,
        port: member.port,
        tags: wan_tags(member, acls, &build, port),
        status: member.status,
    })))
}

pub(crate) async fn join(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    if !call.params.get("wan").is_empty() {
        return Err(Failure::internal(
            "agents do not join over the WAN here: sites are linked by their gateways (retry_join_wan, or a join token)",
        ));
    }
    let address = call.named("Missing address to join")?.to_owned();
    call.ctx.members.join(vec![address], JOIN).await?;
    Ok(Reply::empty())
}

pub(crate) async fn force_leave(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let known = call.ctx.members.members().iter().any(|member| member.name == call.rest);
    if !known {
        return Err(Failure::internal(format!("agent: No node found with name '{}'", call.rest)));
    }
    call.ctx.members.force_leave(call.rest.clone(), call.params.has("prune")).await?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_as_wan_members() {
        let site = |dc: &str, state: SiteState, local: bool| SiteStatus {
            site: Some(Site {
                datacenter: dc.into(),
                servers: vec![Server { name: "s1".into(), address: "10.0.0.1:8300".into() }],
                ..Site::default()
            }),
            state: state.into(),
            local,
            clock_skew_ms: 1_900_000,
            ..SiteStatus::default()
        };
        let reply = SitesReply {
            sites: vec![
                site("dc3", SiteState::Linked, false),
                site("dc2", SiteState::Unreachable, false),
                site("dc1", SiteState::Linked, true),
            ],
            ..SitesReply::default()
        };
        let members = wan_members(&reply);
        let shown: Vec<_> = members.iter().map(|m| (m.name.as_str(), m.port, m.status)).collect();
        let (alive, failed) = (MemberStatus::Alive, MemberStatus::Failed);
        assert_eq!(shown, [("s1.dc1", 8300, alive), ("s1.dc2", 8300, failed), ("s1.dc3", 8300, alive)]);
        let skews: Vec<_> =
            members.iter().map(|m| wan_tags(m, "0", "1.8.7:", "1").get("clock_skew_ms").copied()).collect();
        assert_eq!(skews, [None, None, Some("1900000")]);
    }
}
