//! `agent`: runs one node.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Command, Input, flag};
use crate::options::plan::{Plan, plan};
use crate::options::{ConfigError, Kind, Settings, find_flag, table};

/// The command.
pub static COMMAND: Command = Command {
    name: "agent",
    operands: "",
    about: "Runs an agent; a server or gateway too, where its configuration says so",
    more: "Reads the files, then the flags, which win. Runs until SIGINT or SIGTERM; SIGHUP reads the files again.",
    flags: &[
        flag("config-file", "path", "A JSON or HCL file, or a directory; may be repeated."),
        flag("config-dir", "path", "A directory of .json and .hcl files; may be repeated."),
        flag("config-format", "json|hcl", "Format of files without such an ending."),
        flag("hcl", "text", "A piece of HCL, as if from a file; may be repeated."),
    ],
    http: false,
    run,
};

/// The option that a flag stands for, and whether it is a switch.
pub fn option_flag(name: &str) -> Option<(&'static str, bool)> {
    let def = find_flag(name)?;
    Some((def.flag?, def.kind == Kind::Flag))
}

/// Every option's flag.
pub fn option_flags() -> Vec<&'static str> {
    table::ALL.iter().filter_map(|def| def.flag).collect()
}

/// Rows of help.
pub fn option_help() -> Vec<(String, String)> {
    let row = |def: &&&'static crate::options::Def| {
        let flag = def.flag?;
        let name = if def.kind == Kind::Flag { format!("-{flag}") } else { format!("-{flag}=<{}>", def.kind.as_str()) };
        let default = if def.default.is_empty() { String::new() } else { format!(" Default: {}.", def.default) };
        Some((name, format!("{} ({}){default}", def.doc, def.key)))
    };
    table::ALL.iter().filter_map(|def| row(&def)).collect()
}

/// Where a configuration is read from, so that it can be read again.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    paths: Vec<PathBuf>,
    format_hcl: bool,
    pieces: Vec<String>,
    flags: Vec<(&'static str, String)>,
    /// Whether they need not say where state is kept.
    elsewhere: bool,
}

impl Sources {
    /// From a command line.
    pub fn new(input: &Input) -> Self {
        let mut sources = Self { format_hcl: input.value("config-format") == Some("hcl"), ..Self::default() };
        for name in ["config-file", "config-dir"] {
            sources.paths.extend(input.values(name).iter().map(PathBuf::from));
        }
        sources.pieces = input.values("hcl").to_vec();
        for (name, values) in input.given() {
            if find_flag(name).is_some() {
                sources.flags.extend(values.iter().map(|v| (name, v.clone())));
            }
        }
        sources
    }

    /// From files and directories alone.
    pub fn files(paths: Vec<PathBuf>) -> Self {
        Self { paths, ..Self::default() }
    }

    /// For files that need not say where state is kept.
    pub fn elsewhere(self) -> Self {
        Self { elsewhere: true, ..self }
    }

    /// Reads everything and plans.
    pub fn read(&self) -> Result<Plan, ConfigError> {
        let mut settings = Settings::default();
        for path in &self.paths {
            let bare = path.is_file() && !path.extension().is_some_and(|e| e == "json" || e == "hcl");
            if bare {
                let origin = path.display().to_string();
                let text = std::fs::read_to_string(path)
                    .map_err(|e| ConfigError::new(&origin, format!("cannot be read: {e}")))?;
                settings.read_text(&origin, &text, self.format_hcl)?;
            } else {
                Settings::read(std::slice::from_ref(path), &mut settings)?;
            }
        }
        for piece in &self.pieces {
            settings.read_text("flag -hcl", piece, true)?;
        }
        for (name, value) in &self.flags {
            if let Some(def) = find_flag(name) {
                settings.flag(def, value)?;
            }
        }
        if self.elsewhere && !settings.is_set(&table::DATA_DIR) {
            settings.flag(&table::DATA_DIR, "elsewhere")?;
        }
        plan(&settings)
    }
}

fn run(input: &Input) -> ExitCode {
    if let Some(stray) = input.operands.first() {
        eprintln!("==> Unexpected extra argument {stray:?}: flags begin with a dash (`causeway agent -help`)");
        return ExitCode::FAILURE;
    }
    let sources = Sources::new(input);
    let plan = match sources.read() {
        Ok(plan) => plan,
        Err(e) => {
            eprintln!("==> {e}");
            return ExitCode::FAILURE;
        }
    };
    crate::run::main(plan, sources)
}
