//! W3C trace context: one id for all that a question from outside sets off, on every machine and in every datacenter.
//!
//! Whoever shows a span in its log renews the span's id with [`renew`] before it hands a call on; whoever shows none passes the
//! header on as it is.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::meta::TRACEPARENT;

/// A `traceparent`, version 00: the trace, and the span in it that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    span: u64,
    flags: u8,
}

impl Trace {
    /// Begins a trace that is to be recorded. Both numbers from a random source; 0 is no valid id and counts as 1.
    pub fn begin(id: u128, span: u64) -> Self {
        Self { id: id.max(1), span: span.max(1), flags: 1 }
    }

    /// Reads a header's value. `None` for what is not well formed: such a header is to be treated as absent.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let (id, span) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
        let flags = hex(parts.next()?, 2)?;
        // Later versions may have more to say; version 00 has not, and 255 is none.
        if version == 0xff || (version == 0 && parts.next().is_some()) || id == 0 || span == 0 {
            return None;
        }
        Some(Self { id, span: u64::try_from(span).ok()?, flags: u8::try_from(flags).ok()? })
    }

    /// Reads the header of a call.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get(TRACEPARENT).and_then(|v| v.to_str().ok()).and_then(Self::parse)
    }

    /// The same trace with another span in it. `span`: from a random source.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }

    /// The trace's id, as logs show it: 32 hexadecimal digits.
    pub fn id(self) -> Id {
        Id(self.id)
    }

    /// The span's id, as logs show it: 16 hexadecimal digits.
    pub fn span(self) -> SpanId {
        SpanId(self.span)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, self.flags)
    }
}

/// A trace's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(u128);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A span's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Puts the next span into a call's header, within its trace or one that begins here, and gives it. The numbers from a random source.
pub fn renew(headers: &mut HeaderMap, id: u128, span: u64) -> Trace {
    let trace = Trace::of(headers).map_or_else(|| Trace::begin(id, span), |trace| trace.child(span));
    if let Ok(value) = HeaderValue::try_from(trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
    trace
}

/// Lower case only, as the standard says; `from_str_radix` alone would take signs.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn well_formed_ones_survive() {
        for text in [GIVEN, "00-00000000000000000000000000000001-0000000000000001-00"] {
            assert_eq!(Trace::parse(text).unwrap().to_string(), text);
        }
        let later = Trace::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").unwrap();
        assert_eq!(later.to_string(), GIVEN, "a later version is taken for what it has of ours");
    }

    #[test]
    fn others_are_none() {
        for text in [
            "",
            "garbage",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(Trace::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_hop_renews_the_span_and_keeps_the_trace() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GIVEN));
        let hop = renew(&mut headers, 7, 8);
        assert_eq!(hop.to_string(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000008-01");
        assert_eq!(Trace::of(&headers), Some(hop));
        assert_eq!(
            (hop.id().to_string().as_str(), hop.span().to_string().as_str()),
            (&GIVEN[3..35], "0000000000000008")
        );
        headers.clear();
        assert_eq!(renew(&mut headers, 0, 0).to_string(), "00-00000000000000000000000000000001-0000000000000001-01");
    }
}
