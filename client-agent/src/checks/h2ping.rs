//! Sends an HTTP/2 ping (RFC 9113, 6.7). Runs inside the driver's deadline.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Outcome;
use super::http::Tls;
use super::tcp::dial_error;
use crate::registry::Status;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MARK: &[u8; 8] = b"causeway";
/// Frames that are read before the answer; a server sends its settings and little else.
const FRAMES: usize = 32;
/// Bytes of a frame that is read (the limit that holds where nobody asked for more).
const FRAME: usize = 16_384;

/// Pings; passing where the ping is answered.
pub(super) async fn run(address: &str, tls: Option<(&Tls, bool)>, name: &str) -> Outcome {
    match ask(address, tls, name).await {
        Ok(()) => Outcome::new(Status::Passing, "HTTP2 ping was successful"),
        Err(error) => Outcome::critical(format!("HTTP2 ping failed: {error}")),
    }
}

async fn ask(address: &str, tls: Option<(&Tls, bool)>, name: &str) -> Result<(), String> {
    let tcp = TcpStream::connect(address).await.map_err(|e| dial_error(address, &e))?;
    match tls {
        None => ping(tcp).await.map_err(|e| e.to_string()),
        Some((tls, skip_verify)) => {
            let name = tls.name(name, address)?;
            let io = tls.connector(skip_verify, true).connect(name, tcp).await.map_err(|e| format!("tls: {e}"))?;
            ping(io).await.map_err(|e| e.to_string())
        }
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
    out.extend_from_slice(payload);
    out
}

async fn ping(mut io: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut hello = PREFACE.to_vec();
    hello.extend(frame(SETTINGS, 0, &[]));
    hello.extend(frame(PING, 0, MARK));
    io.write_all(&hello).await?;
    io.flush().await?;
    for _ in 0..FRAMES {
        let mut head = [0; 9];
        io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        if length > FRAME {
            return Err(io::Error::other("the answer is not HTTP/2"));
        }
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await?;
        match kind {
            PING if flags & ACK != 0 && payload == MARK => return Ok(()),
            SETTINGS if flags & ACK == 0 => {
                io.write_all(&frame(SETTINGS, ACK, &[])).await?;
                io.flush().await?;
            }
            GOAWAY => return Err(io::Error::other("the server sent GOAWAY")),
            _ => {}
        }
    }
    Err(io::Error::other("the ping was not answered"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests serve")]

    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_of_http_2_and_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default()))
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        };
        let (outcome, ()) = tokio::join!(run(&address, None, ""), server);
        assert_eq!(outcome, Outcome::new(Status::Passing, "HTTP2 ping was successful"));
        // A server of HTTP/1 says so in words.
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        };
        let (outcome, ()) = tokio::join!(run(&address, None, ""), server);
        assert_eq!(outcome, Outcome::critical("HTTP2 ping failed: the answer is not HTTP/2"));
        drop(listener);
        let outcome = run(&address, None, "").await;
        assert_eq!(outcome.output, format!("HTTP2 ping failed: dial tcp {address}: connect: connection refused"));
    }
}
