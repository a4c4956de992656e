//! `acl bootstrap`, `acl token`, `acl policy`, `acl role`, `acl set-agent-token`. Words, columns and exit codes are Consul's.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::api::{self, Api, ApiError, escape};
use super::{Command, Flag, Input, flag, print_out};

const FORMAT: Flag = flag("format", "pretty|json", "How it is shown.");
const META: Flag = flag("meta", "", "Whether indexes and the hash are shown, too.");
const ID: Flag = flag("id", "string", "ID; a beginning of it will do where it is the only one.");
const NAME: Flag = flag("name", "string", "Name.");
const DESCRIPTION: Flag = flag("description", "string", "What it is for.");
const POLICY_ID: Flag = flag("policy-id", "string", "ID of a policy to use; repeatable.");
const POLICY_NAME: Flag = flag("policy-name", "string", "Name of a policy to use; repeatable.");
const ROLE_ID: Flag = flag("role-id", "string", "ID of a role to use; repeatable.");
const ROLE_NAME: Flag = flag("role-name", "string", "Name of a role to use; repeatable.");
const SERVICE: Flag = flag("service-identity", "NAME[:DC,DC...]", "Service whose rules to use; repeatable.");
const NODE: Flag = flag("node-identity", "NAME:DC", "Node whose rules to use; repeatable.");
const RULES: Flag = flag("rules", "text", "Rules; @FILE reads a file, - standard input.");
const VALID: Flag = flag("valid-datacenter", "name", "Datacenter it holds in; repeatable; default: all.");
const NO_MERGE: Flag = flag("no-merge", "", "What is not said is emptied instead of kept.");

macro_rules! rows {
    ($($name:ident = $command:literal, $operands:literal, $about:literal, [$($flag:expr),*], $run:expr;)*) => {$(
        /// See the row.
        pub static $name: Command = Command {
            name: $command, operands: $operands, about: $about, more: "", flags: &[$($flag),*], http: true, run: $run,
        };
    )*};
}

rows! {
    BOOTSTRAP = "acl bootstrap", "", "Makes the first token, which may do everything", [FORMAT], bootstrap;
    SET_AGENT_TOKEN = "acl set-agent-token", "TYPE TOKEN", "Sets a token of the agent: default, agent, master, replication", [], set_agent_token;
    TOKEN_CREATE = "acl token create", "", "Makes a token",
        [
            flag("accessor", "uuid", "Its accessor; default: a random one."), flag("secret", "uuid", "Its secret; default: a random one."),
            flag("local", "", "It holds in this datacenter only, and never leaves it."),
            flag("expires-ttl", "duration", "How long it holds; default: for ever."),
            DESCRIPTION, POLICY_ID, POLICY_NAME, ROLE_ID, ROLE_NAME, SERVICE, NODE, FORMAT, META
        ],
        |input| token_create(input);
    TOKEN_LIST = "acl token list", "", "Lists tokens, without secrets", [FORMAT, META], |input| list(input, &TOKEN);
    TOKEN_READ = "acl token read", "", "Shows a token", [ID, flag("self", "", "The token of the call."), FORMAT, META], token_read;
    TOKEN_UPDATE = "acl token update", "", "Changes a token",
        [
            ID, DESCRIPTION, POLICY_ID, POLICY_NAME, ROLE_ID, ROLE_NAME, SERVICE, NODE, FORMAT, META,
            flag("merge-policies", "", "Adds to the policies instead of replacing them."),
            flag("merge-roles", "", "Adds to the roles."),
            flag("merge-service-identities", "", "Adds to the service identities."),
            flag("merge-node-identities", "", "Adds to the node identities.")
        ],
        token_update;
    TOKEN_CLONE = "acl token clone", "", "Makes a token like another", [ID, DESCRIPTION, FORMAT, META], token_clone;
    TOKEN_DELETE = "acl token delete", "", "Deletes a token", [ID], |input| delete(input, &TOKEN);
    POLICY_CREATE = "acl policy create", "", "Makes a policy", [NAME, DESCRIPTION, RULES, VALID, FORMAT, META], policy_create;
    POLICY_LIST = "acl policy list", "", "Lists policies", [FORMAT, META], |input| list(input, &POLICY);
    POLICY_READ = "acl policy read", "", "Shows a policy", [ID, NAME, FORMAT, META], |input| read(input, &POLICY);
    POLICY_UPDATE = "acl policy update", "", "Changes a policy", [ID, NAME, DESCRIPTION, RULES, VALID, NO_MERGE, FORMAT, META], policy_update;
    POLICY_DELETE = "acl policy delete", "", "Deletes a policy", [ID, NAME], |input| delete(input, &POLICY);
    ROLE_CREATE = "acl role create", "", "Makes a role", [NAME, DESCRIPTION, POLICY_ID, POLICY_NAME, SERVICE, NODE, FORMAT, META], role_create;
    ROLE_LIST = "acl role list", "", "Lists roles", [FORMAT, META], |input| list(input, &ROLE);
    ROLE_READ = "acl role read", "", "Shows a role", [ID, NAME, FORMAT, META], |input| read(input, &ROLE);
    ROLE_UPDATE = "acl role update", "", "Changes a role", [ID, NAME, DESCRIPTION, POLICY_ID, POLICY_NAME, SERVICE, NODE, NO_MERGE, FORMAT, META], role_update;
    ROLE_DELETE = "acl role delete", "", "Deletes a role", [ID, NAME], |input| delete(input, &ROLE);
}

