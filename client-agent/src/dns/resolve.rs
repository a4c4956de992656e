//! From a question to its reply: at once where the views are warm, else by waiting for them.

use std::time::{Duration, Instant};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use rand::Rng;

use super::answer::{self, Ask, ServiceAsk, Setup};
use super::question::{Question, parse};
use super::recursor;
use super::reply::{Reply, ede};
use crate::failover::{Asked, Failover, Guard, Pick};
use causeway_proto::name::ANY;

use crate::views::{Live, Look, Pulse, ViewError, Views};

/// CNAME chains inside our own zones are followed this far (as in Consul).
const MOST_LEVELS: usize = 3;
/// Largest TTL, seconds, of an answer that may be out of date (RFC 8767, section 4).
const STALE_TTL: u32 = 30;
/// The service that every server is an instance of.
const SERVERS: &str = "consul";

/// Which view a reply was made from, and whether that view was current.
#[derive(Debug)]
pub struct Source {
    /// The view's pulse.
    pub pulse: std::sync::Arc<Pulse>,
    /// Its version.
    pub version: u64,
    /// How many different first answers there are.
    pub orders: usize,
    /// Tells when another site is to answer.
    pub guard: Option<Guard>,
}

impl Source {
    /// Whether the reply is still what would be answered.
    pub fn is_current(&self) -> bool {
        self.pulse.version() == self.version && self.guard.as_ref().is_none_or(Guard::holds)
    }

    /// Says that view and choice were used.
    pub fn touch(&self, now: Instant) {
        self.pulse.touch(now);
        if let Some(guard) = &self.guard {
            guard.touch(now);
        }
    }
}

/// A reply that needed no waiting.
#[derive(Debug)]
pub struct Ready {
    /// The reply.
    pub reply: Reply,
    /// Set where the reply stays the same (but for its order) for as long as the source does.
    pub source: Option<Source>,
}

impl From<Reply> for Ready {
    fn from(reply: Reply) -> Self {
        Self { reply, source: None }
    }
}

fn dc<'a>(setup: &'a Setup, dc: Option<&'a str>) -> &'a str {
    dc.unwrap_or(&setup.config.datacenter)
}

/// What an old view may still be used for.
fn usable<T>(setup: &Setup, live: &Live<T>, now: Instant) -> bool {
    let config = &setup.config;
    let age = || live.heard.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
    live.up || (config.allow_stale && age() <= config.max_stale)
}

fn too_old() -> Reply {
    Reply { ede: Some(ede::NO_REACHABLE_AUTHORITY), ..Reply::empty(ResponseCode::ServFail) }
}

fn from_live<T>(setup: &Setup, live: Live<T>, now: Instant, orders: usize, make: impl FnOnce(&T) -> Reply) -> Ready {
    if !usable(setup, &live, now) {
        return too_old().into();
    }
    let mut reply = make(&live.value);
    if let Some(age) = live.age(now) {
        if reply.ede.is_none() {
            let why = if live.up { "are silent" } else { "cannot be reached now" };
            reply.ede = Some(ede::STALE_ANSWER);
            reply.ede_text = format!("its servers {why}; last heard from {} s ago", age.as_secs());
        }
        let records = reply.answers.iter_mut().chain(&mut reply.authorities);
        for record in records.chain(reply.glue.iter_mut().map(|(_, record)| record)) {
            record.ttl = record.ttl.min(STALE_TTL);
        }
        return reply.into();
    }
    let lasting = reply.code == ResponseCode::NoError && reply.authorities.is_empty() && reply.follow.is_none();
    let source = lasting.then_some(Source { pulse: live.pulse, version: live.version, orders, guard: None });
    Ready { reply, source }
}

/// What failover is asked for a question for a service; `None` where the datacenter is named.
fn asked<'a>(setup: &Setup, name: &'a str, tags: &'a [String], dc: Option<&str>) -> Option<Asked<'a>> {
    let any = dc == Some(ANY);
    (any || dc.is_none()).then_some(Asked { name, tags, strict: setup.config.only_passing, any })
}

/// The service and the site that it is asked of.
fn service_ask<'a>(setup: &'a Setup, question: &'a Question, pick: Option<&'a Pick>) -> Option<ServiceAsk<'a>> {
    let Question::Service { name, tag, dc: named } = question else { return None };
    let site = pick.and_then(|pick| pick.site.as_deref());
    let named = named.as_deref().filter(|_| pick.is_none());
    let tell = pick.is_some_and(|pick| pick.turn.is_some());
    Some(ServiceAsk { name, tag: tag.as_deref(), dc: dc(setup, site.or(named)), tell })
}

