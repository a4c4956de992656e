//! `agent/monitor`: the log as it is written, at a level of one's own.

use super::super::dispatch::Call;
use super::super::failure::Failure;
use super::super::ports::LogLevel;
use super::super::reply::Reply;

pub(crate) fn follow(call: &Call<'_>) -> Result<Reply, Failure> {
    super::token(call)?;
    let name = call.params.get("loglevel");
    let level = match name.to_ascii_uppercase().as_str() {
        "TRACE" => LogLevel::Trace,
        "DEBUG" => LogLevel::Debug,
        "" | "INFO" => LogLevel::Info,
        "WARN" => LogLevel::Warn,
        "ERR" | "ERROR" => LogLevel::Error,
        _ => return Err(Failure::bad(format!("Bad request: Unknown log level: {name}"))),
    };
    let Some(follow) = &call.ctx.monitor else {
        return Err(Failure::internal("this agent's log cannot be followed"));
    };
    match follow(level, call.params.has("logjson")) {
        Some(lines) => Ok(Reply::lines(lines)),
        None => Err(Failure::new(
            http::StatusCode::TOO_MANY_REQUESTS,
            "too many follow this agent's log already; end one of them",
        )),
    }
}
