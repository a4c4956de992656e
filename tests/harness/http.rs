//! HTTP as a plain client speaks it: one connection a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Answer {
    /// 0: no answer; the body says why.
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Result<Value, String> {
        if self.code != 200 {
            return Err(format!("{} {}", self.code, self.text()));
        }
        serde_json::from_slice(&self.body).map_err(|e| format!("{e}: {}", self.text()))
    }

    pub fn ok(self) -> Result<Self, String> {
        if self.code == 200 { Ok(self) } else { Err(format!("{} {}", self.code, self.text())) }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn index(&self) -> u64 {
        self.header("x-consul-index").and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

/// Asks once; no answer within 20 s is an answer of code 0.
pub fn request(port: u16, method: &str, path: &str, body: &[u8]) -> Answer {
    request_with(port, method, path, &[], body)
}

/// The same, with headers.
pub fn request_with(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    exchange(port, method, path, headers, body).unwrap_or_else(|e| Answer {
        code: 0,
        headers: Vec::new(),
        body: e.into_bytes(),
    })
}

fn exchange(port: u16, method: &str, path: &str, more: &[(&str, &str)], body: &[u8]) -> Result<Answer, String> {
    let io = |e: std::io::Error| e.to_string();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(2)).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(io)?;
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).map_err(io)?;
    // An answer may come before the whole body is read, and a reset after it.
    let written = stream.write_all(body);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        written.map_err(io)?;
        read.map_err(io)?;
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no end of the head")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let code = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).ok_or("no status")?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let mut body = bytes[end + 4..].to_vec();
    if headers.iter().any(|(k, v)| k.eq_ignore_ascii_case("transfer-encoding") && v.eq_ignore_ascii_case("chunked")) {
        body = unchunk(&body).ok_or("bad chunks")?;
    }
    Ok(Answer { code, headers, body })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.trim(), 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}
