//! Prepared queries: what may be written, what a template says, which instances answer, and where to ask next. Pure.

pub(crate) mod copy;
pub(crate) mod driver;
pub(crate) mod failover;
pub(crate) mod select;
pub(crate) mod template;
pub(crate) mod validate;

#[cfg(test)]
mod tests;
