//! What a name asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{Name, RecordType};

/// A question that was understood. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Instances of a service.
    Service {
        /// The service.
        name: String,
        /// Only those with this tag.
        tag: Option<String>,
        /// In this datacenter; `None`: the agent's own.
        dc: Option<String>,
    },
    /// A node.
    Node {
        /// The node; may hold dots.
        name: String,
        /// In this datacenter; `None`: the agent's own.
        dc: Option<String>,
    },
    /// A prepared query.
    Query {
        /// Its name or id; may hold dots.
        name: String,
        /// In this datacenter; `None`: the agent's own.
        dc: Option<String>,
    },
    /// An address spelled in hexadecimal digits; `None` where the digits are not an address.
    Addr(Option<IpAddr>),
    /// Who has this address.
    Ptr(IpAddr),
    /// The SOA record of the zone, asked of any name in it.
    Soa,
    /// The name servers of the zone, asked of any name in it.
    Ns,
    /// A name in the zone that can not exist.
    Missing,
    /// A name of somebody else's zone.
    Outside,
}

/// One form of names.
pub struct Form {
    /// As people write it; what is in `[]` may be left out.
    pub form: &'static str,
    /// One such name, below the domain `consul`.
    pub example: &'static str,
    /// The types of records that there are for it.
    pub types: &'static [RecordType],
    /// What is answered.
    pub says: &'static str,
}

const fn form(form: &'static str, example: &'static str, types: &'static [RecordType], says: &'static str) -> Form {
    Form { form, example, types, says }
}

const ADDRESSES: &[RecordType] = &[RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::CNAME];

/// Every form that [`parse`] understands, for the reference page; a test asks each example.
pub const FORMS: &[Form] = &[
    form(
        "[<tag>.]<service>.service[.<datacenter>[.dc]].<domain>",
        "v1.web.service.dc2.consul.",
        ADDRESSES,
        "Instances of a service that are not critical (`only_passing`: none in warning), in random order. A tag may hold dots. `any` as the datacenter: the nearest with healthy ones.",
    ),
    form(
        "_<service>._<tag>[.service][.<datacenter>[.dc]].<domain>",
        "_web._tcp.service.consul.",
        ADDRESSES,
        "The same in RFC 2782's spelling; the tag `_tcp` means none. Without `.service` SRV alone.",
    ),
    form(
        "<node>.node[.<datacenter>[.dc]].<domain>",
        "web-1.node.consul.",
        &[RecordType::A, RecordType::AAAA, RecordType::CNAME, RecordType::TXT],
        "A node's address, and its metadata as TXT (`key=value`; `rfc1035-` keys as the value alone).",
    ),
    form(
        "<query>.query[.<datacenter>[.dc]].<domain>",
        "nearest-web.query.consul.",
        ADDRESSES,
        "What a prepared query finds, by name, ID or template; the TTL is the query's own, if it has one.",
    ),
    form(
        "<hexadecimal digits>.addr.<datacenter>.<domain>",
        "0a000001.addr.dc1.consul.",
        &[RecordType::A, RecordType::AAAA],
        "The address that the digits spell: the target of an SRV record of an instance with an address of its own.",
    ),
    form(
        "<reversed address>.in-addr.arpa, .ip6.arpa",
        "1.0.0.10.in-addr.arpa.",
        &[RecordType::PTR],
        "Nodes and services with this address.",
    ),
    form(
        "<domain>, and any name below it",
        "consul.",
        &[RecordType::SOA, RecordType::NS],
        "The zone: its SOA, its name servers (three at most) with addresses.",
    ),
];

/// The zones this agent answers for; labels in lower case, from left to right.
#[derive(Debug, Clone, Default)]
pub struct Zones(Vec<Vec<String>>);

impl Zones {
    /// From `domain` and `alt_domain`; dots at the end do not matter, empty ones are left out.
    pub fn new(domains: &[&str]) -> Self {
        Self(
            domains
                .iter()
                .map(|d| d.to_lowercase().split('.').filter(|l| !l.is_empty()).map(str::to_owned).collect::<Vec<_>>())
                .filter(|z| !z.is_empty())
                .collect(),
        )
    }

    /// The labels before the zone; `None` where the name is in no zone of ours.
    fn strip<'a, 'b>(&self, labels: &'a [&'b str]) -> Option<&'a [&'b str]> {
        self.0.iter().find_map(|zone| {
            let cut = labels.len().checked_sub(zone.len())?;
            let (head, tail) = labels.split_at_checked(cut)?;
            tail.iter().eq(zone.iter()).then_some(head)
        })
    }
}

