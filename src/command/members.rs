//! `members`: who is in the datacenter, or with `-wan` in the federation.

use std::process::ExitCode;

use serde_json::Value;

use super::{Command, api, columns, flag, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "members",
    operands: "",
    about: "Lists the members of the datacenter, or of the federation",
    more: "",
    flags: &[
        flag("wan", "", "Lists gateways and servers of every site instead."),
        flag("detailed", "", "Shows all tags."),
        flag("status", "regexp", "Shows only members whose status matches."),
        flag("segment", "name", "Accepted for Consul's sake."),
    ],
    http: true,
    run,
};

fn run(input: &super::Input) -> ExitCode {
    api::run(input, "Error retrieving members", |api| {
        let all = api.get(if input.on("wan") { "/v1/agent/members?wan=1" } else { "/v1/agent/members" })?;
        let pattern = input.value("status").unwrap_or(".*");
        let wanted = match regex::Regex::new(pattern) {
            Ok(wanted) => wanted,
            Err(e) => {
                eprintln!("Failed to compile status regexp: error parsing regexp: {e}");
                return Ok(ExitCode::FAILURE);
            }
        };
        let mut members: Vec<&Value> =
            all.as_array().into_iter().flatten().filter(|m| wanted.is_match(status(m))).collect();
        if members.is_empty() {
            return Ok(ExitCode::from(2));
        }
        // As Consul does: by segment, and servers are in all of them.
        members.sort_by_key(|m| (api::text(&m["Tags"], "role") != "consul", api::text(m, "Name")));
        let mut rows = Vec::new();
        if input.on("detailed") {
            rows.push(["Node", "Address", "Status", "Tags"].map(str::to_owned).to_vec());
            for m in members {
                let mut tags: Vec<String> = m["Tags"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter(|(k, _)| *k != "segment")
                    .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                    .chain([format!("segment={}", segment(m))])
                    .collect();
                tags.sort();
                rows.push(vec![api::text(m, "Name"), address(m), status(m).to_owned(), tags.join(",")]);
            }
        } else {
            rows.push(
                ["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"].map(str::to_owned).to_vec(),
            );
            for m in members {
                let tags = &m["Tags"];
                let kind = match api::text(tags, "role").as_str() {
                    "consul" => "server",
                    "gateway" => "gateway",
                    _ => "client",
                };
                let build = api::text(tags, "build").split(':').next().unwrap_or_default().to_owned();
                let row = [
                    api::text(m, "Name"),
                    address(m),
                    status(m).into(),
                    kind.into(),
                    build,
                    "2".into(),
                    api::text(tags, "dc"),
                    segment(m).into(),
                ];
                rows.push(row.to_vec());
            }
        }
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

/// As Consul shows it: servers are in every segment, and there is one only.
fn segment(m: &Value) -> &'static str {
    if m["Tags"]["role"] == "consul" { "<all>" } else { "<default>" }
}

fn address(m: &Value) -> String {
    let (addr, port) = (api::text(m, "Addr"), api::text(m, "Port"));
    if addr.contains(':') { format!("[{addr}]:{port}") } else { format!("{addr}:{port}") }
}

fn status(m: &Value) -> &'static str {
    match m["Status"].as_u64() {
        Some(1) => "alive",
        Some(2) => "leaving",
        Some(3) => "left",
        Some(4) => "failed",
        _ => "none",
    }
}
