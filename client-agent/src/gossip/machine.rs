//! The state machine of gossip: foca's SWIM and what is ours around it. No sockets, no clock, no chance of its own.
//!
//! Time is a [`Duration`] since some moment of the driver's choice. The driver feeds packets, exchanged states and the time; it
//! carries out the [`Effect`]s.
//!
//! What is ours:
//! - **Local health**: where our own timers are late, this process was starved or frozen. The time lost does not count: all timers
//!   move by it, and for a while we are slower to accuse others.
//! - **Fallback by TCP**: a probe that is not answered by UDP in time is repeated over TCP.
//! - **Failed is not left**: foca only knows down; a record that says `leaving` makes the difference.
//! - **Exchange of the whole state** with a random member now and then, and with failed ones, so that healed partitions meet.
//!   There, an unproven `down` of the other side does not count; who is doubted is asked to renew its identity.

mod exchange;
mod listing;
mod measure;
mod suspects;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::member::{Member, MemberStatus};
use causeway_proto::vivaldi::Vivaldi;
use foca::{Foca, Notification, PeriodicParams, Runtime, State, Timer};
use rand_foca::{RngExt, SeedableRng, rngs::SmallRng};

use super::book::Shared;
use super::envelope::OVERHEAD;
use super::event::{Event, FireError};
use listing::Since;
use measure::add_place;

use super::codec::{ACK, Codec, PING, peek, probe_number};
use super::wire::{Claim, Id, Item, Record};

/// Longest datagram in bytes, envelope included.
pub const MAX_PACKET: usize = 1400;
/// How long a member whose record is not known yet stays hidden, so that nobody sees it without tags.
const RECORD_GRACE: Duration = Duration::from_secs(5);
/// How long without a record until the member is asked for its state.
const RECORD_ASK: Duration = Duration::from_secs(2);
/// How long members that left stay listed.
const LEFT_LISTED: Duration = Duration::from_secs(24 * 3600);
/// Between attempts to reach a failed member, before jitter.
const RECONNECT_EVERY: Duration = Duration::from_secs(10);
/// Between exchanges of the whole state, before jitter and scaling with the number of members.
const EXCHANGE_EVERY: Duration = Duration::from_secs(30);
/// Housekeeping.
const TICK_EVERY: Duration = Duration::from_millis(500);
/// After so long without late timers the health score improves by one.
const CALM_AFTER: Duration = Duration::from_secs(10);
/// Between cleanings of the book. A record that came before its member and is thrown away is asked for again.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// Highest local health score; the timeouts are multiplied by one more than the score.
const MAX_HEALTH: u32 = 3;

/// Times and counts of the protocol.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between two probes.
    pub probe_interval: Duration,
    /// Until a probe is tried by other ways.
    pub probe_timeout: Duration,
    /// Between rounds of gossip.
    pub gossip_interval: Duration,
    /// Members that are told in a round.
    pub gossip_nodes: usize,
    /// A suspect has this many probe timeouts to speak up.
    pub suspicion_mult: u32,
    /// News is sent this many times the logarithm of the number of members.
    pub retransmit_mult: u32,
    /// How long failed members are listed and tried again.
    pub reconnect_timeout: Duration,
    /// Whether round trips are measured, for network coordinates.
    pub coordinates: bool,
}

/// The probe that is under way.
struct Ping {
    to: Id,
    packet: Vec<u8>,
    sent: Duration,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a packet by UDP.
    Send {
        /// Where to.
        to: SocketAddr,
        /// Its bytes, without envelope.
        packet: Vec<u8>,
    },
    /// Send a packet by TCP and hand what comes back to [`Machine::handle_packet`].
    ByTcp {
        /// Where to.
        to: SocketAddr,
        /// Its bytes, without envelope.
        packet: Vec<u8>,
    },
    /// Exchange states with this node.
    Exchange {
        /// Where it is.
        with: SocketAddr,
        /// Only if the node there has this name: a failed member's address may belong to somebody else by now, even of another
        /// cluster.
        expect: Option<String>,
    },
    /// [`Machine::members`] shows something new.
    Changed,
    /// A user event was heard, of this node or another; each once.
    Event(Arc<Event>),
}

