//! `/v1/agent/*`: what this agent says of itself, its services and checks, and what it can be told to do.

pub(super) mod checks;
pub(super) mod health;
pub(super) mod host;
pub(super) mod members;
pub(super) mod metrics;
pub(super) mod monitor;
pub(super) mod node;
pub(super) mod services;

use super::dispatch::Call;
use super::failure::Failure;
use super::ports::PortError;
use super::query::parse_bool;

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Invalid(text) => Self::bad(text),
            PortError::NotFound(text) => Self::not_found(text),
            PortError::Failed(text) => Self::internal(text),
        }
    }
}

/// Every endpoint of the agent reads the token, though no registry asks for one yet: a malformed one is refused now.
fn token(call: &Call<'_>) -> Result<(), Failure> {
    super::query::token(&call.params, call.headers).map(|_| ())
}

/// `?enable=` and `?reason=` of the maintenance endpoints: the reason where it is switched on.
fn maintenance(call: &Call<'_>) -> Result<Option<String>, Failure> {
    if !call.params.has("enable") {
        return Err(Failure::bad("Missing value for enable"));
    }
    let text = call.params.get("enable");
    match parse_bool(text) {
        Some(true) => Ok(Some(call.params.get("reason").to_owned())),
        Some(false) => Ok(None),
        None => Err(Failure::bad(format!("Invalid value for enable: {text:?}"))),
    }
}
