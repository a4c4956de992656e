//! Checks: what runs them, when, and what they say.

pub mod policy;

pub use policy::Policy;
