//! Reaching another gateway, and being reached by it, over TCP; the race between the carriers.

pub(crate) mod driver;