/// A reply from what is in memory; `None` where that takes waiting. `first`: see [`answer::service`].
pub fn now(
    setup: &Setup,
    views: &Views,
    failover: Option<&Failover>,
    ask: &Ask,
    now: Instant,
    first: Option<usize>,
    rng: &mut impl Rng,
) -> Option<Ready> {
    let question = parse(&ask.owner, ask.qtype, &setup.zones);
    if let Some(reply) = without_views(setup, ask, &question) {
        return reply.map(Ready::from);
    }
    let ready = match &question {
        Question::Service { name, tag, dc: in_dc } => {
            let tags = tag.as_slice();
            let asked = failover.and_then(|f| Some((f, asked(setup, name, tags, in_dc.as_deref())?)));
            let pick = match asked {
                None => None,
                Some((failover, asked)) => Some(failover.look(asked, now)?),
            };
            let of = service_ask(setup, &question, pick.as_ref())?;
            match views.look_service(of.dc, name) {
                Look::Warm(live) => {
                    let orders = live.value.instances.len();
                    let mut ready =
                        from_live(setup, live, now, orders, |v| answer::service(setup, ask, of, v, first, rng));
                    match pick.map(|pick| pick.guard) {
                        // Not to be kept.
                        Some(None) => ready.source = None,
                        Some(guard) => ready.source = ready.source.map(|source| Source { guard, ..source }),
                        None => {}
                    }
                    ready
                }
                Look::Failed(error) => answer::failed(setup, ask, &error).into(),
                Look::Cold => return None,
            }
        }
        Question::Node { name, dc: in_dc } => match views.look_node(dc(setup, in_dc.as_deref()), name) {
            Look::Warm(live) => {
                from_live(setup, live, now, 1, |v| answer::node(setup, ask, dc(setup, in_dc.as_deref()), v))
            }
            Look::Failed(error) => answer::failed(setup, ask, &error).into(),
            Look::Cold => return None,
        },
        Question::Soa | Question::Ns => match views.look_service(&setup.config.datacenter, SERVERS) {
            Look::Warm(live) => from_live(setup, live, now, 1, |v| zone(setup, ask, &question, v, rng)).reply.into(),
            Look::Failed(_) => zone(setup, ask, &question, &Default::default(), rng).into(),
            Look::Cold => return None,
        },
        _ => return None,
    };
    if ready.reply.follow.as_ref().is_some_and(|target| can_follow(setup, target, ask.qtype)) {
        return None;
    }
    Some(ready)
}

fn zone(
    setup: &Setup,
    ask: &Ask,
    question: &Question,
    servers: &crate::views::ServiceView,
    rng: &mut impl Rng,
) -> Reply {
    let dc = &setup.config.datacenter;
    match question {
        Question::Soa => answer::soa(setup, ask, servers, dc, rng),
        _ => answer::ns(setup, ask, servers, dc, rng),
    }
}

/// Replies that need no view: `Some(None)` where only waiting helps.
fn without_views(setup: &Setup, ask: &Ask, question: &Question) -> Option<Option<Reply>> {
    if matches!(ask.qtype, RecordType::AXFR | RecordType::IXFR) && !matches!(question, Question::Outside) {
        return Some(Some(Reply::empty(ResponseCode::NotImp)));
    }
    Some(match question {
        Question::Missing => Some(answer::missing(setup, ask)),
        Question::Addr(ip) => Some(answer::addr(setup, ask, *ip)),
        Question::Outside if setup.config.recursors.is_empty() => Some(answer::refused()),
        Question::Outside | Question::Ptr(_) | Question::Query { .. } => None,
        Question::Service { .. } | Question::Node { .. } | Question::Soa | Question::Ns => return None,
    })
}

fn can_follow(setup: &Setup, target: &Name, qtype: RecordType) -> bool {
    !setup.config.recursors.is_empty() || !matches!(parse(target, qtype, &setup.zones), Question::Outside)
}

/// A reply, by the deadline. What is not there by then is SERVFAIL.
pub async fn later(
    setup: &Setup,
    views: &Views,
    failover: Option<&Failover>,
    ask: &Ask,
    tcp: bool,
    deadline: Instant,
    clock: fn() -> Instant,
) -> Reply {
    let mut reply = step(setup, views, failover, ask, tcp, deadline, clock).await;
    let mut level = 0;
    while let Some(target) = reply.follow.take() {
        level += 1;
        let next = Ask { owner: target, ..ask.clone() };
        if level > MOST_LEVELS || !can_follow(setup, &next.owner, next.qtype) {
            break;
        }
        let more = Box::pin(step(setup, views, failover, &next, tcp, deadline, clock)).await;
        let most = if ask.edns || tcp { usize::MAX } else { recursor::MOST_CHAIN };
        reply.answers.extend(more.answers.into_iter().take(most));
        reply.follow = more.follow;
    }
    reply
}

