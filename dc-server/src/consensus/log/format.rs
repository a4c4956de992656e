//! The bytes of the write-ahead log. Pure: bytes in, words out.
//!
//! A segment is a preallocated file of zeros that begins with a header and is filled from the front with records:
//!
//! ```text
//! header:  magic 8 | version u32 | sequence u64 | crc32 u32 of what is before it            (24 bytes, little endian)
//! record:  length u32 | batch u32 | kind u8 | 0 | check u16 | crc32 u32 | payload | 0xA5    (16 bytes, payload, 1 byte)
//! ```
//!
//! `check` is the low half of the crc32 of the sequence and the record's first 10 bytes, so that a length is not believed before
//! it is known to be sound; `crc32` covers the payload. `batch` counts the writes to the disk: a batch is written in one piece
//! and synced before the next one begins, so after a crash only the last batch can be torn. The byte behind each record is not
//! zero, so that a record whose end was never written is seen to be torn, and not merely wrong.

/// First bytes of a segment.
pub const MAGIC: [u8; 8] = *b"CWAYWAL\n";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER: usize = 24;
/// Bytes of a record beside its payload.
pub const OVERHEAD: usize = 17;
/// Longest payload, bytes. A value is at most 512 KiB by default and a transaction 64 of them.
pub const MAX_PAYLOAD: usize = 64 << 20;

const HEAD: usize = 16;
/// The polynomial of the sum, its bits in reverse.
const CRC32: u32 = 0xEDB8_8320;
const TRAILER: u8 = 0xA5;
/// What a disk writes in one piece at least; a torn write leaves whole ones of these untouched.
const SECTOR: usize = 512;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First of each segment: vote, commit and purge position so far.
    State,
    /// A log entry.
    Entry,
    /// A vote.
    Vote,
    /// The commit position.
    Committed,
    /// Entries up to here are gone.
    Purge,
    /// Entries after this are gone.
    Truncate,
    /// Last of a full segment.
    Seal,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::State => 1,
            Self::Entry => 2,
            Self::Vote => 3,
            Self::Committed => 4,
            Self::Purge => 5,
            Self::Truncate => 6,
            Self::Seal => 7,
        }
    }

    fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::State,
            2 => Self::Entry,
            3 => Self::Vote,
            4 => Self::Committed,
            5 => Self::Purge,
            6 => Self::Truncate,
            7 => Self::Seal,
            _ => return None,
        })
    }
}

