//! What stands between two sites: names, UDP, TCP, proxy, MTU, certificate and clock, each with a verdict and the one thing to do.
//! It looks and never changes or stops anything.

pub(crate) mod driver;
pub(crate) mod wire;

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

/// All that is looked at.
pub(crate) const CHECKS: [&str; 8] = ["names", "udp", "tcp", "proxy", "mtu", "certificate", "clock", "far end"];

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From which datacenter it was looked at; empty: from here.
    pub at: String,
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
        Self { at: String::new(), verdict, check, subject: subject.to_owned(), found, advice: advice.to_owned() }
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

/// A rule to ask of those who run the firewall, whole enough to be sent as it stands.
fn rule(protocol: &str, from: &str, to: &str) -> String {
    let from = if from.is_empty() { "this gateway".to_owned() } else { format!("this gateway ({from})") };
    let (host, port) = to.rsplit_once(':').unwrap_or((to, "443"));
    format!(
        "ask those who run the firewall: let {protocol} out from {from} to {host} port {port}, and the answers back in; nothing need be let in from outside"
    )
}

/// What an attempt failed of, where it is not the network.
fn distrust(why: &str) -> Option<&'static str> {
    let lower = why.to_ascii_lowercase();
    if lower.contains("inspect tls")
        || lower.contains("opens tls")
        || lower.contains("unknownissuer")
        || lower.contains("unknown issuer")
    {
        return Some(
            "something on the way opens TLS (inspection), or the two gateways have different authorities: ask those who run it to let this address through unopened, or issue both certificates from one authority",
        );
    }
    if lower.contains("clock of this machine") {
        return Some("set the clocks of both machines (NTP), or renew the certificate");
    }
    lower.contains("certificate").then_some(
        "packets pass, but one end does not believe the other's certificate: both need a gateway certificate of the same authority",
    )
}

/// How an attempt over UDP is judged: the round trip or the error.
fn udp(address: &str, from: &str, dialled: &Result<Duration, String>) -> Finding {
    match dialled {
        Ok(rtt) => {
            Finding::new(Verdict::Pass, "udp", address, format!("a QUIC handshake in {} ms", rtt.as_millis()), "")
        }
        Err(why) => match distrust(why) {
            Some(advice) => Finding::new(Verdict::Fail, "certificate", address, why.clone(), advice),
            None => Finding::new(Verdict::Fail, "udp", address, why.clone(), &rule("UDP", from, address)),
        },
    }
}

/// How TCP is judged: only in the way where UDP is, too.
fn tcp(address: &str, from: &str, dialled: &Result<Duration, String>, udp_passes: bool) -> Finding {
    match dialled {
        Ok(rtt) => {
            Finding::new(Verdict::Pass, "tcp", address, format!("connected, TLS done in {} ms", rtt.as_millis()), "")
        }
        Err(why) => match distrust(why) {
            Some(advice) => Finding::new(Verdict::Fail, "tcp", address, why.clone(), advice),
            None if udp_passes => Finding::new(
                Verdict::Skip,
                "tcp",
                address,
                format!("{why}; not needed while UDP passes"),
                &rule("TCP", from, address),
            ),
            None => Finding::new(Verdict::Fail, "tcp", address, why.clone(), &rule("TCP", from, address)),
        },
    }
}

/// How the proxy is judged, for an address that is to be dialled through it.
fn proxy(address: &str, proxy: &str, dialled: &Result<Duration, String>, needed: bool) -> Finding {
    match dialled {
        Ok(rtt) => {
            let found = format!("through {proxy}, TLS done in {} ms", rtt.as_millis());
            Finding::new(Verdict::Pass, "proxy", address, found, "")
        }
        Err(why) => {
            let own = format!(
                "ask those who run the proxy {proxy}: allow CONNECT to {address} from this gateway, without opening TLS, and let the tunnel stand when idle"
            );
            let advice = match distrust(why) {
                Some(advice) => advice,
                None if why.contains("407") => "correct user and password in gateway.proxy or HTTPS_PROXY",
                None => &own,
            };
            let verdict = if needed { Verdict::Fail } else { Verdict::Skip };
            Finding::new(verdict, "proxy", address, why.clone(), advice)
        }
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
        assert_eq!(udp("a:1", "", &Ok(day)).verdict, Pass);
        assert_eq!(udp("a:1", "", &Err("timed out".into())).check, "udp");
        let asked = udp("198.51.100.2:443", "10.1.0.2", &Err("timed out".into())).advice;
        assert!(asked.contains("UDP out from this gateway (10.1.0.2) to 198.51.100.2 port 443"), "{asked}");
        assert_eq!(udp("a:1", "", &Err("invalid peer certificate".into())).check, "certificate");
        assert_eq!(tcp("a:1", "", &Err("refused".into()), true).verdict, Skip);
        assert_eq!(tcp("a:1", "", &Err("refused".into()), false).verdict, Fail);
        assert_eq!(tcp("a:1", "", &Ok(day), false).verdict, Pass);
        let opened = tcp("a:1", "", &Err("something on the way may inspect TLS".into()), true);
        assert!(opened.verdict == Fail && opened.advice.contains("unopened"), "{opened:?}");
        assert!(proxy("a:1", "p:1", &Err("407".into()), true).advice.contains("password"));
        assert_eq!(proxy("a:1", "p:1", &Err("refused".into()), false).verdict, Skip);
        assert_eq!((mtu("a:1", 1200).verdict, mtu("a:1", 1199).verdict), (Pass, Fail));
        // Whatever fails says what to do.
        for finding in [clock("a", Some(i64::MAX)), udp("a", "", &Err(String::new())), mtu("a", 0)] {
            assert!(finding.verdict == Fail && !finding.advice.is_empty());
        }
    }
}
