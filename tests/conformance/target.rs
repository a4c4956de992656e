//! What checks of the scripts ask: a server of HTTP on this machine. `/CODE` answers with that status, `/hang` not at all, `/to/CODE`
//! points at `/CODE`; the body says method, path, `X-Test` and the body of the request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;

/// Its port; it runs from the first time this is asked.
pub fn port() -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        port
    })
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    let (head, body) = loop {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |name: &str| {
            head.lines().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
        };
        if body.len() >= field("content-length").map_or(0, |n| n.parse().unwrap_or(0)) {
            let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
            break (format!("{line} {}", field("x-test").unwrap_or("-")), body.to_owned());
        }
    };
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (code, more) = match path.strip_prefix("/to/") {
        Some(code) => ("302", format!("Location: /{code}\r\n")),
        None if path == "/hang" => {
            // Until who asks has had enough.
            let _ = stream.read(&mut piece);
            return None;
        }
        None => (path.trim_start_matches('/'), String::new()),
    };
    let text = format!("{head} {body}");
    let length = text.len();
    let reason = match code {
        "200" => "OK",
        "204" => "No Content",
        "302" => "Found",
        "404" => "Not Found",
        "429" => "Too Many Requests",
        "500" => "Internal Server Error",
        _ => "Service Unavailable",
    };
    let content = if code == "204" { String::new() } else { format!("Content-Length: {length}\r\n") };
    let _ = write!(
        stream,
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain\r\n{content}{more}Connection: close\r\n\r\n"
    );
    if code != "204" {
        let _ = stream.write_all(text.as_bytes());
    }
    Some(())
}
