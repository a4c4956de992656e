//! `watch`: runs a command each time something changes; without one prints it as it is now. Words and exit codes are Consul's.
#![allow(clippy::disallowed_methods, reason = "a command line tool waits")]

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use causeway_agent::http::watch::progress::Progress;
use causeway_agent::http::watch::{PlanError, Watch};
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;

use super::api::{Api, ApiError};
use super::child::{self, Signals, Target};
use super::{Command, Input, flag, help, pretty, print_out};

/// The command.
pub static COMMAND: Command = Command {
    name: "watch",
    operands: "[CHILD...]",
    about: "Watches for changes in Consul",
    more: "The child command is run with the state at the start and again with each new one: as JSON on its standard input, the index\n\
           in CONSUL_INDEX. Flags behind its name are its own. It ends the watch where it fails. Without a child the state is printed\n\
           once.",
    flags: &[
        flag("type", "string", "One of key, keyprefix, services, nodes, service, checks, event."),
        flag("key", "string", "Key to watch, for type key."),
        flag("prefix", "string", "Beginning of the keys to watch, for type keyprefix."),
        flag("service", "string", "Service to watch, for types service and checks."),
        flag("tag", "string", "Tag its instances must have; may be given several times."),
        flag("passingonly", "true|false", "Whether only instances are meant whose checks all pass."),
        flag("state", "string", "Checks in this state, for type checks; default: any."),
        flag("name", "string", "Name of the events, for type event; default: all."),
        flag("shell", "", "Whether the child is a line of the shell (of $SHELL, else /bin/sh). Default: true."),
    ],
    http: true,
    run,
};

/// How long one request may wait for news.
const WAIT: Duration = Duration::from_secs(45);
/// An answer without news that comes sooner did not wait.
const TOO_SOON: Duration = Duration::from_secs(1);

fn run(input: &Input) -> ExitCode {
    let fail = |text: &str| {
        eprintln!("{text}");
        ExitCode::FAILURE
    };
    if input.value("type").is_none_or(str::is_empty) {
        return fail(&format!("Watch type must be specified\n\n{}", help(&COMMAND)));
    }
    let watch = match watch(input) {
        Ok(watch) => watch,
        Err(PlanError::Connect(name)) => return fail(&format!("Type {name} is not supported in the CLI tool")),
        Err(PlanError::Invalid(text)) => return fail(&text),
    };
    let api = match Api::new(input) {
        Ok(api) => api,
        Err(e) => return fail(&format!("Error connecting to Consul agent: {e}")),
    };
    if let Err(e) = api.get("/v1/agent/self") {
        return fail(&format!("Error querying Consul agent: {e}"));
    }
    api.block_on(async {
        match Signals::listen() {
            Ok(signals) => follow(&api, &watch, input, signals).await,
            Err(e) => fail(&format!("Cannot listen for signals: {e}")),
        }
    })
}

/// The flags as the keys of a configured watch. Datacenter, token and `stale` are added to every request as it is.
fn watch(input: &Input) -> Result<Watch, PlanError> {
    let mut object = Map::new();
    for key in ["type", "key", "prefix", "service", "state", "name"] {
        if let Some(text) = input.value(key).filter(|v| !v.is_empty()) {
            object.insert(key.to_owned(), text.into());
        }
    }
    if !input.values("tag").is_empty() {
        object.insert("tag".to_owned(), input.values("tag").into());
    }
    match input.value("passingonly") {
        None | Some("") => {}
        Some(_) if input.on("passingonly") => {
            object.insert("passingonly".to_owned(), true.into());
        }
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => {
            object.insert("passingonly".to_owned(), false.into());
        }
        Some(other) => {
            return Err(PlanError::Invalid(format!(
                "Failed to parse -passingonly: strconv.ParseBool: parsing {other:?}: invalid syntax"
            )));
        }
    }
    Watch::parse(&object)
}

async fn follow(api: &Api, watch: &Watch, input: &Input, mut signals: Signals) -> ExitCode {
    let mut progress = Progress::default();
    loop {
        let (began, before) = (tokio::time::Instant::now(), progress.index());
        let path = watch.path(before, WAIT);
        let answer = tokio::select! {
            _ = signals.next() => return ExitCode::SUCCESS,
            answer = api.ask("GET", &path, "") => answer,
        };
        let data = answer.and_then(|a| {
            let data = watch.data(a.code, &a.body).map_err(ApiError::Unreadable)?;
            Ok((a.index, data))
        });
        let wait = match data {
            Ok((index, data)) => match progress.answered(watch, index.max(1), data) {
                Some(data) if input.operands.is_empty() => {
                    print_out(&format!("{}\n", pretty(&data, b"    ")));
                    return ExitCode::SUCCESS;
                }
                Some(data) => match run_child(input, index, &data, &mut signals).await {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => return ExitCode::SUCCESS,
                    Err(text) => {
                        eprintln!("{text}");
                        return ExitCode::FAILURE;
                    }
                },
                None if index <= before => TOO_SOON.saturating_sub(began.elapsed()),
                None => Duration::ZERO,
            },
            Err(error) => {
                let wait = progress.failed();
                eprintln!("Watch errored: {error}; retry in {} s", wait.as_secs());
                wait
            }
        };
        tokio::select! {
            _ = signals.next() => return ExitCode::SUCCESS,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Runs the child to its end; false where a signal came, which it was told of.
async fn run_child(input: &Input, index: u64, data: &Value, signals: &mut Signals) -> Result<bool, String> {
    let shell = input.value("shell").is_none() || input.on("shell");
    let mut command = child::command(&input.operands, shell).map_err(|e| format!("Error executing handler: {e}"))?;
    command.env("CONSUL_INDEX", index.to_string()).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(|e| format!("Error starting handler: {e}"))?;
    let target = Target::of(&child, false);
    let stdin = child.stdin.take();
    let text = format!("{data}\n");
    let run = async {
        if let Some(mut stdin) = stdin {
            // A child need not read what it is given.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait().await
    };
    tokio::pin!(run);
    let mut told = false;
    let status = loop {
        tokio::select! {
            status = &mut run => break status.map_err(|e| format!("Error executing handler: {e}"))?,
            number = signals.next() => {
                told = true;
                if let Some(target) = target {
                    // It may have ended just now.
                    let _ = target.send(number);
                }
            }
        }
    };
    match child::failure(status) {
        _ if told => Ok(false),
        None => Ok(true),
        Some(words) => Err(format!("Error executing handler: {words}")),
    }
}
