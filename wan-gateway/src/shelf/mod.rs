//! What the gateways of one site keep together, so that any of them can take up where another stopped: a few entries in the
//! key/value store of the site's servers, below [`ROOT`], each changed only from the state that was read.
//!
//! Whoever may write the store may write there too, so nothing there is believed by itself: entries are sealed or signed with the
//! authority's key.

pub(crate) mod driver;

pub use driver::Shelf;

/// Where the entries are.
pub const ROOT: &str = "causeway/federation/";

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    /// To change it only if nobody else did.
    pub(crate) index: u64,
}
