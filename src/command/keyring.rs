//! `keyring`: the keys of gossip. Words, layout and exit codes are Consul's.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::api::{self, ApiError, escape, text};
use super::{Command, Input, flag, help, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "keyring",
    operands: "",
    about: "Manages gossip layer encryption keys",
    more: "To change the key of all sites without an outage: -install the new one, then -use it, then -remove the old one. Each step is\n\
           done on all members that are alive; it ends with 1 where one did not do it, or did not answer, and says which.",
    flags: &[
        flag("install", "key", "Installs a key on all members, to open with."),
        flag("list", "", "Lists all keys, with how many members have them."),
        flag("list-primary", "", "Lists the keys that members encrypt with."),
        flag("local-only", "", "Asks the members of this datacenter only. For lists."),
        flag("relay-factor", "number", "A member that does not answer is asked through so many others; 0 to 5."),
        flag("remove", "key", "Removes a key from all members; not the one they encrypt with."),
        flag("use", "key", "Makes all members encrypt with a key, which must be installed."),
    ],
    http: true,
    run,
};

const PATH: &str = "/v1/operator/keyring";

fn fail(words: &str) -> ExitCode {
    eprintln!("{words}");
    ExitCode::FAILURE
}

/// What is printed of a list; the second is what is missing in it.
fn shown(pools: &Value, key: &str) -> (String, String) {
    let (mut out, mut missing) = (String::new(), String::new());
    for pool in pools.as_array().into_iter().flatten() {
        let name = if pool["WAN"] == true { "WAN".to_owned() } else { format!("{} (LAN)", text(pool, "Datacenter")) };
        let error = text(pool, "Error");
        if !error.is_empty() {
            missing.push_str(&format!("{name} error: {error}\n"));
            for (node, why) in pool["Messages"].as_object().into_iter().flatten() {
                missing.push_str(&format!("  {node}: {}\n", why.as_str().unwrap_or_default()));
            }
        }
        let keys: Vec<_> = pool[key].as_object().into_iter().flatten().collect();
        if keys.is_empty() && !error.is_empty() {
            continue;
        }
        out.push_str(&format!("\n{name}:\n"));
        for (key, count) in keys {
            out.push_str(&format!("  {key} [{count}/{}]\n", text(pool, "NumNodes")));
        }
    }
    (out, missing)
}

/// What is to be done; `None`: nothing, or several things.
fn action(input: &Input) -> Result<(&'static str, String), bool> {
    let key = |flag: &'static str| input.value(flag).filter(|v| !v.is_empty()).map(|v| (flag, v.to_owned()));
    let list = |flag: &'static str| input.on(flag).then(|| (flag, String::new()));
    let all = [key("install"), list("list"), list("list-primary"), key("remove"), key("use")];
    let mut given = all.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(false),
        _ => Err(true),
    }
}

fn run(input: &Input) -> ExitCode {
    let (action, key) = match action(input) {
        Ok(action) => action,
        Err(true) => return fail("Only a single action is allowed"),
        Err(false) => {
            eprint!("{}", help(&COMMAND));
            return ExitCode::FAILURE;
        }
    };
    let factor = input.value("relay-factor").unwrap_or("0");
    match factor.parse::<i64>() {
        Ok(0..=5) => {}
        Ok(_) => return fail("Error parsing relay factor: Relay factor must be in range: [0, 5]"),
        Err(_) => return fail(&format!("invalid value {factor:?} for flag -relay-factor: parse error")),
    }
    let lists = action.starts_with("list");
    if input.on("local-only") && !lists {
        return fail("Error validating local-only: local-only can only be set for list requests");
    }
    let (words, method) = match action {
        "install" => ("Installing new gossip encryption key...", "POST"),
        "use" => ("Changing primary gossip encryption key...", "PUT"),
        "remove" => ("Removing gossip encryption key...", "DELETE"),
        "list-primary" => ("Gathering installed primary encryption keys...", "GET"),
        _ => ("Gathering installed encryption keys...", "GET"),
    };
    print_out(&format!("==> {words}\n"));
    let local = if input.on("local-only") { "&local-only=true" } else { "" };
    let path = format!("{PATH}?relay-factor={}{local}", escape(factor, false));
    api::run(input, "error", |api| {
        let body = if lists { String::new() } else { json!({ "Key": key }).to_string() };
        let answer = api.request(method, &path, body)?.ok()?;
        if !lists {
            return Ok(ExitCode::SUCCESS);
        }
        let pools: Value = serde_json::from_slice(&answer).map_err(|e| ApiError::Unreadable(e.to_string()))?;
        let (out, missing) = shown(&pools, if action == "list" { "Keys" } else { "PrimaryKeys" });
        print_out(&out);
        Ok(if missing.is_empty() { ExitCode::SUCCESS } else { fail(&format!("\n{}", missing.trim_end())) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_consul_prints_them() {
        let pools = json!([
            {"WAN": false, "Datacenter": "dc1", "Keys": {"a=": 2, "b=": 3}, "PrimaryKeys": {"b=": 3}, "NumNodes": 3,
             "Messages": {"n3": "late"}, "Error": "2/3 nodes reported success"},
            {"WAN": false, "Datacenter": "dc2", "Keys": {}, "PrimaryKeys": {}, "NumNodes": 0, "Error": "No path to datacenter"},
        ]);
        let (out, missing) = shown(&pools, "Keys");
        assert_eq!(out, "\ndc1 (LAN):\n  a= [2/3]\n  b= [3/3]\n");
        assert_eq!(
            missing,
            "dc1 (LAN) error: 2/3 nodes reported success\n  n3: late\ndc2 (LAN) error: No path to datacenter\n"
        );
        assert_eq!(shown(&pools, "PrimaryKeys").0, "\ndc1 (LAN):\n  b= [3/3]\n");
    }
}
