//! Stand-in for the store, dropped at merge.
#![allow(missing_docs, reason = "stand-in")]
use arc_swap::ArcSwap;
use causeway_proto::{command, kv};
use prost::Message as _;
use std::{collections::BTreeMap, io, sync::Arc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    LockDelay { key: String, delay_ms: u64 },
    SessionCreated { id: String, ttl_ms: u64 },
    SessionDestroyed { id: String },
}
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: command::Outcome,
    pub events: Vec<Event>,
}
#[derive(Debug, Clone, Default)]
pub struct State {
    pub index: u64,
    kv: BTreeMap<String, Arc<kv::Entry>>,
}
impl State {
    pub fn kv_get(&self, key: &str) -> (Option<Arc<kv::Entry>>, u64) {
        (self.kv.get(key).cloned(), self.index)
    }
}
#[derive(Debug, Default)]
pub struct Store(ArcSwap<State>);
#[derive(Debug, thiserror::Error)]
#[error("bad snapshot: {0}")]
pub struct RestoreError(String);

impl Store {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn state(&self) -> Arc<State> {
        self.0.load_full()
    }
    pub fn apply_batch(&self, commands: &[(u64, command::Command)]) -> Vec<Applied> {
        let mut state = State::clone(&self.state());
        let mut out = Vec::new();
        for (index, command) in commands {
            state.index = *index;
            if let Some(command::command::Command::Kv(r)) = &command.command {
                let entry = kv::Entry { key: r.key.clone(), value: r.value.clone(), modify_index: *index, ..Default::default() };
                state.kv.insert(r.key.clone(), Arc::new(entry));
            }
            let outcome = command::Outcome { index: *index, done: true, ..Default::default() };
            out.push(Applied { outcome, events: vec![] });
        }
        self.0.store(Arc::new(state));
        out
    }
    pub fn advance(&self, index: u64) {
        let mut state = State::clone(&self.state());
        state.index = index;
        self.0.store(Arc::new(state));
    }
    pub fn write_snapshot(state: &State, out: &mut impl io::Write) -> io::Result<u64> {
        let mut bytes = state.index.to_le_bytes().to_vec();
        for e in state.kv.values() {
            bytes.extend(e.encode_length_delimited_to_vec());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        out.write_all(&bytes)?;
        Ok(bytes.len() as u64)
    }
    pub fn restore(&self, input: &mut impl io::Read) -> Result<(), RestoreError> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|e| RestoreError(e.to_string()))?;
        let at = bytes.len().checked_sub(4).filter(|n| *n >= 8).ok_or(RestoreError("short".into()))?;
        if crc32fast::hash(&bytes[..at]).to_le_bytes() != bytes[at..] {
            return Err(RestoreError("checksum".into()));
        }
        let mut state = State { index: u64::from_le_bytes(bytes[..8].try_into().unwrap()), ..Default::default() };
        let mut rest = &bytes[8..at];
        while !rest.is_empty() {
            let e = kv::Entry::decode_length_delimited(&mut rest).map_err(|e| RestoreError(e.to_string()))?;
            state.kv.insert(e.key.clone(), Arc::new(e));
        }
        self.0.store(Arc::new(state));
        Ok(())
    }
}
