//! `version`.

use std::process::ExitCode;

use super::{Command, Input, print_out};

/// Our version.
pub const OURS: &str = env!("CARGO_PKG_VERSION");
/// The version of Consul whose interfaces we speak.
pub const SPOKEN: &str = "1.8.7";

/// The command.
pub static COMMAND: Command = Command {
    name: "version",
    operands: "",
    about: "Prints the version",
    more: "Linked under the name `consul`, it prints what Consul's scripts look for, and ours beside it.",
    flags: &[],
    http: false,
    run: |_: &Input| {
        let name = std::env::args().next().unwrap_or_default();
        let as_consul = std::path::Path::new(&name).file_stem().is_some_and(|s| s == "consul");
        if as_consul {
            print_out(&format!(
                "Consul v{SPOKEN}\nProtocol 2 spoken by default, understands 2 to 3 (Causeway v{OURS}, speaking Consul's interfaces)\n"
            ));
        } else {
            print_out(&format!("Causeway v{OURS}\nSpeaks the interfaces of Consul v{SPOKEN}\n"));
        }
        ExitCode::SUCCESS
    },
};
