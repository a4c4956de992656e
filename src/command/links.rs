//! What `federation status -detailed` prints of each link.

use serde_json::Value;

use super::{api, columns};

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// Microseconds as milliseconds; `-`: not known.
pub fn milliseconds(us: &Value) -> String {
    match us.as_u64() {
        None | Some(0) => "-".to_owned(),
        Some(us) => format!("{}.{} ms", us / 1000, us % 1000 / 100),
    }
}

/// Milliseconds as an age.
pub fn age(ms: &Value) -> String {
    let seconds = ms.as_u64().unwrap_or(0) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Lost packets of those sent, and their share.
fn loss(link: &Value) -> String {
    match (link["LostPackets"].as_u64(), link["SentPackets"].as_u64()) {
        (Some(lost), Some(sent)) => {
            let per_mille = lost.saturating_mul(1000) / sent.max(1);
            format!("{}.{} % ({lost})", per_mille / 10, per_mille % 10)
        }
        _ => "-".to_owned(),
    }
}

fn bytes(value: &Value) -> String {
    let n = value.as_u64().unwrap_or(0);
    match n {
        0..10_000 => n.to_string(),
        10_000..10_000_000 => format!("{}k", n / 1000),
        10_000_000..10_000_000_000 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

fn both_ways(link: &Value, class: &str) -> String {
    let of = &link["Bytes"][class];
    format!("{} / {}", bytes(&of["Sent"]), bytes(&of["Received"]))
}

fn transport(link: &Value) -> String {
    let via = api::text(link, "Via");
    let name = api::text(link, "Transport");
    if via.is_empty() { name } else { format!("{name} via {via}") }
}

/// Tables of all links, and a line of reasons for each; `sites`: of `/v1/internal/federation`.
pub fn tables(sites: &[Value]) -> String {
    let head = |names: &[&str]| vec![names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()];
    let mut lines = head(&[
        "Link",
        "Datacenter",
        "Gateway",
        "Transport",
        "State",
        "Use",
        "Dialled by",
        "Far end",
        "Up for",
        "RTT",
        "Lost",
        "MTU",
        "Migrations",
        "Fallbacks",
        "Skew",
    ]);
    let mut volume = head(&[
        "Link",
        "Datacenter",
        "Transport",
        "Calls",
        "Calls' bytes sent / received",
        "Gossip",
        "Relayed",
        "Packets",
        "Congestion",
        "Window",
        "Black holes",
    ]);
    let mut reasons = String::new();
    for site in sites {
        let datacenter = api::text(site, "Datacenter");
        for link in site["Links"].as_array().into_iter().flatten() {
            let id = number(&link["ID"]);
            lines.push(vec![
                id.clone(),
                datacenter.clone(),
                api::text(link, "Gateway"),
                transport(link),
                api::text(link, "State"),
                if link["Chosen"] == true { "calls" } else { "-" }.to_owned(),
                if link["Dialled"] == true { "us" } else { "them" }.to_owned(),
                api::text(link, "Remote"),
                age(&link["AgeMs"]),
                milliseconds(&link["RttUs"]),
                loss(link),
                number(&link["MtuBytes"]),
                number(&link["Migrations"]),
                number(&link["Fallbacks"]),
                link["ClockSkewMs"].as_i64().map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
            ]);
            volume.push(vec![
                id.clone(),
                datacenter.clone(),
                transport(link),
                number(&link["Calls"]),
                both_ways(link, "RPC"),
                both_ways(link, "Gossip"),
                both_ways(link, "Relay"),
                number(&link["SentPackets"]),
                number(&link["CongestionEvents"]),
                link["CwndBytes"].as_u64().map_or_else(|| "-".to_owned(), |_| bytes(&link["CwndBytes"])),
                number(&link["BlackHoles"]),
            ]);
            let (reason, standing) = (api::text(link, "Reason"), api::text(link, "Standing"));
            reasons.push_str(&format!("  {id}  {datacenter}, {}: {reason} ({standing})\n", transport(link)));
            if link["Fallbacks"].as_u64().unwrap_or(0) > 0 {
                let (why, ago) = (api::text(link, "FallbackReason"), age(&link["FallbackMs"]));
                reasons.push_str(&format!("     last fallback {ago} ago: {why}\n"));
            }
            let error = api::text(link, "LastError");
            if !error.is_empty() {
                reasons.push_str(&format!("     last error: {error}\n"));
            }
        }
    }
    if lines.len() == 1 {
        return "no links\n".to_owned();
    }
    format!("{}\n{}\nWhy:\n{reasons}", columns(&lines), columns(&volume))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let quic = json!({"ID": 1, "Gateway": "g", "Transport": "quic", "State": "up", "Chosen": true, "Dialled": true,
            "Remote": "10.0.0.1:443", "AgeMs": 5000, "RttUs": 20_500, "LostPackets": 15, "SentPackets": 1000, "MtuBytes": 1452,
            "Migrations": 0, "Fallbacks": 0, "ClockSkewMs": -3, "Reason": "UDP answered first, in 3 ms",
            "Standing": "the direct link", "Bytes": {"RPC": {"Sent": 12_345, "Received": 7}}});
        let tcp = json!({"ID": 2, "Gateway": "g", "Transport": "tcp", "State": "up", "Fallbacks": 2, "FallbackMs": 600_000,
            "FallbackReason": "quic: no answer to probes", "Reason": "r", "Standing": "s"});
        let text = tables(&[json!({"Datacenter": "dc2", "Links": [quic, tcp]})]);
        let line = |n: usize| text.lines().nth(n).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line(1), "1 dc2 g quic up calls us 10.0.0.1:443 5s 20.5 ms 1.5 % (15) 1452 0 0 -3 ms");
        assert_eq!(line(2), "2 dc2 g tcp up - them 0s - - - - 2 -");
        assert!(text.contains("12k / 7"), "{text}");
        assert!(text.contains("last fallback 10m ago: quic: no answer to probes"), "{text}");
        assert_eq!(tables(&[json!({"Datacenter": "dc1", "Links": []})]), "no links\n");
    }
}
