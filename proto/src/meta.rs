//! What travels beside a call, in headers only, so that it can be routed and forwarded undecoded.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::trace::Trace;

/// Target datacenter; absent: the one that is asked.
pub const DATACENTER: HeaderName = HeaderName::from_static("causeway-dc");
/// ACL secret.
pub const TOKEN: HeaderName = HeaderName::from_static("causeway-token");
/// `default`, `consistent` or `stale`.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("causeway-consistency");
/// Blocking: answer once the index has passed this one.
pub const INDEX: HeaderName = HeaderName::from_static("causeway-index");
/// Blocking: for this many milliseconds at most.
pub const WAIT: HeaderName = HeaderName::from_static("causeway-wait-ms");
/// How often the call was handed on between datacenters and from follower to leader, decimal; bounded by [`MAX_HOPS`].
pub const HOPS: HeaderName = HeaderName::from_static("causeway-hops");
/// The datacenters that ask, where the call came from elsewhere: comma-separated, each added by the gateway that took the call in, from
/// the certificate of the other end. Every one of them must be allowed what is asked, so that a false name only loses rights.
pub const FROM: HeaderName = HeaderName::from_static("causeway-from");
/// Names one write, so that it can be asked for again and is still done once: see [`CallId`].
pub const CALL: HeaderName = HeaderName::from_static("causeway-call-id");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// gRPC's deadline.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Answer: whether the server that answered knew a leader (`true`, `false`).
pub const KNOWN_LEADER: HeaderName = HeaderName::from_static("causeway-known-leader");
/// Answer: milliseconds since the answering server heard from its leader.
pub const LAST_CONTACT: HeaderName = HeaderName::from_static("causeway-last-contact-ms");
/// Answer: `true` where something was left out that the token may not see.
pub const FILTERED: HeaderName = HeaderName::from_static("causeway-filtered");
/// Answer or refusal: why, as [`crate::rejection::Reason`] spells it.
pub const REASON: HeaderName = HeaderName::from_static("causeway-reason");

/// A call that was handed on more often than this goes in circles and is refused.
pub const MAX_HOPS: u32 = 8;
/// Longest time a blocking read may wait (Consul's `max_query_time`).
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Time a blocking read waits where it does not say (Consul's `default_query_time`).
pub const DEFAULT_WAIT: Duration = Duration::from_secs(300);

/// How current an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Consistency {
    /// From the leader, by its lease or a quorum.
    #[default]
    Default,
    /// From the leader after it has made sure with a quorum.
    Consistent,
    /// From any server.
    Stale,
}

impl Consistency {
    /// As in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Consistent => "consistent",
            Self::Stale => "stale",
        }
    }
}

/// The name of one write. Servers remember the names of the writes that they did, with the answers, in what they replicate: a write
/// that comes again by another way gets the first one's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallId {
    /// Random.
    pub id: u128,
    /// Since it was drawn, by the clocks of those who hold the call. A server that may have forgotten one so old refuses it.
    pub age: Duration,
}

impl CallId {
    /// A new one, of these random bits.
    pub fn new(id: u128) -> Self {
        Self { id, age: Duration::ZERO }
    }

    /// The same, this much later.
    pub fn aged(self, by: Duration) -> Self {
        Self { age: self.age.saturating_add(by), ..self }
    }

    /// As in the header.
    pub fn value(self) -> HeaderValue {
        let text = format!("{:032x}.{}", self.id, self.age.as_millis());
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }

    /// Reads the header; what is no name counts as absent.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let (id, age) = headers.get(CALL)?.to_str().ok()?.split_once('.')?;
        if id.len() != 32 {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok()?;
        Some(Self { id, age: Duration::from_millis(age.parse().ok()?) })
    }
}

/// What a caller says of its call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Target datacenter; `None`: the one that is asked.
    pub datacenter: Option<String>,
    /// ACL secret; `None`: anonymous.
    pub token: Option<String>,
    /// How current the answer must be.
    pub consistency: Consistency,
    /// Blocking: answer once the index has passed this one; 0: at once.
    pub min_index: u64,
    /// Blocking: for this long at most; `None`: [`DEFAULT_WAIT`].
    pub wait: Option<Duration>,
    /// How often the call was handed on.
    pub hops: u32,
    /// The datacenters that ask, comma-separated ([`FROM`]); `None`: this one.
    pub from: Option<String>,
    /// The trace it is part of.
    pub trace: Option<Trace>,
    /// The write's name; `None`: it is not asked for again.
    pub call: Option<CallId>,
}

