//! `federation`: joining and looking after the sites.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use causeway_gateway::Proxy;
use causeway_gateway::join::{Granted, JoinError, Keys, Kind, Token, redeem_through};
use serde_json::{Value, json};

use super::{Command, FORMAT, Input, api, columns, exports, flag, links, print_out};

/// `federation token create`.
pub static TOKEN: Command = Command {
    name: "federation token",
    operands: "create",
    about: "Makes a token with which a new site can join (`federation token create`); asked of a gateway",
    more: "The token serves once. On the new site: causeway federation join TOKEN.\nThe gateway needs the authority's key: \"gateway.ca_key_file\".",
    flags: &[
        flag("datacenter", "name", "The name that the new site will have."),
        flag("expires", "duration", "How long it serves: 15m by default, at most 168h."),
        flag(
            "address",
            "host:port",
            "Where the new site is to dial; may be repeated. Default: what the gateway advertises.",
        ),
        FORMAT,
    ],
    http: true,
    run: token,
};
/// `federation join`.
pub static JOIN: Command = Command {
    name: "federation join",
    operands: "TOKEN",
    about: "Makes this a site of the federation: keys are made here, certified by the gateway that made the token",
    more: "Needs no running agent. Tries UDP, TCP and the HTTP proxy, and takes what answers first. Writes keys, certificates and\ngateway.json, ready for `causeway agent -config-dir DIR`; in DIR/server and DIR/agent lie those for this site's servers and agents.",
    flags: &[
        flag("out", "dir", "Where to write. Default: ./federation-NAME."),
        flag(
            "data-dir",
            "dir",
            "The agent's data directory: writes to its folder \"join\" and names it in gateway.json.",
        ),
        flag("datacenter", "name", "What this site calls itself; by default what the token says."),
        flag(
            "listen",
            "ip:port",
            "Address (UDP and TCP) at which other sites may dial this one. Default: none, this site only dials out.",
        ),
        flag(
            "proxy",
            "url",
            "HTTP proxy to go through where nothing else gets out: http://user:password@host:port, or none. Default: HTTPS_PROXY, but for NO_PROXY.",
        ),
    ],
    http: false,
    run: join,
};
/// `federation list`.
pub static LIST: Command = Command {
    name: "federation list",
    operands: "",
    about: "Lists the sites of the federation",
    more: "",
    flags: &[FORMAT],
    http: true,
    run: list,
};
/// `federation status`.
pub static STATUS: Command = Command {
    name: "federation status",
    operands: "",
    about: "Shows the sites with path, round trip, clock skew and the last error; -detailed: every link",
    more: "Links are those of the gateway that answers. What is not known is \"-\": TCP tells nothing of packets. -format=json prints all of it.",
    flags: &[
        flag("detailed", "", "Shows each link: transport and why, loss, MTU, migrations, fallbacks, bytes by class."),
        FORMAT,
    ],
    http: true,
    run: status,
};
/// `federation why`.
pub static WHY: Command = Command {
    name: "federation why",
    operands: "DATACENTER",
    about: "Says how a site is reached, or why it is not",
    more: "",
    flags: &[FORMAT],
    http: true,
    run: why,
};
/// `federation remove`.
pub static REMOVE: Command = Command {
    name: "federation remove",
    operands: "DATACENTER",
    about: "Takes a site out: its certificates are refused and its links cut; asked of a gateway",
    more: "At a gateway with the authority's key (\"gateway.ca_key_file\") it holds for every gateway of every site, which learn it from each\nother; at one without it, for that gateway alone. Kept over restarts.",
    flags: &[flag("undo", "", "Takes the removal back.")],
    http: true,
    run: remove,
};
/// `federation doctor`.
pub static DOCTOR: Command = Command {
    name: "federation doctor",
    operands: "[DATACENTER]",
    about: "Checks names, UDP, TCP, proxy, MTU, certificate and clock, at both ends; asked of a gateway",
    more: "The far end looks too, where there is a link to ask it over. Exit code 2 where something fails. Changes nothing.",
    flags: &[flag("json", "", "Prints JSON."), FORMAT],
    http: true,
    run: doctor,
};