/// Understands a question.
pub fn parse(name: &Name, qtype: RecordType, zones: &Zones) -> Question {
    let lower: Vec<String> =
        name.iter().map(|l| String::from_utf8(l.to_ascii_lowercase()).unwrap_or_else(|_| ".".into())).collect();
    let labels: Vec<&str> = lower.iter().map(String::as_str).collect();
    let Some(labels) = zones.strip(&labels) else {
        return match reverse(&labels) {
            Some(ip) => Question::Ptr(ip),
            None => Question::Outside,
        };
    };
    match qtype {
        RecordType::SOA => return Question::Soa,
        RecordType::NS => return Question::Ns,
        _ => {}
    }
    // A dot inside a label (or bytes that are no text) would be taken for two labels further on.
    if labels.iter().any(|l| l.contains(['.', '/']) || l.contains(char::is_control)) {
        return Question::Missing;
    }
    in_zone(labels, qtype)
}

fn in_zone(labels: &[&str], qtype: RecordType) -> Question {
    let kind = labels
        .iter()
        .rposition(|l| matches!(*l, "service" | "connect" | "virtual" | "ingress" | "node" | "query" | "addr"));
    let Some(at) = kind else {
        // RFC 2782 lets `.service` away.
        return match (labels, qtype) {
            ([service, tag], RecordType::SRV) => rfc2782(service, tag, None),
            ([service, tag, dc], RecordType::SRV) => rfc2782(service, tag, Some((*dc).to_owned())),
            ([service, tag, dc, "dc"], RecordType::SRV) => rfc2782(service, tag, Some((*dc).to_owned())),
            _ => None,
        }
        .unwrap_or(Question::Missing);
    };
    let (before, rest) = labels.split_at(at);
    let dc = match rest {
        [_] => None,
        [_, dc] | [_, dc, "dc"] => Some((*dc).to_owned()),
        _ => return Question::Missing,
    };
    let Some((last, tags)) = before.split_last() else { return Question::Missing };
    match rest.first().copied() {
        Some("service") => {
            if let [service, tag] = before
                && let Some(question) = rfc2782(service, tag, dc.clone())
            {
                return question;
            }
            let tag = (!tags.is_empty()).then(|| tags.join("."));
            Question::Service { name: (*last).to_owned(), tag, dc }
        }
        Some("node") => Question::Node { name: before.join("."), dc },
        Some("query") => Question::Query { name: before.join("."), dc },
        // Of the length of an address but no address: a name that can not exist.
        Some("addr") if tags.is_empty() => match address(last) {
            None if [8, 32].contains(&last.len()) => Question::Missing,
            ip => Question::Addr(ip),
        },
        _ => Question::Missing,
    }
}

fn rfc2782(service: &str, tag: &str, dc: Option<String>) -> Option<Question> {
    let name = service.strip_prefix('_').filter(|n| !n.is_empty())?.to_owned();
    let tag = tag.strip_prefix('_')?;
    Some(Question::Service { name, tag: (tag != "tcp").then(|| tag.to_owned()), dc })
}

fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|n| Ipv4Addr::from(n).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|n| Ipv6Addr::from(n).into()),
        _ => None,
    }
}

/// An address as the first label of its `.addr.` name.
pub fn address_label(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    }
}