/// What to do with who wants to exchange states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Exchange.
    Welcome,
    /// We are not taking part any more.
    Gone,
    /// The name is ours.
    Ours(Claim),
    /// It is of this other datacenter.
    Foreign(String),
    /// The name belongs to this member; ask there whether it lives.
    Ask(Id),
}

/// Why nobody can be forced out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForceLeaveError {
    /// Consul's own words.
    #[error("agent: No node found with name '{0}'")]
    Unknown(String),
    /// Oneself.
    #[error("{0} is this node itself; use leave")]
    Itself(String),
    /// The gossip stopped.
    #[error("the gossip of this agent has stopped")]
    Stopped,
}

/// Collects what foca wants done.
#[derive(Debug, Default)]
struct Outbox {
    sends: Vec<(Id, Vec<u8>)>,
    later: Vec<(Duration, Timer<Id>)>,
    changed: bool,
    /// Nobody is left to talk to.
    idle: bool,
}

impl Runtime<Id> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) => tracing::info!(member = %id.name, addr = %id.addr, "member is alive"),
            Notification::MemberDown(id) => tracing::info!(member = %id.name, addr = %id.addr, "member is down"),
            Notification::Rejoin(id) => {
                tracing::warn!(generation = id.generation, "others held this node for failed; it spoke up");
            }
            Notification::Idle => self.idle = true,
            _ => {}
        }
        self.changed = true;
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        self.later.push((after, event));
    }
}

fn rank(timer: &Timer<Id>) -> u8 {
    // foca wants timers that are due together in this order.
    match timer {
        Timer::SendIndirectProbe { .. } => 0,
        Timer::ProbeRandomMember(_) => 1,
        Timer::ChangeSuspectToDown { .. } => 2,
        Timer::PeriodicAnnounce(_) => 3,
        Timer::PeriodicGossip(_) => 4,
        Timer::RemoveDown(_) => 5,
        Timer::PeriodicAnnounceDown(_) => 6,
    }
}

/// See the module.
pub struct Machine {
    timing: Timing,
    foca: Foca<Id, Codec<Shared>, SmallRng, Shared>,
    book: Shared,
    out: Outbox,
    rng: SmallRng,
    timers: BTreeMap<(Duration, u8, u64), Timer<Id>>,
    counter: u64,
    tick_at: Duration,
    exchange_at: Duration,
    reconnect_at: Duration,
    health: u32,
    /// When the health score may improve by one.
    calm_at: Duration,
    /// When names that are gone are cleaned out of the book.
    clean_at: Duration,
    record: Record,
    started: u64,
    since: HashMap<Arc<str>, Since>,
    ping: Option<Ping>,
    /// Where we are; `None`: nobody wants to know.
    vivaldi: Option<Vivaldi>,
    /// Whether that changed since it was last looked at.
    moved: bool,
    sized_for: usize,
    /// We said that we are down. Nothing may bring us back; who tells us that we are down is right.
    departed: bool,
    silent: bool,
    effects: VecDeque<Effect>,
    listed: Vec<Member>,
}