/// A segment's header.
pub fn header(sequence: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    let mut at = 0;
    for part in [&MAGIC[..], &VERSION.to_le_bytes(), &sequence.to_le_bytes()] {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let crc = crc32fast::hash(&out[..at]);
    out[at..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// What is at the start of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// A segment with this sequence number.
    Segment(u64),
    /// Only zeros, or less than a header: its making was interrupted.
    Blank,
    /// A segment of another version of the format.
    Version(u32),
    /// Not a segment.
    Alien,
}

/// Reads a segment's header.
pub fn read_header(bytes: &[u8]) -> Header {
    let Some(head) = bytes.get(..HEADER) else {
        return if bytes.iter().all(|b| *b == 0) || header(0).starts_with(bytes) {
            Header::Blank
        } else {
            Header::Alien
        };
    };
    if head.iter().all(|b| *b == 0) {
        return Header::Blank;
    }
    if head[..8] != MAGIC || u32_at(head, 20) != crc32fast::hash(&head[..20]) {
        return Header::Alien;
    }
    match u32_at(head, 8) {
        VERSION => Header::Segment(u64::from(u32_at(head, 12)) | (u64::from(u32_at(head, 16)) << 32)),
        other => Header::Version(other),
    }
}

/// Appends a record to a buffer.
pub fn put(out: &mut Vec<u8>, sequence: u64, batch: u32, kind: Kind, payload: &[u8]) {
    let start = out.len();
    // Callers bound payloads by MAX_PAYLOAD, which fits.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&batch.to_le_bytes());
    out.push(kind.code());
    out.push(0);
    let check = head_check(sequence, &out[start..start + 10]);
    out.extend_from_slice(&check.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.extend_from_slice(payload);
    out.push(TRAILER);
}

/// A record as read.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// With which write it came.
    pub batch: u32,
    /// Its content.
    pub payload: &'a [u8],
    /// Where the next begins.
    pub next: usize,
}

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A sound record.
    Record(Record<'a>),
    /// Nothing but zeros from here on.
    End,
    /// Something that is no sound record. The number is where its end would be, if its head can be believed.
    Bad(Option<usize>),
}

/// Reads what is at an offset of a segment.
pub fn read(segment: &[u8], at: usize, sequence: u64) -> Found<'_> {
    let rest = segment.get(at..).unwrap_or_default();
    let Some(head) = rest.get(..HEAD) else {
        return if rest.iter().all(|b| *b == 0) { Found::End } else { Found::Bad(None) };
    };
    if head.iter().all(|b| *b == 0) {
        return if rest.iter().all(|b| *b == 0) { Found::End } else { Found::Bad(None) };
    }
    match record(rest, sequence) {
        Ok((kind, batch, len)) => {
            let next = at + HEAD + len + 1;
            Found::Record(Record { kind, batch, payload: &rest[HEAD..HEAD + len], next })
        }
        Err(end) => Found::Bad(end.map(|end| at + end)),
    }
}

/// Kind, batch and payload length of the record at the start of these bytes; else its end if its head is sound.
fn record(rest: &[u8], sequence: u64) -> Result<(Kind, u32, usize), Option<usize>> {
    let head = rest.get(..HEAD).ok_or(None)?;
    if u16::from_le_bytes([head[10], head[11]]) != head_check(sequence, &head[..10]) || head[9] != 0 {
        return Err(None);
    }
    let len = u32_at(head, 0) as usize;
    let kind = Kind::of(head[8]).ok_or(None)?;
    if len > MAX_PAYLOAD {
        return Err(None);
    }
    let end = HEAD + len + 1;
    let body = rest.get(HEAD..end).ok_or(Some(end))?;
    if body[len] != TRAILER || crc32fast::hash(&body[..len]) != u32_at(head, 12) {
        return Err(Some(end));
    }
    Ok((kind, u32_at(head, 4), len))
}

/// What a bad spot in the last segment is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The last write was cut short by a crash; nothing from here on was ever acknowledged.
    Torn,
    /// Bytes that were once sound are not any more.
    Damaged,
}

/// Judges a bad spot at `at` of the last segment. `batch` is that of the sound record before it, `end` where the bad record
/// would end, if its head can be believed.
///
/// It is torn only if nothing sound of a later write follows, it is not a sound record but for one bit, and something there was never
/// written: the file ends early, the zeros begin before the record's end, or a whole sector is zero that is no part of a sound record.
pub fn judge(segment: &[u8], at: usize, end: Option<usize>, sequence: u64, batch: u32) -> Verdict {
    let written = segment.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    // A bad record whose head is lost is of the same write as the one before it or of the next. Anything sound of a later one proves
    // that this spot was synced. A wrapped counter compares by distance.
    let newest = match end {
        Some(_) => u32_at(segment, at + 4),
        None => batch.wrapping_add(1),
    };
    let mut sound = Vec::new();
    let mut start = end.unwrap_or(at + 1);
    while start < written {
        match record(&segment[start..], sequence) {
            Ok((_, found, _)) if found.wrapping_sub(newest) as i32 > 0 => return Verdict::Damaged,
            Ok((_, _, len)) => {
                sound.push(start..start + len + OVERHEAD);
                start += len + OVERHEAD;
            }
            Err(_) => start += 1,
        }
    }
    if end.is_some_and(|end| end > segment.len()) || written < end.unwrap_or(at + HEAD) {
        return Verdict::Torn;
    }
    let is_sound = |from: usize, to: usize| sound.iter().any(|record| record.start <= from && to <= record.end);
    let hole = (at.div_ceil(SECTOR)..written / SECTOR)
        .map(|sector| (sector * SECTOR, (sector + 1) * SECTOR))
        .any(|(from, to)| segment[from..to].iter().all(|b| *b == 0) && !is_sound(from, to));
    // The start of the write may be what is missing: the sector of `at` is zero from there on.
    let lost_start = segment[at..written.min((at / SECTOR + 1) * SECTOR)].iter().all(|b| *b == 0);
    if (hole || lost_start) && !one_bit(&segment[at..], end.map(|end| end - at), sequence) {
        Verdict::Torn
    } else {
        Verdict::Damaged
    }
}

