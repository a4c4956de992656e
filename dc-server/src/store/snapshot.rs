//! Snapshots: length-delimited records, the header first, the end with their count last, and a CRC-32 of it all behind it.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use causeway_proto::catalog::{Check, Node, Service};
use causeway_proto::command::snapshot_record::Record;
use causeway_proto::command::{IndexRecord, NodeService, SnapshotEnd, SnapshotHeader, SnapshotRecord, Tombstone};
use causeway_proto::config::Entry as ConfigEntry;
use causeway_proto::coordinate::NodeCoordinate;
use causeway_proto::kv::Entry;
use causeway_proto::operator::Autopilot;
use causeway_proto::query::PreparedQuery;
use causeway_proto::session::Session;
use causeway_proto::signing::Authority;
use causeway_proto::snapshot::RestoreRequest;
use imbl::{OrdMap, OrdSet};
use prost::Message;

use super::state::{Name, NodeRow, State, Writer, fold};

/// Version of the format.
pub(super) const VERSION: u32 = 1;
/// No record is longer; a longer one is damage.
const MAX_RECORD: usize = 64 << 20;
/// No log gets to an index or a shift like this. Twice [`super::restore::MAX_INDEX`], from which the log goes on.
const MAX_INDEX: u64 = 1 << 62;
/// Name of the index of a restore under way.
const STAGED: &str = "staged";

/// Why a snapshot was refused. The store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It could not be read.
    #[error("the snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It ends too early.
    #[error("the snapshot is cut short after {records} records; take a complete copy, or another snapshot")]
    Short {
        /// Records read before the end.
        records: u64,
    },
    /// Its checksum does not fit.
    #[error("the snapshot was altered or damaged (checksum); take another copy, or another snapshot")]
    Checksum,
    /// A record makes no sense.
    #[error("record {record} of the snapshot is damaged: {why}; take another copy, or another snapshot")]
    Record {
        /// Its number, from 1.
        record: u64,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer version.
    #[error("the snapshot has format {found}; this version reads format {VERSION}: upgrade this server")]
    Version {
        /// The format it has.
        found: u32,
    },
}

struct Out<'a, W> {
    out: &'a mut W,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
    bytes: u64,
    records: u64,
}

impl<W: Write> Out<'_, W> {
    fn put(&mut self, record: Record) -> io::Result<()> {
        self.buffer.clear();
        SnapshotRecord { record: Some(record) }.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.crc.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.bytes += self.buffer.len() as u64;
        self.records += 1;
        Ok(())
    }
}

pub(super) fn write(state: &State, out: &mut impl Write) -> io::Result<u64> {
    let mut out = Out { out, crc: crc32fast::Hasher::new(), buffer: Vec::new(), bytes: 0, records: 0 };
    out.put(Record::Header(SnapshotHeader { version: VERSION, last_index: state.index, shift: state.shift }))?;
    let i = &state.indexes;
    let tables = [
        ("nodes", i.nodes),
        ("services", i.services),
        ("checks", i.checks),
        ("extinction", i.extinction),
        ("names", i.names),
        ("kv", i.kv),
        ("tombstones", i.tombstones),
        ("sessions", i.sessions),
        ("queries", i.queries),
        ("configs", i.configs),
        ("coordinates", i.coordinates),
        ("acl-tokens", i.acl_tokens),
        ("acl-policies", i.acl_policies),
        ("acl-roles", i.acl_roles),
        ("acl-bootstrap", i.acl_bootstrap),
    ];
    for (name, index) in tables {
        out.put(Record::Index(IndexRecord { name: format!("table/{name}"), index }))?;
    }
    for row in state.nodes.values() {
        out.put(Record::Node(Node::clone(&row.node)))?;
        for service in row.services.values() {
            let service = Some(Service::clone(service));
            out.put(Record::Service(NodeService { node: row.node.name.clone(), service }))?;
        }
        for check in row.checks.values() {
            out.put(Record::Check(Check::clone(check)))?;
        }
    }
    for row in state.services.values() {
        out.put(Record::Index(IndexRecord { name: format!("service/{}", row.name), index: row.index }))?;
    }
    for session in state.sessions.values() {
        out.put(Record::Session(Session::clone(session)))?;
    }
    for query in state.queries.values() {
        out.put(Record::Query(PreparedQuery::clone(query)))?;
    }
    for entry in state.configs.values() {
        out.put(Record::Config(ConfigEntry::clone(entry)))?;
    }
    for item in state.acl_items() {
        out.put(Record::Acl(item))?;
    }
    if let Some(autopilot) = &state.autopilot {
        out.put(Record::Autopilot(Autopilot::clone(autopilot)))?;
    }
    if let Some(authority) = &state.authority {
        out.put(Record::Authority(Authority::clone(authority)))?;
    }
    for coordinate in state.coordinates.values().flat_map(OrdMap::values) {
        out.put(Record::Coordinate(NodeCoordinate::clone(coordinate)))?;
    }
    for entry in state.kv.values() {
        out.put(Record::Kv(Entry::clone(entry)))?;
    }
    for (key, index) in &state.tombstones {
        out.put(Record::Tombstone(Tombstone { key: key.as_ref().to_owned(), index: *index, tree: false }))?;
    }
    for (key, index) in &state.trees {
        out.put(Record::Tombstone(Tombstone { key: key.as_ref().to_owned(), index: *index, tree: true }))?;
    }
    if let Some(staged) = &state.staged {
        let mut offset = 0;
        for piece in &staged.pieces {
            let bytes = piece.to_vec();
            let len = bytes.len() as u64;
            out.put(Record::Staged(RestoreRequest { id: staged.id.clone(), offset, bytes, last: false }))?;
            offset += len;
        }
        out.put(Record::Index(IndexRecord { name: STAGED.to_owned(), index: staged.index }))?;
    }
    if let Some(time) = state.calls.time() {
        out.put(Record::CallTime(time))?;
    }
    for call in state.calls.records() {
        out.put(Record::Call(call))?;
    }
    let records = out.records + 1;
    out.put(Record::End(SnapshotEnd { records }))?;
    let Out { out, crc, bytes, .. } = out;
    out.write_all(&crc.finalize().to_le_bytes())?;
    out.flush()?;
    Ok(bytes + 4)
}

