//! `version`.

use std::process::ExitCode;

use serde_json::json;

use super::{Command, FORMAT, Input, pretty, print_out};

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
    flags: &[FORMAT],
    http: false,
    run: |input: &Input| {
        match input.value("format") {
            None | Some("pretty") => {}
            Some("json") => {
                print_out(&format!("{}\n", machine()));
                return ExitCode::SUCCESS;
            }
            Some(other) => {
                eprintln!("Unknown format: {other}");
                return ExitCode::FAILURE;
            }
        }
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

/// As Consul's, where scripts look, and ours beside it.
fn machine() -> String {
    let rpc = json!({"Default": 2, "Min": 2, "Max": 3});
    pretty(&json!({"Version": SPOKEN, "Revision": "", "Prerelease": "", "RPC": rpc, "Causeway": OURS}), b"   ")
}
