//! The plain question, read straight from its packet. Whatever is not plain is left to a full parser.

/// A packet with one ordinary question in it: class IN, no compression, at most a plain OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain<'a> {
    /// Id.
    pub id: u16,
    /// RD.
    pub recursion_desired: bool,
    /// CD.
    pub checking_disabled: bool,
    /// The name as on the wire, with the root's zero.
    pub name: &'a [u8],
    /// The type asked for.
    pub qtype: u16,
    /// Payload size and DO bit of the OPT record, where there is one.
    pub edns: Option<(u16, bool)>,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// One ordinary question.
    Plain(Plain<'a>),
    /// Something for the full parser.
    Other,
    /// Not to be answered: too short, or itself an answer.
    Ignore,
}

/// Longest key: name, type, payload size, flags.
pub const MOST_KEY: usize = 255 + 5;

const CLASS_IN: u16 = 1;
const OPT: u16 = 41;
const SUBNET: u16 = 8;

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Reads a packet.
pub fn read(bytes: &[u8]) -> Packet<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<12>() else { return Packet::Ignore };
    if header[2] & 0x80 != 0 {
        return Packet::Ignore;
    }
    plain(rest, header).map_or(Packet::Other, Packet::Plain)
}

fn plain<'a>(rest: &'a [u8], header: &[u8; 12]) -> Option<Plain<'a>> {
    // Operation QUERY, not truncated; one question, no answers, at most one additional record.
    if header[2] & 0x7a != 0 || header[4..10] != [0, 1, 0, 0, 0, 0] || header[10] != 0 || header[11] > 1 {
        return None;
    }
    let mut at = 0_usize;
    loop {
        let len = usize::from(*rest.get(at)?);
        if len > 63 {
            return None;
        }
        at += len + 1;
        if at > 255 {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let name = rest.get(..at)?;
    let qtype = number(rest, at)?;
    if number(rest, at + 2)? != CLASS_IN {
        return None;
    }
    let rest = rest.get(at + 4..)?;
    let edns = match header[11] {
        1 => Some(opt(rest)?),
        _ if rest.is_empty() => None,
        _ => return None,
    };
    Some(Plain {
        id: u16::from_be_bytes([header[0], header[1]]),
        recursion_desired: header[2] & 0x01 != 0,
        checking_disabled: header[3] & 0x10 != 0,
        name,
        qtype,
        edns,
    })
}

/// An OPT record of version 0 that ends the packet and says nothing that changes the answer.
fn opt(bytes: &[u8]) -> Option<(u16, bool)> {
    if *bytes.first()? != 0 || number(bytes, 1)? != OPT {
        return None;
    }
    let size = number(bytes, 3)?;
    // Extended code and version must be 0.
    if bytes.get(5..7)? != [0, 0] {
        return None;
    }
    let dnssec_ok = bytes.get(7)? & 0x80 != 0;
    let mut options = bytes.get(11..)?;
    if options.len() != usize::from(number(bytes, 9)?) {
        return None;
    }
    while !options.is_empty() {
        let (code, len) = (number(options, 0)?, usize::from(number(options, 2)?));
        if code == SUBNET {
            return None;
        }
        options = options.get(4 + len..)?;
    }
    Some((size, dnssec_ok))
}

/// What makes two questions the same but for id, flags and case. Returns its length.
pub fn key(of: &Plain<'_>, into: &mut [u8; MOST_KEY]) -> usize {
    let mut len = 0;
    let (size, flags) = match of.edns {
        None => (0, 0),
        Some((size, dnssec_ok)) => (size, 1 | u8::from(dnssec_ok) << 1),
    };
    let ([a, b], [c, d]) = (of.qtype.to_be_bytes(), size.to_be_bytes());
    let tail = [a, b, c, d, flags];
    for (slot, byte) in into.iter_mut().zip(of.name.iter().map(u8::to_ascii_lowercase).chain(tail)) {
        *slot = byte;
        len += 1;
    }
    len
}

/// Whether the name is spelled in lower case.
pub fn is_lower(name: &[u8]) -> bool {
    !name.iter().any(u8::is_ascii_uppercase)
}

/// Makes a ready answer the answer to this question: its id, its flags, its spelling of the name.
pub fn dress(answer: &mut [u8], of: &Plain<'_>) {
    if let Some(id) = answer.get_mut(0..2) {
        id.copy_from_slice(&of.id.to_be_bytes());
    }
    if let Some(flags) = answer.get_mut(2) {
        *flags = *flags & !0x01 | u8::from(of.recursion_desired);
    }
    if let Some(flags) = answer.get_mut(3) {
        *flags = *flags & !0x10 | u8::from(of.checking_disabled) << 4;
    }
    if let Some(name) = answer.get_mut(12..12 + of.name.len()) {
        name.copy_from_slice(of.name);
    }
}

/// An answer of the header alone, for what cannot be understood: `code` is FORMERR, SERVFAIL or the like.
pub fn bare(question: &[u8], code: u8) -> Option<[u8; 12]> {
    let header = question.first_chunk::<12>()?;
    let mut answer = [0; 12];
    answer[..2].copy_from_slice(&header[..2]);
    answer[2] = 0x80 | header[2] & 0x79;
    answer[3] = code & 0x0f;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(name: &str, extra: &[u8], count: u8) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x01, 0x10, 0, 1, 0, 0, 0, 0, 0, count];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes.extend(extra);
        bytes
    }

    #[test]
    fn plain_questions() {
        let bytes = packet("Web.service.consul", &[], 0);
        let Packet::Plain(plain) = read(&bytes) else { panic!() };
        assert_eq!((plain.id, plain.qtype, plain.edns), (0x1234, 1, None));
        assert!(plain.recursion_desired && plain.checking_disabled && !is_lower(plain.name));
        let opt = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 6, 0, 10, 0, 2, 7, 7];
        let bytes = packet("web.service.consul", &opt, 1);
        let Packet::Plain(plain) = read(&bytes) else { panic!() };
        assert_eq!(plain.edns, Some((1232, true)));
    }

    #[test]
    fn the_rest_is_for_the_full_parser_or_for_nobody() {
        let good = packet("web.service.consul", &[], 0);
        assert_eq!(read(&good[..11]), Packet::Ignore);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(read(&with(2, 0x81)), Packet::Ignore);
        // Notify, no question, an answer, a pointer for a label, a label of a reserved type, one byte more.
        for bytes in [with(2, 0x21), with(5, 0), with(7, 1), with(12, 0xc0), with(12, 0x40)] {
            assert_eq!(read(&bytes), Packet::Other);
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(read(&long), Packet::Other);
        let subnet = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 8, 0, 8, 0, 4, 0, 1, 0, 0];
        assert_eq!(read(&packet("web", &subnet, 1)), Packet::Other);
        let version = [0, 0, 41, 4, 208, 0, 1, 0, 0, 0, 0];
        assert_eq!(read(&packet("web", &version, 1)), Packet::Other);
    }

    #[test]
    fn keys_ignore_case_and_id() {
        let (a, b) = (packet("Web.service.consul", &[], 0), packet("web.SERVICE.consul", &[], 0));
        let keyed = |bytes: &[u8]| {
            let Packet::Plain(plain) = read(bytes) else { panic!() };
            let mut buffer = [0; MOST_KEY];
            let len = key(&plain, &mut buffer);
            buffer[..len].to_vec()
        };
        assert_eq!(keyed(&a), keyed(&b));
        assert_ne!(keyed(&a), keyed(&packet("web.service.consul", &[0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0], 1)));
    }

    #[test]
    fn answers_are_dressed() {
        let question = packet("WEB", &[], 0);
        let Packet::Plain(plain) = read(&question) else { panic!() };
        let mut answer = packet("web", &[], 0);
        answer[..4].copy_from_slice(&[0, 0, 0x84, 0]);
        dress(&mut answer, &plain);
        assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x10]);
        assert_eq!(answer[12..17], *b"\x03WEB\0");
        dress(&mut [0; 3], &plain);
    }
}