/// Reads with a running checksum.
struct In<R> {
    input: BufReader<R>,
    crc: crc32fast::Hasher,
    buffer: Vec<u8>,
    records: u64,
}

impl<R: Read> In<R> {
    fn short(&self, error: io::Error) -> RestoreError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return RestoreError::Short { records: self.records };
        }
        RestoreError::Io(error)
    }

    fn damaged(&self, why: impl Into<String>) -> RestoreError {
        RestoreError::Record { record: self.records, why: why.into() }
    }

    fn record(&mut self) -> Result<Record, RestoreError> {
        let mut length = 0_u64;
        self.records += 1;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.input.read_exact(&mut byte).map_err(|e| self.short(e))?;
            self.crc.update(&byte);
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RECORD);
        let length = length.ok_or_else(|| self.damaged("its length is impossible"))?;
        self.buffer.clear();
        // Grows with what is really there, so that a damaged length takes no memory.
        let read = (&mut self.input).take(length as u64).read_to_end(&mut self.buffer)?;
        if read < length {
            return Err(RestoreError::Short { records: self.records });
        }
        self.crc.update(&self.buffer);
        let record = SnapshotRecord::decode(self.buffer.as_slice()).map_err(|e| self.damaged(e.to_string()))?;
        record.record.ok_or_else(|| self.damaged("it is of a kind that this version does not know"))
    }
}

