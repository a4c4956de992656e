use rand::{Rng, SeedableRng};

use super::*;

#[allow(clippy::disallowed_methods, reason = "an instant to count from")]
fn start() -> (Links, Instant) {
    (Links::new("a", StdRng::seed_from_u64(1)), Instant::now())
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn up(links: &mut Links, now: Instant, conn: ConnId, gateway: &str, dialled: Option<(String, u64)>) {
    links.handle(now, Event::Connected { conn, dialled, datacenter: "b".into(), kind: Kind::Quic });
    links.handle(now, Event::Hello { conn, gateway: gateway.into(), life: 0 });
}

fn target(key: &str) -> Target {
    Target { key: key.into(), addresses: vec![key.into()], learnt: None, patient: false }
}

/// Runs the clock to `until`, giving each effect to `see`.
fn run(links: &mut Links, mut now: Instant, until: Instant, mut see: impl FnMut(&mut Links, Instant, Effect)) {
    links.effects();
    while let Some(next) = links.next_wakeup().filter(|n| *n <= until) {
        now = next.max(now);
        links.handle(now, Event::Tick);
        for effect in links.effects() {
            see(links, now, effect);
        }
    }
}

#[test]
fn silence_is_suspected_then_lost_and_life_brings_it_back() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    links.handle(t0, Event::Heard { conn: 1, rtt: ms(10) });
    let mut changes = Vec::new();
    run(&mut links, t0, t0 + ms(5000), |_, now, effect| {
        if let Effect::State(1, state) = effect {
            changes.push((state, now - t0));
        }
    });
    assert_eq!(changes, [(State::Suspected, ms(1300)), (State::Lost, ms(4300))]);
    // After a blackout of three seconds there is time for a probe, a round trip of 300 ms, and to send what was lost again. A call with
    // a deadline of five seconds still hears that the link is lost.
    let blackout = ms(3000) + SUSPECT_EVERY + ms(300) * 2;
    assert!(blackout < changes[1].1 && changes[1].1 < ms(5000));
    links.handle(t0 + ms(5000), Event::Heard { conn: 1, rtt: ms(10) });
    assert_eq!(links.state(1), State::Up);
}

#[test]
fn a_slow_link_gets_three_round_trips() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    links.handle(t0, Event::Heard { conn: 1, rtt: ms(1000) });
    run(&mut links, t0, t0 + ms(6000), |_, _, _| {});
    assert_eq!(links.state(1), State::Up);
    run(&mut links, t0 + ms(6000), t0 + ms(6500), |_, _, _| {});
    assert_eq!(links.state(1), State::Suspected);
}

/// As [`up`], over TCP.
fn tcp_up(links: &mut Links, now: Instant, conn: ConnId, gateway: &str) {
    links.handle(now, Event::Connected { conn, dialled: None, datacenter: "b".into(), kind: Kind::Tcp });
    links.handle(now, Event::Hello { conn, gateway: gateway.into(), life: 0 });
}

#[test]
fn what_stands_by_is_lost_together_with_what_it_stands_by_for() {
    // The one that stands by is asked every two seconds: whenever it was heard last, it takes no patience of its own.
    for before in [0, 500, 1100, 1900] {
        let (mut links, t0) = start();
        up(&mut links, t0, 1, "g", None);
        tcp_up(&mut links, t0, 2, "g");
        let dark = t0 + ms(10_000);
        let mut lost = Vec::new();
        run(&mut links, t0, dark + ms(6000), |links, now, effect| match effect {
            Effect::Probe(1) if now < dark => links.handle(now, Event::Heard { conn: 1, rtt: ms(10) }),
            Effect::Probe(2) if now < dark - ms(before) => links.handle(now, Event::Heard { conn: 2, rtt: ms(10) }),
            Effect::State(_, State::Lost) => lost.push(now - dark),
            _ => {}
        });
        assert!(lost.len() == 2 && lost.iter().all(|at| *at <= ms(1300) + PATIENCE), "{before} ms: {lost:?}");
    }
}

