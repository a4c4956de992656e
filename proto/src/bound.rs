//! A bound that can be changed while it is in force, by a reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number that all clones share.
#[derive(Debug, Clone)]
pub struct Bound(Arc<AtomicUsize>);

impl Bound {
    /// As it is now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Holds from now on, for all clones.
    pub fn set(&self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl From<usize> for Bound {
    fn from(value: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(value)))
    }
}