pub(super) fn read(input: &mut impl Read) -> Result<State, RestoreError> {
    let mut input = In { input: BufReader::new(input), crc: crc32fast::Hasher::new(), buffer: Vec::new(), records: 0 };
    let Record::Header(header) = input.record()? else { return Err(input.damaged("the header is missing")) };
    if header.version != VERSION {
        return Err(RestoreError::Version { found: header.version });
    }
    if header.last_index > MAX_INDEX || header.shift > MAX_INDEX {
        return Err(input.damaged("its index is one that no log gets to"));
    }
    let mut state = State { index: header.last_index, shift: header.shift, ..State::default() };
    let mut indexes = Vec::new();
    loop {
        match input.record()? {
            Record::Index(record) => indexes.push(record),
            Record::Node(node) => add_node(&mut state, node),
            Record::Service(NodeService { node, service: Some(service) }) => {
                let row = state.nodes.get_mut(&*fold(&node)).ok_or_else(|| input.damaged("its node is missing"))?;
                Arc::make_mut(row).services.insert(service.id.as_str().into(), Arc::new(service));
            }
            Record::Check(check) => {
                let row =
                    state.nodes.get_mut(&*fold(&check.node)).ok_or_else(|| input.damaged("its node is missing"))?;
                let (row, id) = (Arc::make_mut(row), Name::from(check.id.as_str()));
                let mut ids = row.checks_of.get(check.service_id.as_str()).cloned().unwrap_or_default();
                ids.insert(Arc::clone(&id));
                row.checks_of.insert(check.service_id.as_str().into(), ids);
                row.checks.insert(id, Arc::new(check));
            }
            Record::Kv(entry) => add_entry(&mut state, entry),
            Record::Query(query) => state.link_query(query),
            Record::Config(entry) => state.link_config(entry),
            Record::Coordinate(coordinate) => {
                let set = state.coordinates.entry(fold(&coordinate.node)).or_default();
                set.insert(coordinate.segment.as_str().into(), Arc::new(coordinate));
            }
            Record::Acl(item) => state.link_acl(item),
            Record::Autopilot(config) => state.autopilot = Some(Arc::new(config)),
            Record::Authority(authority) => state.authority = Some(Arc::new(authority)),
            Record::Session(session) => {
                let id = Name::from(session.id.as_str());
                let row =
                    state.nodes.get_mut(&*fold(&session.node)).ok_or_else(|| input.damaged("its node is missing"))?;
                Arc::make_mut(row).sessions.insert(Arc::clone(&id));
                state.sessions.insert(id, Arc::new(session));
            }
            Record::Tombstone(Tombstone { key, index, tree }) => {
                let graves = if tree { &mut state.trees } else { &mut state.tombstones };
                graves.insert(key.into(), index);
            }
            Record::Staged(piece) => {
                let staged = Arc::make_mut(state.staged.get_or_insert_default());
                staged.id = piece.id;
                staged.bytes += piece.bytes.len() as u64;
                staged.pieces.push(piece.bytes.into());
            }
            Record::CallTime(time) => state.calls.restore_time(&time),
            Record::Call(call) => {
                if !state.calls.restore(call) {
                    return Err(input.damaged("a call without its name or answer"));
                }
            }
            Record::End(end) if end.records == input.records => break,
            Record::End(_) => return Err(input.damaged("the count of records does not fit")),
            Record::Header(_) | Record::Service(_) => return Err(input.damaged("it is out of place or empty")),
        }
    }
    let mut crc = [0; 4];
    let records = input.records;
    input.input.read_exact(&mut crc).map_err(|e| input.short(e))?;
    if u32::from_le_bytes(crc) != input.crc.clone().finalize() {
        return Err(RestoreError::Checksum);
    }
    if input.input.read(&mut [0])? != 0 {
        return Err(RestoreError::Record { record: records, why: "there is more behind the end".to_owned() });
    }
    join_all(&mut state);
    for record in &indexes {
        if !set_index(&mut state, record) {
            let why = format!("index {:?} belongs to nothing in it", record.name);
            return Err(RestoreError::Record { record: records, why });
        }
    }
    Ok(state)
}

/// Makes the rows of services, which are not in the snapshot, from nodes, services and checks.
fn join_all(state: &mut State) {
    let index = state.index;
    let nodes: Vec<Name> = state.nodes.keys().cloned().collect();
    let mut writer = Writer::new(state, index);
    for node in &nodes {
        writer.all_services_dirty(node);
    }
    writer.flush();
}

fn set_index(state: &mut State, record: &IndexRecord) -> bool {
    if let Some(service) = record.name.strip_prefix("service/") {
        let Some(row) = state.services.get_mut(&*fold(service)) else { return false };
        let row = Arc::make_mut(row);
        row.index = record.index;
        row.name = service.into();
        state.names.insert(fold(service), service.into());
        return true;
    }
    if record.name == STAGED {
        let Some(staged) = &mut state.staged else { return false };
        Arc::make_mut(staged).index = record.index;
        return true;
    }
    let i = &mut state.indexes;
    let place = match record.name.as_str() {
        "table/nodes" => &mut i.nodes,
        "table/services" => &mut i.services,
        "table/checks" => &mut i.checks,
        "table/extinction" => &mut i.extinction,
        "table/names" => &mut i.names,
        "table/kv" => &mut i.kv,
        "table/tombstones" => &mut i.tombstones,
        "table/sessions" => &mut i.sessions,
        "table/queries" => &mut i.queries,
        "table/configs" => &mut i.configs,
        "table/coordinates" => &mut i.coordinates,
        "table/acl-tokens" => &mut i.acl_tokens,
        "table/acl-policies" => &mut i.acl_policies,
        "table/acl-roles" => &mut i.acl_roles,
        "table/acl-bootstrap" => &mut i.acl_bootstrap,
        _ => return false,
    };
    *place = record.index;
    true
}

fn add_entry(state: &mut State, entry: Entry) {
    let key = Name::from(entry.key.as_str());
    if !entry.session.is_empty() {
        let mut keys = state.held.get(entry.session.as_str()).cloned().unwrap_or_default();
        keys.insert(Arc::clone(&key));
        state.held.insert(entry.session.as_str().into(), keys);
    }
    state.kv.insert(key, Arc::new(entry));
}

fn add_node(state: &mut State, node: Node) {
    let key = fold(&node.name);
    if !node.id.is_empty() {
        state.node_ids.insert(node.id.as_str().into(), Arc::clone(&key));
    }
    let row = NodeRow {
        node: Arc::new(node),
        services: OrdMap::new(),
        checks: OrdMap::new(),
        checks_of: OrdMap::new(),
        sessions: OrdSet::new(),
    };
    state.nodes.insert(key, Arc::new(row));
}