fn misuse(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

fn wants_json(input: &Input) -> bool {
    input.value("format") == Some("json") || input.on("json")
}

fn print_json(value: &Value) -> ExitCode {
    print_out(&format!("{value:#}\n"));
    ExitCode::SUCCESS
}

fn token(input: &Input) -> ExitCode {
    if !matches!(input.operands.as_slice(), [word] if word == "create") {
        return misuse("Usage: causeway federation token create --datacenter NAME [options]");
    }
    let Some(datacenter) = input.value("datacenter") else {
        return misuse("Missing --datacenter: the name that the new site will have");
    };
    let body = json!({
        "Datacenter": datacenter,
        "Expires": input.value("expires").unwrap_or_default(),
        "Addresses": input.values("address"),
    });
    api::run(input, "Error creating the token", |api| {
        let answer = api.put("/v1/federation/token", body.to_string())?;
        let made: Value = serde_json::from_slice(&answer).map_err(|e| api::ApiError::Unreadable(e.to_string()))?;
        if wants_json(input) {
            return Ok(print_json(&made));
        }
        print_out(&format!("{}\n", api::text(&made, "Token")));
        // Behind the empty one the name of the new site, which every request carries, has no effect.
        if let Ok(found) = api.get("/v1/internal/exports?dc=") {
            eprintln!("{datacenter} may ask of this site: {}", exports::summary(&found, datacenter));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn sites(api: &api::Api) -> Result<Vec<Value>, api::ApiError> {
    Ok(api.get("/v1/federation/sites")?.as_array().cloned().unwrap_or_default())
}

fn milliseconds(site: &Value) -> String {
    links::milliseconds(&site["RttUs"])
}

fn since(site: &Value) -> String {
    links::age(&site["SinceMs"])
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn path(site: &Value) -> String {
    if site["Local"] == true { "here".to_owned() } else { or_dash(api::text(site, "Path")) }
}

fn list(input: &Input) -> ExitCode {
    api::run(input, "Error listing the sites", |api| {
        let sites = sites(api)?;
        if wants_json(input) {
            return Ok(print_json(&Value::Array(sites)));
        }
        let granted = api.get("/v1/internal/exports").ok();
        let head = ["Datacenter", "State", "Path", "RTT", "Gateways", "May ask here"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for site in &sites {
            let names: Vec<String> =
                site["Gateways"].as_array().into_iter().flatten().map(|g| api::text(g, "Name")).collect();
            rows.push(vec![
                api::text(site, "Datacenter"),
                api::text(site, "State"),
                path(site),
                milliseconds(site),
                or_dash(names.join(",")),
                match &granted {
                    Some(granted) if site["Local"] != true => exports::summary(granted, &api::text(site, "Datacenter")),
                    _ => "-".to_owned(),
                },
            ]);
        }
        print_out(&columns(&rows));
        Ok(ExitCode::SUCCESS)
    })
}

fn status(input: &Input) -> ExitCode {
    api::run(input, "Error asking for the sites", |api| {
        let found = api.get("/v1/internal/federation")?;
        if wants_json(input) {
            return Ok(print_json(if input.on("detailed") { &found } else { &found["Sites"] }));
        }
        let sites = found["Sites"].as_array().cloned().unwrap_or_default();
        let head = ["Datacenter", "State", "Since", "Path", "RTT", "Skew", "Services", "Index", "Last error"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for site in &sites {
            let catalogue = &site["Catalogue"];
            rows.push(vec![
                api::text(site, "Datacenter"),
                api::text(site, "State"),
                since(site),
                path(site),
                milliseconds(site),
                if site["Local"] == true { "-".to_owned() } else { format!("{} ms", api::text(site, "ClockSkewMs")) },
                or_dash(api::text(catalogue, "Services")),
                or_dash(api::text(catalogue, "Index")),
                or_dash(api::text(site, "LastError")),
            ]);
        }
        print_out(&columns(&rows));
        if input.on("detailed") {
            let gateway = or_dash(api::text(&found, "Gateway"));
            print_out(&format!("\nLinks of the gateway {gateway}:\n{}", links::tables(&sites)));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn why(input: &Input) -> ExitCode {
    let [name] = input.operands.as_slice() else { return misuse("Usage: causeway federation why DATACENTER") };
    api::run(input, "Error asking for the site", |api| {
        let sites = sites(api)?;
        let Some(site) = sites.iter().find(|s| api::text(s, "Datacenter").eq_ignore_ascii_case(name)) else {
            let known: Vec<String> = sites.iter().map(|s| api::text(s, "Datacenter")).collect();
            return Ok(misuse(&format!(
                "No path to datacenter {name}: never heard of, or removed. Known: {}",
                known.join(", ")
            )));
        };
        if wants_json(input) {
            return Ok(print_json(site));
        }
        let names = |key: &str| {
            site[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        };
        let addresses: Vec<&str> = site["Gateways"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|g| g["Addresses"].as_array().into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        let dialled =
            if addresses.is_empty() { "none told: it dials out only".to_owned() } else { addresses.join(", ") };
        let state = api::text(site, "State");
        let first = match (site["Local"] == true, state.as_str()) {
            (true, _) => format!("{name} is this site"),
            (_, "linked") => {
                format!("{name} is reached by {} in {}, for {}", path(site), milliseconds(site), since(site))
            }
            (_, "left") => format!("{name} left of its own will {} ago", since(site)),
            _ => format!("{name} has not been reached for {}: {}", since(site), or_dash(api::text(site, "LastError"))),
        };
        let mut text =
            format!("{first}\n  its gateways: {dialled}\n  it has links to: {}\n", or_dash(names("Neighbours")));
        let candidates = site["Candidates"].as_array().map_or(&[][..], Vec::as_slice);
        if !candidates.is_empty() {
            text.push_str("  ways considered:\n");
            let rows: Vec<Vec<String>> = candidates
                .iter()
                .map(|c| {
                    let mark = if c["Chosen"] == true { "  *" } else { "   " };
                    vec![format!("{mark} {}", api::text(c, "Path")), milliseconds(c), api::text(c, "Reason")]
                })
                .collect();
            text.push_str(&columns(&rows));
        }
        if site["Local"] != true {
            let unknown = || "not known: no server of it answers".to_owned();
            let here = api.get("/v1/internal/exports").map(|found| exports::summary(&found, name));
            text.push_str(&format!("  it may ask here: {}\n", here.unwrap_or_else(|_| unknown())));
            let own = sites.iter().find(|s| s["Local"] == true).map(|s| api::text(s, "Datacenter")).unwrap_or_default();
            let there = api.get(&format!("/v1/internal/exports?dc={}", api::escape(name, false)));
            let there = there.map(|found| exports::summary(&found, &own));
            text.push_str(&format!("  this site may ask there: {}\n", there.unwrap_or_else(|_| unknown())));
        }
        if state == "unreachable" {
            text.push_str(&format!("  next: causeway federation doctor {name}, at a gateway\n"));
        }
        print_out(&text);
        Ok(if state == "unreachable" { ExitCode::from(2) } else { ExitCode::SUCCESS })
    })
}

fn remove(input: &Input) -> ExitCode {
    let [name] = input.operands.as_slice() else {
        return misuse("Usage: causeway federation remove [-undo] DATACENTER");
    };
    let undo = input.on("undo");
    api::run(input, "Error changing the federation", |api| {
        let verb = if undo { "readmit" } else { "remove" };
        let answer = api.put(&format!("/v1/federation/{verb}/{}", api::escape(name, false)), "")?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let done = if undo { "is admitted again" } else { "is removed" };
        let scope = if answer["Everywhere"] == true {
            "from the federation; all gateways of all sites learn it from each other"
        } else {
            "at this gateway alone, which has not the authority's key (\"gateway.ca_key_file\")"
        };
        let scope = if undo { scope.replacen("from the federation", "to the federation", 1) } else { scope.to_owned() };
        print_out(&format!("{name} {done} {scope}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn doctor(input: &Input) -> ExitCode {
    let name = input.operands.first().map(String::as_str).unwrap_or_default();
    api::run(input, "Error asking the gateway", |api| {
        let found = api.get(&format!("/v1/federation/doctor/{}", api::escape(name, false)))?;
        let all = found.as_array().cloned().unwrap_or_default();
        let failed = all.iter().any(|f| f["Verdict"] == "FAIL");
        if wants_json(input) {
            print_json(&found);
        } else {
            print_out(&checkup(&all));
        }
        Ok(if failed { ExitCode::from(2) } else { ExitCode::SUCCESS })
    })
}

/// Findings for people, by the end at which they were made.
fn checkup(all: &[Value]) -> String {
    let mut ends: Vec<String> = Vec::new();
    for f in all {
        let at = api::text(f, "At");
        if !ends.contains(&at) {
            ends.push(at);
        }
    }
    let mut out = String::new();
    for (i, end) in ends.iter().enumerate() {
        let side = if i == 0 { "this end" } else { "the far end" };
        out.push_str(&format!("At {end} ({side}):\n"));
        let mut rows = Vec::new();
        for f in all.iter().filter(|f| api::text(f, "At") == *end) {
            rows.push(["Verdict", "Check", "Subject", "Found"].map(|key| api::text(f, key)).to_vec());
            let advice = api::text(f, "Advice");
            if !advice.is_empty() {
                rows.push(vec![String::new(), String::new(), String::new(), format!("-> {advice}")]);
            }
        }
        out.push_str(&columns(&rows));
        out.push('\n');
    }
    out
}

/// The proxy for joining.
fn proxy(input: &Input) -> Result<Option<Proxy>, Failed> {
    let of = |names: [&str; 2]| names.into_iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    let except = of(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    match input.value("proxy") {
        Some("none") => Ok(None),
        // Named by hand: for all addresses.
        Some(text) => Proxy::parse(text, "").map(Some).map_err(|e| Failed::Usage(format!("-proxy: {e}"))),
        None => match of(["HTTPS_PROXY", "https_proxy"]) {
            Some(text) => Proxy::parse(&text, &except)
                .map(Some)
                .map_err(|e| Failed::Usage(format!("HTTPS_PROXY: {e} (or -proxy=none, to go without)"))),
            None => Ok(None),
        },
    }
}

/// Why nothing came of a join.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("{} is there already: this site has joined, or choose another place with -out", .0.display())]
    Exists(PathBuf),
    #[error("{path}: {source}")]
    Disk { path: String, source: std::io::Error },
    #[error("{0}")]
    Usage(String),
}

fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> Failed {
    let path = path.display().to_string();
    move |source| Failed::Disk { path, source }
}

/// A file of this user only, on disk before this returns; put in place in one step.
fn write(path: &Path, text: &str) -> Result<(), Failed> {
    use std::os::unix::fs::OpenOptionsExt;

    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(disk(dir))?;
    let temporary = path.with_extension("part");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&temporary)
        .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(disk(path))
}

fn join(input: &Input) -> ExitCode {
    match joined(input) {
        Ok(text) => {
            print_out(&text);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("Not joined: {e}");
            ExitCode::FAILURE
        }
    }
}

fn joined(input: &Input) -> Result<String, Failed> {
    let [text] = input.operands.as_slice() else {
        return Err(Failed::Usage("give one token: causeway federation join TOKEN".to_owned()));
    };
    let token = Token::parse(text).map_err(JoinError::from)?;
    let name = input.value("datacenter").unwrap_or(&token.datacenter).to_ascii_lowercase();
    let listen = input.value("listen").unwrap_or("none");
    if listen != "none" && listen.parse::<std::net::SocketAddr>().is_err() {
        return Err(Failed::Usage(format!("-listen {listen:?}: write it as 0.0.0.0:443, or none")));
    }
    let proxy = proxy(input)?;
    let data_dir = input.value("data-dir").map(PathBuf::from);
    let out = match (input.value("out"), &data_dir) {
        (Some(out), _) => PathBuf::from(out),
        (None, Some(dir)) => dir.join("join"),
        (None, None) => PathBuf::from(format!("federation-{name}")),
    };
    let out = std::path::absolute(&out).map_err(disk(&out))?;
    let config = out.join("gateway.json");
    if config.exists() {
        return Err(Failed::Exists(config));
    }
    // The keys of an attempt whose answer was lost serve again: for the same keys the gateway gives the same answer.
    let pending = out.join("pending");
    let was_there = out.exists();
    let kept: Option<Vec<String>> =
        Kind::ALL.iter().map(|k| std::fs::read_to_string(pending.join(format!("{}.pem", k.as_str()))).ok()).collect();
    let keys = Keys::new(kept.as_deref())?;
    for (kind, key) in Kind::ALL.iter().zip(&keys.0) {
        write(&pending.join(format!("{}.pem", kind.as_str())), &key.key_pem)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failed::Usage(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(redeem_through(&token, &name, &keys, proxy.as_ref()));
    runtime.shutdown_timeout(Duration::from_millis(100));
    let granted = match outcome {
        Ok(granted) => granted,
        Err(e) => {
            if matches!(e, JoinError::Refused { .. }) {
                // Best effort: these keys are worth nothing.
                let _ = std::fs::remove_dir_all(&pending);
                if !was_there {
                    let _ = std::fs::remove_dir(&out);
                }
            }
            return Err(e.into());
        }
    };
    let site = Site { name: &name, listen, data_dir: data_dir.as_deref(), proxy: input.value("proxy") };
    settle(&out, &token, &site, &keys, &granted)?;
    let _ = std::fs::remove_dir_all(&pending);
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clocks = granted.clocks(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let clocks = clocks.map(|text| format!("WARNING: {text}.\n\n")).unwrap_or_default();
    let exports = if granted.exports.is_empty() {
        String::new()
    } else {
        format!("{} exports: {}\n", token.issuer, granted.exports)
    };
    let done = format!(
        "{name} is a site of the federation of {}. Written to {}\n\n  gateway  causeway agent -config-dir {}  (with your own settings beside it; one that runs must be restarted)\n  servers  copy {}/server to each, and start it with -config-dir\n  agents   copy {}/agent to each\n\nExports: every linked site may read and write everything here, as in Consul, until \"exports\" is set on the servers of {name}\n(`causeway federation exports` shows it; -datacenter {}: what {name} may ask there).\n\nFiles hold private keys: keep their mode. Files that are moved need their paths corrected in the .json.\n",
        token.issuer,
        out.display(),
        out.display(),
        out.display(),
        out.display(),
        token.issuer,
    );
    Ok(format!("{done}Joined by {}.\n{exports}{clocks}", granted.path))
}

/// What the new site says of itself.
struct Site<'a> {
    name: &'a str,
    listen: &'a str,
    data_dir: Option<&'a Path>,
    proxy: Option<&'a str>,
}

fn settle(out: &Path, token: &Token, site: &Site<'_>, keys: &Keys, granted: &Granted) -> Result<(), Failed> {
    let Site { name, listen, data_dir, proxy } = *site;
    // The gateway's last, and of it the configuration: it says that all is there.
    for ((kind, key), cert) in Kind::ALL.iter().zip(&keys.0).zip(&granted.certificates).rev() {
        let dir = if *kind == Kind::Gateway { out.to_owned() } else { out.join(kind.as_str()) };
        let of = |suffix: &str| dir.join(format!("{}{suffix}", kind.as_str()));
        let ca = dir.join("ca.pem");
        write(&ca, &granted.authorities)?;
        write(&of("-key.pem"), &key.key_pem)?;
        write(&of(".pem"), cert)?;
        let mut config = json!({
            "datacenter": name, "ca_file": ca, "cert_file": of(".pem"), "key_file": of("-key.pem"),
            "verify_incoming_rpc": true,
        });
        if token.domain != "consul" {
            config["domain"] = json!(token.domain);
        }
        if *kind == Kind::Gateway {
            // The agent of this process calls as an agent: what servers are asked by a gateway they do not hand on to other sites.
            let agent = |suffix: &str| out.join("agent").join(format!("agent{suffix}"));
            (config["cert_file"], config["key_file"]) = (json!(agent(".pem")), json!(agent("-key.pem")));
            config["gateway"] = json!({
                "listen": listen, "peers": granted.peers, "cert_file": of(".pem"), "key_file": of("-key.pem"),
            });
            if let Some(proxy) = proxy {
                config["gateway"]["proxy"] = json!(proxy);
            }
            if let Some(dir) = data_dir {
                config["data_dir"] = json!(std::path::absolute(dir).map_err(disk(dir))?);
            }
        }
        write(&of(".json"), &format!("{config:#}\n"))?;
    }
    Ok(())
}
