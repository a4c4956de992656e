//! `services register | deregister` and `maint`.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::api::{self, escape, text};
use super::{Command, Input, NAMESPACE, flag, print_out};

/// `services register`.
pub static REGISTER: Command = Command {
    name: "services register",
    operands: "[FILE ...]",
    about: "Registers services with the agent",
    more: "Services come from files with service definitions, or from flags.",
    flags: &[
        flag("id", "id", "Its ID; default: the name."),
        flag("name", "name", "Its name."),
        flag("address", "address", "Its address; default: the node's."),
        flag("port", "number", "Its port."),
        flag("tag", "tag", "A tag; may be repeated."),
        flag("meta", "key=value", "Metadata; may be repeated."),
        flag("tagged-address", "name=address:port", "An address under a name; may be repeated."),
        flag("kind", "kind", "Its kind; kept, and without effect here."),
        NAMESPACE,
    ],
    http: true,
    run: register,
};
/// `services deregister`.
pub static DEREGISTER: Command = Command {
    name: "services deregister",
    operands: "[FILE ...]",
    about: "Deregisters services from the agent",
    more: "",
    flags: &[flag("id", "id", "The service's ID."), NAMESPACE],
    http: true,
    run: deregister,
};
/// `maint`.
pub static MAINT: Command = Command {
    name: "maint",
    operands: "",
    about: "Controls node or service maintenance mode",
    more: "",
    flags: &[
        flag("enable", "", "Switches it on."),
        flag("disable", "", "Switches it off."),
        flag("reason", "text", "Why, for those who see it."),
        flag("service", "id", "Of this service; default: of the node."),
    ],
    http: true,
    run: maint,
};

/// The service objects of definition files, as the API takes them.
fn from_files(files: &[String]) -> Result<Vec<Value>, String> {
    let mut out = Vec::new();
    for file in files {
        let data = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
        let tree: Value = if file.ends_with(".hcl") {
            crate::options::hcl::parse(&data).map_err(|e| format!("{file}: {e}"))?
        } else {
            serde_json::from_str(&data).map_err(|e| format!("{file}: {e}"))?
        };
        for key in ["service", "services"] {
            match &tree[key] {
                Value::Array(items) => out.extend(items.iter().cloned()),
                Value::Object(_) => out.push(tree[key].clone()),
                _ => {}
            }
        }
    }
    if out.is_empty() {
        return Err("no service definition found: give -name, or files with \"service\"".to_owned());
    }
    Ok(out)
}

/// `key=value` as Go's flags read it.
fn pairs<'a>(input: &'a Input, flag: &str) -> Result<Vec<(&'a str, &'a str)>, String> {
    let pair = |text: &'a String| {
        text.split_once('=')
            .ok_or_else(|| format!("invalid value {text:?} for flag -{flag}: Missing \"=\" value in argument: {text}"))
    };
    input.values(flag).iter().map(pair).collect()
}

