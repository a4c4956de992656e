//! Address templates, as Consul's files have them: `{{ GetPrivateIP }}`, `{{ GetAllInterfaces | include "network" "10.0.0.0/8" |
//! attr "address" }}`. What they are evaluated over is an argument; [`host`] asks this machine.

use std::cmp::Ordering;
use std::net::IpAddr;

/// An address of this machine and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network.
    pub bits: u8,
    /// Whether the interface is up.
    pub up: bool,
    /// Whether packets to the world leave through it.
    pub default: bool,
}

/// Why a template gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be read.
    #[error("{0}")]
    Wrong(String),
    /// It gives no address on this machine.
    #[error("gives no address on this machine, which has {0}")]
    Nothing(String),
}

fn wrong<T>(what: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::Wrong(what.into()))
}

/// The addresses of this machine. `outward`: the one that it reaches others from.
pub fn host(outward: IpAddr) -> Vec<Interface> {
    let mut found: Vec<Interface> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .map(|i| Interface {
            up: i.oper_status != if_addrs::IfOperStatus::Down,
            ip: i.ip(),
            bits: match &i.addr {
                if_addrs::IfAddr::V4(v4) => v4.prefixlen,
                if_addrs::IfAddr::V6(v6) => v6.prefixlen,
            },
            name: i.name,
            default: false,
        })
        .collect();
    let name = found.iter().find(|i| i.ip == outward && !outward.is_loopback()).map(|i| i.name.clone());
    for interface in &mut found {
        interface.default = Some(&interface.name) == name.as_ref();
    }
    found
}

/// Fills in the templates of a text; one without any is given back as it is.
pub fn expand(text: &str, interfaces: &[Interface]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut rest = text;
    let mut any = false;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((inner, after)) = after.split_once("}}") else { return wrong("has a {{ without }}") };
        out.push_str(&pipeline(inner.trim_matches('-'), interfaces)?);
        rest = after;
        any = true;
    }
    out.push_str(rest);
    let out = out.trim();
    if any && out.is_empty() {
        let all: Vec<String> = interfaces.iter().map(|i| format!("{} ({})", i.ip, i.name)).collect();
        return Err(TemplateError::Nothing(if all.is_empty() { "none".to_owned() } else { all.join(", ") }));
    }
    Ok(out.to_owned())
}

/// What goes through a pipeline.
enum Item {
    Interfaces(Vec<Interface>),
    Text(String),
}

fn pipeline(text: &str, all: &[Interface]) -> Result<String, TemplateError> {
    let mut item = None;
    for words in commands(text)? {
        item = Some(command(&words, item, all)?);
    }
    match item {
        Some(Item::Text(text)) => Ok(text),
        Some(Item::Interfaces(_)) => {
            wrong("gives interfaces: end it with | attr \"address\" or | join \"address\" \" \"")
        }
        None => wrong("has an empty {{ }}"),
    }
}

/// The words of each command, quotes taken off.
fn commands(text: &str) -> Result<Vec<Vec<String>>, TemplateError> {
    let mut out = vec![Vec::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(last) = out.last_mut() else { break };
        match c {
            c if c.is_whitespace() => {}
            '|' => out.push(Vec::new()),
            '"' | '`' => {
                let mut word = String::new();
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some(escaped @ ('"' | '\\')) => word.push(escaped),
                            // Of a pattern, such as `\.`.
                            Some(other) => word.extend(['\\', other]),
                            None => return wrong("has a text without its end"),
                        },
                        Some(other) => word.push(other),
                        None => return wrong("has a text without its end"),
                    }
                }
                last.push(word);
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !matches!(c, '|' | '"' | '`')) {
                    word.push(c);
                }
                last.push(word);
            }
        }
    }
    Ok(out)
}