/// Whether these bytes begin with a record that is sound but for one bit; `end`: where it ends, if its head can be believed.
fn one_bit(rest: &[u8], end: Option<usize>, sequence: u64) -> bool {
    let Some(end) = end else {
        let mut head = rest.to_vec();
        return (0..(HEAD - 4) * 8).any(|bit| {
            head[bit / 8] ^= 1 << (bit % 8);
            let sound = record(&head, sequence).is_ok();
            head[bit / 8] ^= 1 << (bit % 8);
            sound
        });
    };
    let Some((payload, trailer)) = rest.get(HEAD..end).and_then(|body| body.split_at_checked(end - HEAD - 1)) else {
        return false;
    };
    let (difference, off) = (crc32fast::hash(payload) ^ u32_at(rest, 12), trailer.first().map_or(0, |b| b ^ TRAILER));
    match (difference.count_ones(), off.count_ones()) {
        (0, 1) | (1, 0) => return true,
        (_, 1..) => return false,
        _ => {}
    }
    // What a flipped bit does to the sum depends on how many bits follow it alone: from the last to the first.
    let mut effect: u32 = 1;
    (0..payload.len() * 8).any(|_| {
        effect = (effect >> 1) ^ if effect & 1 == 1 { CRC32 } else { 0 };
        effect == difference
    })
}

