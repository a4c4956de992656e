//! What every question is answered with, and how one that came over TCP is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::answer::{Ask, Setup};
use super::desk::{not_understood, understand, unwelcome};
use super::figures::Figures;
use super::packet::{self, Packet};
use super::reply::Reply;
use super::resolve;
use crate::failover::Failover;
use crate::views::Views;
use causeway_proto::trace::Trace;

/// The world as the handler needs it, so that it need not reach for it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The time that goes by.
    pub now: fn() -> Instant,
    /// The time of day.
    pub unix: fn() -> SystemTime,
    /// A number nobody can foresee.
    pub chance: fn() -> u64,
}

impl Clock {
    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        (self.unix)().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }
}

/// What every question is answered with.
#[derive(Debug)]
pub struct Shared {
    /// Where answers come from.
    pub views: Views,
    /// Which site answers for a plain name.
    pub failover: Option<Failover>,
    /// How they are given.
    pub setup: ArcSwap<Setup>,
    /// How many may be waited for.
    pub waiting: Arc<Semaphore>,
    /// The world.
    pub clock: Clock,
    /// What is counted.
    pub figures: Figures,
}

impl Shared {
    /// A reply that takes waiting: under a trace of its own, which goes with every call that is made for it.
    pub async fn later(&self, setup: &Setup, ask: &Ask, tcp: bool, deadline: Instant) -> Reply {
        let chance = self.clock.chance;
        let began = (self.clock.now)();
        let trace = Trace::begin((u128::from(chance()) << 64) | u128::from(chance()), chance());
        let (id, own) = (trace.id(), trace.span());
        let span = tracing::debug_span!("dns", trace = %id, span = %own, name = %ask.owner, kind = %ask.qtype);
        let views = self.views.under(trace);
        let work = resolve::later(setup, &views, self.failover.as_ref(), ask, tcp, deadline, self.clock.now)
            .instrument(span.clone());
        let late = || Reply::empty(ResponseCode::ServFail);
        let reply = tokio::time::timeout_at(deadline.into(), work).await.unwrap_or_else(|_| late());
        let took = (self.clock.now)().saturating_duration_since(began);
        self.figures.waited(took);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        span.in_scope(|| tracing::debug!(ms, code = %reply.code, answers = reply.answers.len(), "question answered"));
        reply
    }

    /// How long a question may take: 2 s, or as long as all recursors may take, up to 10 s.
    pub fn patience(&self, setup: &Setup) -> Duration {
        let recursors = u32::try_from(setup.config.recursors.len()).unwrap_or(u32::MAX);
        let recursion = setup.config.recursor_timeout.saturating_mul(recursors);
        recursion.clamp(Duration::from_secs(2), Duration::from_secs(10))
    }

    /// The answer to a message that came over TCP; `None`: none is due.
    pub async fn over_tcp(&self, bytes: &[u8], from: IpAddr) -> Option<Vec<u8>> {
        if matches!(packet::read(bytes), Packet::Ignore) {
            return None;
        }
        let setup = self.setup.load_full();
        let Some(mut asked) = understand(bytes, self.clock.seconds()) else {
            let code = not_understood(bytes);
            self.figures.answered(&[(code.low(), 1)]);
            return packet::bare(bytes, code.low()).map(|bare| bare.to_vec());
        };
        (asked.ask.udp, asked.ask.from) = (None, asked.ask.from.or(Some(from)));
        let reply = match unwelcome(&asked.head, &asked.query) {
            Some(code) => Reply { authoritative: false, ..Reply::empty(code) },
            None => self.reply(&setup, &asked.ask).await,
        };
        self.figures.answered(&[(reply.code.low(), 1)]);
        reply.encode(&asked.head, Some(&asked.query), setup.style(), usize::from(u16::MAX)).ok()
    }

    async fn reply(&self, setup: &Setup, ask: &Ask) -> Reply {
        let now = (self.clock.now)();
        let mut rng = SmallRng::seed_from_u64((self.clock.chance)());
        let failover = self.failover.as_ref();
        if let Some(ready) = resolve::now(setup, &self.views, failover, ask, now, None, &mut rng) {
            return ready.reply;
        }
        let Ok(_permit) = self.waiting.try_acquire() else { return Reply::empty(ResponseCode::ServFail) };
        let deadline = now + self.patience(setup);
        self.later(setup, ask, true, deadline).await
    }
}