fn command(words: &[String], input: Option<Item>, all: &[Interface]) -> Result<Item, TemplateError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ips = |list: Vec<Interface>| Item::Text(join(&list, |i| i.ip.to_string(), " "));
    let first = |list: Vec<Interface>| Item::Text(list.first().map(|i| i.ip.to_string()).unwrap_or_default());
    let source = match *words.as_slice() {
        ["GetAllInterfaces" | "."] => Some(Item::Interfaces(all.to_vec())),
        ["GetDefaultInterfaces"] => Some(Item::Interfaces(all.iter().filter(|i| i.default).cloned().collect())),
        ["GetPrivateInterfaces"] => Some(Item::Interfaces(forwarded(all, true))),
        ["GetPublicInterfaces"] => Some(Item::Interfaces(forwarded(all, false))),
        ["GetPrivateIP"] => Some(first(forwarded(all, true))),
        ["GetPrivateIPs"] => Some(ips(forwarded(all, true))),
        ["GetPublicIP"] => Some(first(forwarded(all, false))),
        ["GetPublicIPs"] => Some(ips(forwarded(all, false))),
        ["GetInterfaceIP", name] => Some(first(named(all, name)?)),
        ["GetInterfaceIPs", name] => Some(ips(named(all, name)?)),
        [] => return wrong("has an empty step"),
        _ => None,
    };
    if let Some(source) = source {
        return if input.is_none() { Ok(source) } else { wrong(format!("has {} after a |", words.join(" "))) };
    }
    let mut list = match input {
        Some(Item::Interfaces(list)) => list,
        Some(Item::Text(_)) => return wrong(format!("gives text to {}, which takes interfaces", words.join(" "))),
        None => return wrong(format!("begins with {}, which Causeway does not know", words.join(" "))),
    };
    let count = |n: &str| n.parse::<usize>().map_err(|_| TemplateError::Wrong(format!("has {n:?} for a number")));
    Ok(Item::Interfaces(match *words.as_slice() {
        ["attr", name] => {
            let attribute = attribute(name)?;
            return Ok(Item::Text(list.first().map(attribute).unwrap_or_default()));
        }
        ["join", name, between] => return Ok(Item::Text(join(&list, attribute(name)?, between))),
        ["include", by, what] => {
            let keep = selector(by, what)?;
            list.retain(|i| keep(i));
            list
        }
        ["exclude", by, what] => {
            let drop = selector(by, what)?;
            list.retain(|i| !drop(i));
            list
        }
        ["sort", by] => {
            sort(&mut list, by)?;
            list
        }
        ["limit", n] => {
            list.truncate(count(n)?);
            list
        }
        ["offset", n] => {
            let n = count(n)?.min(list.len());
            list.split_off(n)
        }
        ["unique", by] => {
            let attribute = attribute(by)?;
            list.dedup_by_key(|i| attribute(i));
            list
        }
        _ => {
            return wrong(format!(
                "has {}; after a | come include, exclude, sort, limit, offset, unique, attr and join",
                words.join(" ")
            ));
        }
    }))
}

fn join(list: &[Interface], what: impl Fn(&Interface) -> String, between: &str) -> String {
    list.iter().map(what).collect::<Vec<_>>().join(between)
}

/// Addresses that others can be told, private ones or the rest; those with the default route first, IPv4 before IPv6, large networks
/// before small ones.
fn forwarded(all: &[Interface], private: bool) -> Vec<Interface> {
    let fits = |i: &&Interface| i.up && forwardable(i.ip) && is_of("6890", i.ip) == Some(private);
    let mut list: Vec<Interface> = all.iter().filter(fits).cloned().collect();
    list.sort_by(|a, b| {
        b.default.cmp(&a.default).then(a.ip.is_ipv6().cmp(&b.ip.is_ipv6())).then_with(|| by_size(a, b))
    });
    list
}

fn named(all: &[Interface], name: &str) -> Result<Vec<Interface>, TemplateError> {
    let fits = pattern(name)?;
    let mut list: Vec<Interface> =
        all.iter().filter(|i| fits.is_match(&i.name) && forwardable_or_only(all, i, &fits)).cloned().collect();
    list.sort_by(|a, b| a.ip.is_ipv6().cmp(&b.ip.is_ipv6()).then_with(|| by_size(a, b)));
    Ok(list)
}

