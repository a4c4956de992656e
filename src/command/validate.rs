//! `validate`: reads configuration files and says whether an agent would start with them.

use std::path::PathBuf;
use std::process::ExitCode;

use super::agent::Sources;
use super::{Command, Input, flag, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "validate",
    operands: "FILE_OR_DIRECTORY ...",
    about: "Validates configuration files and directories",
    more: "",
    flags: &[
        flag("quiet", "", "Prints nothing when all is well."),
        flag("config-format", "json|hcl", "Format of files without such an ending."),
    ],
    http: false,
    run,
};

fn run(input: &Input) -> ExitCode {
    if input.operands.is_empty() {
        eprintln!("Must specify at least one config file or directory");
        return ExitCode::FAILURE;
    }
    let paths: Vec<PathBuf> = input.operands.iter().map(PathBuf::from).collect();
    // Where state is kept is often a flag.
    let outcome = Sources::files(paths).elsewhere().read().and_then(|plan| crate::run::check(&plan));
    match outcome {
        Ok(warnings) => {
            if !input.on("quiet") {
                for warning in warnings {
                    eprintln!("warning: {warning}");
                }
                print_out("Configuration is valid!\n");
            }
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("Config validation failed: {e}");
            ExitCode::FAILURE
        }
    }
}
