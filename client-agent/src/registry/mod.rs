//! What is registered with this agent: its services and checks, their state, and their life across restarts.

pub mod definition;
mod driver;
mod file;
pub mod state;
pub mod validate;

pub use definition::{
    CheckDefinition, CheckKind, CheckTls, CheckType, HttpCheck, ScriptCheck, Secret, ServiceDefinition, Source, Status,
};
pub use driver::{OpenError, Registry};
pub use state::{ChangeError, Local, LocalCheck, LocalService, RegisterError};
pub use validate::meta as check_meta;