/// What the three have in common, and how they differ.
struct Sort {
    /// In paths and sentences.
    one: &'static str,
    many: &'static str,
    id: &'static str,
    /// A list's entry, or one alone.
    show: fn(&Value, bool, bool) -> String,
}

static TOKEN: Sort = Sort { one: "token", many: "tokens", id: "AccessorID", show: show_token };
static POLICY: Sort = Sort { one: "policy", many: "policies", id: "ID", show: show_policy };
static ROLE: Sort = Sort { one: "role", many: "roles", id: "ID", show: show_role };

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// The parts that tokens and roles share, each line behind this.
fn show_links(value: &Value, before: &str, out: &mut String) {
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            out.push_str(&format!("{before}{title}:\n"));
            lines.iter().for_each(|line| out.push_str(&format!("{before}   {line}\n")));
        }
    };
    let links = |key: &str| entries(value, key).map(|l| format!("{} - {}", text(l, "ID"), text(l, "Name"))).collect();
    part("Policies", links("Policies"));
    part("Roles", links("Roles"));
    let services = entries(value, "ServiceIdentities").map(|identity| {
        let dcs: Vec<&str> = entries(identity, "Datacenters").filter_map(Value::as_str).collect();
        let dcs = if dcs.is_empty() { "all".to_owned() } else { dcs.join(", ") };
        format!("{} (Datacenters: {dcs})", text(identity, "ServiceName"))
    });
    part("Service Identities", services.collect());
    let nodes = entries(value, "NodeIdentities");
    part(
        "Node Identities",
        nodes.map(|n| format!("{} (Datacenter: {})", text(n, "NodeName"), text(n, "Datacenter"))).collect(),
    );
}

fn show_meta(value: &Value, before: &str, width: usize, out: &mut String) {
    for (title, shown) in [
        ("Hash:", text(value, "Hash").to_owned()),
        ("Create Index:", value["CreateIndex"].to_string()),
        ("Modify Index:", value["ModifyIndex"].to_string()),
    ] {
        out.push_str(&format!("{before}{title:width$}{shown}\n"));
    }
}

/// A time as Go prints it.
fn go_time(rfc3339: &str) -> String {
    format!("{} +0000 UTC", rfc3339.trim_end_matches('Z').replace('T', " "))
}

fn show_token(value: &Value, listed: bool, meta: bool) -> String {
    let mut out = format!("AccessorID:       {}\n", text(value, "AccessorID"));
    if !listed {
        out.push_str(&format!("SecretID:         {}\n", text(value, "SecretID")));
    }
    out.push_str(&format!("Description:      {}\n", text(value, "Description")));
    out.push_str(&format!("Local:            {}\n", value["Local"].as_bool().unwrap_or_default()));
    out.push_str(&format!("Create Time:      {}\n", go_time(text(value, "CreateTime"))));
    if let Some(at) = value["ExpirationTime"].as_str() {
        out.push_str(&format!("Expiration Time:  {}\n", go_time(at)));
    }
    if listed {
        out.push_str("Legacy:           false\n");
    }
    if meta {
        show_meta(value, "", 18, &mut out);
    }
    show_links(value, "", &mut out);
    out.push('\n');
    out
}

