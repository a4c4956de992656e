//! `config write | read | list | delete`: config entries. Words and exit codes are Consul's.

use std::process::ExitCode;

use serde_json::Value;

use super::api::{self, ApiError, escape};
use super::{Command, Flag, Input, NAMESPACE, flag, print_out};

const KIND: Flag =
    flag("kind", "string", "Kind of the entry: service-resolver; entries of Consul's mesh are kept without effect.");
const NAME: Flag = flag("name", "string", "Name of the entry: a service, or * for all that have none of their own.");

/// `config write`.
pub static WRITE: Command = Command {
    name: "config write",
    operands: "FILE",
    about: "Creates or updates a config entry",
    more: "FILE holds the entry in HCL or JSON; - reads standard input. For example, to answer `web` from the nearest other\n\
           site when it is not healthy here, and from here again once it has been healthy for 10 s:\n\n\
           Kind = \"service-resolver\"\n\
           Name = \"web\"\n\
           Failover = { \"*\" = { Nearest = true } }\n\
           Hysteresis = \"10s\"\n\n\
           Datacenters = [\"dc2\", \"dc3\"] names the sites, in that order; with Nearest = true, in the order of the round trip.",
    flags: &[
        flag("cas", "", "Writes only if the entry's index is -modify-index."),
        flag("modify-index", "number", "For -cas; 0: the entry must not exist."),
        NAMESPACE,
    ],
    http: true,
    run: write,
};
/// `config read`.
pub static READ: Command = Command {
    name: "config read",
    operands: "",
    about: "Reads a config entry",
    more: "",
    flags: &[KIND, NAME, NAMESPACE],
    http: true,
    run: read,
};
/// `config list`.
pub static LIST: Command = Command {
    name: "config list",
    operands: "",
    about: "Lists the names of the config entries of a kind",
    more: "",
    flags: &[KIND, NAMESPACE],
    http: true,
    run: list,
};
/// `config delete`.
pub static DELETE: Command = Command {
    name: "config delete",
    operands: "",
    about: "Deletes a config entry",
    more: "",
    flags: &[KIND, NAME, NAMESPACE],
    http: true,
    run: delete,
};

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// A flag that must be there.
fn needed<'a>(input: &'a Input, name: &str) -> Result<&'a str, ExitCode> {
    let value = input.value(name).filter(|v| !v.is_empty());
    value.ok_or_else(|| misuse(&format!("Must specify the -{name} parameter")))
}

/// A file's entry, as JSON.
fn entry(text: &str) -> Result<Value, String> {
    let json = serde_json::from_str::<Value>(text);
    match json {
        Ok(value) => Ok(value),
        Err(error) if text.trim_start().starts_with('{') => Err(error.to_string()),
        Err(_) => crate::options::hcl::parse(text).map_err(|e| e.to_string()),
    }
}

fn write(input: &Input) -> ExitCode {
    let [file] = input.operands.as_slice() else {
        return misuse("Must provide exactly one positional argument to specify the config entry to write");
    };
    let text = match file.as_str() {
        "-" => std::io::read_to_string(std::io::stdin()),
        file => std::fs::read_to_string(file),
    };
    let text = match text {
        Ok(text) => text,
        Err(e) => return misuse(&format!("Failed to load data: {file}: {e}")),
    };
    let value = match entry(&text) {
        Ok(value) => value,
        Err(e) => return misuse(&format!("Failed to decode config entry input: {e}")),
    };
    let (kind, name) = match causeway_agent::http::config_entry(&value) {
        Ok(entry) => (entry.kind, entry.name),
        Err(e) => return misuse(&format!("Failed to decode config entry input: {e}")),
    };
    let words = format!("Error writing config entry {kind}/{name}");
    api::run(input, &words, |api| {
        let cas = match input.on("cas") {
            true => format!("?cas={}", escape(input.value("modify-index").unwrap_or("0"), false)),
            false => String::new(),
        };
        let done = api.put(&format!("/v1/config{cas}"), value.to_string())?;
        if done.trim_ascii() != b"true" {
            eprintln!("Config entry not updated: {kind}/{name}");
            return Ok(ExitCode::FAILURE);
        }
        print_out(&format!("Config entry written: {kind}/{name}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn read(input: &Input) -> ExitCode {
    let (kind, name) = match (needed(input, "kind"), needed(input, "name")) {
        (Ok(kind), Ok(name)) => (kind, name),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    api::run(input, &format!("Error reading config entry {kind}/{name}"), |api| {
        let entry = api.get(&format!("/v1/config/{}/{}", escape(kind, false), escape(name, false)))?;
        let mut out = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
        serde::Serialize::serialize(&entry, &mut serializer).map_err(|e| ApiError::Unreadable(e.to_string()))?;
        print_out(&format!("{}\n", String::from_utf8_lossy(&out)));
        Ok(ExitCode::SUCCESS)
    })
}

fn list(input: &Input) -> ExitCode {
    let kind = match needed(input, "kind") {
        Ok(kind) => kind,
        Err(code) => return code,
    };
    api::run(input, &format!("Error listing config entries for kind {kind:?}"), |api| {
        let entries = api.get(&format!("/v1/config/{}", escape(kind, false)))?;
        for entry in entries.as_array().into_iter().flatten() {
            print_out(&format!("{}\n", api::text(entry, "Name")));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn delete(input: &Input) -> ExitCode {
    let (kind, name) = match (needed(input, "kind"), needed(input, "name")) {
        (Ok(kind), Ok(name)) => (kind, name),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    api::run(input, &format!("Error deleting config entry {kind}/{name}"), |api| {
        let path = format!("/v1/config/{}/{}", escape(kind, false), escape(name, false));
        api.request("DELETE", &path, "")?.ok()?;
        print_out(&format!("Config entry deleted: {kind}/{name}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::entry;

    #[test]
    fn either_language() {
        let hcl = "Kind = \"service-resolver\"\nName = \"web\"\nFailover = { \"*\" = { Datacenters = [\"dc2\"] } }\n";
        let block = "Kind = \"service-resolver\"\nName = \"web\"\nFailover {\n  \"*\" = {\n    Datacenters = [\"dc2\"]\n  }\n}\n";
        let json = r#"{"Kind":"service-resolver","Name":"web","Failover":{"*":{"Datacenters":["dc2"]}}}"#;
        let read = |text: &str| causeway_agent::http::config_entry(&entry(text).unwrap()).unwrap();
        assert_eq!(read(hcl), read(json));
        assert_eq!(read(block), read(json));
        assert!(entry("{\"Kind\":").is_err() && entry("Kind = ").is_err());
    }
}
