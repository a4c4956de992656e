//! DNS: what the views hold, for anyone who can resolve a name.
//!
//! UDP is served by workers of our own ([`desk`]): a repeated question is answered from ready-made bytes, for as long as the view
//! they were made from has not changed. TCP has its own connections and bounds ([`tcp`]). Both make their answers in [`answer`].

pub mod answer;
pub mod config;
pub mod desk;
mod driver;
pub mod figures;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod handler;
pub mod packet;
pub mod question;
pub mod recursor;
mod reference;
pub mod reply;
pub mod resolve;
pub mod tcp;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

pub use config::{Config, RecursorStrategy, Soa};
pub use driver::{Dns, StartError};
pub use reference::page as reference;