#[test]
fn a_link_that_was_heard_after_the_other_fell_silent_has_its_own_patience() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    tcp_up(&mut links, t0, 2, "g");
    // UDP dies at once, everything two seconds after that was known.
    let mut lost = Vec::new();
    let mut known = None;
    run(&mut links, t0, t0 + ms(10_000), |links, now, effect| match effect {
        Effect::State(1, State::Suspected) => known = Some(now),
        Effect::Probe(2) if known.is_none_or(|known| now < known + ms(2000)) => {
            links.handle(now, Event::Heard { conn: 2, rtt: ms(10) });
        }
        Effect::State(2, State::Lost) => lost.push(now - known.unwrap()),
        _ => {}
    });
    assert!(lost.len() == 1 && lost[0] > ms(2000) + PATIENCE, "{lost:?}");
}

#[test]
fn one_missed_probe_is_nothing() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    let mut probes = 0;
    run(&mut links, t0, t0 + ms(60_000), |links, now, effect| match effect {
        Effect::Probe(1) => {
            probes += 1;
            if probes % 2 == 0 {
                links.handle(now, Event::Heard { conn: 1, rtt: ms(10) });
            }
        }
        Effect::State(..) => panic!("{effect:?}"),
        _ => {}
    });
    assert!(probes > 60, "{probes}");
}

#[test]
fn a_newer_connection_takes_the_place_of_the_old() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    up(&mut links, t0, 2, "g", None);
    assert_eq!((links.state(1), links.state(2)), (State::Closed, State::Up));
    up(&mut links, t0, 3, "other", None);
    assert_eq!(links.up().count(), 2);
    let closes: Vec<_> = links.effects().into_iter().filter(|e| matches!(e, Effect::Close(..))).collect();
    assert_eq!(closes, [Effect::Close(1, CloseCode::Superseded)]);
}

#[test]
fn a_connection_that_came_back_while_we_dialled_may_finish_its_calls() {
    let (mut links, t0) = start();
    for (conn, life) in [(1, 7), (2, 7), (3, 8)] {
        links.handle(t0, Event::Connected { conn, dialled: None, datacenter: "b".into(), kind: Kind::Quic });
        links.handle(t0, Event::Hello { conn, gateway: "g".into(), life });
    }
    assert_eq!(
        (links.state(1), links.state(2), links.state(3)),
        (State::Draining, State::Closed, State::Up),
        "2 is of the same life as 1, 3 of a later one"
    );
}

#[test]
fn dialled_from_both_ends_at_once_both_stay() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Targets(vec![target("b:1")]));
    up(&mut links, t0, 1, "g", None);
    up(&mut links, t0, 2, "g", Some(("b:1".into(), 1)));
    assert_eq!(links.up().count(), 2);
}

#[test]
fn a_suspected_link_is_dialled_anew_and_then_replaced() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Targets(vec![target("b:1")]));
    let dial = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|e| match e {
            Effect::Dial { key, attempt, .. } => Some((key, attempt)),
            _ => None,
        })
    };
    let mut first = dial(links.effects());
    run(&mut links, t0, t0 + ms(500), |_, _, e| first = first.take().or_else(|| dial(vec![e])));
    up(&mut links, t0 + ms(500), 1, "g", first);
    let mut second = None;
    run(&mut links, t0 + ms(500), t0 + ms(2600), |_, _, e| second = second.take().or_else(|| dial(vec![e])));
    assert_eq!(links.state(1), State::Suspected);
    up(&mut links, t0 + ms(2600), 2, "g", Some(second.expect("no dial while suspected")));
    assert_eq!((links.state(1), links.state(2)), (State::Closed, State::Up));
}

#[test]
fn a_silent_link_that_comes_back_stays_and_what_was_dialled_meanwhile_goes() {
    let (mut links, t0) = start();
    let known = Target { learnt: Some(("b".into(), "g".into())), ..target("b/g") };
    links.handle(t0, Event::Targets(vec![known]));
    up(&mut links, t0, 1, "g", Some(("b/g".into(), 1)));
    let mut dialled = None;
    run(&mut links, t0, t0 + ms(2000), |_, _, e| {
        if let Effect::Dial { key, attempt, .. } = e
            && key == "b/g"
        {
            dialled = dialled.take().or(Some((key, attempt)));
        }
    });
    assert_eq!(links.suspected(), BTreeSet::from(["b".to_owned()]));
    links.handle(t0 + ms(2000), Event::Heard { conn: 1, rtt: ms(10) });
    assert!(links.suspected().is_empty());
    links.effects();
    up(&mut links, t0 + ms(2010), 2, "g", Some(dialled.expect("no dial while suspected")));
    assert_eq!((links.state(1), links.state(2)), (State::Up, State::Closed));
    assert!(links.effects().contains(&Effect::Close(2, CloseCode::Superseded)));
}

