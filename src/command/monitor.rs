//! `monitor`: the log of an agent as it is written.

use std::process::ExitCode;

use super::api::{self, escape};
use super::{Command, Input, flag, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "monitor",
    operands: "",
    about: "Shows an agent's log as it is written",
    more: "The level is the follower's own, whatever the agent's log_level is. Ends with Ctrl-C, or with the agent.",
    flags: &[
        flag("log-level", "level", "trace, debug, info, warn or err; default: info."),
        flag("log-json", "", "Shows lines as JSON."),
    ],
    http: true,
    run,
};

fn run(input: &Input) -> ExitCode {
    let level = input.value("log-level").filter(|v| !v.is_empty()).unwrap_or("info");
    let json = if input.on("log-json") { "&logjson" } else { "" };
    let path = format!("/v1/agent/monitor?loglevel={}{json}", escape(level, false));
    api::run(input, "Error starting monitor", |api| {
        api.follow(&path, &mut |lines| print_out(&String::from_utf8_lossy(lines)))?;
        eprintln!("Remote side ended the monitor! This usually means that the remote side has exited or crashed.");
        Ok(ExitCode::FAILURE)
    })
}