impl Meta {
    /// Writes the headers, replacing those that are there.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name: HeaderName, value: Option<String>| {
            match value.and_then(|v| HeaderValue::try_from(v).ok()) {
                Some(mut v) => {
                    v.set_sensitive(name == TOKEN);
                    headers.insert(name, v);
                }
                None => {
                    headers.remove(name);
                }
            };
        };
        put(DATACENTER, self.datacenter.clone());
        put(TOKEN, self.token.clone());
        let consistency = self.consistency;
        put(CONSISTENCY, (consistency != Consistency::Default).then(|| consistency.as_str().to_owned()));
        put(INDEX, (self.min_index > 0).then(|| self.min_index.to_string()));
        put(WAIT, self.wait.map(|w| w.as_millis().to_string()));
        put(HOPS, (self.hops > 0).then(|| self.hops.to_string()));
        put(FROM, self.from.clone());
        put(TRACEPARENT, self.trace.map(|t| t.to_string()));
        put(CALL, self.call.and_then(|c| c.value().to_str().ok().map(str::to_owned)));
    }

    /// Reads the headers. What cannot be read counts as absent, except a consistency that is not known, which counts as the
    /// strictest, so that no caller gets less than it asked for.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        Self {
            datacenter: text(&DATACENTER).filter(|v| !v.is_empty()).map(str::to_owned),
            token: text(&TOKEN).filter(|v| !v.is_empty()).map(str::to_owned),
            consistency: match text(&CONSISTENCY) {
                None | Some("default") => Consistency::Default,
                Some("stale") => Consistency::Stale,
                Some(_) => Consistency::Consistent,
            },
            min_index: text(&INDEX).and_then(|v| v.parse().ok()).unwrap_or(0),
            wait: text(&WAIT).and_then(|v| v.parse().ok()).map(Duration::from_millis),
            hops: text(&HOPS).and_then(|v| v.parse().ok()).unwrap_or(0),
            from: headers.get(&FROM).map(|v| v.to_str().unwrap_or("?").to_owned()),
            trace: Trace::of(headers),
            call: CallId::of(headers),
        }
    }

    /// How long a blocking read waits at most: what was asked for, bounded by [`MAX_WAIT`], plus up to a sixteenth of it, drawn
    /// by the caller (`chance` in 0..=1), so that a thousand readers do not all come back at once.
    pub fn wait_time(&self, chance: f64) -> Duration {
        let wait = self.wait.filter(|w| !w.is_zero()).unwrap_or(DEFAULT_WAIT).min(MAX_WAIT);
        wait + wait.mul_f64(chance.clamp(0.0, 1.0) / 16.0)
    }

    /// A tonic request that carries this meta.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        self.write(&mut headers);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        request
    }
}

/// What a server says of its answer to a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerMeta {
    /// The index the answer is good for (`X-Consul-Index`).
    pub index: u64,
    /// Whether the answering server knew a leader.
    pub known_leader: bool,
    /// Since it heard from it.
    pub last_contact: Duration,
    /// Whether something was left out that the token may not see.
    pub filtered: bool,
}

impl AnswerMeta {
    /// Writes the headers of an answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert(INDEX, HeaderValue::from(self.index));
        if self.filtered {
            headers.insert(FILTERED, HeaderValue::from_static("true"));
        }
        headers.insert(KNOWN_LEADER, HeaderValue::from_static(if self.known_leader { "true" } else { "false" }));
        headers
            .insert(LAST_CONTACT, HeaderValue::from(u64::try_from(self.last_contact.as_millis()).unwrap_or(u64::MAX)));
    }

    /// Reads the headers of an answer.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        Self {
            index: text(&INDEX).and_then(|v| v.parse().ok()).unwrap_or(0),
            known_leader: text(&KNOWN_LEADER) == Some("true"),
            filtered: text(&FILTERED) == Some("true"),
            last_contact: Duration::from_millis(text(&LAST_CONTACT).and_then(|v| v.parse().ok()).unwrap_or(0)),
        }
    }

    /// A tonic response that carries this meta.
    pub fn response<T>(&self, message: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(message);
        let mut headers = std::mem::take(response.metadata_mut()).into_headers();
        self.write(&mut headers);
        *response.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        response
    }

    /// Reads the meta of a tonic response.
    pub fn of<T>(response: &tonic::Response<T>) -> Self {
        Self::read(response.metadata().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_survives_headers() {
        let meta = Meta {
            datacenter: Some("dc2".into()),
            token: Some("secret".into()),
            consistency: Consistency::Stale,
            min_index: 7,
            wait: Some(Duration::from_millis(1500)),
            hops: 2,
            from: Some("dc3,dc1".into()),
            trace: Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            call: Some(CallId::new(7).aged(Duration::from_millis(1500))),
        };
        let mut headers = HeaderMap::new();
        meta.write(&mut headers);
        assert_eq!(Meta::read(&headers), meta);
        assert!(headers[TOKEN].is_sensitive());
        Meta::default().write(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn unknown_consistency_is_the_strictest() {
        let mut headers = HeaderMap::new();
        headers.insert(CONSISTENCY, HeaderValue::from_static("sometime"));
        assert_eq!(Meta::read(&headers).consistency, Consistency::Consistent);
    }

    #[test]
    fn what_is_no_call_id_counts_as_absent() {
        let mut headers = HeaderMap::new();
        for bad in ["", "7", "7.0", "00000000000000000000000000000007.", "x.1"] {
            headers.insert(CALL, HeaderValue::from_static(bad));
            assert_eq!(CallId::of(&headers), None, "{bad}");
        }
        headers.insert(CALL, HeaderValue::from_static("00000000000000000000000000000007.12"));
        assert_eq!(CallId::of(&headers), Some(CallId { id: 7, age: Duration::from_millis(12) }));
    }

    #[test]
    fn waits_are_bounded() {
        let long = Meta { wait: Some(Duration::from_secs(100_000)), ..Meta::default() };
        assert_eq!(long.wait_time(0.0), MAX_WAIT);
        assert_eq!(Meta::default().wait_time(0.0), DEFAULT_WAIT);
        assert_eq!(
            Meta { wait: Some(Duration::from_secs(8)), ..Meta::default() }.wait_time(1.0),
            Duration::from_millis(8500)
        );
    }
}