#[test]
fn a_gateway_whose_tcp_connection_broke_is_known_dead_soon() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    links.handle(t0, Event::Connected { conn: 2, dialled: None, datacenter: "b".into(), kind: Kind::Tcp });
    links.handle(t0, Event::Hello { conn: 2, gateway: "g".into(), life: 0 });
    let gone = |conn| Event::Closed { conn, end: End::Gone, why: String::new() };
    links.handle(t0 + ms(10), gone(2));
    // What was under way when it broke proves nothing, what comes later does.
    links.handle(t0 + ms(50), Event::Heard { conn: 1, rtt: ms(10) });
    run(&mut links, t0 + ms(50), t0 + ms(350), |_, _, _| {});
    links.handle(t0 + ms(350), Event::Heard { conn: 1, rtt: ms(10) });
    run(&mut links, t0 + ms(350), t0 + ms(700), |_, _, _| {});
    assert_eq!(links.state(1), State::Up);
    links.handle(t0 + ms(700), Event::Heard { conn: 1, rtt: ms(10) });
    links.handle(t0 + ms(700), Event::Connected { conn: 3, dialled: None, datacenter: "b".into(), kind: Kind::Tcp });
    links.handle(t0 + ms(700), Event::Hello { conn: 3, gateway: "g".into(), life: 0 });
    links.handle(t0 + ms(700), gone(3));
    run(&mut links, t0 + ms(700), t0 + ms(720), |_, _, _| {});
    links.handle(t0 + ms(720), Event::Heard { conn: 1, rtt: ms(10) });
    let mut changes = Vec::new();
    run(&mut links, t0 + ms(720), t0 + ms(2000), |_, now, effect| {
        if let Effect::State(1, state) = effect {
            changes.push((state, now - t0));
        }
    });
    assert_eq!(changes, [(State::Suspected, ms(1070)), (State::Lost, ms(1470))]);
}

#[test]
fn a_link_on_which_nothing_follows_the_handshake_is_dialled_anew_soon() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Targets(vec![target("b:1")]));
    let mut dials = Vec::new();
    run(&mut links, t0, t0 + ms(5000), |links, now, e| match e {
        Effect::Dial { key, attempt, .. } => {
            dials.push(now - t0);
            let conn = dials.len() as ConnId;
            let dialled = Some((key, attempt));
            links.handle(now, Event::Connected { conn, dialled, datacenter: "b".into(), kind: Kind::Quic });
        }
        Effect::Close(_, code) => assert_eq!(code, CloseCode::Silent),
        _ => {}
    });
    assert!(dials.len() >= 3 && dials[1] - dials[0] < ms(1500), "{dials:?}");
}

#[test]
fn no_state_is_without_a_timer() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Connected { conn: 1, dialled: None, datacenter: "b".into(), kind: Kind::Quic });
    up(&mut links, t0, 2, "g", None);
    links.handle(t0, Event::Drain { conn: 2 });
    let mut closed = BTreeSet::new();
    run(&mut links, t0, t0 + ms(30_000), |_, _, e| {
        if let Effect::Close(id, _) = e {
            closed.insert(id);
        }
    });
    assert_eq!(closed, BTreeSet::from([1, 2]));
}

#[test]
fn our_own_site_is_not_linked() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Connected { conn: 1, dialled: None, datacenter: "a".into(), kind: Kind::Quic });
    assert_eq!(links.effects(), [Effect::Close(1, CloseCode::OwnSite)]);
}

