//! `reference config | commands`: the reference pages, made from the code.

use std::process::ExitCode;

use super::{COMMANDS, Command, Input, help, print_out};

/// `reference config`.
pub static CONFIG: Command = Command {
    name: "reference config",
    operands: "",
    about: "Prints the reference page of all configuration keys",
    more: "",
    flags: &[],
    http: false,
    run: |_: &Input| {
        print_out(&crate::options::reference());
        ExitCode::SUCCESS
    },
};

/// `reference commands`.
pub static COMMANDS_PAGE: Command = Command {
    name: "reference commands",
    operands: "",
    about: "Prints the reference page of all commands",
    more: "",
    flags: &[],
    http: false,
    run: |_: &Input| {
        print_out(&page());
        ExitCode::SUCCESS
    },
};

/// The page of all commands, in Markdown.
pub fn page() -> String {
    let mut page =
        String::from("# Commands\n\nMade from the command table by `causeway reference commands`; do not edit.\n");
    for command in COMMANDS {
        page.push_str(&format!("\n## `causeway {}`\n\n```text\n{}```\n", command.name, help(command)));
    }
    page
}