/// Link-local addresses are left out; loopback has nothing else, and is meant when it is named.
fn forwardable_or_only(all: &[Interface], one: &Interface, fits: &regex::Regex) -> bool {
    forwardable(one.ip) || !all.iter().any(|i| fits.is_match(&i.name) && forwardable(i.ip))
}

fn by_size(a: &Interface, b: &Interface) -> Ordering {
    if a.ip.is_ipv4() == b.ip.is_ipv4() { a.bits.cmp(&b.bits) } else { Ordering::Equal }
}

fn sort(list: &mut [Interface], by: &str) -> Result<(), TemplateError> {
    let mut keys = Vec::new();
    for key in by.split(',').map(str::trim) {
        let (down, name) = match key.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, key.strip_prefix('+').unwrap_or(key)),
        };
        let compare: fn(&Interface, &Interface) -> Ordering = match name.to_ascii_lowercase().as_str() {
            // Addresses of two kinds have no order.
            "address" => |a, b| if a.ip.is_ipv4() == b.ip.is_ipv4() { a.ip.cmp(&b.ip) } else { Ordering::Equal },
            "default" => |a, b| b.default.cmp(&a.default),
            "name" => |a, b| a.name.cmp(&b.name),
            "private" => |a, b| is_of("6890", b.ip).cmp(&is_of("6890", a.ip)),
            "size" => by_size,
            "type" => |a, b| a.ip.is_ipv6().cmp(&b.ip.is_ipv6()),
            _ => return wrong(format!("sorts by {name:?}; it can be address, default, name, private, size or type")),
        };
        keys.push((down, compare));
    }
    list.sort_by(|a, b| {
        let each = keys.iter().map(|(down, compare)| if *down { compare(b, a) } else { compare(a, b) });
        each.fold(Ordering::Equal, Ordering::then)
    });
    Ok(())
}

type Attribute = fn(&Interface) -> String;

fn attribute(name: &str) -> Result<Attribute, TemplateError> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "address" | "host" => |i| i.ip.to_string(),
        "name" => |i| i.name.clone(),
        "type" => |i| if i.ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        "mask_bits" => |i| i.bits.to_string(),
        "network" => |i| format!("{}/{}", masked(i.ip, i.bits), i.bits),
        "string" => |i| format!("{}/{}", i.ip, i.bits),
        _ => return wrong(format!("asks for {name:?}; it can be address, name, network, mask_bits, string or type")),
    })
}

type Selector = Box<dyn Fn(&Interface) -> bool>;

fn selector(by: &str, what: &str) -> Result<Selector, TemplateError> {
    let each = || what.split('|').map(|w| w.trim().to_ascii_lowercase());
    Ok(match by.to_ascii_lowercase().as_str() {
        "name" => {
            let fits = pattern(what)?;
            Box::new(move |i| fits.is_match(&i.name))
        }
        "address" => {
            let fits = pattern(what)?;
            Box::new(move |i| fits.is_match(&format!("{}/{}", i.ip, i.bits)) || fits.is_match(&i.ip.to_string()))
        }
        "network" => {
            let nets: Vec<(IpAddr, u8)> = each().map(|net| network(&net)).collect::<Result<_, _>>()?;
            Box::new(move |i| nets.iter().any(|net| holds(*net, i.ip)))
        }
        "rfc" | "rfcs" => {
            let rfcs: Vec<String> = each().collect();
            if let Some(unknown) = rfcs.iter().find(|rfc| networks_of(rfc).is_none()) {
                return wrong(format!("names RFC {unknown:?}; it can be 1918, 3927, 4193, 6598 or 6890"));
            }
            Box::new(move |i| rfcs.iter().any(|rfc| is_of(rfc, i.ip) == Some(true)))
        }
        "type" => {
            let types: Vec<String> = each().collect();
            if let Some(unknown) = types.iter().find(|t| !matches!(t.as_str(), "ip" | "ipv4" | "ipv6" | "unix")) {
                return wrong(format!("names the type {unknown:?}; it can be ip, ipv4 or ipv6"));
            }
            let own = |i: &Interface| if i.ip.is_ipv4() { "ipv4" } else { "ipv6" };
            Box::new(move |i| types.iter().any(|t| t == "ip" || t == own(i)))
        }
        "size" => {
            let bits: u8 = what.parse().or_else(|_| wrong(format!("has {what:?} for the bits of a network")))?;
            Box::new(move |i| i.bits == bits)
        }
        "flag" | "flags" => {
            let tests = each().map(|flag| flag_test(&flag)).collect::<Result<Vec<_>, _>>()?;
            Box::new(move |i| tests.iter().any(|test| test(i)))
        }
        _ => return wrong(format!("selects by {by:?}; it can be address, flag, name, network, rfc, size or type")),
    })
}