fn head_check(sequence: u64, head: &[u8]) -> u16 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(head);
    (hasher.finalize() & 0xFFFF) as u16
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payloads: &[(u32, &[u8])], size: usize) -> (Vec<u8>, Vec<usize>) {
        let mut out = header(7).to_vec();
        let mut starts = Vec::new();
        for (batch, payload) in payloads {
            starts.push(out.len());
            put(&mut out, 7, *batch, Kind::Entry, payload);
        }
        starts.push(out.len());
        out.resize(size, 0);
        (out, starts)
    }

    /// Reads all records; the payloads, and what was found behind them with the batch before it.
    fn scan(segment: &[u8]) -> (Vec<Vec<u8>>, usize, u32, bool, Option<usize>) {
        let (mut at, mut batch, mut out) = (HEADER, 0, Vec::new());
        loop {
            match read(segment, at, 7) {
                Found::Record(r) => {
                    out.push(r.payload.to_vec());
                    (at, batch) = (r.next, r.batch);
                }
                Found::End => return (out, at, batch, true, None),
                Found::Bad(end) => return (out, at, batch, false, end),
            }
        }
    }

    #[test]
    fn headers() {
        assert_eq!(read_header(&header(9)), Header::Segment(9));
        assert_eq!(read_header(&header(u64::MAX)), Header::Segment(u64::MAX));
        assert_eq!(read_header(&[0; 100]), Header::Blank);
        assert_eq!(read_header(&[]), Header::Blank);
        assert_eq!(read_header(b"something else entirely here"), Header::Alien);
        for bit in 0..HEADER * 8 {
            let mut bytes = header(9);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_header(&bytes), Header::Alien, "bit {bit}");
        }
    }

    #[test]
    fn records_come_back() {
        let long = vec![3; 3000];
        let (bytes, _) = segment(&[(1, b"one"), (1, b""), (2, &long)], 8192);
        let (found, _, batch, clean, _) = scan(&bytes);
        assert_eq!(found, [b"one".to_vec(), vec![], long]);
        assert!(clean);
        assert_eq!(batch, 2);
    }

    #[test]
    fn a_cut_at_every_point_is_torn() {
        let (bytes, starts) = segment(&[(1, b"one"), (2, b"two with more text"), (3, &[9; 1500])], 4096);
        let last = starts[2];
        for cut in last + 1..starts[3] {
            for zeroed in [false, true] {
                let mut torn = bytes.clone();
                torn.truncate(cut);
                if zeroed {
                    torn.resize(4096, 0);
                }
                let (found, at, batch, clean, end) = scan(&torn);
                assert_eq!((found.len(), at), (2, last), "cut {cut} zeroed {zeroed}");
                // A cut inside the length of a small number leaves only zeros behind it: a clean end.
                if !clean {
                    assert_eq!(judge(&torn, at, end, 7, batch), Verdict::Torn, "cut {cut} zeroed {zeroed}");
                }
            }
        }
    }

    #[test]
    fn a_write_whose_sectors_came_out_of_order_is_torn() {
        let (bytes, starts) = segment(&[(1, b"one"), (2, &[9; 3000]), (2, b"same batch")], 8192);
        for sector in 1..starts[3] / 512 {
            let mut torn = bytes.clone();
            torn[sector * 512..(sector + 1) * 512].fill(0);
            let (found, at, batch, clean, end) = scan(&torn);
            assert!(!clean && found.len() == 1, "sector {sector}");
            assert_eq!(judge(&torn, at, end, 7, batch), Verdict::Torn, "sector {sector}");
        }
        // The first sector of the batch missing, its rest there.
        let mut torn = bytes;
        torn[starts[1]..512].fill(0);
        let (_, at, batch, clean, end) = scan(&torn);
        assert!(!clean);
        assert_eq!(judge(&torn, at, end, 7, batch), Verdict::Torn);
    }

    #[test]
    fn a_flipped_bit_is_damage_wherever_it_is() {
        let (bytes, starts) = segment(&[(1, b"one"), (2, b"two"), (3, &[7; 700]), (4, b"four")], 4096);
        for bit in starts[0] * 8..starts[4] * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let (_, at, batch, clean, end) = scan(&bad);
            assert!(!clean, "bit {bit} went unseen");
            assert_eq!(judge(&bad, at, end, 7, batch), Verdict::Damaged, "bit {bit}");
        }
    }

    /// A sector of zeros in a value looks like one that was never written.
    #[test]
    fn a_flipped_bit_is_damage_in_a_write_with_zeros_of_its_own() {
        let zeros = vec![0; 1500];
        let mixed = [&[7; 600][..], &zeros, &[9; 5]].concat();
        for last in [vec![(2, &zeros[..])], vec![(2, &b"x"[..]), (2, &mixed), (2, &zeros)]] {
            let (bytes, starts) = segment(&[vec![(1, &b"one"[..])], last].concat(), 8192);
            for bit in (starts[1] * 8..starts[starts.len() - 1] * 8).step_by(5) {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let (_, at, batch, clean, end) = scan(&bad);
                assert!(!clean, "bit {bit} went unseen");
                assert_eq!(judge(&bad, at, end, 7, batch), Verdict::Damaged, "bit {bit}");
            }
        }
    }

    /// More than a bit is wrong, but what follows is whole: zeros in it are its own.
    #[test]
    fn zeros_of_a_sound_record_are_no_hole() {
        let (bytes, starts) = segment(&[(1, b"one"), (2, b"two"), (2, &[0; 2000])], 4096);
        for wrong in [starts[1] + HEAD, starts[1]] {
            let mut bad = bytes.clone();
            bad[wrong..wrong + 2].fill(0xFF);
            let (_, at, batch, _, end) = scan(&bad);
            assert_eq!((at, judge(&bad, at, end, 7, batch)), (starts[1], Verdict::Damaged));
        }
    }

    /// The bad record says itself of which write it is: here of the one before the last.
    #[test]
    fn a_sound_record_of_the_next_write_proves_that_one_was_synced() {
        let (bytes, starts) = segment(&[(1, b"one"), (1, &[5; 2000]), (2, b"two")], 4096);
        let mut bad = bytes;
        bad[1024..1536].fill(0);
        let (_, at, batch, _, end) = scan(&bad);
        assert_eq!((at, judge(&bad, at, end, 7, batch)), (starts[1], Verdict::Damaged));
    }

    #[test]
    fn a_lost_sector_in_the_middle_is_damage() {
        let (bytes, starts) = segment(&[(1, &[5; 2000]), (2, b"two"), (3, b"three"), (4, b"four")], 4096);
        let mut bad = bytes;
        bad[512..1024].fill(0);
        let (_, at, batch, _, end) = scan(&bad);
        assert_eq!(at, starts[0]);
        assert_eq!(judge(&bad, at, end, 7, batch), Verdict::Damaged);
    }

    #[test]
    fn records_of_another_segment_are_not_taken() {
        let (bytes, _) = segment(&[(1, b"one")], 512);
        assert!(matches!(read(&bytes, HEADER, 8), Found::Bad(None)));
    }
}
