//! `reference config | commands | http | dns`: the reference pages, made from the code.

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

/// `reference http`.
pub static HTTP: Command = Command {
    name: "reference http",
    operands: "",
    about: "Prints the reference page of the HTTP API",
    more: "",
    flags: &[],
    http: false,
    run: |_: &Input| {
        print_out(&causeway_agent::http::reference::page());
        ExitCode::SUCCESS
    },
};

/// `reference dns`.
pub static DNS: Command = Command {
    name: "reference dns",
    operands: "",
    about: "Prints the reference page of DNS",
    more: "",
    flags: &[],
    http: false,
    run: |_: &Input| {
        print_out(&dns_page());
        ExitCode::SUCCESS
    },
};

/// The page of DNS: names, codes, and the keys that change them.
fn dns_page() -> String {
    let is_dns = |key: &str| {
        key.starts_with("dns_config.")
            || matches!(key, "domain" | "alt_domain" | "recursors" | "recursor" | "addresses.dns" | "ports.dns")
    };
    let rows = crate::options::reference_rows(|def| is_dns(def.key));
    format!("{}\n## Keys\n\n{rows}", causeway_agent::dns::reference())
}

/// The page of all commands, in Markdown.
pub fn page() -> String {
    let mut page =
        String::from("# Commands\n\nMade from the command table by `causeway reference commands`; do not edit.\n");
    for command in COMMANDS {
        page.push_str(&format!("\n## `causeway {}`\n\n```text\n{}```\n", command.name, help(command)));
    }
    page
}
