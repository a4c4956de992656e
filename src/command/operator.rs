//! `operator raft`, `operator autopilot`. Words and exit codes are Consul's.

use std::process::ExitCode;

use causeway_agent::http::duration;
use serde_json::Value;

use super::api::{self, ApiError, escape, text};
use super::{Command, FORMAT, Input, columns, flag, print_out};

/// `operator raft list-peers`.
pub static LIST_PEERS: Command = Command {
    name: "operator raft list-peers",
    operands: "",
    about: "Displays the current Raft peer configuration",
    more: "",
    flags: &[],
    http: true,
    run: list_peers,
};
/// `operator raft remove-peer`.
pub static REMOVE_PEER: Command = Command {
    name: "operator raft remove-peer",
    operands: "",
    about: "Removes a server from the Raft configuration",
    more: "For a server that is gone and was not cleaned up. One that lives is taken in again after a minute: let it leave instead, or\n\
           use force-leave. It is refused where the living would not be a quorum of the servers that remain.",
    flags: &[flag("address", "string", "RPC address of the server."), flag("id", "string", "Node ID of the server.")],
    http: true,
    run: remove_peer,
};
/// `operator raft transfer-leader`.
pub static TRANSFER_LEADER: Command = Command {
    name: "operator raft transfer-leader",
    operands: "",
    about: "Transfers leadership to another server",
    more: "",
    flags: &[flag("id", "string", "Node ID of the new leader; default: the server that has most of the log.")],
    http: true,
    run: transfer_leader,
};
/// `operator autopilot get-config`.
pub static AUTOPILOT_GET: Command = Command {
    name: "operator autopilot get-config",
    operands: "",
    about: "Displays the current autopilot configuration",
    more: "",
    flags: &[],
    http: true,
    run: get_config,
};
/// `operator autopilot set-config`.
pub static AUTOPILOT_SET: Command = Command {
    name: "operator autopilot set-config",
    operands: "",
    about: "Modifies the current autopilot configuration",
    more: "What no flag names stays as it is.",
    flags: &[
        flag(
            "cleanup-dead-servers",
            "true|false",
            "Whether servers that failed are taken out once others took their place.",
        ),
        flag("disable-upgrade-migration", "true|false", "Kept without effect."),
        flag("last-contact-threshold", "200ms", "A server without contact to the leader for longer is not healthy."),
        flag("max-trailing-logs", "number", "A server this many entries behind the leader is not healthy."),
        flag("min-quorum", "number", "No server that failed is taken out where fewer voters would remain."),
        flag("redundancy-zone-tag", "string", "Kept without effect."),
        flag("server-stabilization-time", "10s", "How long a new server is healthy before it votes."),
        flag("upgrade-version-tag", "string", "Kept without effect."),
    ],
    http: true,
    run: set_config,
};
/// `operator autopilot state`.
pub static AUTOPILOT_STATE: Command = Command {
    name: "operator autopilot state",
    operands: "",
    about: "Displays the servers as autopilot sees them",
    more: "",
    flags: &[FORMAT],
    http: true,
    run: state,
};