impl Machine {
    /// A node that knows only itself. `generation` must be higher than that of any earlier life of this name on this machine;
    /// milliseconds since 1970 will do.
    pub fn new(id: Id, tags: BTreeMap<String, String>, timing: Timing, seed: u64, now: Duration) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let book = Shared::new(Arc::clone(&id.name));
        let record = Record {
            name: Arc::clone(&id.name),
            generation: id.generation,
            version: id.generation,
            leaving: false,
            tags,
        };
        let config = config(&timing, 1);
        let foca_rng = SmallRng::seed_from_u64(rng.random());
        let started = id.generation;
        let mut machine = Self {
            foca: Foca::with_custom_broadcast(id, config, foca_rng, Codec(book.clone()), book.clone()),
            book,
            out: Outbox::default(),
            timers: BTreeMap::new(),
            counter: 0,
            tick_at: now + TICK_EVERY,
            exchange_at: now,
            reconnect_at: now,
            health: 0,
            calm_at: now,
            clean_at: now + CLEAN_EVERY,
            record,
            started,
            since: HashMap::new(),
            ping: None,
            vivaldi: timing.coordinates.then(Vivaldi::default),
            moved: true,
            sized_for: 1,
            departed: false,
            silent: false,
            effects: VecDeque::new(),
            listed: Vec::new(),
            rng,
            timing,
        };
        machine.exchange_at = now + machine.jittered(EXCHANGE_EVERY);
        machine.reconnect_at = now + machine.jittered(RECONNECT_EVERY);
        machine.spread_record();
        machine.settle(now);
        machine
    }

    /// Who we are now.
    pub fn id(&self) -> &Id {
        self.foca.identity()
    }

    /// Our claim to our name.
    pub fn claim(&self) -> Claim {
        Claim { id: self.id().clone(), started: self.started }
    }

    /// All members that are to be shown, by name.
    pub fn members(&self) -> &[Member] {
        &self.listed
    }

    /// Members that answer, without ourselves.
    pub fn active(&self) -> usize {
        self.foca.num_members()
    }

    /// 0: our timers are on time; up to 3: this process gets too little time.
    pub fn health(&self) -> u32 {
        self.health
    }

    /// News that has not been sent often enough yet.
    pub fn backlog(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// Whether we left, or gave up our name.
    pub fn is_silent(&self) -> bool {
        self.silent || self.departed
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Self::handle_timeout`] must be called at the latest.
    pub fn next_wakeup(&self) -> Duration {
        let own = self.tick_at.min(self.exchange_at).min(self.reconnect_at);
        self.timers.first_key_value().map_or(own, |((at, ..), _)| own.min(*at))
    }

    /// A packet came, out of its envelope. A packet that makes no sense is refused.
    pub fn handle_packet(&mut self, now: Duration, packet: &[u8]) -> Result<(), foca::Error> {
        if self.silent || self.departed {
            return Ok(());
        }
        let seen = peek(packet);
        let result = self.foca.handle_data(packet, &mut self.out);
        let place = self.book.lock().take_place();
        if let (Some((ACK, from)), Ok(())) = (&seen, &result)
            && let Some(ping) = self.ping.take_if(|ping| ping.to == *from)
            && probe_number(packet) == probe_number(&ping.packet)
        {
            self.measured(from, place, now.saturating_sub(ping.sent));
        }
        self.settle(now);
        result
    }

    /// A packet came by TCP: what we answer to its sender is returned instead of being sent by UDP.
    pub fn handle_packet_by_tcp(&mut self, now: Duration, packet: &[u8]) -> Result<Vec<Vec<u8>>, foca::Error> {
        let Some((_, from)) = peek(packet) else { return Err(foca::Error::MalformedPacket) };
        let before = self.effects.len();
        self.handle_packet(now, packet)?;
        let mut answers = Vec::new();
        for effect in self.effects.split_off(before.min(self.effects.len())) {
            match effect {
                Effect::Send { to, packet } if to == from.addr => answers.push(packet),
                other => self.effects.push_back(other),
            }
        }
        Ok(answers)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.silent || self.departed {
            self.tick_at = now + TICK_EVERY;
            self.exchange_at = now + EXCHANGE_EVERY;
            self.reconnect_at = now + RECONNECT_EVERY;
            self.timers.clear();
            return;
        }
        self.forgive_lost_time(now);
        // Bounded, so that a flood of timers cannot keep us from the sockets; what is left is due at once.
        for _ in 0..256 {
            let Some(entry) = self.timers.first_entry().filter(|e| e.key().0 <= now) else { break };
            let timer = entry.remove();
            if let Timer::SendIndirectProbe { probed_id, .. } = &timer
                && let Some(ping) = self.ping.take()
                && ping.to == *probed_id
            {
                self.effects.push_back(Effect::ByTcp { to: ping.to.addr, packet: ping.packet });
            }
            if let Err(error) = self.foca.handle_timer(timer, &mut self.out) {
                tracing::debug!(%error, "gossip timer");
            }
            self.settle(now);
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK_EVERY;
            self.tick(now);
        }
        if self.exchange_at <= now {
            let scale = (self.active() as f64 / 32.0).max(1.0).log2() + 1.0;
            self.exchange_at = now + self.jittered(EXCHANGE_EVERY.mul_f64(scale));
            if let Some((with, _)) = self.pick(|m| m.status == MemberStatus::Alive) {
                self.effects.push_back(Effect::Exchange { with, expect: None });
            }
        }
        if self.reconnect_at <= now {
            self.reconnect_at = now + self.jittered(RECONNECT_EVERY);
            let failed = self.listed.iter().filter(|m| m.status == MemberStatus::Failed).count();
            // All members together try each failed one about once in the interval.
            if failed > 0
                && self.rng.random_range(0..=self.active()) < failed
                && let Some((with, expect)) = self.pick(|m| m.status == MemberStatus::Failed)
            {
                self.effects.push_back(Effect::Exchange { with, expect: Some(expect) });
            }
        }
    }

    /// Changes our tags, and tells all.
    pub fn set_tags(&mut self, now: Duration, tags: BTreeMap<String, String>) {
        if self.record.tags == tags {
            return;
        }
        self.record.tags = tags;
        self.record.version = self.record.version.saturating_add(1);
        self.spread_record();
        self.gossip(now);
    }

    /// Tells that we are about to leave.
    pub fn begin_leave(&mut self, now: Duration) {
        self.record.leaving = true;
        self.record.version = self.record.version.saturating_add(1);
        self.spread_record();
        self.gossip(now);
    }

    /// Declares ourselves down. [`Self::gossip`] then tells more members of it, until [`Self::silence`].
    pub fn leave(&mut self, now: Duration) {
        self.departed = true;
        let result = self.foca.leave_cluster(&mut self.out);
        self.log(result);
        self.settle(now);
    }

    /// No more packets in or out.
    pub fn silence(&mut self, now: Duration) {
        self.silent = true;
        self.out.changed = true;
        self.settle(now);
    }

    /// A round of gossip out of turn.
    pub fn gossip(&mut self, now: Duration) {
        let result = self.foca.gossip(&mut self.out);
        self.log(result);
        self.settle(now);
    }

    /// Tells all members that are up of an event, ourselves among them. One whose id was heard before is not told again.
    pub fn fire(&mut self, now: Duration, mut event: Event) -> Result<(), FireError> {
        if self.silent || self.departed {
            return Err(FireError::Stopped);
        }
        event.ltime = self.book.lock().heard.next();
        event.check_size()?;
        let result = self.foca.add_broadcast(&Item::Event(event).encode()).map(|_| ());
        self.log(result);
        self.gossip(now);
        Ok(())
    }

    /// Makes a failed member one that left; with `prune` it is taken from the list at once. A member that lives is not harmed.
    pub fn force_leave(&mut self, now: Duration, name: &str, prune: bool) -> Result<(), ForceLeaveError> {
        if *name == *self.record.name {
            return Err(ForceLeaveError::Itself(name.to_owned()));
        }
        let known = self.foca.iter_membership_state().find(|m| *m.id().name == *name);
        let known = known.ok_or_else(|| ForceLeaveError::Unknown(name.to_owned()))?;
        if known.state() == State::Down {
            let item = Item::Forced { name: name.into(), generation: known.id().generation, prune };
            let result = self.foca.add_broadcast(&item.encode()).map(|_| ());
            self.log(result);
            self.gossip(now);
        }
        Ok(())
    }

    /// Where our timers are late, we were not running: that time does not count for anybody.
    fn forgive_lost_time(&mut self, now: Duration) {
        let Some(((due, ..), _)) = self.timers.first_key_value() else { return };
        let late = now.saturating_sub(*due);
        if late <= self.timing.probe_timeout / 2 {
            return;
        }
        self.health = (self.health + 1).min(MAX_HEALTH);
        self.calm_at = now + CALM_AFTER;
        self.timers = std::mem::take(&mut self.timers)
            .into_iter()
            .map(|((at, rank, n), timer)| ((at + late, rank, n), timer))
            .collect();
        tracing::debug!(late_ms = late.as_millis() as u64, health = self.health, "gossip timers were late");
    }

    fn tick(&mut self, now: Duration) {
        if self.health > 0 && self.calm_at <= now {
            self.health -= 1;
            self.calm_at = now + CALM_AFTER;
        }
        self.book.lock().heard.tick();
        self.challenge_suspects();
        // foca keeps rivals of our own name as down entries.
        let rival = self
            .foca
            .iter_membership_state()
            .filter(|m| m.id().name == self.record.name)
            .map(|m| m.id().generation)
            .max();
        if let Some(generation) = rival.filter(|g| *g >= self.id().generation) {
            self.renew_above(generation);
        }
        // Ask those whose record did not come.
        let mut ask = Vec::new();
        {
            let book = self.book.lock();
            for member in self.foca.iter_members() {
                if let Some(since) = self.since.get_mut(&member.id().name)
                    && !since.asked
                    && now.saturating_sub(since.seen) >= RECORD_ASK
                    && book.record(&member.id().name).is_none()
                {
                    since.asked = true;
                    ask.push(member.id().addr);
                }
            }
        }
        self.effects.extend(ask.into_iter().take(3).map(|with| Effect::Exchange { with, expect: None }));
        self.out.changed = true;
        self.settle(now);
        let known: std::collections::HashSet<Arc<str>> =
            self.foca.iter_membership_state().map(|m| Arc::clone(&m.id().name)).collect();
        self.since.retain(|name, _| known.contains(name));
        if let Some(vivaldi) = &mut self.vivaldi {
            vivaldi.retain(|name| known.contains(name));
        }
        let own = Arc::clone(&self.record.name);
        if self.clean_at <= now {
            self.clean_at = now + CLEAN_EVERY;
            self.book.lock().retain(|name| *name == *own || known.contains(name));
        }
    }

    fn renew_above(&mut self, generation: u64) {
        let generation = generation.max(self.id().generation).saturating_add(1);
        let id = Id { generation, ..self.id().clone() };
        let result = self.foca.change_identity(id, &mut self.out);
        self.log(result);
        // A changed identity stops probing until foca looks at its members again.
        let result = self.foca.apply_many(std::iter::empty(), true, &mut self.out);
        self.log(result);
    }

    fn spread_record(&mut self) {
        let result = self.foca.add_broadcast(&Item::Record(self.record.clone()).encode()).map(|_| ());
        self.log(result);
        self.out.changed = true;
    }

    fn log(&self, result: Result<(), foca::Error>) {
        if let Err(error) = result {
            tracing::debug!(%error, "gossip");
        }
    }

    /// After each call into foca: keep our record in step with our identity, take over its wishes, refresh the list.
    fn settle(&mut self, now: Duration) {
        let (overtaken, doubted, mut changed, events) = {
            let mut book = self.book.lock();
            (book.take_overtaken(), book.take_doubted(), book.take_changed(), book.heard.take())
        };
        self.effects.extend(events.into_iter().map(Effect::Event));
        if doubted.is_some_and(|g| g >= self.id().generation) && !self.silent && !self.departed {
            self.renew_above(self.id().generation);
        }
        let generation = self.id().generation;
        let stale = overtaken.filter(|v| *v >= self.record.version);
        if generation != self.record.generation || stale.is_some() {
            self.record.generation = generation;
            self.record.version = self.record.version.max(stale.unwrap_or(0)).saturating_add(1);
            self.spread_record();
        }
        if std::mem::take(&mut self.out.idle) && !self.departed {
            self.forget_news();
        }
        for (after, timer) in std::mem::take(&mut self.out.later) {
            let after = match timer {
                Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } | Timer::ChangeSuspectToDown { .. } => {
                    after * (1 + self.health)
                }
                _ => after,
            };
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer
                && let Some(packet) = self.challenge(member_id, *incarnation)
            {
                self.effects.push_back(Effect::ByTcp { to: member_id.addr, packet });
            }
            self.counter += 1;
            self.timers.insert((now + after, rank(&timer), self.counter), timer);
        }
        for (to, mut packet) in self.out.sends.drain(..) {
            match (packet.first(), &self.vivaldi) {
                (Some(&PING), _) => self.ping = Some(Ping { to: to.clone(), packet: packet.clone(), sent: now }),
                (Some(&ACK), Some(vivaldi)) => add_place(&mut packet, vivaldi.coordinate()),
                _ => {}
            }
            self.effects.push_back(Effect::Send { to: to.addr, packet });
        }
        changed |= std::mem::take(&mut self.out.changed);
        if changed {
            self.resize();
            self.refresh(now);
        }
    }

    /// With the last member gone, foca keeps its undelivered news (all are down) and would tell it to the first that comes back,
    /// where it does harm. So foca starts anew with the same knowledge and no news.
    fn forget_news(&mut self) {
        let members: Vec<foca::Member<Id>> = self.foca.iter_membership_state().cloned().collect();
        let seed = self.rng.random();
        self.foca = Foca::with_custom_broadcast(
            self.id().clone(),
            config(&self.timing, self.sized_for),
            SmallRng::seed_from_u64(seed),
            Codec(self.book.clone()),
            self.book.clone(),
        );
        // Timers of the old foca carry tokens that could mean something to the new one.
        self.timers.clear();
        self.out.later.clear();
        let result = self.foca.apply_many(members.into_iter(), false, &mut self.out);
        self.log(result);
        self.record.version = self.record.version.saturating_add(1);
        self.spread_record();
    }

    fn resize(&mut self) {
        let size = self.active() + 1;
        if size != self.sized_for && self.foca.set_config(config(&self.timing, size)).is_ok() {
            self.sized_for = size;
        }
    }

    fn pick(&mut self, wanted: impl Fn(&Member) -> bool) -> Option<(SocketAddr, String)> {
        let own = Arc::clone(&self.record.name);
        let candidates: Vec<&Member> = self.listed.iter().filter(|m| *m.name != *own && wanted(m)).collect();
        if candidates.is_empty() {
            return None;
        }
        candidates.get(self.rng.random_range(0..candidates.len())).map(|m| (m.addr, m.name.clone()))
    }

    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.75..1.25))
    }
}

/// foca's configuration for so many members.
fn config(timing: &Timing, size: usize) -> foca::Config {
    let log = ((size + 1) as f64).log10();
    // At least twice the factor: with few transmissions, a part of e^-n of the members would not hear of it.
    let transmissions = (f64::from(timing.retransmit_mult) * log.ceil().max(2.0)).clamp(1.0, 255.0) as u8;
    // Up to 30 members a suspect has the plain time; beyond, news takes longer to go round.
    let suspicion = timing.probe_timeout.mul_f64(f64::from(timing.suspicion_mult) * (log - 0.5).max(1.0));
    let nodes = NonZeroUsize::new(timing.gossip_nodes).unwrap_or(NonZeroUsize::MIN);
    let one_ms = Duration::from_millis(1);
    foca::Config {
        probe_period: timing.probe_interval.max(2 * one_ms),
        probe_rtt: timing.probe_timeout.clamp(one_ms, timing.probe_interval.max(2 * one_ms) - one_ms),
        num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: suspicion.max(one_ms),
        remove_down_after: Some(timing.reconnect_timeout.max(Duration::from_secs(60))),
        max_packet_size: NonZeroUsize::new(MAX_PACKET - OVERHEAD).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: timing.gossip_interval.max(one_ms), num_members: nodes }),
    }
}