fn datacenters(value: &Value) -> String {
    entries(value, "Datacenters").filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn show_policy(value: &Value, listed: bool, meta: bool) -> String {
    let before = if listed { "   " } else { "" };
    let mut out = String::new();
    if listed {
        out.push_str(&format!("{}:\n   ID:           {}\n", text(value, "Name"), text(value, "ID")));
    } else {
        out.push_str(&format!("ID:           {}\nName:         {}\n", text(value, "ID"), text(value, "Name")));
    }
    out.push_str(&format!("{before}Description:  {}\n", text(value, "Description")));
    out.push_str(&format!("{before}Datacenters:  {}\n", datacenters(value)));
    if meta {
        show_meta(value, before, 14, &mut out);
    }
    if !listed {
        out.push_str(&format!("Rules:\n{}\n", text(value, "Rules")));
    }
    out
}

fn show_role(value: &Value, listed: bool, meta: bool) -> String {
    let before = if listed { "   " } else { "" };
    let mut out = String::new();
    if listed {
        out.push_str(&format!("{}:\n   ID:           {}\n", text(value, "Name"), text(value, "ID")));
    } else {
        out.push_str(&format!("ID:           {}\nName:         {}\n", text(value, "ID"), text(value, "Name")));
    }
    out.push_str(&format!("{before}Description:  {}\n", text(value, "Description")));
    if meta {
        show_meta(value, before, 14, &mut out);
    }
    show_links(value, before, &mut out);
    if !listed {
        out.push('\n');
    }
    out
}

/// Shows one, as it is wanted.
fn shown(input: &Input, value: &Value, show: impl Fn(&Value) -> String) -> ExitCode {
    match input.value("format").unwrap_or("pretty") {
        "pretty" => print_out(&show(value)),
        "json" => match indented(value) {
            Some(text) => print_out(&format!("{text}\n")),
            None => return misuse("the answer cannot be shown"),
        },
        other => return misuse(&format!("Unknown format: {other}\n\nValid formats are: pretty, json")),
    }
    ExitCode::SUCCESS
}

fn indented(value: &Value) -> Option<String> {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)).ok()?;
    String::from_utf8(out).ok()
}

fn bootstrap(input: &Input) -> ExitCode {
    api::run(input, "Failed ACL bootstrapping", |api| {
        let made = api.request("PUT", "/v1/acl/bootstrap", "")?.json()?;
        Ok(shown(input, &made, |it| show_token(it, false, false)))
    })
}

fn set_agent_token(input: &Input) -> ExitCode {
    let [of, secret] = input.operands.as_slice() else { return misuse("Incorrect number of arguments") };
    let path = match of.as_str() {
        "default" | "agent" | "replication" => of.as_str(),
        "master" | "recovery" => "agent_master",
        _ => return misuse("Unknown token type"),
    };
    api::run(input, &format!("Failed to set ACL token {of:?}"), |api| {
        api.put(&format!("/v1/agent/token/{path}"), json!({ "Token": secret }).to_string())?;
        print_out(&format!("ACL token {of:?} set successfully\n"));
        Ok(ExitCode::SUCCESS)
    })
}

/// A flag's links: by ID and by name.
fn links(input: &Input, what: &str) -> Vec<Value> {
    let (id, name) = if what == "role" { ("role-id", "role-name") } else { ("policy-id", "policy-name") };
    let names = input.values(name).iter().map(|name| json!({ "Name": name }));
    names.chain(input.values(id).iter().map(|id| json!({ "ID": id }))).collect()
}

fn services(input: &Input) -> Vec<Value> {
    let one = |text: &String| match text.split_once(':') {
        None => json!({ "ServiceName": text }),
        Some((name, dcs)) => json!({ "ServiceName": name, "Datacenters": dcs.split(',').collect::<Vec<_>>() }),
    };
    input.values("service-identity").iter().map(one).collect()
}

fn nodes(input: &Input) -> Result<Vec<Value>, String> {
    let one = |text: &String| match text.split_once(':') {
        Some((name, dc)) => Ok(json!({ "NodeName": name, "Datacenter": dc })),
        None => Err(format!("Malformed -node-identity argument: {text:?}")),
    };
    input.values("node-identity").iter().map(one).collect()
}

