//! The command line: one file a subcommand. All but `agent`, `dev` and the helpers that need no agent speak HTTP to an agent, like
//! anyone else. Flags are Go's, as Consul's are: `-flag value`, `-flag=value`, one dash or two.

use std::collections::BTreeMap;
use std::process::ExitCode;

pub mod acl;
pub mod agent;
pub mod api;
pub mod catalog;
mod child;
mod completion;
pub mod config;
mod debug;
pub mod dev;
pub mod event;
mod exec;
mod exports;
pub mod federation;
pub mod info;
pub mod keygen;
pub mod keyring;
pub mod kv;
pub mod links;
pub mod lock;
pub mod members;
pub mod membership;
mod monitor;
pub mod operator;
pub mod reference;
mod refused;
pub mod rtt;
pub mod services;
pub mod snapshot;
mod store;
pub mod tls;
pub mod validate;
pub mod version;
pub mod watch;

/// A flag of a command.
pub struct Flag {
    /// Without dash.
    pub name: &'static str,
    /// What it takes, for help; empty: it is true or false.
    pub value: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// Shorthand for a row of flags.
pub const fn flag(name: &'static str, value: &'static str, doc: &'static str) -> Flag {
    Flag { name, value, doc }
}

/// Of all commands that print a table or JSON.
pub const FORMAT: Flag = flag("format", "pretty|json", "How to print it.");

/// Of all commands that Consul Enterprise has namespaces for: whoever asks for one is refused by the agent, in Consul's words.
pub const NAMESPACE: Flag =
    flag("namespace", "name", "A feature of Consul Enterprise, and refused (CONSUL_NAMESPACE).");

/// A command.
pub struct Command {
    /// Its name, with a space before a subcommand's: `kv get`, `operator raft list-peers`.
    pub name: &'static str,
    /// What follows the flags: `KEY [DATA]`.
    pub operands: &'static str,
    /// One line for the list of commands.
    pub about: &'static str,
    /// More for its help; may be empty.
    pub more: &'static str,
    /// Its own flags.
    pub flags: &'static [Flag],
    /// Whether it speaks to an agent, and so takes the flags of [`api::FLAGS`].
    pub http: bool,
    /// What it does.
    pub run: fn(&Input) -> ExitCode,
}

/// Every command, in the order of the list.
pub static COMMANDS: &[&Command] = &[
    &refused::AUTH_METHOD,
    &refused::BINDING_RULE,
    &acl::BOOTSTRAP,
    &acl::POLICY_CREATE,
    &acl::POLICY_DELETE,
    &acl::POLICY_LIST,
    &acl::POLICY_READ,
    &acl::POLICY_UPDATE,
    &acl::ROLE_CREATE,
    &acl::ROLE_DELETE,
    &acl::ROLE_LIST,
    &acl::ROLE_READ,
    &acl::ROLE_UPDATE,
    &acl::SET_AGENT_TOKEN,
    &acl::TOKEN_CLONE,
    &acl::TOKEN_CREATE,
    &acl::TOKEN_DELETE,
    &acl::TOKEN_LIST,
    &acl::TOKEN_READ,
    &acl::TOKEN_UPDATE,
    &agent::COMMAND,
    &catalog::DATACENTERS,
    &catalog::NODES,
    &catalog::SERVICES,
    &config::DELETE,
    &config::LIST,
    &config::READ,
    &config::WRITE,
    &refused::CONNECT,
    &debug::COMMAND,
    &dev::COMMAND,
    &event::COMMAND,
    &exec::COMMAND,
    &federation::DOCTOR,
    &exports::EXPORTS,
    &federation::JOIN,
    &federation::LIST,
    &federation::REMOVE,
    &federation::STATUS,
    &federation::TOKEN,
    &federation::WHY,
    &membership::FORCE_LEAVE,
    &info::COMMAND,
    &refused::INTENTION,
    &membership::JOIN,
    &keygen::COMMAND,
    &keyring::COMMAND,
    &kv::DELETE,
    &kv::EXPORT,
    &kv::GET,
    &kv::IMPORT,
    &kv::PUT,
    &exports::REPLICATION,
    &membership::LEAVE,
    &lock::COMMAND,
    &refused::LOGIN,
    &refused::LOGOUT,
    &services::MAINT,
    &members::COMMAND,
    &monitor::COMMAND,
    &operator::AUTOPILOT_GET,
    &operator::AUTOPILOT_SET,
    &operator::AUTOPILOT_STATE,
    &operator::LIST_PEERS,
    &operator::REMOVE_PEER,
    &operator::TRANSFER_LEADER,
    &reference::CONFIG,
    &reference::COMMANDS_PAGE,
    &reference::DNS,
    &reference::HTTP,
    &membership::RELOAD,
    &rtt::COMMAND,
    &services::DEREGISTER,
    &services::REGISTER,
    &snapshot::INSPECT,
    &snapshot::RESTORE,
    &snapshot::SAVE,
    &tls::CA_CREATE,
    &tls::CERT_CREATE,
    &validate::COMMAND,
    &version::COMMAND,
    &watch::COMMAND,
];

/// Commands with a child command behind their flags: what follows its name is the child's, dashes and all. (And those that are refused,
/// whatever follows.)
const WITH_CHILD: &[&str] = &["acl auth-method", "acl binding-rule", "connect", "exec", "intention", "lock", "watch"];

/// What the user typed behind the command's name.
#[derive(Default)]
pub struct Input {
    flags: BTreeMap<&'static str, Vec<String>>,
    /// What is no flag, in order.
    pub operands: Vec<String>,
}

impl Input {
    /// The last value of a flag.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.get(name).and_then(|v| v.last()).map(String::as_str)
    }