#[test]
fn who_is_doubted_is_asked_at_once_and_silent_once_that_is_overdue() {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    links.handle(t0, Event::Heard { conn: 1, rtt: ms(10) });
    links.handle(t0, Event::Tick);
    links.effects();
    let doubted = t0 + ms(20);
    links.handle(doubted, Event::Doubted { conn: 1 });
    assert_eq!(links.next_wakeup(), Some(doubted));
    links.handle(doubted, Event::Tick);
    assert_eq!(links.effects(), [Effect::Probe(1)]);
    // Asked once: another doubt changes nothing.
    links.handle(doubted + ms(10), Event::Doubted { conn: 1 });
    links.handle(doubted + ms(10), Event::Tick);
    assert_eq!(links.effects(), []);
    assert!(!links.silent(1));
    let overdue = doubted + PROBE_WINDOW;
    links.handle(overdue, Event::Tick);
    assert!(links.silent(1) && links.state(1) == State::Up);
    links.handle(overdue + ms(10), Event::Heard { conn: 1, rtt: ms(10) });
    assert!(!links.silent(1));
}

#[test]
fn in_an_outage_no_second_of_an_attempt_passes_without_a_first_packet() {
    let (mut links, t0) = start();
    links.handle(t0, Event::Targets(vec![target("b")]));
    let (mut attempts, mut seen) = (0, Vec::new());
    run(&mut links, t0, t0 + ms(30_000), |links, now, effect| {
        if let Effect::Dial { key, attempt, ways, deadline, .. } = effect {
            attempts += 1;
            // QUIC's timers send the first packet again after 0.3, 0.9, 2.1 s, for as long as the attempt lasts.
            let quic = ways.iter().filter(|w| w.kind.is_quic());
            let sent =
                quic.flat_map(|w| [0, 300, 900, 2100].map(|later| w.after + ms(later))).filter(|at| *at < deadline);
            seen.extend(sent.map(|at| now + at).filter(|_| attempts > 1));
            links.handle(now + deadline, Event::DialFailed { key, attempt, why: "no answer".into() });
        }
    });
    seen.sort();
    let longest = seen.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(attempts > 8 && longest < ms(700), "{attempts} attempts, {longest:?}");
}

/// Lets a link be for so long; a probe is answered where `passes` says so of both ways, and is never sent again. How often the link was
/// suspected, for a link that was never lost.
fn suspected(rtt: Duration, time: Duration, mut passes: impl FnMut(Duration) -> bool) -> u32 {
    let (mut links, t0) = start();
    up(&mut links, t0, 1, "g", None);
    links.handle(t0, Event::Heard { conn: 1, rtt });
    let mut answers = std::collections::VecDeque::new();
    let (mut now, mut probes, mut alarms) = (t0, 0, 0);
    while now < t0 + time {
        let next = [links.next_wakeup(), answers.front().copied()].into_iter().flatten().min();
        now = next.expect("a link is asked again and again").max(now);
        while answers.front().is_some_and(|at| *at <= now) {
            answers.pop_front();
            links.handle(now, Event::Heard { conn: 1, rtt });
        }
        links.handle(now, Event::Tick);
        for effect in links.effects() {
            match effect {
                Effect::Probe(1) => {
                    probes += 1;
                    let (there, back) = (now - t0 + rtt / 2, now - t0 + rtt);
                    if passes(there) && passes(back) {
                        answers.push_back(now + rtt);
                    }
                }
                Effect::State(1, State::Suspected) => alarms += 1,
                Effect::State(1, State::Up) => {}
                other => panic!("after {:?} and {probes} probes: {other:?}", now - t0),
            }
        }
    }
    assert!(probes > time.as_secs() / 4, "{probes} probes in {time:?}");
    println!("{time:?} at a round trip of {rtt:?}: {probes} probes, {alarms} times suspected, never lost");
    alarms
}

/// S6: a satellite, a day long. No other packets help.
#[test]
fn s6_a_day_by_satellite_loses_no_link() {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        println!("seed {seed}");
        suspected(ms(1000), Duration::from_secs(86_400), |_| !rng.random_bool(0.07));
    }
}