/// Rules as they were given: themselves, a file, or standard input.
fn rules(input: &Input) -> Result<Option<String>, String> {
    let text = match input.value("rules") {
        None => return Ok(None),
        Some("-") => std::io::read_to_string(std::io::stdin()).map_err(|e| e.to_string()),
        Some(text) => match text.strip_prefix('@') {
            Some(file) => std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}")),
            None => Ok(text.to_owned()),
        },
    };
    text.map(Some).map_err(|e| format!("Error loading rules: {e}"))
}

fn list(input: &Input, sort: &Sort) -> ExitCode {
    api::run(input, &format!("Failed to retrieve the {} list", sort.one), |api| {
        let all = api.get(&format!("/v1/acl/{}", sort.many))?;
        let show = |all: &Value| -> String {
            let items = all.as_array().into_iter().flatten().map(|it| (sort.show)(it, true, input.on("meta")));
            let text = items.collect::<String>();
            // Tokens end with an empty line each.
            if sort.one == "token" || text.is_empty() { text } else { text + "\n" }
        };
        Ok(shown(input, &all, show))
    })
}

/// Why the one that was meant is not known.
enum Lost {
    Words(String),
    Api(ApiError),
}

/// The ID that is meant: whole, by its beginning, or by name.
fn find(api: &Api, input: &Input, sort: &Sort) -> Result<String, Lost> {
    if let Some(id) = input.value("id").filter(|id| !id.is_empty()) {
        if id.len() == 36 {
            return Ok(id.to_owned());
        }
        let all = api.get(&format!("/v1/acl/{}", sort.many)).map_err(Lost::Api)?;
        let all = all.as_array().cloned().unwrap_or_default();
        let mut found = all.iter().map(|it| text(it, sort.id)).filter(|found| found.starts_with(id));
        return match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.to_owned()),
            (None, _) => Err(Lost::Words(format!("No such {} ID with prefix: {id}", sort.one))),
            _ => Err(Lost::Words(format!("{} ID is not unique", sort.one))),
        };
    }
    let name = input.value("name").unwrap_or_default();
    let all = api.get(&format!("/v1/acl/{}", sort.many)).map_err(Lost::Api)?;
    let found = entries_of(&all).find(|it| text(it, "Name") == name).map(|it| text(it, sort.id).to_owned());
    found.ok_or_else(|| Lost::Words(format!("No such {} with name {name}", sort.one)))
}

fn entries_of(all: &Value) -> impl Iterator<Item = &Value> {
    all.as_array().into_iter().flatten()
}

/// Finds the one that is meant and does something with it.
fn with(
    input: &Input,
    sort: &Sort,
    words: &str,
    body: impl FnOnce(&Api, &str) -> Result<ExitCode, ApiError>,
) -> ExitCode {
    let said = |name: &str| input.value(name).is_some_and(|v| !v.is_empty());
    if sort.one == "token" && !said("id") {
        return misuse("Must specify the -id parameter");
    }
    if !said("id") && !said("name") {
        return misuse("Must specify either the -id or -name parameters");
    }
    api::run(input, words, |api| match find(api, input, sort) {
        Ok(id) => body(api, &id),
        Err(Lost::Api(error)) => Err(error),
        Err(Lost::Words(text)) => Ok(misuse(&format!("Error determining {} ID: {text}", sort.one))),
    })
}

fn read(input: &Input, sort: &Sort) -> ExitCode {
    with(input, sort, &format!("Error reading {}", sort.one), |api, id| {
        let it = api.get(&format!("/v1/acl/{}/{}", sort.one, escape(id, false)))?;
        Ok(shown(input, &it, |it| (sort.show)(it, false, input.on("meta"))))
    })
}

