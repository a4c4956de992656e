//! `event`: fires a user event. Words and exit codes are Consul's.

use std::process::ExitCode;

use super::api::{self, ApiError, escape, text};
use super::{Command, Input, flag, help, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "event",
    operands: "[PAYLOAD]",
    about: "Fires a user event in a datacenter",
    more: "Every agent of the datacenter that is up hears it; `curl localhost:8500/v1/event/list` shows what an agent heard. With\n\
           -datacenter it is fired in that one alone. Filters are regular expressions.",
    flags: &[
        flag("name", "string", "Name of the event."),
        flag("node", "regexp", "Only for nodes whose names match."),
        flag("service", "regexp", "Only for nodes with a service whose id matches."),
        flag("tag", "regexp", "Only for nodes where such a service has a tag that matches; needs -service."),
    ],
    http: true,
    run: fire,
};

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn fire(input: &Input) -> ExitCode {
    let Some(name) = input.value("name").filter(|v| !v.is_empty()) else {
        return misuse(&format!("Event name must be specified\n\n{}", help(&COMMAND)));
    };
    let given = |flag: &str| input.value(flag).filter(|v| !v.is_empty());
    if given("tag").is_some() && given("service").is_none() {
        return misuse("Cannot provide tag filter without service filter.");
    }
    let payload = match input.operands.as_slice() {
        [] => String::new(),
        [payload] => payload.clone(),
        _ => return misuse("Too many command line arguments."),
    };
    let filters = ["node", "service", "tag"]
        .into_iter()
        .filter_map(|flag| Some(format!("{flag}={}", escape(given(flag)?, false))))
        .collect::<Vec<_>>()
        .join("&");
    api::run(input, "Error firing event", |api| {
        let path = format!("/v1/event/fire/{}?{filters}", escape(name, true));
        let answer = api.put(&path, payload)?;
        let event = serde_json::from_slice(&answer).map_err(|e| ApiError::Unreadable(e.to_string()))?;
        print_out(&format!("Event ID: {}\n", text(&event, "ID")));
        Ok(ExitCode::SUCCESS)
    })
}
