//! `catalog datacenters | nodes | services`.

use std::process::ExitCode;

use serde_json::Value;

use super::api::{self, escape, text};
use super::{Command, Input, NAMESPACE, columns, flag, print_out};

/// `catalog datacenters`.
pub static DATACENTERS: Command = Command {
    name: "catalog datacenters",
    operands: "",
    about: "Lists all known datacenters, nearest first",
    more: "",
    flags: &[],
    http: true,
    run: datacenters,
};
/// `catalog nodes`.
pub static NODES: Command = Command {
    name: "catalog nodes",
    operands: "",
    about: "Lists all nodes of a datacenter",
    more: "",
    flags: &[
        flag("detailed", "", "Shows addresses and metadata."),
        flag("filter", "expression", "Filter to use with the request."),
        flag("near", "node", "Sorts by round trip from this node."),
        flag("node-meta", "key=value", "Only nodes with this metadata; may be repeated."),
        flag("service", "name", "Only nodes with this service."),
    ],
    http: true,
    run: nodes,
};
/// `catalog services`.
pub static SERVICES: Command = Command {
    name: "catalog services",
    operands: "",
    about: "Lists all registered services of a datacenter",
    more: "",
    flags: &[
        flag("node", "id or name", "Only services on this node."),
        flag("node-meta", "key=value", "Only services on nodes with this metadata; may be repeated."),
        flag("tags", "", "Shows tags."),
        NAMESPACE,
    ],
    http: true,
    run: services,
};

fn datacenters(input: &Input) -> ExitCode {
    if !input.operands.is_empty() {
        return too_many(input);
    }
    api::run(input, "Error listing datacenters", |api| {
        let names = api.get("/v1/catalog/datacenters")?;
        let lines = names.as_array().into_iter().flatten().filter_map(Value::as_str);
        print_out(&lines.map(|n| format!("{n}\n")).collect::<String>());
        Ok(ExitCode::SUCCESS)
    })
}

fn too_many(input: &Input) -> ExitCode {
    eprintln!("Too many arguments (expected 0, got {})", input.operands.len());
    ExitCode::FAILURE
}

fn meta_query(input: &Input) -> String {
    input
        .values("node-meta")
        .iter()
        .map(|m| format!("&node-meta={}", escape(&m.replacen('=', ":", 1), false)))
        .collect()
}

fn nodes(input: &Input) -> ExitCode {
    if !input.operands.is_empty() {
        return too_many(input);
    }
    api::run(input, "Error listing nodes", |api| {
        let mut query = meta_query(input);
        for name in ["near", "filter"] {
            if let Some(v) = input.value(name) {
                query.push_str(&format!("&{name}={}", escape(v, false)));
            }
        }
        let path = match input.value("service") {
            Some(service) => format!("/v1/catalog/service/{}?{query}", escape(service, false)),
            None => format!("/v1/catalog/nodes?{query}"),
        };
        let found = api.get(&path)?;
        let found: Vec<&Value> = found.as_array().into_iter().flatten().collect();
        if found.is_empty() {
            eprintln!("No nodes match the given query - try expanding your search.");
            return Ok(ExitCode::SUCCESS);
        }
        let detailed = input.on("detailed");
        let mut rows = vec![["Node", "ID", "Address", "DC"].map(str::to_owned).to_vec()];
        if detailed {
            rows[0].extend(["TaggedAddresses".to_owned(), "Meta".to_owned()]);
        }
        for node in found {
            let id = text(node, "ID");
            let id = if detailed { id } else { id.split('-').next().unwrap_or_default().to_owned() };
            let mut row = vec![text(node, "Node"), id, text(node, "Address"), text(node, "Datacenter")];
            if detailed {
                row.push(pairs(&node["TaggedAddresses"]));
                row.push(pairs(if node["NodeMeta"].is_object() { &node["NodeMeta"] } else { &node["Meta"] }));
            }
            rows.push(row);
        }
        rows[1..].sort();
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

fn pairs(map: &Value) -> String {
    let mut pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    pairs.sort();
    pairs.join(", ")
}

fn services(input: &Input) -> ExitCode {
    if !input.operands.is_empty() {
        return too_many(input);
    }
    api::run(input, "Error listing services", |api| {
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        let tags =
            |v: &Value| v.as_array().into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect();
        if let Some(node) = input.value("node") {
            let answer = api.get(&format!("/v1/catalog/node/{}", escape(node, false)))?;
            for service in answer["Services"].as_object().into_iter().flatten().map(|(_, s)| s) {
                found.push((text(service, "Service"), tags(&service["Tags"])));
            }
        } else {
            let answer = api.get(&format!("/v1/catalog/services?{}", meta_query(input)))?;
            for (name, v) in answer.as_object().into_iter().flatten() {
                found.push((name.clone(), tags(v)));
            }
        }
        if found.is_empty() {
            eprintln!("No services match the given query - try expanding your search.");
            return Ok(ExitCode::SUCCESS);
        }
        found.sort();
        // Several instances on a node are one service.
        found.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1.append(&mut next.1);
            }
            same
        });
        let rows: Vec<Vec<String>> = found
            .into_iter()
            .map(|(name, mut tags)| {
                if !input.on("tags") {
                    return vec![name];
                }
                tags.sort();
                tags.dedup();
                vec![name, tags.join(",")]
            })
            .collect();
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}
