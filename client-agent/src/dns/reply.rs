//! An answer as records, and how it is fitted into a message.

use std::net::IpAddr;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncoder, NameEncoding};

/// Extended DNS errors (RFC 8914) that we give.
pub mod ede {
    /// The answer may be out of date.
    pub const STALE_ANSWER: u16 = 3;
    /// The token does not allow it.
    pub const PROHIBITED: u16 = 18;
    /// No server of the datacenter can be reached.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// The datacenter cannot be reached, and what is known of it is too old to be given.
    pub const NETWORK_ERROR: u16 = 23;

    /// Each with its name in RFC 8914 and the code it comes with, for the reference page.
    pub const ALL: &[(u16, &str, &str, &str)] = &[
        (
            STALE_ANSWER,
            "Stale Answer",
            "NOERROR",
            "The datacenter's servers cannot be reached: this is what was known last, and the text says how old it is.",
        ),
        (PROHIBITED, "Prohibited", "NXDOMAIN", "There may be such a name; the token does not allow to know."),
        (
            NO_REACHABLE_AUTHORITY,
            "No Reachable Authority",
            "SERVFAIL",
            "No server of the datacenter can be reached, and nothing is known.",
        ),
        (
            NETWORK_ERROR,
            "Network Error",
            "SERVFAIL",
            "What is known of the datacenter is older than `federation.stale_if_unreachable`.",
        ),
    ];
}

/// Largest UDP payload a client may ask for (65535 less the headers, as Consul has it).
pub const MOST_UDP: u16 = 65467;

/// What the client's OPT record said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEdns {
    /// Its UDP payload size, as sent.
    pub payload: u16,
    /// EDNS version.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
    /// Client subnet.
    pub subnet: Option<ClientSubnet>,
}

/// What an answer takes over from its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Id.
    pub id: u16,
    /// Operation.
    pub op_code: OpCode,
    /// RD.
    pub recursion_desired: bool,
    /// CD.
    pub checking_disabled: bool,
    /// EDNS, where the client speaks it.
    pub edns: Option<ClientEdns>,
}

impl Head {
    /// Whom a resolver asks for, where it says so.
    pub fn client(&self) -> Option<IpAddr> {
        self.edns.as_ref()?.subnet.map(|subnet| subnet.addr())
    }

    /// How many bytes the answer may have over UDP.
    pub fn most_udp(&self) -> usize {
        self.edns.as_ref().map_or(512, |e| usize::from(e.payload.clamp(512, MOST_UDP)))
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether names are compressed.
    pub compress: bool,
    /// Whether TC is set where an answer was cut.
    pub truncate: bool,
    /// Whether RA is set.
    pub recursion_available: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Response code.
    pub code: ResponseCode,
    /// AA.
    pub authoritative: bool,
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authorities: Vec<Record>,
    /// Additional section; each with the place of the answer that it belongs to.
    pub glue: Vec<(usize, Record)>,
    /// Extended DNS error.
    pub ede: Option<u16>,
    /// Its text for people; may be empty.
    pub ede_text: String,
    /// Whether answers were left out already.
    pub cut: bool,
    /// Whether it may be another for other clients: it holds for the client's own subnet.
    pub by_client: bool,
    /// A name whose addresses the client will want next.
    pub follow: Option<Name>,
}

impl Reply {
    /// An answer without records.
    pub fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: true,
            answers: Vec::new(),
            authorities: Vec::new(),
            glue: Vec::new(),
            ede: None,
            ede_text: String::new(),
            cut: false,
            by_client: false,
            follow: None,
        }
    }

    /// The header of the message.
    pub fn metadata(&self, head: &Head, style: Style, cut: bool) -> Metadata {
        let mut metadata = Metadata::new(head.id, MessageType::Response, head.op_code);
        metadata.authoritative = self.authoritative;
        // Whole sets of others' records are wanted whole; of our instances some do (`enable_truncate`).
        metadata.truncation = cut && (style.truncate || !self.authoritative);
        metadata.recursion_desired = head.recursion_desired;
        metadata.recursion_available = style.recursion_available;
        metadata.checking_disabled = head.checking_disabled;
        metadata.response_code = self.code;
        metadata
    }

    /// The OPT record of the message, where the client sent one.
    pub fn edns(&self, head: &Head) -> Option<Edns> {
        let client = head.edns.as_ref()?;
        let mut edns = Edns::new();
        edns.set_max_payload(client.payload).set_dnssec_ok(client.dnssec_ok);
        if let Some(subnet) = client.subnet {
            let scope = if self.by_client { subnet.source_prefix() } else { 0 };
            let echo = ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope);
            edns.options_mut().insert(EdnsOption::Subnet(echo));
        }
        if let Some(code) = self.ede {
            let value = [&code.to_be_bytes(), self.ede_text.as_bytes()].concat();
            edns.options_mut().insert(EdnsOption::Unknown(15, value));
        }
        Some(edns)
    }

    /// Leaves out what does not fit into `most` bytes: first the nodes' metadata, then answers from the end, each with its glue.
    /// Returns the message. Fails only where the question alone does not fit.
    pub fn encode(&self, head: &Head, query: Option<&Query>, style: Style, most: usize) -> Result<Vec<u8>, ProtoError> {
        let all = self.answers.len();
        let whole = self.write(head, query, style, Part { answers: all, text: true, cut: self.cut })?;
        if whole.len() <= most && !truncated(&whole, self.cut && style.truncate) {
            return Ok(whole);
        }
        let bare = self.write(head, query, style, Part { answers: all, text: false, cut: self.cut })?;
        if bare.len() <= most && !truncated(&bare, self.cut && style.truncate) {
            return Ok(bare);
        }
        let (mut fits, mut fails) = (0, all);
        let mut best = self.write(head, query, style, Part { answers: 0, text: false, cut: true })?;
        while fits + 1 < fails {
            let middle = fits + (fails - fits) / 2;
            let bytes = self.write(head, query, style, Part { answers: middle, text: false, cut: true })?;
            if bytes.len() <= most && !truncated(&bytes, style.truncate) {
                (fits, best) = (middle, bytes);
            } else {
                fails = middle;
            }
        }
        Ok(best)
    }

    fn write(&self, head: &Head, query: Option<&Query>, style: Style, part: Part) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        let encoding = if style.compress { NameEncoding::Compressed } else { NameEncoding::Uncompressed };
        encoder.set_name_encoding(encoding);
        let glue = self.glue.iter().filter(|(of, record)| {
            (*of < part.answers || self.answers.is_empty()) && (part.text || record.record_type() != RecordType::TXT)
        });
        emit_message_parts(
            &self.metadata(head, style, part.cut),
            &mut query.into_iter(),
            &mut self.answers.iter().take(part.answers),
            &mut self.authorities.iter(),
            &mut glue.map(|(_, record)| record),
            self.edns(head).as_ref(),
            None,
            &mut encoder,
        )?;
        Ok(bytes)
    }
}

#[derive(Clone, Copy)]
struct Part {
    answers: usize,
    text: bool,
    cut: bool,
}

/// Whether the encoder itself ran out of room.
fn truncated(bytes: &[u8], wanted: bool) -> bool {
    !wanted && bytes.get(2).is_some_and(|flags| flags & 0x02 != 0)
}