fn delete(input: &Input, sort: &Sort) -> ExitCode {
    with(input, sort, &format!("Error deleting {}", sort.one), |api, id| {
        api.request("DELETE", &format!("/v1/acl/{}/{}", sort.one, escape(id, false)), "")?.ok()?;
        let mut what = sort.one.to_owned();
        what[..1].make_ascii_uppercase();
        print_out(&format!("{what} {id:?} deleted successfully\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn put(input: &Input, api: &Api, sort: &Sort, id: &str, body: &Value) -> Result<ExitCode, ApiError> {
    let path = if id.is_empty() { String::new() } else { format!("/{}", escape(id, false)) };
    let made = api.request("PUT", &format!("/v1/acl/{}{path}", sort.one), body.to_string())?.json()?;
    Ok(shown(input, &made, |it| (sort.show)(it, false, input.on("meta"))))
}

fn token_create(input: &Input) -> ExitCode {
    let nodes = match nodes(input) {
        Ok(nodes) => nodes,
        Err(e) => return misuse(&e),
    };
    let (policies, roles, services) = (links(input, "policy"), links(input, "role"), services(input));
    if policies.is_empty() && roles.is_empty() && services.is_empty() && nodes.is_empty() {
        return misuse(
            "Cannot create a token without specifying -policy-name, -policy-id, -role-name, -role-id, -service-identity, or -node-identity at least once",
        );
    }
    let mut body = json!({
        "Description": input.value("description").unwrap_or_default(), "Local": input.on("local"), "Policies": policies,
        "Roles": roles, "ServiceIdentities": services, "NodeIdentities": nodes,
    });
    for (flag, key) in [("accessor", "AccessorID"), ("secret", "SecretID"), ("expires-ttl", "ExpirationTTL")] {
        if let Some(value) = input.value(flag) {
            body[key] = json!(value);
        }
    }
    api::run(input, "Failed to create new token", |api| put(input, api, &TOKEN, "", &body))
}

fn token_read(input: &Input) -> ExitCode {
    if !input.on("self") {
        return read(input, &TOKEN);
    }
    api::run(input, "Error reading token", |api| {
        let it = api.get("/v1/acl/token/self")?;
        Ok(shown(input, &it, |it| show_token(it, false, input.on("meta"))))
    })
}

/// What is said instead of what there is, or (`merge`) besides.
fn changed(value: &mut Value, key: &str, said: Vec<Value>, merge: bool) {
    let mut all = if merge { value[key].as_array().cloned().unwrap_or_default() } else { Vec::new() };
    all.extend(said);
    value[key] = Value::Array(all);
}

fn token_update(input: &Input) -> ExitCode {
    let nodes = match nodes(input) {
        Ok(nodes) => nodes,
        Err(e) => return misuse(&e),
    };
    with(input, &TOKEN, "Failed to update token", |api, id| {
        let mut it = api.get(&format!("/v1/acl/token/{}", escape(id, false)))?;
        if let Some(text) = input.value("description") {
            it["Description"] = json!(text);
        }
        changed(&mut it, "Policies", links(input, "policy"), input.on("merge-policies"));
        changed(&mut it, "Roles", links(input, "role"), input.on("merge-roles"));
        changed(&mut it, "ServiceIdentities", services(input), input.on("merge-service-identities"));
        changed(&mut it, "NodeIdentities", nodes, input.on("merge-node-identities"));
        put(input, api, &TOKEN, id, &it)
    })
}

fn token_clone(input: &Input) -> ExitCode {
    with(input, &TOKEN, "Error cloning token", |api, id| {
        let body = json!({ "Description": input.value("description").unwrap_or_default() });
        let path = format!("/v1/acl/token/{}/clone", escape(id, false));
        let made = api.request("PUT", &path, body.to_string())?.json()?;
        Ok(shown(input, &made, |it| show_token(it, false, input.on("meta"))))
    })
}

fn policy_create(input: &Input) -> ExitCode {
    let Some(name) = input.value("name").filter(|n| !n.is_empty()) else {
        return misuse("Missing require '-name' flag");
    };
    let rules = match rules(input) {
        Ok(rules) => rules.unwrap_or_default(),
        Err(e) => return misuse(&e),
    };
    let body = json!({
        "Name": name, "Description": input.value("description").unwrap_or_default(), "Rules": rules,
        "Datacenters": input.values("valid-datacenter"),
    });
    api::run(input, "Failed to create new policy", |api| put(input, api, &POLICY, "", &body))
}

/// The item as it is, or (`-no-merge`) empty, with what is said of its name and description.
fn begun(input: &Input, api: &Api, sort: &Sort, id: &str) -> Result<Value, ApiError> {
    let mut it = api.get(&format!("/v1/acl/{}/{}", sort.one, escape(id, false)))?;
    if input.on("no-merge") {
        it = json!({ "Name": it["Name"] });
    }
    for (flag, key) in [("name", "Name"), ("description", "Description")] {
        if let Some(text) = input.value(flag).filter(|text| !text.is_empty()) {
            it[key] = json!(text);
        }
    }
    Ok(it)
}

fn policy_update(input: &Input) -> ExitCode {
    let rules = match rules(input) {
        Ok(rules) => rules,
        Err(e) => return misuse(&e),
    };
    with(input, &POLICY, "Error updating policy", |api, id| {
        let mut it = begun(input, api, &POLICY, id)?;
        if let Some(rules) = rules {
            it["Rules"] = json!(rules);
        }
        if !input.values("valid-datacenter").is_empty() {
            it["Datacenters"] = json!(input.values("valid-datacenter"));
        }
        put(input, api, &POLICY, id, &it)
    })
}

fn role_create(input: &Input) -> ExitCode {
    let Some(name) = input.value("name").filter(|n| !n.is_empty()) else {
        return misuse("Missing require '-name' flag");
    };
    let nodes = match nodes(input) {
        Ok(nodes) => nodes,
        Err(e) => return misuse(&e),
    };
    let (policies, services) = (links(input, "policy"), services(input));
    if policies.is_empty() && services.is_empty() && nodes.is_empty() {
        return misuse(
            "Cannot create a role without specifying -policy-name, -policy-id, -service-identity, or -node-identity at least once",
        );
    }
    let body = json!({
        "Name": name, "Description": input.value("description").unwrap_or_default(), "Policies": policies,
        "ServiceIdentities": services, "NodeIdentities": nodes,
    });
    api::run(input, "Failed to create new role", |api| put(input, api, &ROLE, "", &body))
}

fn role_update(input: &Input) -> ExitCode {
    if input.value("id").is_none_or(str::is_empty) {
        return misuse("Cannot update a role without specifying the -id parameter");
    }
    let nodes = match nodes(input) {
        Ok(nodes) => nodes,
        Err(e) => return misuse(&e),
    };
    with(input, &ROLE, "Error updating role", |api, id| {
        let mut it = begun(input, api, &ROLE, id)?;
        let merge = !input.on("no-merge");
        changed(&mut it, "Policies", links(input, "policy"), merge);
        changed(&mut it, "ServiceIdentities", services(input), merge);
        changed(&mut it, "NodeIdentities", nodes, merge);
        put(input, api, &ROLE, id, &it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Consul 1.8.7 printed them.
    #[test]
    fn shown_as_consul_shows_them() {
        let policy = json!({ "ID": "1", "Name": "cli", "Description": "d", "Datacenters": ["dc1"], "Rules": "r" });
        let whole = "ID:           1\nName:         cli\nDescription:  d\nDatacenters:  dc1\nRules:\nr\n";
        assert_eq!(show_policy(&policy, false, false), whole);
        assert_eq!(
            show_policy(&policy, true, false),
            "cli:\n   ID:           1\n   Description:  d\n   Datacenters:  dc1\n"
        );
        let role = json!({
            "ID": "2", "Name": "clir", "Description": "", "Policies": [{ "ID": "1", "Name": "cli" }],
            "ServiceIdentities": [{ "ServiceName": "web", "Datacenters": ["dc1"] }],
            "NodeIdentities": [{ "NodeName": "n1", "Datacenter": "dc1" }],
        });
        assert_eq!(
            show_role(&role, false, false),
            "ID:           2\nName:         clir\nDescription:  \nPolicies:\n   1 - cli\nService Identities:\n   web (Datacenters: dc1)\n\
             Node Identities:\n   n1 (Datacenter: dc1)\n\n"
        );
        let token = json!({
            "AccessorID": "a", "SecretID": "s", "Description": "t", "Local": false, "CreateTime": "2026-11-22T02:18:38.380136768Z",
            "ExpirationTime": "2026-11-22T03:18:38.380136768Z", "ServiceIdentities": [{ "ServiceName": "web" }],
        });
        assert_eq!(
            show_token(&token, false, false),
            "AccessorID:       a\nSecretID:         s\nDescription:      t\nLocal:            false\n\
             Create Time:      2026-11-22 02:18:38.380136768 +0000 UTC\nExpiration Time:  2026-11-22 03:18:38.380136768 +0000 UTC\n\
             Service Identities:\n   web (Datacenters: all)\n\n"
        );
    }
}
