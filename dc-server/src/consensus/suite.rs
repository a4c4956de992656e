//! openraft's own test suite of storage, on our log and state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log::{Log, Options};
use super::machine::Machine;
use super::types::Types;
use crate::store::Store;

pub(crate) struct Dir(pub(crate) std::path::PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("causeway-{name}-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, Dir> for Builder {
    async fn build(&self) -> Result<(Dir, Log, Machine), StorageError<Types>> {
        let dir = Dir::new("suite");
        let log = Log::open(&dir.0.join("wal"), Options { segment_bytes: 8192, memory_bytes: 600 }).unwrap();
        let machine = Machine::open(&dir.0.join("snapshots"), Arc::new(Store::new()), Arc::new(|_| {})).unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite() {
    Suite::test_all(Builder).await.unwrap();
}
