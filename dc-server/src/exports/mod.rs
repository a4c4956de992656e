//! Exports: what each other site may ask of this one, by service, key and method, decided where the data is.
//!
//! [`policy`] says what is granted, [`gate`] what that means for each method, [`driver`] does it around the calls that the router
//! answers here. A call of this site itself never comes by.

pub mod driver;
pub mod gate;
#[cfg(test)]
mod gate_tests;
pub mod policy;

pub use policy::{Family, Op, Policy, Rights, Rule};
