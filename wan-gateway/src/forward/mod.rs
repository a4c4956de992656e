//! A call goes out to another datacenter: one QUIC stream for it, its body never decoded.

pub(crate) mod driver;
pub mod frame;
pub(crate) mod stream;