    /// Every value of a flag, in order.
    pub fn values(&self, name: &str) -> &[String] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a true-or-false flag is on.
    pub fn on(&self, name: &str) -> bool {
        matches!(self.value(name), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
    }

    /// A whole number; the error is Go's.
    pub fn whole(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.value(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("invalid value {text:?} for flag -{name}: parse error")),
        }
    }

    /// A duration, in nanoseconds; the error is Go's.
    pub fn time(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.value(name) {
            None => Ok(default),
            Some(text) => causeway_agent::http::duration::parse_nanos(text)
                .map_err(|_| format!("invalid value {text:?} for flag -{name}: parse error")),
        }
    }

    /// One as a test wants it.
    #[cfg(test)]
    pub fn of(flags: &[(&'static str, &str)], operands: &[&str]) -> Self {
        let mut input = Self::default();
        for (name, value) in flags {
            input.flags.entry(name).or_default().push((*value).to_owned());
        }
        input.operands = operands.iter().map(|o| (*o).to_owned()).collect();
        input
    }

    /// The flags given, in no order.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.flags.iter().map(|(k, v)| (*k, v.as_slice()))
    }
}

/// Why a command line cannot be read.
#[derive(Debug, PartialEq, Eq)]
enum Misuse {
    Help,
    Unknown(String),
    NoValue(String),
}

type Known<'a> = dyn Fn(&str) -> Option<(&'static str, bool)> + 'a;

fn parse(known: &Known<'_>, child: bool, args: &[String]) -> Result<Input, Misuse> {
    let mut input = Input::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(body) = arg.strip_prefix('-').filter(|b| !b.is_empty()) else {
            // Go's rule: flags end at the first operand; Consul's users put them behind too, so they are taken there as well.
            input.operands.push(arg.clone());
            if child {
                input.operands.extend(args.cloned());
                break;
            }
            continue;
        };
        if arg == "--" {
            input.operands.extend(args.cloned());
            break;
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if matches!(name, "h" | "help") {
            return Err(Misuse::Help);
        }
        let Some((name, is_switch)) = known(name) else {
            return Err(Misuse::Unknown(name.to_owned()));
        };
        let value = match value {
            Some(value) => value,
            None if is_switch => "true".to_owned(),
            None => args.next().cloned().ok_or_else(|| Misuse::NoValue(name.to_owned()))?,
        };
        input.flags.entry(name).or_default().push(value);
    }
    Ok(input)
}