fn flag_test(flag: &str) -> Result<fn(&Interface) -> bool, TemplateError> {
    Ok(match flag {
        "up" => |i| i.up,
        "down" => |i| !i.up,
        "loopback" => |i| i.ip.is_loopback(),
        "forwardable" => |i| forwardable(i.ip),
        "link-local unicast" => |i| link_local(i.ip),
        "global unicast" => {
            |i| !(i.ip.is_loopback() || i.ip.is_unspecified() || i.ip.is_multicast() || link_local(i.ip))
        }
        _ => {
            return wrong(format!(
                "names the flag {flag:?}; it can be up, down, loopback, forwardable, global unicast or link-local unicast"
            ));
        }
    })
}

fn pattern(text: &str) -> Result<regex::Regex, TemplateError> {
    regex::RegexBuilder::new(text)
        .size_limit(1 << 20)
        .build()
        .or_else(|_| wrong(format!("has {text:?}, which is no regular expression")))
}

fn network(text: &str) -> Result<(IpAddr, u8), TemplateError> {
    let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let read = || {
        let ip: IpAddr = ip.parse().ok()?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some((ip, bits))
    };
    read().ok_or_else(|| TemplateError::Wrong(format!("has {text:?}; write a network as \"10.0.0.0/8\"")))
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// Whether a network holds an address.
pub fn holds((net, bits): (IpAddr, u8), ip: IpAddr) -> bool {
    net.is_ipv4() == ip.is_ipv4() && masked(ip, bits) == masked(net, bits)
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Networks of RFC 6890 (special purposes) that routers do not forward.
const NOT_FORWARDED: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "2001:db8::/32",
    "2001:10::/28",
    "fe80::/10",
    "ff00::/8",
];

/// Networks that some RFCs reserve.
fn networks_of(rfc: &str) -> Option<&'static [&'static str]> {
    Some(match rfc {
        "1918" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        "3927" => &["169.254.0.0/16"],
        "4193" => &["fc00::/7"],
        "6598" => &["100.64.0.0/10"],
        "6890" => &[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "::/128",
            "::1/128",
            "64:ff9b::/96",
            "::ffff:0:0/96",
            "100::/64",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "fc00::/7",
            "fe80::/10",
        ],
        _ => return None,
    })
}

fn among(networks: &[&str], ip: IpAddr) -> bool {
    networks.iter().filter_map(|net| network(net).ok()).any(|net| holds(net, ip))
}

fn forwardable(ip: IpAddr) -> bool {
    !among(NOT_FORWARDED, ip)
}