fn reverse(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, "in-addr", "arpa"] => {
            let octet = |s: &str| s.parse::<u8>().ok().filter(|_| s.len() <= 3 && !s.starts_with('+'));
            Some(Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?).into())
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let mut bits = 0_u128;
            for nibble in nibbles.iter().rev() {
                let digit = u128::from_str_radix(nibble, 16).ok().filter(|_| nibble.len() == 1)?;
                bits = bits << 4 | digit;
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, qtype: RecordType) -> Question {
        let zones = Zones::new(&["consul.", "alt.example"]);
        parse(&Name::from_ascii(name).unwrap(), qtype, &zones)
    }
    fn service(name: &str, tag: Option<&str>, dc: Option<&str>) -> Question {
        Question::Service { name: name.into(), tag: tag.map(Into::into), dc: dc.map(Into::into) }
    }
    fn node(name: &str, dc: Option<&str>) -> Question {
        Question::Node { name: name.into(), dc: dc.map(Into::into) }
    }

    #[test]
    fn the_forms_of_the_page_are_understood() {
        for form in FORMS {
            for qtype in form.types {
                let question = ask(form.example, *qtype);
                let known = !matches!(question, Question::Missing | Question::Outside | Question::Addr(None));
                assert!(known, "{} {qtype}: {question:?}", form.example);
            }
        }
    }

    #[test]
    fn every_form() {
        use RecordType::{A, NS, SOA, SRV};
        let table = [
            ("web.service.consul.", A, service("web", None, None)),
            ("WEB.Service.ConSul.", A, service("web", None, None)),
            ("web.service.alt.example.", A, service("web", None, None)),
            ("web.service.dc2.consul.", A, service("web", None, Some("dc2"))),
            ("web.service.dc2.dc.consul.", A, service("web", None, Some("dc2"))),
            ("v1.web.service.consul.", A, service("web", Some("v1"), None)),
            ("Prim.ary.web.service.dc1.consul.", A, service("web", Some("prim.ary"), Some("dc1"))),
            ("web.node.service.consul.", A, service("node", Some("web"), None)),
            ("_web._tcp.service.consul.", SRV, service("web", None, None)),
            ("_web._tcp.service.dc2.consul.", A, service("web", None, Some("dc2"))),
            ("_web._udp.service.consul.", SRV, service("web", Some("udp"), None)),
            ("_web._v1.consul.", SRV, service("web", Some("v1"), None)),
            ("_web._tcp.consul.", SRV, service("web", None, None)),
            ("_web._tcp.dc2.consul.", SRV, service("web", None, Some("dc2"))),
            ("_web._tcp.consul.", A, Question::Missing),
            ("web.tcp.consul.", SRV, Question::Missing),
            ("web.service.dc1.extra.consul.", A, Question::Missing),
            ("service.consul.", A, Question::Missing),
            ("service.dc1.consul.", A, Question::Missing),
            ("n1.node.consul.", A, node("n1", None)),
            ("dot.ted.node.dc1.consul.", A, node("dot.ted", Some("dc1"))),
            ("a.b.query.consul.", A, Question::Query { name: "a.b".into(), dc: None }),
            ("0a000001.addr.consul.", A, Question::Addr(Some([10, 0, 0, 1].into()))),
            ("0a000001.addr.dc9.consul.", A, Question::Addr(Some([10, 0, 0, 1].into()))),
            ("zz.addr.consul.", A, Question::Addr(None)),
            ("zz000001.addr.consul.", A, Question::Missing),
            ("x.0a000001.addr.consul.", A, Question::Missing),
            ("x.connect.consul.", A, Question::Missing),
            ("x.virtual.consul.", A, Question::Missing),
            ("x.ingress.consul.", A, Question::Missing),
            ("consul.", A, Question::Missing),
            ("consul.", SOA, Question::Soa),
            ("anything.below.consul.", SOA, Question::Soa),
            ("anything.below.consul.", NS, Question::Ns),
            ("www.example.com.", A, Question::Outside),
            ("www.example.com.", SOA, Question::Outside),
            ("notconsul.", A, Question::Outside),
            (".", A, Question::Outside),
            ("1.0.0.10.in-addr.arpa.", RecordType::PTR, Question::Ptr([10, 0, 0, 1].into())),
            ("256.0.0.10.in-addr.arpa.", RecordType::PTR, Question::Outside),
            ("0.0.10.in-addr.arpa.", RecordType::PTR, Question::Outside),
        ];
        for (name, qtype, want) in table {
            assert_eq!(ask(name, qtype), want, "{name} {qtype}");
        }
    }

    #[test]
    fn six() {
        let ip: Ipv6Addr = "fd00::1".parse().unwrap();
        let name = format!("{}.addr.consul.", address_label(ip.into()));
        assert_eq!(ask(&name, RecordType::AAAA), Question::Addr(Some(ip.into())));
        let reverse = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
        assert_eq!(ask(&reverse, RecordType::PTR), Question::Ptr(ip.into()));
        assert_eq!(address_label([10, 0, 0, 1].into()), "0a000001");
    }

    #[test]
    fn labels_with_dots_and_garbage_are_missing() {
        let zones = Zones::new(&["consul"]);
        for bad in [&b"we.b"[..], b"\xff\xfe", b"a/b", b"a\0b"] {
            let name = Name::from_labels([bad, b"service", b"consul"]).unwrap();
            assert_eq!(parse(&name, RecordType::A, &zones), Question::Missing, "{bad:?}");
        }
    }
}