async fn step(
    setup: &Setup,
    views: &Views,
    failover: Option<&Failover>,
    ask: &Ask,
    tcp: bool,
    deadline: Instant,
    clock: fn() -> Instant,
) -> Reply {
    let question = parse(&ask.owner, ask.qtype, &setup.zones);
    if let Some(Some(reply)) = without_views(setup, ask, &question) {
        return reply;
    }
    let failed = |error: ViewError| answer::failed(setup, ask, &error);
    match &question {
        Question::Service { name, tag, dc: in_dc } => {
            let tags = tag.as_slice();
            let asked = failover.and_then(|f| Some((f, asked(setup, name, tags, in_dc.as_deref())?)));
            let pick = match asked {
                None => None,
                Some((failover, asked)) => Some(failover.decide(asked, deadline).await),
            };
            let Some(of) = service_ask(setup, &question, pick.as_ref()) else { return answer::missing(setup, ask) };
            match views.live_service(of.dc, name, deadline).await {
                Ok(live) => {
                    let make = |v: &_| answer::service(setup, ask, of, v, None, &mut rng(ask, clock()));
                    from_live(setup, live, clock(), 0, make).reply
                }
                Err(error) => failed(error),
            }
        }
        Question::Node { name, dc: in_dc } => {
            let dc = dc(setup, in_dc.as_deref());
            match views.live_node(dc, name, deadline).await {
                Ok(live) => from_live(setup, live, clock(), 0, |v| answer::node(setup, ask, dc, v)).reply,
                Err(error) => failed(error),
            }
        }
        Question::Soa | Question::Ns => {
            let servers = views.live_service(&setup.config.datacenter, SERVERS, deadline).await;
            let servers = servers.map(|live| live.value).unwrap_or_default();
            zone(setup, ask, &question, &servers, &mut rng(ask, clock()))
        }
        Question::Query { name, dc: in_dc } => {
            let in_dc = in_dc.as_deref().filter(|dc| *dc != setup.config.datacenter);
            match views.prepared(in_dc, name, (&setup.config.node_name, ask.from), clock(), deadline).await {
                Ok(Some(reply)) => {
                    Reply { by_client: !reply.instances.is_empty(), ..answer::prepared(setup, ask, &reply) }
                }
                Ok(None) => answer::missing(setup, ask),
                Err(error) => failed(error),
            }
        }
        Question::Ptr(ip) => match views.who_has(*ip, deadline).await {
            Ok(owners) if !owners.is_empty() => {
                let in_dc = |names: &[String]| -> Vec<(String, String)> {
                    names.iter().map(|n| (n.clone(), setup.config.datacenter.clone())).collect()
                };
                answer::ptr(setup, ask, &in_dc(&owners.nodes), &in_dc(&owners.services))
            }
            Ok(_) if setup.config.recursors.is_empty() => answer::missing(setup, ask),
            Err(error) if setup.config.recursors.is_empty() => failed(error),
            Ok(_) | Err(_) => recurse(setup, ask, tcp, deadline).await,
        },
        _ => recurse(setup, ask, tcp, deadline).await,
    }
}

/// Shuffles differently for each question; nobody gains from guessing it.
fn rng(ask: &Ask, now: Instant) -> rand::rngs::SmallRng {
    use rand::SeedableRng;
    use std::hash::{BuildHasher, RandomState};
    rand::rngs::SmallRng::seed_from_u64(RandomState::new().hash_one((ask.unix, now)))
}

async fn recurse(setup: &Setup, ask: &Ask, tcp: bool, deadline: Instant) -> Reply {
    let mut query = Query::query(ask.owner.clone(), ask.qtype);
    query.set_query_class(DNSClass::IN);
    let payload = ask.udp.filter(|_| ask.edns).and_then(|size| u16::try_from(size).ok());
    let asked = recursor::ask(&setup.config, &query, payload, tcp);
    let answer = tokio::time::timeout_at(deadline.into(), asked).await.ok().flatten();
    let mut reply = Reply { authoritative: false, ..Reply::empty(ResponseCode::ServFail) };
    if let Some(answer) = answer {
        reply.code = answer.metadata.response_code;
        reply.cut = answer.metadata.truncation;
        reply.answers = answer.answers;
        reply.authorities = answer.authorities;
        reply.glue = answer.additionals.into_iter().map(|r| (0, r)).collect();
    }
    reply
}