/// Finds and runs the command. Exit codes are Consul's: 0 done, 1 failed or misused, 2 refused by a condition (where a command
/// says so), 127 for a command that does not exist.
pub fn main(args: &[String]) -> ExitCode {
    if let Some(code) = completion::answer() {
        return code;
    }
    let first = args.first().map(String::as_str).unwrap_or_default();
    match first {
        "-autocomplete-install" | "--autocomplete-install" if args.len() == 1 => return completion::install(true),
        "-autocomplete-uninstall" | "--autocomplete-uninstall" if args.len() == 1 => return completion::install(false),
        "" | "help" | "-h" | "-help" | "--help" => {
            print!("{}", overview());
            return if first.is_empty() { ExitCode::from(127) } else { ExitCode::SUCCESS };
        }
        "-v" | "-version" | "--version" => return (version::COMMAND.run)(&Input::default()),
        _ => {}
    }
    let named = |words: usize| args.get(..words).map(|words| words.join(" "));
    let found = (1..=3_usize).rev().find_map(|words| {
        let name = named(words)?;
        COMMANDS.iter().find(|c| c.name == name).map(|c| (*c, words))
    });
    let Some((command, words)) = found else {
        let is_family = |name: &String| COMMANDS.iter().any(|c| c.name.starts_with(&format!("{name} ")));
        if let Some(family) = (1..=2).rev().filter_map(named).find(is_family) {
            let text = family_help(&family);
            if args.iter().any(|a| matches!(a.as_str(), "-h" | "-help" | "--help" | "--h")) {
                print_out(&text);
                return ExitCode::SUCCESS;
            }
            // As Consul does: it is no answer to what was asked.
            eprint!("{text}");
            return ExitCode::FAILURE;
        }
        let hint = super::options::nearest(first, COMMANDS.iter().map(|c| c.name))
            .map(|c| format!("Unknown command {first:?}; did you mean {c:?}?\n\n"))
            .unwrap_or_default();
        eprint!("{hint}{}", overview());
        return ExitCode::from(127);
    };
    let known = |name: &str| {
        let own = command.flags.iter().chain(if command.http { api::FLAGS } else { &[] });
        own.into_iter()
            .find(|f| f.name == name)
            .map(|f| (f.name, f.value.is_empty()))
            .or_else(|| if command.name == "agent" { agent::option_flag(name) } else { None })
    };
    match parse(&known, WITH_CHILD.contains(&command.name), &args[words..]) {
        Ok(input) => (command.run)(&input),
        Err(Misuse::Help) => {
            print!("{}", help(command));
            ExitCode::SUCCESS
        }
        Err(Misuse::Unknown(name)) => {
            let names = command.flags.iter().chain(if command.http { api::FLAGS } else { &[] }).map(|f| f.name);
            let names = names.chain(if command.name == "agent" { agent::option_flags() } else { Vec::new() });
            let hint =
                super::options::nearest(&name, names).map(|n| format!(" (did you mean -{n}?)")).unwrap_or_default();
            eprintln!(
                "flag provided but not defined: -{name}{hint}\n`causeway {} -help` lists the flags.",
                command.name
            );
            ExitCode::FAILURE
        }
        Err(Misuse::NoValue(name)) => {
            eprintln!("flag needs an argument: -{name}");
            ExitCode::FAILURE
        }
    }
}

