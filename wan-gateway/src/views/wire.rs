//! What must be known of a view's stream to share it: where one event ends, and whether it is part of a snapshot. Nothing else of
//! an event is read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// gRPC puts a flag and a length before each message.
pub const PREFIX: usize = 5;
/// Largest event, bytes; as large as agents take.
const MOST: usize = 16 << 20;

/// Why a stream cannot be shared any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Compressed messages are not asked for.
    #[error("the other site sent a compressed event, which nobody asked for")]
    Compressed,
    /// Larger than any event.
    #[error("the other site sent an event of {0} bytes; at most 16 MiB are allowed")]
    Large(usize),
    /// Not an event.
    #[error("the other site sent what is not an event of a view; is it of another version?")]
    Garbage,
    /// A change before any snapshot.
    #[error("the other site began a view without a snapshot; is it of another version?")]
    NoSnapshot,
}

/// The part of `causeway.view.v1.ViewEvent` that is looked at; the rest is skipped.
#[derive(Clone, PartialEq, Message)]
struct Outline {
    #[prost(bool, tag = "2")]
    reset: bool,
    #[prost(bool, tag = "3")]
    complete: bool,
    #[prost(message, optional, tag = "7")]
    heartbeat: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// What an event is in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// A snapshot begins.
    pub reset: bool,
    /// The snapshot is whole with this event.
    pub complete: bool,
    /// Only a sign of life.
    pub heartbeat: bool,
}

/// One event as it came, with its prefix, in memory of its own.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is.
    pub mark: Mark,
    /// Its bytes.
    pub bytes: Bytes,
}

/// The same event, saying that the snapshot is whole with it, or that it is not. Of a field that comes twice the last one counts
/// (protobuf's encoding, "Last One Wins"), so it is appended and nothing else is touched.
pub fn saying(event: &Bytes, complete: bool) -> Bytes {
    /// Field 3, a varint.
    const COMPLETE: u8 = 3 << 3;
    let message = event.get(PREFIX..).unwrap_or_default();
    let mut out = BytesMut::with_capacity(event.len() + 2);
    out.put_u8(0);
    // At most `MOST` and two.
    out.put_u32(u32::try_from(message.len() + 2).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.put_slice(&[COMPLETE, u8::from(complete)]);
    out.freeze()
}

/// Cuts a stream's bytes into events.
#[derive(Debug, Default)]
pub struct Splitter(BytesMut);

impl Splitter {
    /// Takes in bytes cut anywhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub fn take(&mut self) -> Result<Option<Event>, WireError> {
        let Some((flag, mut len)) = self.0.split_first_chunk::<1>().and_then(|(f, r)| Some((f, r.get(..4)?))) else {
            return Ok(None);
        };
        if *flag != [0] {
            return Err(WireError::Compressed);
        }
        let len = usize::try_from(len.get_u32()).unwrap_or(usize::MAX);
        if len > MOST {
            return Err(WireError::Large(len));
        }
        if self.0.len() < PREFIX + len {
            return Ok(None);
        }
        // Copied: a piece of a larger buffer would keep all of that buffer for as long as the event is kept.
        let bytes = Bytes::copy_from_slice(&self.0.split_to(PREFIX + len));
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
        let outline = Outline::decode(bytes.slice(PREFIX..)).map_err(|_| WireError::Garbage)?;
        let mark = Mark { reset: outline.reset, complete: outline.complete, heartbeat: outline.heartbeat.is_some() };
        Ok(Some(Event { mark, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_proto::view::view_event::Change;
    use causeway_proto::view::{Heartbeat, NamesChange, ViewEvent};

    fn framed(event: &ViewEvent) -> Vec<u8> {
        let body = event.encode_to_vec();
        let mut out = vec![0];
        out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    #[test]
    fn marks_are_those_of_the_schema_however_the_bytes_are_cut() {
        let names = |reset, complete| ViewEvent {
            index: 7,
            reset,
            complete,
            change: Some(Change::Names(NamesChange { upsert: vec!["web".into()], remove: vec![] })),
        };
        let beat =
            ViewEvent { change: Some(Change::Heartbeat(Heartbeat { last_contact_ms: 0 })), ..names(false, false) };
        let events = [names(true, false), names(false, true), beat, names(false, true)];
        let bytes: Vec<u8> = events.iter().flat_map(framed).collect();
        for cut in [1, 2, 5, 7, bytes.len()] {
            let (mut splitter, mut seen) = (Splitter::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                splitter.push(piece);
                while let Some(event) = splitter.take().unwrap() {
                    seen.push((event.mark.reset, event.mark.complete, event.mark.heartbeat));
                }
            }
            let want = [(true, false, false), (false, true, false), (false, false, true), (false, true, false)];
            assert_eq!(seen, want, "cut {cut}");
        }
    }

    #[test]
    fn what_an_event_says_of_the_snapshot_can_be_changed_and_nothing_else() {
        let change = Change::Names(NamesChange { upsert: vec!["web".into()], remove: vec![] });
        for (said, wanted) in [(true, false), (false, true), (true, true), (false, false)] {
            let event = |complete| ViewEvent { index: 7, reset: true, complete, change: Some(change.clone()) };
            let mut splitter = Splitter::default();
            splitter.push(&saying(&framed(&event(said)).into(), wanted));
            let got = splitter.take().unwrap().unwrap();
            assert_eq!(got.mark.complete, wanted);
            assert_eq!(ViewEvent::decode(got.bytes.slice(PREFIX..)).unwrap(), event(wanted));
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let next = |bytes: &[u8]| {
            let mut splitter = Splitter::default();
            splitter.push(bytes);
            splitter.take().map(|e| e.is_some())
        };
        assert_eq!(next(&[0, 0, 0]), Ok(false));
        assert_eq!(next(&[1, 0, 0, 0, 0]), Err(WireError::Compressed));
        assert_eq!(next(&[0, 0xff, 0, 0, 0]), Err(WireError::Large(0xff00_0000)));
        assert_eq!(next(&[0, 0, 0, 0, 2, 0xff, 0xff]), Err(WireError::Garbage));
    }
}
