//! `federation exports` and `kv replication`: what sites may ask of each other, and how far copies of keys are.

use std::process::ExitCode;

use serde_json::Value;

use super::{Command, FORMAT, Input, api, columns, print_out};

/// `federation exports`.
pub static EXPORTS: Command = Command {
    name: "federation exports",
    operands: "",
    about: "Shows what other sites may ask of this one; with -datacenter: what this one may ask there",
    more: "Set by \"exports\" on the servers (`causeway reference config`). Without it every linked site may read and write\neverything, as in Consul.",
    flags: &[FORMAT],
    http: true,
    run: exports,
};
/// `kv replication`.
pub static REPLICATION: Command = Command {
    name: "kv replication",
    operands: "",
    about: "Shows the key prefixes that are copied from other sites, and how far behind they are",
    more: "Set by \"kv_replication\" on the servers. Exit code 2 where a copy is not in sync.",
    flags: &[FORMAT],
    http: true,
    run: replication,
};

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// One grant in words.
fn words(rule: &Value) -> String {
    let mut what = Vec::new();
    for (key, name) in [("Services", "services"), ("KV", "keys")] {
        let names = texts(&rule[key]);
        match names.as_slice() {
            [] => {}
            all if all.contains(&"*") => what.push(format!("all {name}")),
            some => what.push(format!("{name} {}", some.join(" "))),
        }
    }
    if rule["Sessions"] == true {
        what.push("sessions".to_owned());
    }
    if what.is_empty() {
        return "nothing".to_owned();
    }
    let methods = texts(&rule["Methods"]);
    let by = if methods.is_empty() { String::new() } else { format!(" by {}", methods.join(" ")) };
    format!("{} {}{by}", texts(&rule["Operations"]).join("+"), what.join(", "))
}

/// What one site may ask, in words; `exports`: as `/v1/internal/exports` has it.
pub fn summary(exports: &Value, site: &str) -> String {
    if exports["Open"] == true {
        return "everything (no exports are set, as in Consul)".to_owned();
    }
    let rules = exports["Rules"].as_array().into_iter().flatten();
    let concerned =
        rules.filter(|r| r["To"] == "*" || r["To"].as_str().is_some_and(|to| to.eq_ignore_ascii_case(site)));
    let grants: Vec<String> = concerned.map(words).filter(|w| w != "nothing").collect();
    if grants.is_empty() { "nothing".to_owned() } else { grants.join("; ") }
}

fn exports(input: &Input) -> ExitCode {
    api::run(input, "Error asking for the exports", |api| {
        let found = api.get("/v1/internal/exports")?;
        if input.value("format") == Some("json") {
            print_out(&format!("{found:#}\n"));
            return Ok(ExitCode::SUCCESS);
        }
        if found["Open"] == true {
            print_out("every linked site: everything (no exports are set, as in Consul)\n");
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![["To", "May"].map(str::to_owned).to_vec()];
        for rule in found["Rules"].as_array().into_iter().flatten() {
            rows.push(vec![api::text(rule, "To"), words(rule)]);
        }
        if rows.len() == 1 {
            rows.push(vec!["*".to_owned(), "nothing".to_owned()]);
        }
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

fn replication(input: &Input) -> ExitCode {
    api::run(input, "Error asking for the copies", |api| {
        let found = api.get("/v1/internal/replication")?;
        let copies = found.as_array().cloned().unwrap_or_default();
        let well = copies.iter().all(|copy| copy["State"] == "in-sync");
        if input.value("format") == Some("json") {
            print_out(&format!("{found:#}\n"));
        } else {
            let head = ["From", "Prefix", "Here", "State", "Lag", "Keys", "Index", "Error"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            for copy in &copies {
                let lag =
                    copy["LagMs"].as_u64().map_or("-".to_owned(), |ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100));
                let mut row = ["From", "Prefix", "ToPrefix", "State"].map(|key| api::text(copy, key)).to_vec();
                row.extend([lag, api::text(copy, "Keys"), api::text(copy, "Index"), api::text(copy, "Error")]);
                rows.push(row);
            }
            print_out(&columns(&rows));
        }
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(2) })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summaries() {
        let rule =
            |to: &str| json!({"To": to, "Services": ["web", "api*"], "KV": [], "Operations": ["read"], "Methods": []});
        let all = json!({"To": "*", "KV": ["*"], "Sessions": true, "Operations": ["read", "write"], "Methods": ["kv"]});
        let exports = json!({"Open": false, "Rules": [rule("dc2"), all, {"To": "*", "Operations": ["read"]}]});
        assert_eq!(summary(&exports, "DC2"), "read services web api*; read+write all keys, sessions by kv");
        assert_eq!(summary(&exports, "dc3"), "read+write all keys, sessions by kv");
        assert_eq!(summary(&json!({"Open": false, "Rules": []}), "dc3"), "nothing");
        assert!(summary(&json!({"Open": true}), "dc3").starts_with("everything"));
    }
}
