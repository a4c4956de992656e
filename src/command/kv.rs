//! `kv get | put | delete | export | import`.

use std::io::Read;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::api::{self, escape};
use super::{Command, Input, NAMESPACE, flag, print_out};

/// `kv get`.
pub static GET: Command = Command {
    name: "kv get",
    operands: "[KEY_OR_PREFIX]",
    about: "Retrieves or lists data from the KV store",
    more: "",
    flags: &[
        flag("base64", "", "Prints values in base64."),
        flag("detailed", "", "Prints all that is known of a key."),
        flag("keys", "", "Lists the keys under a prefix."),
        flag("recurse", "", "Lists keys and values under a prefix."),
        flag("separator", "string", "With -keys: where to cut, \"/\" by default."),
        NAMESPACE,
    ],
    http: true,
    run: get,
};
/// `kv put`.
pub static PUT: Command = Command {
    name: "kv put",
    operands: "KEY [DATA]",
    about: "Sets or updates data in the KV store",
    more: "DATA may be @FILE, or - for standard input.",
    flags: &[
        flag("acquire", "", "Takes the lock on the key; needs -session."),
        flag("base64", "", "DATA is base64."),
        flag("cas", "", "Writes only if the key's index is -modify-index."),
        flag("flags", "number", "Number to keep with the key."),
        flag("modify-index", "number", "For -cas; 0: the key must not exist."),
        flag("release", "", "Gives the lock back; needs -session."),
        flag("session", "id", "Session for -acquire and -release."),
        NAMESPACE,
    ],
    http: true,
    run: put,
};
/// `kv delete`.
pub static DELETE: Command = Command {
    name: "kv delete",
    operands: "KEY_OR_PREFIX",
    about: "Removes data from the KV store",
    more: "",
    flags: &[
        flag("cas", "", "Removes only if the key's index is -modify-index."),
        flag("modify-index", "number", "For -cas."),
        flag("recurse", "", "Removes every key under the prefix."),
        NAMESPACE,
    ],
    http: true,
    run: delete,
};
/// `kv export`.
pub static EXPORT: Command = Command {
    name: "kv export",
    operands: "[PREFIX]",
    about: "Exports a tree from the KV store as JSON",
    more: "",
    flags: &[NAMESPACE],
    http: true,
    run: export,
};
/// `kv import`.
pub static IMPORT: Command = Command {
    name: "kv import",
    operands: "[DATA]",
    about: "Imports a tree stored as JSON to the KV store",
    more: "DATA may be @FILE, or - (or nothing) for standard input.",
    flags: &[flag("prefix", "string", "Prefix to put before each key."), NAMESPACE],
    http: true,
    run: import,
};

/// A key as Consul's commands take it: without a slash in front.
fn key_of(input: &Input) -> &str {
    input.operands.first().map_or("", |k| k.strip_prefix('/').unwrap_or(k))
}

fn misuse(text: &str) -> ExitCode {
    eprintln!("Error! {text}");
    ExitCode::FAILURE
}

fn value_text(entry: &Value, keep_base64: bool) -> Vec<u8> {
    let encoded = entry["Value"].as_str().unwrap_or_default();
    if keep_base64 {
        return encoded.as_bytes().to_vec();
    }
    STANDARD.decode(encoded).unwrap_or_else(|_| encoded.as_bytes().to_vec())
}

