//! `dev`: a federation on this machine, for trying out: real processes, real sockets, state on disk.

use std::process::ExitCode;

use super::{Command, Input, flag};

/// The command.
pub static COMMAND: Command = Command {
    name: "dev",
    operands: "",
    about: "Runs a federation of several datacenters on this machine, with sample services",
    more: "Each datacenter has three servers, one gateway and one client agent, each a process of its own.\nThe agents answer DNS at 8600, 8601, ... and HTTP at 8500, 8501, ... Ctrl-C ends it all.",
    flags: &[
        flag("datacenters", "number", "How many, 1 to 9; 2 by default."),
        flag(
            "data-dir",
            "path",
            "Keeps state here; a second start finds it again. Default: a directory that is removed at the end.",
        ),
        flag("port-base", "number", "First of the ports that are not 85xx and 86xx; 21000 by default."),
        flag("http-port", "number", "HTTP port of the first agent; 8500 by default."),
        flag("dns-port", "number", "DNS port of the first agent; 8600 by default."),
        flag("quiet", "", "Shows no changes of health."),
    ],
    http: false,
    run,
};

fn run(input: &Input) -> ExitCode {
    match crate::dev::Setup::read(input) {
        Ok(setup) => crate::dev::main(setup),
        Err(e) => {
            eprintln!("==> {e}");
            ExitCode::FAILURE
        }
    }
}
