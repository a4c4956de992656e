//! Answers: JSON or text with Consul's headers.

use bytes::Bytes;
use causeway_proto::meta::{AnswerMeta, Consistency};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::sync::mpsc;

use super::failure::Failure;

/// An answer whose body is whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Lines that come behind the body as they are written; most answers have none.
    pub(crate) lines: Option<mpsc::Receiver<Bytes>>,
}

pub(super) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
const FILTERED: HeaderName = HeaderName::from_static("x-consul-results-filtered-by-acls");
const EFFECTIVE: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
/// How blocking reads are done: `blocking-query`, or `streaming` for a view.
pub(super) const BACKEND: HeaderName = HeaderName::from_static("x-consul-query-backend");
const REASON: HeaderName = HeaderName::from_static("x-causeway-reason");

impl Reply {
    /// 200 without a body.
    pub(crate) fn empty() -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Vec::new(), lines: None }
    }

    /// Lines as they come, until the client has seen enough.
    pub(crate) fn lines(lines: mpsc::Receiver<Bytes>) -> Self {
        Self { lines: Some(lines), ..Self::empty() }
    }

    /// JSON; `pretty` indents by four, as Consul does.
    pub(crate) fn json<T: Serialize + ?Sized>(value: &T, pretty: bool) -> Result<Self, Failure> {
        let failed = |e: serde_json::Error| Failure::internal(format!("the answer could not be rendered: {e}"));
        let mut body = Vec::with_capacity(512);
        if pretty {
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut body, formatter)).map_err(failed)?;
            body.push(b'\n');
        } else {
            serde_json::to_writer(&mut body, value).map_err(failed)?;
        }
        let mut reply = Self { body, ..Self::empty() };
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(reply)
    }

    /// Plain text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let mut reply = Self { body: text.into().into_bytes(), ..Self::empty() };
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header; one that cannot be one is left out.
    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Consul's headers of a read. The index is never 0, so that whoever blocks on it does not spin.
    pub(crate) fn meta(mut self, meta: &AnswerMeta) -> Self {
        self.headers.insert(INDEX, HeaderValue::from(meta.index.max(1)));
        self.headers.insert(BACKEND, HeaderValue::from_static("blocking-query"));
        self.contact(meta)
    }

    /// Only what is said of the leader.
    pub(crate) fn contact(mut self, meta: &AnswerMeta) -> Self {
        let millis = u64::try_from(meta.last_contact.as_millis()).unwrap_or(u64::MAX);
        self.headers.insert(KNOWN_LEADER, HeaderValue::from_static(if meta.known_leader { "true" } else { "false" }));
        self.headers.insert(LAST_CONTACT, HeaderValue::from(millis));
        if meta.filtered {
            self.headers.insert(FILTERED, HeaderValue::from_static("true"));
        }
        self
    }

    /// How current the answer is, on those endpoints that say so.
    pub(crate) fn effective(mut self, consistency: Consistency) -> Self {
        let text = match consistency {
            Consistency::Default => "leader",
            Consistency::Consistent => "consistent",
            Consistency::Stale => "stale",
        };
        self.headers.insert(EFFECTIVE, HeaderValue::from_static(text));
        self
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        let mut reply = Self::text(failure.text).status(failure.code);
        if failure.read {
            reply = reply.meta(&AnswerMeta::default());
        }
        if let Some(reason) = failure.reason {
            reply.headers.insert(REASON, HeaderValue::from_static(reason));
        }
        match failure.allow {
            Some(allow) => reply.header(header::ALLOW, &allow),
            None => reply,
        }
    }
}