fn get(input: &Input) -> ExitCode {
    if input.operands.len() > 1 {
        eprintln!("Too many arguments (expected 1, got {})", input.operands.len());
        return ExitCode::FAILURE;
    }
    let key = key_of(input);
    if key.is_empty() && !input.on("keys") && !input.on("recurse") {
        return misuse("Missing KEY argument");
    }
    api::run(input, "Error querying Consul agent", |api| {
        let path = format!("/v1/kv/{}", escape(key, true));
        if input.on("keys") {
            let separator = escape(input.value("separator").unwrap_or("/"), false);
            let answer = api.request("GET", &format!("{path}?keys&separator={separator}"), "")?;
            if answer.code == 404 {
                return Ok(ExitCode::SUCCESS);
            }
            let keys = answer.json()?;
            let lines = keys.as_array().into_iter().flatten().filter_map(Value::as_str);
            print_out(&lines.map(|k| format!("{k}\n")).collect::<String>());
            return Ok(ExitCode::SUCCESS);
        }
        let recurse = input.on("recurse");
        let answer = api.request("GET", &if recurse { format!("{path}?recurse") } else { path }, "")?;
        if answer.code == 404 {
            if recurse {
                return Ok(ExitCode::SUCCESS);
            }
            return Ok(misuse(&format!("No key exists at: {key}")));
        }
        let entries = answer.json()?;
        let mut out = Vec::new();
        for (i, entry) in entries.as_array().into_iter().flatten().enumerate() {
            let value = value_text(entry, input.on("base64"));
            if input.on("detailed") {
                if i > 0 {
                    out.push(b'\n');
                }
                let session = Some(api::text(entry, "Session")).filter(|s| !s.is_empty()).unwrap_or_else(|| "-".into());
                let mut rows: Vec<Vec<String>> = ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex"]
                    .iter()
                    .map(|k| vec![(*k).to_owned(), api::text(entry, k)])
                    .collect();
                rows.push(vec!["Session".into(), session]);
                rows.push(vec!["Value".into(), String::from_utf8_lossy(&value).into_owned()]);
                let width = 15;
                for row in rows {
                    out.extend_from_slice(format!("{:<width$}  {}\n", row[0], row[1]).as_bytes());
                }
            } else if recurse {
                out.extend_from_slice(format!("{}:", api::text(entry, "Key")).as_bytes());
                out.extend_from_slice(&value);
                out.push(b'\n');
            } else {
                out.extend_from_slice(&value);
                out.push(b'\n');
            }
        }
        use std::io::Write;
        let _ = std::io::stdout().write_all(&out);
        Ok(ExitCode::SUCCESS)
    })
}

/// `@FILE`, `-` or the text itself.
fn read_data(data: &str) -> Result<Vec<u8>, String> {
    if data == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(|e| format!("Failed to read stdin: {e}"))?;
        return Ok(bytes);
    }
    match data.strip_prefix('@') {
        Some(file) => std::fs::read(file).map_err(|e| format!("Failed to read file: {file}: {e}")),
        None => Ok(data.as_bytes().to_vec()),
    }
}

fn put(input: &Input) -> ExitCode {
    let key = key_of(input);
    if key.is_empty() {
        return misuse("Missing KEY argument");
    }
    if input.operands.len() > 2 {
        return misuse(&format!("Too many arguments (expected 1 or 2, got {})", input.operands.len()));
    }
    let (cas, acquire, release) = (input.on("cas"), input.on("acquire"), input.on("release"));
    let session = input.value("session").unwrap_or_default();
    if (acquire || release) && session.is_empty() {
        return misuse("Missing -session (required with -acquire and -release)");
    }
    if cas && input.value("modify-index").is_none() {
        return misuse("Must specify -modify-index with -cas!");
    }
    let mut data = match read_data(input.operands.get(1).map_or("", String::as_str)) {
        Ok(data) => data,
        Err(e) => return misuse(&e),
    };
    if input.on("base64") {
        data = match STANDARD.decode(data) {
            Ok(data) => data,
            Err(e) => return misuse(&format!("Cannot base 64 decode data: {e}")),
        };
    }
    api::run(input, "Error! Failed writing data", |api| {
        let mut path = format!("/v1/kv/{}?", escape(key, true));
        if let Some(flags) = input.value("flags") {
            path.push_str(&format!("&flags={}", escape(flags, false)));
        }
        if cas {
            path.push_str(&format!("&cas={}", escape(input.value("modify-index").unwrap_or("0"), false)));
        }
        if acquire {
            path.push_str(&format!("&acquire={}", escape(session, false)));
        }
        if release {
            path.push_str(&format!("&release={}", escape(session, false)));
        }
        let done = api.put(&path, data)?.starts_with(b"true");
        Ok(match (done, cas, acquire, release) {
            (true, _, true, _) => success(&format!("Lock acquired on: {key}")),
            (true, _, _, true) => success(&format!("Lock released on: {key}")),
            (true, ..) => success(&format!("Data written to: {key}")),
            (false, _, true, _) => misuse("Did not acquire lock"),
            (false, _, _, true) => misuse("Did not release lock"),
            (false, true, ..) => misuse(&format!("Did not write to {key}: CAS failed")),
            (false, ..) => misuse(&format!("Did not write to {key}")),
        })
    })
}

