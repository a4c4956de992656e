//! What is registered with this agent: its services and checks, their state, and their life across restarts.

pub mod definition;
