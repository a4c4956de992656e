//! HTTP over a connection that is kept, with a patience of its own: a client of many small requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub code: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header that is a number.
    pub fn number(&self, name: &str) -> u64 {
        let found = self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        found.and_then(|(_, v)| v.parse().ok()).unwrap_or(0)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// It was never sent.
    Unsent,
    /// It was, or may have been; why is for a person to read.
    Unknown(#[allow(dead_code, reason = "shown when it is printed")] String),
}

pub struct Client {
    addr: SocketAddr,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(addr: SocketAddr, patience: Duration) -> Self {
        Self { addr, patience, stream: None }
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Silence> {
        let kept = self.stream.take();
        let mut stream = match kept {
            Some(stream) => stream,
            None => {
                let stream =
                    TcpStream::connect_timeout(&self.addr, Duration::from_secs(1)).map_err(|_| Silence::Unsent)?;
                let _ = stream.set_nodelay(true);
                BufReader::new(stream)
            }
        };
        match exchange(&mut stream, self.patience, method, path, body) {
            Ok((answer, keep)) => {
                self.stream = keep.then_some(stream);
                Ok(answer)
            }
            Err(error) => Err(Silence::Unknown(error.to_string())),
        }
    }
}

fn exchange(
    stream: &mut BufReader<TcpStream>,
    patience: Duration,
    method: &str,
    path: &str,
    body: &[u8],
) -> std::io::Result<(Answer, bool)> {
    stream.get_ref().set_read_timeout(Some(patience))?;
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: fire\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    stream.get_mut().write_all(&request)?;
    let mut line = String::new();
    let mut next = |stream: &mut BufReader<TcpStream>| {
        line.clear();
        match stream.read_line(&mut line)? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_owned()),
        }
    };
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let code = next(stream)?.split(' ').nth(1).and_then(|c| c.parse().ok()).ok_or_else(|| bad("no status"))?;
    let mut answer = Answer { code, headers: Vec::new(), body: Vec::new() };
    loop {
        let line = next(stream)?;
        if line.is_empty() {
            break;
        }
        answer.headers.extend(line.split_once(": ").map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
    let says = |name: &str, value: &str| {
        answer.headers.iter().any(|(k, v)| k.eq_ignore_ascii_case(name) && v.eq_ignore_ascii_case(value))
    };
    let keep = !says("connection", "close");
    if says("transfer-encoding", "chunked") {
        loop {
            let size = usize::from_str_radix(&next(stream)?, 16).map_err(|_| bad("no size of a chunk"))?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            answer.body.extend_from_slice(&chunk[..size]);
        }
    } else {
        answer.body = vec![0; usize::try_from(answer.number("content-length")).unwrap_or(0)];
        stream.read_exact(&mut answer.body)?;
    }
    Ok((answer, keep))
}