fn success(text: &str) -> ExitCode {
    print_out(&format!("Success! {text}\n"));
    ExitCode::SUCCESS
}

fn delete(input: &Input) -> ExitCode {
    if input.operands.len() > 1 {
        eprintln!("Too many arguments (expected 1, got {})", input.operands.len());
        return ExitCode::FAILURE;
    }
    let key = key_of(input);
    let recurse = input.on("recurse");
    if key.is_empty() && !(recurse && input.operands.len() == 1) {
        return misuse("Missing KEY argument");
    }
    api::run(input, "Error! Failed deleting key", |api| {
        let mut path = format!("/v1/kv/{}?", escape(key, true));
        if recurse {
            path.push_str("&recurse");
        }
        if input.on("cas") {
            let Some(index) = input.value("modify-index").filter(|i| *i != "0") else {
                return Ok(misuse("Must specify a -modify-index greater than 0 with -cas"));
            };
            path.push_str(&format!("&cas={}", escape(index, false)));
        }
        let done = api.request("DELETE", &path, "")?.ok()?.starts_with(b"true");
        Ok(match (done, recurse) {
            (true, true) => success(&format!("Deleted keys with prefix: {key}")),
            (true, false) => success(&format!("Deleted key: {key}")),
            (false, _) => misuse(&format!("Did not delete key {key}: CAS failed")),
        })
    })
}

fn export(input: &Input) -> ExitCode {
    let key = key_of(input);
    api::run(input, "Error querying Consul agent", |api| {
        let answer = api.request("GET", &format!("/v1/kv/{}?recurse", escape(key, true)), "")?;
        let entries = if answer.code == 404 { json!([]) } else { answer.json()? };
        let out: Vec<Value> = entries
            .as_array()
            .into_iter()
            .flatten()
            .map(|e| json!({"key": e["Key"], "flags": e["Flags"], "value": e["Value"].as_str().unwrap_or_default()}))
            .collect();
        let text = serde_json::to_string_pretty(&out).unwrap_or_default().replace("  ", "\t");
        print_out(&format!("{text}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn import(input: &Input) -> ExitCode {
    let data = match read_data(input.operands.first().map_or("-", String::as_str)) {
        Ok(data) => data,
        Err(e) => return misuse(&e),
    };
    let entries: Vec<Value> = match serde_json::from_slice(&data) {
        Ok(entries) => entries,
        Err(e) => return misuse(&format!("Cannot unmarshal data: {e}")),
    };
    let prefix = input.value("prefix").unwrap_or_default();
    api::run(input, "Error! Failed writing data", |api| {
        for entry in &entries {
            let key = format!("{prefix}{}", api::text(entry, "key"));
            let Ok(value) = STANDARD.decode(entry["value"].as_str().unwrap_or_default()) else {
                return Ok(misuse(&format!("Error base 64 decoding value for key {key}")));
            };
            let flags = entry["flags"].as_u64().unwrap_or(0);
            api.put(&format!("/v1/kv/{}?flags={flags}", escape(&key, true)), value)?;
            print_out(&format!("Imported: {key}\n"));
        }
        Ok(ExitCode::SUCCESS)
    })
}
