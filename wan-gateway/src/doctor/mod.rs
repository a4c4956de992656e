//! What stands between two sites: names, UDP, TCP, proxy, MTU, certificate and clock, each with a verdict and the one thing to do.
//! It looks and never changes or stops anything.

pub(crate) mod driver;

use std::time::Duration;

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// In the way.
    Fail,
    /// Could not be looked at, or does not matter.
    Skip,
}

impl Verdict {
    /// `PASS`, `FAIL` or `SKIP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What: `names`, `udp`, `tcp`, `proxy`, `mtu`, `certificate`, `clock`.
    pub check: &'static str,
    /// Whom it is about: a datacenter or an address.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

impl Finding {
    fn new(verdict: Verdict, check: &'static str, subject: &str, found: String, advice: &str) -> Self {
        Self { verdict, check, subject: subject.to_owned(), found, advice: advice.to_owned() }
    }
}

/// A clock this far off is worth a word; certificates stand an hour.
const SKEW: Duration = Duration::from_secs(300);
/// A certificate that ends sooner is worth a word.
const SOON_DAYS: u64 = 14;
/// QUIC's least packet, which every path must carry (RFC 9000, 14.1).
const LEAST_MTU: u16 = 1200;

/// How a clock is judged; `skew_ms`: theirs minus ours, where there is a link.
fn clock(subject: &str, skew_ms: Option<i64>) -> Finding {
    let Some(skew) = skew_ms else {
        return Finding::new(Verdict::Skip, "clock", subject, "no link to measure it on".to_owned(), "");
    };
    let text = format!("{} ms {} ours", skew.unsigned_abs(), if skew < 0 { "behind" } else { "ahead of" });
    if Duration::from_millis(skew.unsigned_abs()) < SKEW {
        Finding::new(Verdict::Pass, "clock", subject, text, "")
    } else {
        Finding::new(
            Verdict::Fail,
            "clock",
            subject,
            text,
            "set the clocks of both sites by NTP: past an hour certificates are refused",
        )
    }
}

/// How our certificate is judged.
fn certificate(subject: &str, names: &[String], wanted: &str, left: Option<Duration>) -> Finding {
    let days = left.map(|l| l.as_secs() / 86_400);
    let (verdict, found, advice) = match days {
        _ if !names.iter().any(|n| n == wanted) => (
            Verdict::Fail,
            format!("speaks for [{}] and not for {wanted}", names.join(", ")),
            "issue one with `causeway tls cert create -gateway`, or join anew",
        ),
        None => {
            (Verdict::Fail, "it has expired".to_owned(), "issue a new one; the running gateway takes it up by itself")
        }
        Some(days) if days < SOON_DAYS => (
            Verdict::Fail,
            format!("{wanted}, {days} days left"),
            "issue a new one now; the running gateway takes it up by itself",
        ),
        Some(days) => (Verdict::Pass, format!("{wanted}, {days} days left"), ""),
    };
    Finding::new(verdict, "certificate", subject, found, advice)
}

/// How an attempt over UDP is judged: the round trip or the error.
fn udp(address: &str, dialled: &Result<Duration, String>) -> Finding {
    match dialled {
        Ok(rtt) => {
            Finding::new(Verdict::Pass, "udp", address, format!("a QUIC handshake in {} ms", rtt.as_millis()), "")
        }
        Err(why) if why.contains("certificate") => Finding::new(
            Verdict::Fail,
            "certificate",
            address,
            why.clone(),
            "UDP passes, but one end does not believe the other's certificate: both need a gateway certificate of the same authority",
        ),
        Err(why) => Finding::new(
            Verdict::Fail,
            "udp",
            address,
            why.clone(),
            "ask for this: let UDP out from this gateway to that address and port, and the answers in",
        ),
    }
}

/// How TCP is judged: only in the way where UDP is, too.
fn tcp(address: &str, connected: Result<(), String>, udp_passes: bool) -> Finding {
    match connected {
        Ok(()) => Finding::new(Verdict::Pass, "tcp", address, "connected".to_owned(), ""),
        Err(why) if udp_passes => {
            Finding::new(Verdict::Skip, "tcp", address, format!("{why}; not needed while UDP passes"), "")
        }
        Err(why) => Finding::new(
            Verdict::Fail,
            "tcp",
            address,
            why,
            "ask for this: let TCP out from this gateway to that address and port, in case UDP stays closed",
        ),
    }
}

fn mtu(address: &str, bytes: u16) -> Finding {
    if bytes >= LEAST_MTU {
        return Finding::new(Verdict::Pass, "mtu", address, format!("packets of {bytes} bytes pass"), "");
    }
    let advice = "let packets of 1280 bytes pass on the way, or ICMP type 3 code 4";
    Finding::new(Verdict::Fail, "mtu", address, format!("only packets of {bytes} bytes pass"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        use Verdict::{Fail, Pass, Skip};
        assert_eq!(clock("dc2", None).verdict, Skip);
        assert_eq!(clock("dc2", Some(-1500)).verdict, Pass);
        assert_eq!(clock("dc2", Some(-600_000)).verdict, Fail);
        let names = ["gateway.dc1.consul".to_owned()];
        let day = Duration::from_secs(86_400);
        assert_eq!(certificate("dc1", &names, "gateway.dc1.consul", Some(day * 300)).verdict, Pass);
        assert_eq!(certificate("dc1", &names, "gateway.dc1.consul", Some(day * 3)).verdict, Fail);
        assert_eq!(certificate("dc1", &names, "gateway.dc1.consul", None).verdict, Fail);
        assert_eq!(certificate("dc1", &names, "gateway.dc2.consul", Some(day * 300)).verdict, Fail);
        assert_eq!(udp("a:1", &Ok(day)).verdict, Pass);
        assert_eq!(udp("a:1", &Err("timed out".into())).check, "udp");
        assert_eq!(udp("a:1", &Err("invalid peer certificate".into())).check, "certificate");
        assert_eq!(tcp("a:1", Err("refused".into()), true).verdict, Skip);
        assert_eq!(tcp("a:1", Err("refused".into()), false).verdict, Fail);
        assert_eq!(tcp("a:1", Ok(()), false).verdict, Pass);
        assert_eq!((mtu("a:1", 1200).verdict, mtu("a:1", 1199).verdict), (Pass, Fail));
        // Whatever fails says what to do.
        for finding in [clock("a", Some(i64::MAX)), udp("a", &Err(String::new())), mtu("a", 0)] {
            assert!(finding.verdict == Fail && !finding.advice.is_empty());
        }
    }
}