/// S5: bursts of 20 packets, 10 % in all, of 100 packets a second each way, for ten minutes.
#[test]
fn s5_ten_minutes_of_bursts_lose_no_link() {
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        println!("seed {seed}");
        let (mut bad, mut at) = (false, Duration::ZERO);
        suspected(ms(300), Duration::from_secs(600), |when| {
            // Gilbert's model, a packet each 10 ms: 20 in a burst, 180 between two.
            while at < when {
                at += ms(10);
                bad = if bad { !rng.random_bool(1.0 / 20.0) } else { rng.random_bool(1.0 / 180.0) };
            }
            !bad
        });
    }
}

/// After a NAT forgot, old TCP links are given up by the kernel minutes later, perhaps in the middle of a blackout: those that are
/// suspected keep their patience.
#[test]
fn a_link_that_the_kernel_gives_up_says_nothing_of_the_gateway() {
    for (end, lost) in [(End::Gone, true), (End::Silent, false)] {
        let (mut links, t0) = start();
        up(&mut links, t0, 1, "g", None);
        tcp_up(&mut links, t0, 2, "g");
        links.handle(t0, Event::Heard { conn: 1, rtt: ms(10) });
        run(&mut links, t0, t0 + ms(1500), |_, _, _| {});
        assert_eq!(links.state(1), State::Suspected);
        links.handle(t0 + ms(1500), Event::Closed { conn: 2, end, why: "Connection timed out".into() });
        run(&mut links, t0 + ms(1500), t0 + ms(3400), |_, _, _| {});
        assert_eq!(links.state(1) == State::Lost, lost, "{end:?}");
    }
}

/// UDP was blocked for a while, and is open again at the moment when a firewall cuts TCP: the QUIC link is asked before it is given up.
#[test]
fn a_silent_link_is_asked_once_more_when_tcp_breaks() {
    for answers in [true, false] {
        let (mut links, t0) = start();
        up(&mut links, t0, 1, "g", None);
        tcp_up(&mut links, t0, 2, "g");
        links.handle(t0, Event::Heard { conn: 1, rtt: ms(80) });
        run(&mut links, t0, t0 + ms(2000), |links, now, effect| {
            if matches!(effect, Effect::Probe(2)) {
                links.handle(now, Event::Heard { conn: 2, rtt: ms(80) });
            }
        });
        assert_eq!(links.state(1), State::Suspected);
        links.handle(t0 + ms(2000), Event::Closed { conn: 2, end: End::Gone, why: "reset".into() });
        // QUIC may try again as late as after as long as it was silent.
        run(&mut links, t0 + ms(2000), t0 + ms(2900), |_, _, _| {});
        assert_eq!(links.state(1), State::Suspected, "no time to answer");
        if answers {
            links.handle(t0 + ms(2900), Event::Heard { conn: 1, rtt: ms(80) });
        }
        run(&mut links, t0 + ms(2900), t0 + ms(4500), |links, now, effect| {
            if answers && matches!(effect, Effect::Probe(1)) {
                links.handle(now, Event::Heard { conn: 1, rtt: ms(80) });
            }
        });
        assert_eq!(links.state(1), if answers { State::Up } else { State::Lost });
    }
}

/// F5: everything to a gateway falls silent at the same time. The one that stands by is asked seldom, and is found silent with the other
/// all the same; one whose neighbour has long been silent takes two misses, as ever.
#[test]
fn what_stands_by_is_found_silent_with_what_it_stands_by_for() {
    for standby in [true, false] {
        let (mut links, t0) = start();
        up(&mut links, t0, 1, "g", None);
        tcp_up(&mut links, t0, 2, "g");
        let begin = t0 + ms(4000);
        run(&mut links, t0, begin, |links, now, effect| {
            if let Effect::Probe(conn) = effect
                && (conn == 2 || standby)
            {
                links.handle(now, Event::Heard { conn, rtt: ms(40) });
            }
        });
        assert_eq!(links.state(1) == State::Up, standby);
        let mut silent = None;
        run(&mut links, begin, begin + ms(4000), |_, now, effect| {
            if effect == Effect::State(2, State::Suspected) {
                silent.get_or_insert(now - begin);
            }
        });
        let silent = silent.unwrap();
        let (least, most) = if standby { (ms(500), ms(1400)) } else { (ms(1000), ms(1400)) };
        assert!(least <= silent && silent <= most, "{standby} {silent:?}");
    }
}
