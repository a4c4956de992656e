//! DNS over TCP: who has a place, and who loses it. Pure; [`driver`] has the sockets.
//!
//! Connections cost memory and a file descriptor each, and whoever opens them need not ask anything. So they are bounded, in all and
//! for each address; where all places are taken the connection goes on which nobody waited for an answer for the longest time, and
//! only where every one is waited on is a new one turned away. UDP has no part in any of it.

pub(super) mod driver;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Longest question, bytes: more than any question has, options and all.
const LONGEST: usize = 4096;
/// Questions of one connection that are worked on at a time.
const AT_ONCE: usize = 32;
/// A question that began to arrive must be there within this time.
const QUESTION: Duration = Duration::from_secs(3);
/// An answer must be taken within this time.
const ANSWER: Duration = Duration::from_secs(5);

/// Bounds of TCP, which may change while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Connections of one address; of IPv6, of one /64.
    pub per_client: usize,
    /// A connection on which nothing is asked for this long is closed.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, per_client: 128, idle: Duration::from_secs(10) }
    }
}

/// One connection.
#[derive(Debug)]
struct Seat<T> {
    client: IpAddr,
    /// Since when nobody waits for an answer on it.
    idle: Option<Instant>,
    handle: T,
}

/// All connections. `T` is what ends one.
#[derive(Debug)]
pub(super) struct Seats<T> {
    next: u64,
    taken: BTreeMap<u64, Seat<T>>,
    by_client: HashMap<IpAddr, BTreeSet<u64>>,
    idle: BTreeSet<(Instant, u64)>,
}

impl<T> Default for Seats<T> {
    fn default() -> Self {
        Self { next: 0, taken: BTreeMap::new(), by_client: HashMap::new(), idle: BTreeSet::new() }
    }
}

/// Whom an address counts as.
fn client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

impl<T> Seats<T> {
    /// A place for one more, and what lost its place to it. `None`: all are waited on.
    pub(super) fn admit(&mut self, now: Instant, ip: IpAddr, limits: &Limits, handle: T) -> Option<(u64, Vec<T>)> {
        let client = client(ip);
        let mut gone = Vec::new();
        // A lower bound may have come since: then more than one goes.
        while self.by_client.get(&client).map_or(0, BTreeSet::len) >= limits.per_client.max(1) {
            let of_this = self.by_client.get(&client)?.iter().filter_map(|id| Some((self.taken.get(id)?.idle?, *id)));
            let (_, oldest) = of_this.min()?;
            gone.extend(self.leave(oldest));
        }
        while self.taken.len() >= limits.connections.max(1) {
            let (_, oldest) = *self.idle.first()?;
            gone.extend(self.leave(oldest));
        }
        let id = self.next;
        self.next += 1;
        self.taken.insert(id, Seat { client, idle: Some(now), handle });
        self.by_client.entry(client).or_default().insert(id);
        self.idle.insert((now, id));
        Some((id, gone))
    }

    /// Somebody waits for an answer on it now, or nobody any more.
    pub(super) fn waited_on(&mut self, now: Instant, id: u64, waited: bool) {
        let Some(seat) = self.taken.get_mut(&id) else { return };
        match (seat.idle, waited) {
            (Some(since), true) => {
                self.idle.remove(&(since, id));
                seat.idle = None;
            }
            (None, false) => {
                self.idle.insert((now, id));
                seat.idle = Some(now);
            }
            _ => {}
        }
    }

    /// Its place is free.
    pub(super) fn leave(&mut self, id: u64) -> Option<T> {
        let seat = self.taken.remove(&id)?;
        if let Some(since) = seat.idle {
            self.idle.remove(&(since, id));
        }
        if let Some(of_this) = self.by_client.get_mut(&seat.client) {
            of_this.remove(&id);
            if of_this.is_empty() {
                self.by_client.remove(&seat.client);
            }
        }
        Some(seat.handle)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }
}

