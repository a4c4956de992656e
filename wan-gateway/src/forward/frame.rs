//! The frames of one call on its stream: kind, length, payload. `HEAD DATA* TRAILERS?`, then the end of the stream, in each direction.
//!
//! A body is opaque: `DATA` carries its bytes as they came, cut where it suits the sender, and is passed on before it is whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

const HEAD: u8 = 1;
const DATA: u8 = 2;
const TRAILERS: u8 = 3;
/// Bytes before each payload: kind, length (big endian).
const PREFIX: usize = 5;
/// Bytes of headers that a call may carry, encoded.
pub const MAX_HEAD: usize = 64 << 10;
/// Bytes in one `DATA` frame as we send them.
pub const MAX_DATA: usize = 256 << 10;

/// Why bytes are no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that is not known, or not allowed here.
    #[error("frame of kind {0} is not expected here: the peer speaks another language or version")]
    Kind(u8),
    /// Headers too long.
    #[error("headers of {0} bytes; 65536 are allowed")]
    Long(usize),
    /// Headers that cannot be read.
    #[error("headers that cannot be read")]
    Head,
    /// The stream ended within a frame or before any.
    #[error("the stream ended before the call was whole")]
    Truncated,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What a `HEAD` or `TRAILERS` frame carries.
#[derive(Clone, PartialEq, prost::Message)]
struct HeadMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint32, tag = "2")]
    status: u32,
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Header>,
}

/// What a decoder finds.
#[derive(Debug)]
pub enum Item {
    /// First of all; `path` of a request, `status` (HTTP) of an answer.
    Head {
        /// `/package.Service/Method`, empty in an answer.
        path: String,
        /// HTTP status, 0 in a request.
        status: u16,
        /// Headers.
        headers: HeaderMap,
    },
    /// A piece of the body.
    Data(Bytes),
    /// Last of all.
    Trailers(HeaderMap),
}

fn encode(kind: u8, path: &str, status: u16, headers: &HeaderMap) -> Result<Bytes, FrameError> {
    let headers = headers
        .iter()
        .filter(|(name, _)| travels(name))
        .map(|(name, value)| Header { name: name.as_str().to_owned(), value: Bytes::copy_from_slice(value.as_bytes()) })
        .collect();
    let message = HeadMessage { path: path.to_owned(), status: u32::from(status), headers };
    let len = prost::Message::encoded_len(&message);
    if len > MAX_HEAD {
        return Err(FrameError::Long(len));
    }
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_u8(kind);
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    prost::Message::encode(&message, &mut out).map_err(|_| FrameError::Head)?;
    Ok(out.freeze())
}

/// Headers that concern one connection only stay behind.
fn travels(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "connection" | "host" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
    )
}

/// The first frame of a request.
pub fn request_head(path: &str, headers: &HeaderMap) -> Result<Bytes, FrameError> {
    encode(HEAD, path, 0, headers)
}

/// The first frame of an answer.
pub fn answer_head(status: http::StatusCode, headers: &HeaderMap) -> Result<Bytes, FrameError> {
    encode(HEAD, "", status.as_u16(), headers)
}

/// The last frame.
pub fn trailers(headers: &HeaderMap) -> Result<Bytes, FrameError> {
    encode(TRAILERS, "", 0, headers)
}

/// Cuts a piece of a body into frames: prefix and payload by turns, nothing copied.
pub fn data(mut piece: Bytes) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(2);
    while !piece.is_empty() {
        let payload = piece.split_to(piece.len().min(MAX_DATA));
        let mut prefix = BytesMut::with_capacity(PREFIX);
        prefix.put_u8(DATA);
        prefix.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        out.push(prefix.freeze());
        out.push(payload);
    }
    out
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stage {
    Head,
    Body,
    Over,
}

/// Reads one direction of a call from bytes cut anywhere.
#[derive(Debug)]
pub struct Decoder {
    stage: Stage,
    /// Kind and bytes that are still to come of the frame at hand.
    frame: Option<(u8, usize)>,
    /// Prefix or headers gathered so far.
    gathered: BytesMut,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { stage: Stage::Head, frame: None, gathered: BytesMut::new() }
    }
}

impl Decoder {
    /// Takes from `input` up to the next item; `None`: more bytes are needed.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Item>, FrameError> {
        loop {
            let Some((kind, left)) = self.frame else {
                let take = input.len().min(PREFIX - self.gathered.len());
                self.gathered.extend_from_slice(&input.split_to(take));
                if self.gathered.len() < PREFIX {
                    return Ok(None);
                }
                let kind = self.gathered.get_u8();
                let len = self.gathered.get_u32() as usize;
                self.gathered.clear();
                match (kind, self.stage) {
                    (HEAD, Stage::Head) | (TRAILERS, Stage::Body) if len <= MAX_HEAD => {}
                    (HEAD, Stage::Head) | (TRAILERS, Stage::Body) => return Err(FrameError::Long(len)),
                    (DATA, Stage::Body) => {}
                    _ => return Err(FrameError::Kind(kind)),
                }
                self.frame = Some((kind, len));
                continue;
            };
            if kind == DATA {
                if left == 0 {
                    self.frame = None;
                    continue;
                }
                if input.is_empty() {
                    return Ok(None);
                }
                let piece = input.split_to(input.len().min(left));
                self.frame = (left > piece.len()).then(|| (kind, left - piece.len()));
                return Ok(Some(Item::Data(piece)));
            }
            let take = input.len().min(left);
            self.gathered.extend_from_slice(&input.split_to(take));
            if take < left {
                self.frame = Some((kind, left - take));
                return Ok(None);
            }
            self.frame = None;
            let message: HeadMessage =
                prost::Message::decode(self.gathered.split().freeze()).map_err(|_| FrameError::Head)?;
            let headers = header_map(message.headers)?;
            if kind == TRAILERS {
                self.stage = Stage::Over;
                return Ok(Some(Item::Trailers(headers)));
            }
            self.stage = Stage::Body;
            let status = u16::try_from(message.status).map_err(|_| FrameError::Head)?;
            return Ok(Some(Item::Head { path: message.path, status, headers }));
        }
    }

    /// Whether the stream may end here.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.stage == Stage::Head || self.frame.is_some() || !self.gathered.is_empty() {
            return Err(FrameError::Truncated);
        }
        Ok(())
    }
}

