//! `info`: the agent's figures, for operators.

use std::process::ExitCode;

use serde_json::Value;

use super::{Command, Input, api, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "info",
    operands: "",
    about: "Provides debugging information for operators",
    more: "",
    flags: &[],
    http: true,
    run,
};

fn run(input: &Input) -> ExitCode {
    api::run(input, "Error querying agent", |api| {
        let answer = api.get("/v1/agent/self")?;
        let mut sections: Vec<(&String, &Value)> = answer["Stats"].as_object().into_iter().flatten().collect();
        sections.sort_by_key(|(name, _)| *name);
        let mut out = String::new();
        for (name, pairs) in sections {
            out.push_str(&format!("{name}:\n"));
            let mut pairs: Vec<(&String, &Value)> = pairs.as_object().into_iter().flatten().collect();
            pairs.sort_by_key(|(key, _)| *key);
            for (key, value) in pairs {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                out.push_str(&format!("\t{key} = {value}\n"));
            }
        }
        print_out(&out);
        Ok(ExitCode::SUCCESS)
    })
}