const CONFIG: &str = "/v1/operator/autopilot/configuration";

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn list_peers(input: &Input) -> ExitCode {
    api::run(input, "Error getting peers", |api| {
        let configuration = api.get("/v1/operator/raft/configuration")?;
        let mut rows = vec![["Node", "ID", "Address", "State", "Voter", "RaftProtocol"].map(str::to_owned).to_vec()];
        for server in list(&configuration, "Servers") {
            let state = if server["Leader"] == true { "leader" } else { "follower" };
            rows.push(vec![
                text(server, "Node"),
                text(server, "ID"),
                text(server, "Address"),
                state.to_owned(),
                text(server, "Voter"),
                text(server, "ProtocolVersion"),
            ]);
        }
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

fn remove_peer(input: &Input) -> ExitCode {
    let given = |flag: &str| input.value(flag).filter(|v| !v.is_empty());
    let (what, value) = match (given("id"), given("address")) {
        (None, None) => return misuse("Error removing peer: an address or id is required for the peer to remove"),
        (Some(_), Some(_)) => return misuse("Error removing peer: cannot give both an address and id"),
        (Some(id), None) => ("id", id),
        (None, Some(address)) => ("address", address),
    };
    api::run(input, "Error removing peer", |api| {
        api.request("DELETE", &format!("/v1/operator/raft/peer?{what}={}", escape(value, false)), "")?.ok()?;
        print_out(&format!("Removed peer with {what} {value:?}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn transfer_leader(input: &Input) -> ExitCode {
    let id = input.value("id").map_or(String::new(), |id| format!("?id={}", escape(id, false)));
    api::run(input, "Error transfering leadership", |api| {
        api.request("POST", &format!("/v1/operator/raft/transfer-leader{id}"), "")?.ok()?;
        print_out("Success\n");
        Ok(ExitCode::SUCCESS)
    })
}

fn get_config(input: &Input) -> ExitCode {
    api::run(input, "Error querying Autopilot configuration", |api| {
        let config = api.get(CONFIG)?;
        let mut out = String::new();
        for key in [
            "CleanupDeadServers",
            "LastContactThreshold",
            "MaxTrailingLogs",
            "MinQuorum",
            "ServerStabilizationTime",
            "RedundancyZoneTag",
            "DisableUpgradeMigration",
            "UpgradeVersionTag",
        ] {
            let value = text(&config, key);
            let quoted = key == "RedundancyZoneTag" || key == "UpgradeVersionTag";
            out.push_str(&if quoted { format!("{key} = {value:?}\n") } else { format!("{key} = {value}\n") });
        }
        print_out(&out);
        Ok(ExitCode::SUCCESS)
    })
}

/// What a flag says, as the API takes it.
fn change(flag: &str, value: &str) -> Result<(&'static str, Value), String> {
    let bad = |why: &str| format!("Failed to parse args: invalid value {value:?} for flag -{flag}: {why}");
    let yes_no = || match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
        _ => Err(bad(&format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))),
    };
    let number = || value.parse::<u32>().map(Value::from).map_err(|_| bad("a number is wanted"));
    let time = || duration::parse(value).map(|_| Value::from(value)).map_err(|e| bad(&e.to_string()));
    Ok(match flag {
        "cleanup-dead-servers" => ("CleanupDeadServers", yes_no()?),
        "disable-upgrade-migration" => ("DisableUpgradeMigration", yes_no()?),
        "last-contact-threshold" => ("LastContactThreshold", time()?),
        "max-trailing-logs" => ("MaxTrailingLogs", number()?),
        "min-quorum" => ("MinQuorum", number()?),
        "redundancy-zone-tag" => ("RedundancyZoneTag", value.into()),
        "server-stabilization-time" => ("ServerStabilizationTime", time()?),
        _ => ("UpgradeVersionTag", value.into()),
    })
}

fn set_config(input: &Input) -> ExitCode {
    let wanted = AUTOPILOT_SET.flags.iter().filter_map(|f| Some(change(f.name, input.value(f.name)?)));
    let wanted: Vec<_> = match wanted.collect() {
        Ok(wanted) => wanted,
        Err(why) => return misuse(&why),
    };
    api::run(input, "Error setting Autopilot configuration", |api| {
        let mut config = api.get(CONFIG)?;
        let index = text(&config, "ModifyIndex");
        for (key, value) in wanted {
            config[key] = value;
        }
        let done = api.put(&format!("{CONFIG}?cas={index}"), config.to_string())?;
        if done.trim_ascii() != b"true" {
            return Ok(misuse("Configuration could not be atomically updated, please try again"));
        }
        print_out("Configuration updated!\n");
        Ok(ExitCode::SUCCESS)
    })
}

fn shown(state: &Value) -> String {
    let mut out = String::new();
    for (name, key) in [
        ("Healthy:", "Healthy"),
        ("Failure Tolerance:", "FailureTolerance"),
        ("Optimistic Failure Tolerance:", "OptimisticFailureTolerance"),
        ("Leader:", "Leader"),
    ] {
        out.push_str(&format!("{name:<30}{}\n", text(state, key)));
    }
    out.push_str("Voters:\n");
    for id in list(state, "Voters") {
        out.push_str(&format!("   {}\n", id.as_str().unwrap_or_default()));
    }
    out.push_str("Servers:\n");
    for (id, server) in state["Servers"].as_object().into_iter().flatten() {
        out.push_str(&format!("   {id}\n"));
        for (name, key) in [
            ("Name:", "Name"),
            ("Address:", "Address"),
            ("Version:", "Version"),
            ("Status:", "Status"),
            ("Node Type:", "NodeType"),
            ("Node Status:", "NodeStatus"),
            ("Healthy:", "Healthy"),
            ("Last Contact:", "LastContact"),
            ("Last Term:", "LastTerm"),
            ("Last Index:", "LastIndex"),
        ] {
            out.push_str(&format!("      {name:<17}{}\n", text(server, key)));
        }
    }
    out
}

fn state(input: &Input) -> ExitCode {
    let json = match input.value("format") {
        None | Some("pretty") => false,
        Some("json") => true,
        Some(other) => return misuse(&format!("Invalid output format {other:?}: pretty or json")),
    };
    api::run(input, "Error querying Autopilot state", |api| {
        let state = api.get("/v1/operator/autopilot/state")?;
        let text = if json {
            let text = serde_json::to_string_pretty(&state).map_err(|e| ApiError::Unreadable(e.to_string()))?;
            format!("{text}\n")
        } else {
            shown(&state)
        };
        print_out(&text);
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_fields() {
        assert_eq!(change("min-quorum", "3"), Ok(("MinQuorum", 3.into())));
        assert_eq!(change("cleanup-dead-servers", "false"), Ok(("CleanupDeadServers", false.into())));
        let refused = change("last-contact-threshold", "x").unwrap_err();
        assert!(refused.ends_with("for flag -last-contact-threshold: time: invalid duration \"x\""), "{refused}");
    }
}
