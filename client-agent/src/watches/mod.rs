//! Watches: questions that are asked again and again, each time until the answer changes, and what is done with the new one. What
//! they are and how far they have come: [`crate::http::watch`], which knows the API that is asked.

mod driver;

pub use driver::{Answer, Ask, Watches};