/// The service that the flags describe.
fn from_flags(input: &Input, name: &str) -> Result<Value, String> {
    let mut service = Map::new();
    service.insert("Name".into(), name.into());
    for (flag, key) in [("id", "ID"), ("address", "Address"), ("kind", "Kind")] {
        if let Some(v) = input.value(flag) {
            service.insert(key.into(), v.into());
        }
    }
    service.insert("Port".into(), input.whole("port", 0)?.into());
    service.insert("Tags".into(), json!(input.values("tag")));
    let meta: Map<String, Value> = pairs(input, "meta")?.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
    service.insert("Meta".into(), Value::Object(meta));
    let mut tagged = Map::new();
    for (name, text) in pairs(input, "tagged-address")? {
        let wrong = |why: &str| format!("Invalid Tagged Address: address {text}: {why}");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("missing port in address"))?;
        let port: u16 = port.parse().map_err(|_| wrong("its port is no number from 0 to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        tagged.insert(name.to_owned(), json!({"Address": host, "Port": port}));
    }
    if !tagged.is_empty() {
        service.insert("TaggedAddresses".into(), Value::Object(tagged));
    }
    Ok(Value::Object(service))
}

fn name_of(service: &Value) -> String {
    let names = ["Name", "name"].iter().map(|k| text(service, k));
    names.into_iter().find(|n| !n.is_empty()).unwrap_or_default()
}

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn register(input: &Input) -> ExitCode {
    if input.value("name").is_some() && !input.operands.is_empty() {
        return misuse("Service registration requires arguments or -id, not both.");
    }
    let services = match input.value("name") {
        Some(name) => match from_flags(input, name) {
            Ok(service) => vec![service],
            Err(e) => return misuse(&e),
        },
        None if input.operands.is_empty() => {
            return misuse("Service registration requires at least one argument or flags.");
        }
        None => match from_files(&input.operands) {
            Ok(services) => services,
            Err(e) => return misuse(&format!("Error: {e}")),
        },
    };
    api::run(input, "Error connecting to Consul agent", |api| {
        for service in &services {
            let name = name_of(service);
            if let Err(e) = api.put("/v1/agent/service/register", service.to_string()) {
                return Ok(misuse(&format!("Error registering service {name:?}: {e}")));
            }
            print_out(&format!("Registered service: {name}\n"));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn deregister(input: &Input) -> ExitCode {
    let ids = match input.value("id") {
        Some(id) => Ok(vec![id.to_owned()]),
        None if input.operands.is_empty() => {
            return misuse("Service deregistration requires at least one argument or -id.");
        }
        None => from_files(&input.operands).map(|services| {
            let id = |s: &Value| ["ID", "id", "Name", "name"].iter().map(|k| text(s, k)).find(|t| !t.is_empty());
            services.iter().filter_map(id).collect()
        }),
    };
    let ids: Vec<String> = match ids {
        Ok(ids) => ids,
        Err(e) => return misuse(&format!("Error: {e}")),
    };
    api::run(input, "Error connecting to Consul agent", |api| {
        for id in &ids {
            if let Err(e) = api.put(&format!("/v1/agent/service/deregister/{}", escape(id, false)), "") {
                return Ok(misuse(&format!("Error deregistering service {id:?}: {e}")));
            }
            print_out(&format!("Deregistered service: {id}\n"));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn maint(input: &Input) -> ExitCode {
    let (enable, disable) = (input.on("enable"), input.on("disable"));
    if enable && disable {
        eprintln!("Only one of -enable or -disable may be provided");
        return ExitCode::FAILURE;
    }
    let failed = match (enable, disable, input.value("service").is_some_and(|s| !s.is_empty())) {
        (true, _, true) => "Error enabling service maintenance",
        (true, _, false) => "Error enabling node maintenance",
        (_, true, true) => "Error disabling service maintenance",
        (_, true, false) => "Error disabling node maintenance",
        _ => "Error with maintenance mode",
    };
    api::run(input, failed, |api| {
        if !enable && !disable {
            let checks = api.get("/v1/agent/checks")?;
            for (id, check) in checks.as_object().into_iter().flatten() {
                let service = id.strip_prefix("_service_maintenance:");
                if id != "_node_maintenance" && service.is_none() {
                    continue;
                }
                let (what, key, name) = match service {
                    Some(id) => ("Service", "ID:    ", id.to_owned()),
                    None => ("Node", "Name:  ", text(check, "Node")),
                };
                print_out(&format!("{what}:\n  {key} {name}\n  Reason: {}\n\n", text(check, "Notes")));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let reason = escape(input.value("reason").unwrap_or_default(), false);
        let path = match input.value("service") {
            Some(id) => format!("/v1/agent/service/maintenance/{}?enable={enable}&reason={reason}", escape(id, false)),
            None => format!("/v1/agent/maintenance?enable={enable}&reason={reason}"),
        };
        api.put(&path, "")?;
        let now = if enable { "enabled" } else { "disabled" };
        print_out(&match input.value("service") {
            Some(id) => format!("Service maintenance is now {now} for \"{id}\"\n"),
            None => format!("Node maintenance is now {now}\n"),
        });
        Ok(ExitCode::SUCCESS)
    })
}
