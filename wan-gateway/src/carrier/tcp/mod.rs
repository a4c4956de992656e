//! The frames on a TCP link: two HTTP/2 connections, datagrams and a last word share one TLS connection.
//!
//! HTTP/2 lets only the client open streams, so there are two: on channel [`DIALLER`] who dialled is the client, on channel
//! [`ACCEPTOR`] who accepted. Streams, their flow control and resets are HTTP/2's; each frame here is a channel (1 byte), a length
//! (3 bytes, big endian) and that many bytes.

pub(crate) mod driver;

/// HTTP/2 whose client is the end that dialled.
pub(crate) const DIALLER: u8 = 0;
/// HTTP/2 whose client is the end that accepted.
pub(crate) const ACCEPTOR: u8 = 1;
/// What is a datagram on QUIC.
pub(crate) const DATAGRAM: u8 = 2;
/// The last frame: a close code (4 bytes, big endian).
pub(crate) const CLOSE: u8 = 3;
/// Bytes before each payload.
pub(crate) const PREFIX: usize = 4;
/// Bytes of one frame's payload as we send it; one TLS record with its prefix.
pub(crate) const PIECE: usize = 16_000;
/// Bytes of one frame's payload as we take it.
pub(crate) const LONGEST: usize = 64 << 10;

/// The prefix of a frame.
pub(crate) fn prefix(channel: u8, length: usize) -> [u8; PREFIX] {
    let [.., a, b, c] = length.to_be_bytes();
    [channel, a, b, c]
}

/// Channel and length; `None`: no frame of ours.
pub(crate) fn parse(prefix: [u8; PREFIX]) -> Option<(u8, usize)> {
    let [channel, a, b, c] = prefix;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    (channel <= CLOSE && length <= LONGEST).then_some((channel, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_written_and_others_refused() {
        for (channel, length) in [(DIALLER, 0), (ACCEPTOR, PIECE), (DATAGRAM, 300), (CLOSE, 4), (DIALLER, LONGEST)] {
            assert_eq!(parse(prefix(channel, length)), Some((channel, length)));
        }
        assert_eq!(parse(prefix(4, 1)), None, "an unknown channel");
        assert_eq!(parse(prefix(DIALLER, LONGEST + 1)), None, "too long");
        assert_eq!(parse(*b"HTTP"), None);
    }
}
