//! The checkers: histories in, what cannot have been out. Pure.

pub mod locks;
pub mod registers;
pub mod search;
pub mod stale;
pub mod watch;