/// The next whole question of what came, and how many bytes it took, its length among them.
fn question(came: &[u8]) -> Result<Option<(&[u8], usize)>, TooLong> {
    let Some((length, rest)) = came.split_first_chunk::<2>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > LONGEST {
        return Err(TooLong);
    }
    Ok(rest.get(..length).map(|question| (question, length + 2)))
}

/// Nobody asks that much.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "any instant does")]

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn the_one_that_was_idle_for_longest_goes() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let limits = Limits { connections: 3, per_client: 2, ..Limits::default() };
        let mut seats = Seats::default();
        let (a, _) = seats.admit(at(0), ip(1), &limits, "a").unwrap();
        let (b, _) = seats.admit(at(1), ip(1), &limits, "b").unwrap();
        // It asked, and had its answer.
        seats.waited_on(at(2), a, true);
        seats.waited_on(at(3), a, false);
        let (c, gone) = seats.admit(at(4), ip(1), &limits, "c").unwrap();
        assert_eq!(gone, ["b"], "of the same address");
        assert!(seats.leave(b).is_none());
        let (_, gone) = seats.admit(at(5), ip(2), &limits, "d").unwrap();
        assert!(gone.is_empty());
        seats.waited_on(at(5), a, true);
        let (_, gone) = seats.admit(at(6), ip(3), &limits, "e").unwrap();
        assert_eq!(gone, ["c"], "of all; one that is waited on stays");
        assert!(seats.leave(c).is_none());
        assert_eq!(seats.len(), 3);
    }

    #[test]
    fn whoever_is_waited_on_stays() {
        let now = Instant::now();
        let limits = Limits { connections: 2, per_client: 1, ..Limits::default() };
        let mut seats = Seats::default();
        let (a, _) = seats.admit(now, ip(1), &limits, 1).unwrap();
        seats.waited_on(now, a, true);
        assert!(seats.admit(now, ip(1), &limits, 2).is_none(), "its address has its share");
        assert!(seats.admit(now, "::ffff:10.0.0.1".parse().unwrap(), &limits, 2).is_none(), "in other words");
        let (b, _) = seats.admit(now, ip(2), &limits, 3).unwrap();
        seats.waited_on(now, b, true);
        assert!(seats.admit(now, ip(3), &limits, 4).is_none(), "all places");
        assert_eq!(seats.leave(a), Some(1));
        assert!(seats.admit(now, ip(3), &limits, 5).is_some());
        for id in [b, b + 1] {
            seats.leave(id);
        }
        assert!(seats.taken.is_empty() && seats.by_client.is_empty() && seats.idle.is_empty(), "{seats:?}");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let now = Instant::now();
        let limits = Limits { per_client: 1, ..Limits::default() };
        let mut seats = Seats::default();
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        seats.admit(now, v6("2001:db8::1"), &limits, 1).unwrap();
        assert_eq!(seats.admit(now, v6("2001:db8::2"), &limits, 2).unwrap().1, [1]);
        assert!(seats.admit(now, v6("2001:db8:0:1::2"), &limits, 3).unwrap().1.is_empty());
    }

    /// A lower bound that a reload brought holds from the next one on.
    #[test]
    fn a_bound_may_fall() {
        let now = Instant::now();
        let mut seats = Seats::default();
        for n in 0..10 {
            seats.admit(now, ip(n), &Limits::default(), n).unwrap();
        }
        let (_, gone) = seats.admit(now, ip(99), &Limits { connections: 4, ..Limits::default() }, 99).unwrap();
        assert_eq!((gone.len(), seats.len()), (7, 4));
    }

    #[test]
    fn questions_in_pieces() {
        let came = [0, 3, 1, 2, 3, 0, 1];
        assert_eq!(question(&came), Ok(Some((&[1_u8, 2, 3][..], 5))));
        for short in [&came[..0], &came[..1], &came[..4], &came[5..]] {
            assert_eq!(question(short), Ok(None));
        }
        assert_eq!(question(&[0x10, 0x01]), Err(TooLong));
        assert_eq!(question(&[0, 0, 9]), Ok(Some((&[][..], 2))));
    }
}