fn is_of(rfc: &str, ip: IpAddr) -> Option<bool> {
    Some(among(networks_of(rfc)?, ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<Interface> {
        [
            ("lo", "127.0.0.1", 8, false),
            ("lo", "::1", 128, false),
            ("eth0", "10.1.2.3", 16, true),
            ("eth0", "fd00::3", 64, true),
            ("eth0", "fe80::3", 64, true),
            ("eth1", "192.168.7.3", 24, false),
            ("eth2", "8.8.4.4", 29, false),
            ("docker0", "172.17.0.1", 16, false),
        ]
        .map(|(name, ip, bits, default)| Interface {
            name: name.to_owned(),
            ip: ip.parse().unwrap(),
            bits,
            up: true,
            default,
        })
        .to_vec()
    }

    #[test]
    fn what_files_of_the_field_say() {
        for (template, wanted) in [
            ("10.0.0.1", "10.0.0.1"),
            ("{{ GetPrivateIP }}", "10.1.2.3"),
            ("{{GetPublicIP}}", "8.8.4.4"),
            ("{{ GetPrivateIPs }}", "10.1.2.3 fd00::3 172.17.0.1 192.168.7.3"),
            ("127.0.0.1 {{ GetPrivateIP }}", "127.0.0.1 10.1.2.3"),
            (r#"{{ GetInterfaceIP "eth0" }}"#, "10.1.2.3"),
            (r#"{{ GetInterfaceIPs "eth0" }}"#, "10.1.2.3 fd00::3"),
            (r#"{{ GetInterfaceIP "lo" }}"#, "127.0.0.1"),
            (r#"{{ GetAllInterfaces | include "network" "192.168.0.0/16" | attr "address" }}"#, "192.168.7.3"),
            (r#"{{ GetAllInterfaces | include "name" "^eth1$" | attr "address" }}"#, "192.168.7.3"),
            (r#"{{ GetAllInterfaces | include "name" `^docker\d` | attr "name" }}"#, "docker0"),
            (
                r#"{{ GetPrivateInterfaces | exclude "name" "docker.*" | join "address" " " }}"#,
                "10.1.2.3 fd00::3 192.168.7.3",
            ),
            (
                r#"{{ GetPrivateInterfaces | include "type" "IPv4" | sort "-size" | limit 1 | attr "address" }}"#,
                "192.168.7.3",
            ),
            (
                r#"{{ GetPrivateInterfaces | exclude "type" "ipv6" | sort "-address" | offset 1 | attr "address" }}"#,
                "172.17.0.1",
            ),
            (r#"{{ GetDefaultInterfaces | include "rfc" "1918|6598" | attr "network" }}"#, "10.1.0.0/16"),
            (
                r#"{{ GetAllInterfaces | include "flags" "loopback" | sort "type,name" | attr "string" }}"#,
                "127.0.0.1/8",
            ),
            (r#"{{ GetAllInterfaces | exclude "flag" "forwardable" | unique "name" | join "name" "," }}"#, "lo,eth0"),
            (r#"{{ . | include "size" "29" | attr "mask_bits" }}"#, "29"),
        ] {
            assert_eq!(expand(template, &machine()).as_deref(), Ok(wanted), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        for (template, wanted) in [
            ("{{ GetPrivateIP", "without }}"),
            ("{{ }}", "empty"),
            ("{{ GetFoo }}", "GetFoo"),
            ("{{ GetAllInterfaces }}", "attr"),
            (r#"{{ GetAllInterfaces | include "nme" "x" }}"#, "nme"),
            (r#"{{ GetAllInterfaces | include "name" "(" }}"#, "regular expression"),
            (r#"{{ GetAllInterfaces | include "network" "10.0.0.0/40" }}"#, "10.0.0.0/8"),
            (r#"{{ GetAllInterfaces | include "rfc" "1" }}"#, "1918"),
            (r#"{{ GetAllInterfaces | sort "x" }}"#, "default"),
            (r#"{{ GetAllInterfaces | limit x }}"#, "number"),
            (r#"{{ GetAllInterfaces | attr "addres" }}"#, "addres"),
            (r#"{{ GetAllInterfaces | attr "x }}"#, "without its end"),
            (r#"{{ GetPrivateIP | attr "address" }}"#, "text"),
            ("{{ GetAllInterfaces | GetPrivateIP }}", "after a |"),
            (r#"{{ GetInterfaceIP "eth9" }}"#, "10.1.2.3 (eth0)"),
        ] {
            let error = expand(template, &machine()).unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains('\n'), "{template}: {error}");
        }
        assert!(expand("{{ GetPublicIP }}", &[]).unwrap_err().to_string().ends_with("has none"));
    }

    #[test]
    fn this_machine_has_loopback() {
        let host = host("127.0.0.1".parse().unwrap());
        assert!(host.iter().any(|i| i.ip.is_loopback() && i.up), "{host:?}");
        assert!(host.iter().all(|i| !i.default));
    }
}