fn header_map(headers: Vec<Header>) -> Result<HeaderMap, FrameError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for Header { name, value } in headers {
        let name = HeaderName::try_from(name).map_err(|_| FrameError::Head)?;
        let mut value = HeaderValue::from_maybe_shared(value).map_err(|_| FrameError::Head)?;
        value.set_sensitive(name == causeway_proto::meta::TOKEN);
        if travels(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

/// The request that a head asks for, without its body.
pub fn request(path: String, headers: HeaderMap) -> Result<http::Request<()>, FrameError> {
    let mut request = http::Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = Uri::try_from(path).ok().filter(|u| u.authority().is_none()).ok_or(FrameError::Head)?;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn call(body: &[u8]) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        headers.insert("causeway-dc", HeaderValue::from_static("dc2"));
        headers.append("x-bin", HeaderValue::from_bytes(b"\xc3\xa9").unwrap());
        headers.append("x-bin", HeaderValue::from_static("two"));
        headers.insert("connection", HeaderValue::from_static("close"));
        let mut out = request_head("/a.B/C", &headers).unwrap().to_vec();
        for piece in data(Bytes::copy_from_slice(body)) {
            out.extend_from_slice(&piece);
        }
        let mut last = HeaderMap::new();
        last.insert("grpc-status", HeaderValue::from_static("0"));
        out.extend_from_slice(&trailers(&last).unwrap());
        out
    }

    type Read = (Option<String>, Vec<u8>, Option<HeaderMap>);

    fn read(bytes: &[u8], mut cut: impl FnMut() -> usize) -> Result<Read, FrameError> {
        let (mut decoder, mut path, mut body, mut last) = (Decoder::default(), None, Vec::new(), None);
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            let mut piece = rest.split_to(cut().clamp(1, rest.len()));
            while let Some(item) = decoder.next(&mut piece)? {
                match item {
                    Item::Head { path: p, headers, .. } => {
                        assert_eq!(headers.get_all("x-bin").iter().count(), 2);
                        assert!(!headers.contains_key("connection"));
                        path = Some(p);
                    }
                    Item::Data(d) => body.extend_from_slice(&d),
                    Item::Trailers(t) => last = Some(t),
                }
            }
        }
        decoder.end()?;
        Ok((path, body, last))
    }

    #[test]
    fn a_call_cut_anywhere_is_the_same_call() {
        let seed = 7;
        let mut rng = StdRng::seed_from_u64(seed);
        for size in [0, 1, 4, 5, 6, 1000, MAX_DATA, MAX_DATA + 1, 1 << 20] {
            let body: Vec<u8> = (0..size).map(|i| i as u8).collect();
            let bytes = call(&body);
            for max in [1_usize, 7, 1500, 1 << 21] {
                if size > 2000 && max == 1 {
                    continue;
                }
                let (path, got, last) = read(&bytes, || rng.random_range(1..=max)).unwrap();
                assert_eq!(path.as_deref(), Some("/a.B/C"), "seed {seed}");
                assert!(got == body, "size {size} max {max} seed {seed}");
                assert_eq!(last.unwrap()["grpc-status"], "0");
            }
        }
    }

    #[test]
    fn a_call_cut_short_is_noticed() {
        let bytes = call(b"hello");
        let whole = request_head("/a.B/C", &HeaderMap::new()).unwrap().len();
        for len in [0, 1, whole / 2] {
            assert_eq!(read(&bytes[..len], || 3).err(), Some(FrameError::Truncated), "{len}");
        }
        assert_eq!(read(&bytes[..bytes.len() - 1], || 3).err(), Some(FrameError::Truncated));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let seed = 11;
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..2000 {
            let garbage: Vec<u8> = (0..rng.random_range(1..200)).map(|_| rng.random_range(0..6)).collect();
            let (mut decoder, mut bytes) = (Decoder::default(), Bytes::from(garbage));
            while let Ok(Some(_)) = decoder.next(&mut bytes) {}
        }
        let mut data_first = Bytes::from_static(&[DATA, 0, 0, 0, 1, 9]);
        assert_eq!(Decoder::default().next(&mut data_first).err(), Some(FrameError::Kind(DATA)));
        let mut long = Bytes::from_static(&[HEAD, 0xff, 0, 0, 1]);
        assert!(matches!(Decoder::default().next(&mut long), Err(FrameError::Long(_))));
    }

    #[test]
    fn a_token_stays_hidden() {
        let mut headers = HeaderMap::new();
        headers.insert(causeway_proto::meta::TOKEN, HeaderValue::from_static("secret"));
        let mut bytes = request_head("/a.B/C", &headers).unwrap();
        let Ok(Some(Item::Head { headers, .. })) = Decoder::default().next(&mut bytes) else { panic!("no head") };
        assert!(headers[causeway_proto::meta::TOKEN].is_sensitive());
        assert!(!format!("{headers:?}").contains("secret"));
    }

    #[test]
    fn a_path_with_an_authority_is_refused() {
        assert!(request("http://elsewhere/x".into(), HeaderMap::new()).is_err());
        assert!(request("/a.B/C".into(), HeaderMap::new()).is_ok());
    }
}