/// The list of commands.
fn overview() -> String {
    let mut out = String::from("Usage: causeway [-version] [-help] <command> [<args>]\n\nAvailable commands are:\n");
    for command in COMMANDS {
        out.push_str(&format!("    {:<20} {}\n", command.name, command.about));
    }
    out.push_str("\n`causeway <command> -help` says more of each; `causeway -autocomplete-install` has the shells complete them.\n");
    out
}

fn family_help(first: &str) -> String {
    let family = format!("{first} ");
    let mut out = format!("Usage: causeway {first} <subcommand> [options] [args]\n\nSubcommands:\n");
    for command in COMMANDS.iter().filter(|c| c.name.starts_with(&family)) {
        out.push_str(&format!("    {:<14} {}\n", &command.name[family.len()..], command.about));
    }
    out
}

/// A command's help.
pub fn help(command: &Command) -> String {
    let mut out = format!("Usage: causeway {} [options] {}\n\n  {}\n", command.name, command.operands, command.about);
    if !command.more.is_empty() {
        out.push('\n');
        for line in command.more.lines() {
            out.push_str(&format!("  {line}\n"));
        }
    }
    let mut section = |title: &str, flags: Vec<(String, String)>| {
        if !flags.is_empty() {
            out.push_str(&format!("\n{title}\n\n"));
            for (name, doc) in flags {
                out.push_str(&format!("  {name}\n      {doc}\n"));
            }
        }
    };
    let show = |f: &Flag| {
        let name = if f.value.is_empty() { format!("-{}", f.name) } else { format!("-{}=<{}>", f.name, f.value) };
        (name, f.doc.to_owned())
    };
    section("Command options", command.flags.iter().map(show).collect());
    if command.name == "agent" {
        section("Configuration options (each has a key in the files, too)", agent::option_help());
    }
    if command.http {
        section("HTTP API options", api::FLAGS.iter().map(show).collect());
    }
    out
}

/// Columns as Consul prints them: two spaces between, empty cells as they are, no spaces at the end of a line.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// JSON as Go prints it with this indent.
pub fn pretty(value: &serde_json::Value, indent: &[u8]) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    match value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter)) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(_) => value.to_string(),
    }
}

/// Prints to standard output; a closed pipe ends the process quietly, as it does any tool's.
pub fn print_out(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn go_flags() {
        let known = |name: &str| match name {
            "wan" => Some(("wan", true)),
            "token" => Some(("token", false)),
            _ => None,
        };
        let input = parse(&known, false, &words("-wan --token=a -token b key -- -x")).ok().unwrap();
        assert!(input.on("wan"));
        assert_eq!(input.values("token"), ["a", "b"]);
        assert_eq!(input.operands, ["key", "-x"]);
        assert!(!parse(&known, false, &words("-wan=false")).ok().unwrap().on("wan"));
        assert_eq!(parse(&known, false, &words("-nope")).err(), Some(Misuse::Unknown("nope".into())));
        assert_eq!(parse(&known, false, &words("-token")).err(), Some(Misuse::NoValue("token".into())));
        assert_eq!(parse(&known, false, &words("--help")).err(), Some(Misuse::Help));
        assert_eq!(parse(&known, false, &words("a -")).ok().unwrap().operands, ["a", "-"]);
        let input = parse(&known, true, &words("-wan grep -token -- x")).ok().unwrap();
        assert!(input.on("wan"));
        assert_eq!(input.operands, ["grep", "-token", "--", "x"], "what follows a child command is the child's");
        let input = parse(&known, true, &words("-token t -- -x")).ok().unwrap();
        assert_eq!((input.value("token"), input.operands.len()), (Some("t"), 1));
    }

    #[test]
    fn columns_have_no_trailing_space() {
        let rows = vec![vec!["Node".to_owned(), "ID".into()], vec!["n".into(), String::new()]];
        assert_eq!(columns(&rows), "Node  ID\nn\n");
    }

    #[test]
    fn every_command_has_help() {
        for command in COMMANDS {
            assert!(help(command).contains(command.about), "{}", command.name);
        }
    }
}
