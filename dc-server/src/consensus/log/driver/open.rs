//! Reads the log's files at the start: part of the driver.
#![allow(clippy::disallowed_methods, reason = "a part of the driver, which owns the log's files")]

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::LogError;
use super::super::format::{self, Found, Header, Kind, Verdict};
use super::super::memory::{Memory, Place};
use super::{Segment, Tail, io_error, sync_dir, write_at};

/// Reads the log at the start.
pub(super) struct Reader {
    pub(super) dir: PathBuf,
    pub(super) memory: Memory,
    pub(super) batch: u32,
    pub(super) segments: Vec<Segment>,
}

impl Reader {
    /// The tail to write on at; `None` where there is no segment yet.
    pub(super) fn read_all(&mut self) -> Result<Option<Tail>, LogError> {
        let mut names: Vec<(u64, PathBuf)> = Vec::new();
        let mut leftovers = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(io_error("list", &self.dir))? {
            let path = entry.map_err(io_error("list", &self.dir))?.path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("wal") => {
                    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
                    match u64::from_str_radix(stem, 16) {
                        Ok(sequence) => names.push((sequence, path)),
                        Err(_) => return Err(self.damaged(&path, 0, "its name is not one that the log gives")),
                    }
                }
                Some("tmp") => leftovers.push(path),
                _ => {}
            }
        }
        names.sort();
        // The newest segment may have been made and nothing written to it, not even the end of the one before it.
        let begun = match names.last() {
            Some((sequence, path)) if names.len() > 1 && only_begun(*sequence, path)? => Some(path.clone()),
            _ => None,
        };
        let mut tail = None;
        let count = names.len();
        for (i, (sequence, path)) in names.into_iter().enumerate() {
            if let Some(before) = self.segments.last()
                && before.sequence + 1 != sequence
            {
                let why = format!("segment {:016x} before it is missing", sequence - 1);
                return Err(self.damaged(&path, 0, &why));
            }
            if begun.is_some() && i + 1 == count && tail.is_some() {
                leftovers.push(path);
                break;
            }
            tail = self.read_segment(sequence, &path, i + 1 == count || begun.is_some() && i + 2 == count)?;
        }
        if tail.is_none()
            && let Some(newest) = self.segments.last()
        {
            let why = format!("it is full and segment {:016x} after it is missing", newest.sequence + 1);
            return Err(self.damaged(&newest.path, 0, &why));
        }
        self.memory.check().map_err(|e| {
            let path = self.segments.first().map_or_else(|| self.dir.clone(), |s| s.path.clone());
            self.damaged(&path, 0, &e.0)
        })?;
        // Only a log that is sound is touched.
        for path in leftovers {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        Ok(tail)
    }

    fn read_segment(&mut self, sequence: u64, path: &Path, last: bool) -> Result<Option<Tail>, LogError> {
        let bytes = std::fs::read(path).map_err(io_error("read", path))?;
        match format::read_header(&bytes) {
            Header::Segment(found) if found == sequence => {}
            Header::Version(version) => {
                return Err(LogError::Version { path: path.to_owned(), version, known: format::VERSION });
            }
            _ => return Err(self.damaged(path, 0, "it does not begin as a segment of this log")),
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(path).map_err(io_error("open", path))?);
        let mut segment = Segment { sequence, path: path.to_owned(), file: file.clone(), last: None };
        let mut at = format::HEADER;
        let mut sealed = false;
        let mut torn = false;
        loop {
            match format::read(&bytes, at, sequence) {
                Found::Record(record) => {
                    if sealed {
                        return Err(self.damaged(path, at, "records follow the one that ends the segment"));
                    }
                    let head = format::OVERHEAD - 1;
                    let len = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
                    let place = Place { segment: sequence, offset: (at + head) as u64, len };
                    if let Err(error) = self.memory.replay(record.kind, record.payload, place) {
                        return Err(self.damaged(path, at, &error.0));
                    }
                    if record.kind == Kind::Entry {
                        segment.last = segment.last.max(self.memory.last().map(|id| id.index));
                    }
                    sealed = record.kind == Kind::Seal;
                    (self.batch, at) = (record.batch, record.next);
                }
                Found::End => break,
                Found::Bad(_) if !last || sealed => {
                    return Err(self.damaged(path, at, "a record does not match its checksum"));
                }
                Found::Bad(end) => match format::judge(&bytes, at, end, sequence, self.batch) {
                    Verdict::Torn => {
                        torn = true;
                        break;
                    }
                    Verdict::Damaged => return Err(self.damaged(path, at, "a record does not match its checksum")),
                },
            }
        }
        if !last && !sealed {
            return Err(self.damaged(path, at, "the segment ends before its end"));
        }
        if torn {
            let written = bytes.iter().rposition(|b| *b != 0).map_or(at, |i| i + 1).max(at);
            tracing::warn!(
                file = %path.display(), offset = at, bytes = written - at,
                "the last write to the Raft log was cut short by a crash; it was never acknowledged and is dropped"
            );
            write_at(&file, &vec![0; written - at], at as u64).map_err(io_error("write", path))?;
            file.sync_all().map_err(io_error("sync", path))?;
        }
        self.segments.push(segment);
        // A write counts as one of the batch before it or the next; the torn one may have been either.
        self.batch = self.batch.wrapping_add(1);
        Ok((last && !sealed).then(|| Tail { sequence, file, at: at as u64, size: bytes.len() as u64 }))
    }

    fn damaged(&self, path: &Path, offset: usize, why: &str) -> LogError {
        let dir = self.dir.parent().unwrap_or(&self.dir).to_owned();
        LogError::Damaged { path: path.to_owned(), offset: offset as u64, why: why.to_owned(), dir }
    }
}

/// Whether this segment has nothing but what it was made with.
fn only_begun(sequence: u64, path: &Path) -> Result<bool, LogError> {
    let bytes = std::fs::read(path).map_err(io_error("read", path))?;
    let Found::Record(state) = format::read(&bytes, format::HEADER, sequence) else { return Ok(false) };
    Ok(format::read_header(&bytes) == Header::Segment(sequence)
        && state.kind == Kind::State
        && format::read(&bytes, state.next, sequence) == Found::End)
}
