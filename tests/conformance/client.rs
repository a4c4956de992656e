//! Asking, and the answer as text that two products can be compared by.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use serde_json::Value;

use crate::harness::http::Answer;

/// A DNS question with what may go beside it.
pub struct Dig<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub tcp: bool,
    pub edns: Option<u16>,
    /// Whether only the numbers of records are of interest: which ones is chance.
    pub count: bool,
    /// Whether it goes over IPv6.
    pub v6: bool,
}

impl Dig<'_> {
    fn host(&self) -> &'static str {
        if self.v6 { "::1" } else { "127.0.0.1" }
    }
}

/// A GET over IPv6; the whole answer.
pub fn get_v6(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("::1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Asks, and gives the reply as lines.
pub fn dig(port: u16, dig: &Dig<'_>) -> Result<Vec<String>, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let kind = RecordType::from_str(dig.kind).map_err(|e| fail(&e))?;
    let mut name = Name::from_str(dig.name).map_err(|e| fail(&e))?;
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    if let Some(size) = dig.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.edns = Some(edns);
    }
    let question = message.to_vec().map_err(|e| fail(&e))?;
    let bytes = if dig.tcp { over_tcp(dig.host(), port, &question) } else { over_udp(dig.host(), port, &question) }
        .map_err(|e| fail(&e))?;
    let reply = Message::from_vec(&bytes).map_err(|e| fail(&e))?;
    let meta = &reply.metadata;
    let mut head = format!("{:?}", meta.response_code);
    for (flag, set) in [(" aa", meta.authoritative), (" tc", meta.truncation), (" ra", meta.recursion_available)] {
        head.push_str(if set { flag } else { "" });
    }
    if let Some(edns) = &reply.edns {
        head.push_str(&format!(" edns={}", edns.max_payload()));
    }
    let sections = [("answer", &reply.answers), ("authority", &reply.authorities), ("additional", &reply.additionals)];
    let mut lines = vec![head];
    for (section, records) in sections {
        if dig.count {
            lines.push(format!("{section} {}", records.len()));
            continue;
        }
        let mut found: Vec<String> = records.iter().map(|r| format!("{section} {}", record(r))).collect();
        found.sort();
        if section == "additional" {
            found.dedup();
        }
        lines.extend(found);
    }
    if dig.count && !dig.tcp {
        let limit = dig.edns.unwrap_or(512).max(512);
        lines.push(format!("fits {limit}: {}", bytes.len() <= usize::from(limit)));
    }
    Ok(lines)
}

fn record(record: &Record) -> String {
    let data = match &record.data {
        // The serial is the time.
        RData::SOA(soa) => {
            format!("{} {} <time> {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum)
        }
        other => other.to_string(),
    };
    let class = if record.dns_class == DNSClass::IN { String::new() } else { format!("{} ", record.dns_class) };
    format!("{} {} {class}{} {data}", record.name, record.ttl, record.record_type())
}

const PATIENCE: Duration = Duration::from_secs(5);

fn over_udp(host: &str, port: u16, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((host, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((host, port))?;
    socket.send(question)?;
    let mut buffer = vec![0u8; 65_535];
    let n = socket.recv(&mut buffer)?;
    buffer.truncate(n);
    Ok(buffer)
}

fn over_tcp(host: &str, port: u16, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes())?;
    stream.write_all(question)?;
    let mut len = [0u8; 2];
    stream.read_exact(&mut len)?;
    let mut buffer = vec![0u8; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut buffer)?;
    Ok(buffer)
}

/// An HTTP answer as lines: the code, the headers that carry meaning, and the body with what differs from run to run replaced.
pub fn show(answer: &Answer, ordered: bool, replace: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut head = answer.code.to_string();
    if let Some(index) = answer.header("x-consul-index").filter(|_| answer.code < 500 && answer.code != 403) {
        head.push_str(if index == "0" { " index=0" } else { " index" });
    }
    for name in ["Allow", "X-Consul-Effective-Consistency", "X-Consul-Reason", "X-Content-Type-Options", "X-Cache"] {
        if let Some(value) = answer.header(name) {
            head.push_str(&format!(" {name}={}", value.replace(' ', "_")));
        }
    }
    if let Some(kind) = answer.header("content-type") {
        head.push_str(&format!(" {}", kind.split(';').next().unwrap_or_default()));
    }
    let mut lines = vec![head];
    let text = replace(&answer.text());
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() || value.is_array() => {
            let value = settle(value, ordered);
            match &value {
                Value::Array(items) if !items.is_empty() => lines.extend(items.iter().map(|v| format!("- {v}"))),
                Value::Object(map) if map.len() > 1 && map.values().all(Value::is_object) => {
                    lines.extend(map.iter().map(|(k, v)| format!("{k}: {v}")));
                }
                other => lines.push(other.to_string()),
            }
        }
        _ => lines.extend(explanation(&text).trim_end_matches('\n').lines().map(str::to_owned)),
    }
    lines
}

/// `current modify index 57 != 1` says an index.
fn without_index(what: &str) -> String {
    match what.split_once("current modify index ") {
        Some((before, after)) => {
            format!("{before}current modify index <n>{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => what.to_owned(),
    }
}

/// An error's text without the two parts that `differences.rs` lists as general.
fn explanation(text: &str) -> String {
    let mut text = text;
    while let Some(rest) = text.strip_prefix("rpc error making call: ") {
        text = rest;
    }
    for cut in ["decode failed: ", "Failed to parse body: "] {
        if let Some(at) = text.find(cut) {
            return format!("{}<reason>", &text[..at + cut.len()]);
        }
    }
    if let Some((before, _)) = text.split_once("(reset index: ") {
        return format!("{}(reset index: <n>)", before.replace("rpc error making call: ", ""));
    }
    text.to_owned()
}

/// Keys in order, indexes and generated ids replaced; lists of objects in order unless their order is the point.
fn settle(value: Value, ordered: bool) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            // Names with their tags: Consul gives the tags in any order.
            let texts = |v: &Value| v.as_array().is_some_and(|items| items.iter().all(Value::is_string));
            if !ordered && entries.iter().all(|(_, value)| texts(value)) {
                for items in entries.iter_mut().filter_map(|(_, value)| value.as_array_mut()) {
                    items.sort_by_key(ToString::to_string);
                }
            }
            let settled = entries.into_iter().map(|(key, value)| {
                let value = match (key.as_str(), &value) {
                    ("CreateIndex" | "ModifyIndex", Value::Number(n)) if n.as_u64() != Some(0) => Value::from("<n>"),
                    ("LTime", Value::Number(n)) if n.as_u64() != Some(0) => Value::from("<n>"),
                    ("ContentHash", _) => Value::from("<hash>"),
                    ("Hash", Value::String(hash)) if hash.len() == 44 => Value::from("<hash>"),
                    ("CreateTime", Value::String(_)) => Value::from("<time>"),
                    ("What", Value::String(what)) => Value::from(without_index(what)),
                    _ => settle(value, ordered),
                };
                (key, value)
            });
            Value::Object(settled.collect())
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(|v| settle(v, ordered)).collect();
            if !ordered && items.iter().all(Value::is_object) {
                items.sort_by_key(ToString::to_string);
            }
            Value::Array(items)
        }
        other => other,
    }
}
