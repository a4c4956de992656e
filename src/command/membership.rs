//! `join`, `leave`, `force-leave`, `reload`: what changes the agent's membership or configuration.

use std::process::ExitCode;

use super::api::{self, escape};
use super::{Command, Input, flag, print_out};

/// `join`.
pub static JOIN: Command = Command {
    name: "join",
    operands: "ADDRESS ...",
    about: "Tell the agent to join a cluster",
    more: "",
    flags: &[flag("wan", "", "Consul's WAN pool; sites are linked by gateways here (see `gateway.peers`).")],
    http: true,
    run: join,
};
/// `leave`.
pub static LEAVE: Command = Command {
    name: "leave",
    operands: "",
    about: "Gracefully leaves the cluster and shuts down",
    more: "",
    flags: &[],
    http: true,
    run: leave,
};
/// `force-leave`.
pub static FORCE_LEAVE: Command = Command {
    name: "force-leave",
    operands: "NODE",
    about: "Forces a failed member of the cluster into the \"left\" state",
    more: "",
    flags: &[flag("prune", "", "Forgets it altogether.")],
    http: true,
    run: force_leave,
};
/// `reload`.
pub static RELOAD: Command = Command {
    name: "reload",
    operands: "",
    about: "Triggers the agent to read its configuration files again",
    more: "",
    flags: &[],
    http: true,
    run: reload,
};

fn join(input: &Input) -> ExitCode {
    if input.operands.is_empty() {
        eprintln!("At least one address to join must be specified.");
        return ExitCode::FAILURE;
    }
    api::run(input, "Error connecting to Consul agent", |api| {
        let mut joined = 0;
        for address in &input.operands {
            let wan = if input.on("wan") { "?wan=1" } else { "" };
            match api.put(&format!("/v1/agent/join/{}{wan}", escape(address, false)), "") {
                Ok(_) => joined += 1,
                Err(e) => eprintln!("Error joining address '{address}': {e}"),
            }
        }
        if joined == 0 {
            eprintln!("Failed to join any nodes.");
            return Ok(ExitCode::FAILURE);
        }
        print_out(&format!("Successfully joined cluster by contacting {joined} nodes.\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn leave(input: &Input) -> ExitCode {
    // Nothing that ends an agent is done on a guess.
    if let Some(stray) = input.operands.first() {
        eprintln!("Error found unexpected args: [{stray}]");
        return ExitCode::FAILURE;
    }
    api::run(input, "Error leaving", |api| {
        api.put("/v1/agent/leave", "")?;
        print_out("Graceful leave complete\n");
        Ok(ExitCode::SUCCESS)
    })
}

fn force_leave(input: &Input) -> ExitCode {
    let [node] = input.operands.as_slice() else {
        eprintln!("A single node name must be specified to force leave.");
        return ExitCode::FAILURE;
    };
    api::run(input, "Error force leaving", |api| {
        let prune = if input.on("prune") { "?prune" } else { "" };
        api.put(&format!("/v1/agent/force-leave/{}{prune}", escape(node, false)), "")?;
        Ok(ExitCode::SUCCESS)
    })
}

fn reload(input: &Input) -> ExitCode {
    api::run(input, "Error reloading", |api| {
        api.put("/v1/agent/reload", "")?;
        print_out("Configuration reload triggered\n");
        Ok(ExitCode::SUCCESS)
    })
}
