//! `snapshot save | restore | inspect`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use causeway_agent::http::archive::{self, Meta};

use super::api;
use super::{Command, Input, print_out};

/// `snapshot save`.
pub static SAVE: Command = Command {
    name: "snapshot save",
    operands: "FILE",
    about: "Saves snapshot of the servers' state",
    more: "The file is verified before it takes its name: one that is there is replaced whole or not at all.",
    flags: &[],
    http: true,
    run: save,
};
/// `snapshot restore`.
pub static RESTORE: Command = Command {
    name: "snapshot restore",
    operands: "FILE",
    about: "Restores snapshot of the servers' state",
    more: "All of the catalog, keys, sessions, queries and config entries are replaced; a file that is cut short or altered changes \
           nothing.",
    flags: &[],
    http: true,
    run: restore,
};
/// `snapshot inspect`.
pub static INSPECT: Command = Command {
    name: "snapshot inspect",
    operands: "FILE",
    about: "Displays information about a snapshot file",
    more: "",
    flags: &[],
    http: false,
    run: inspect,
};

fn failed(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}

/// The one operand.
fn file(input: &Input) -> Result<&Path, ExitCode> {
    match input.operands.as_slice() {
        [file] => Ok(Path::new(file)),
        [] => Err(failed("Missing FILE argument")),
        more => Err(failed(&format!("Too many arguments (expected 1, got {})", more.len()))),
    }
}

/// Writes beside the file and takes its place: whoever reads it sees the old one or the whole new one.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.unverified", std::process::id()));
    let temporary = dir.join(name);
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut out = options.open(&temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // It may not be there at all.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn save(input: &Input) -> ExitCode {
    let path = match file(input) {
        Ok(path) => path,
        Err(code) => return code,
    };
    api::run(input, "Error saving snapshot", |api| {
        let body = api.request("GET", "/v1/snapshot", Bytes::new())?.ok()?;
        let index = match archive::unpack(&body[..]) {
            Ok((Meta { index, .. }, _)) => index,
            Err(error) => return Ok(failed(&format!("Error verifying snapshot file: {error}"))),
        };
        if let Err(error) = replace(path, &body) {
            return Ok(failed(&format!("Error writing snapshot file {}: {error}", path.display())));
        }
        print_out(&format!("Saved and verified snapshot to index {index}\n"));
        Ok(ExitCode::SUCCESS)
    })
}

fn restore(input: &Input) -> ExitCode {
    let path = match file(input) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return failed(&unopened(path, &error)),
    };
    api::run(input, "Error restoring snapshot", |api| {
        api.request("PUT", "/v1/snapshot", bytes)?.ok()?;
        print_out("Restored snapshot\n");
        Ok(ExitCode::SUCCESS)
    })
}

fn inspect(input: &Input) -> ExitCode {
    let path = match file(input) {
        Ok(path) => path,
        Err(code) => return code,
    };
    let opened = match std::fs::File::open(path) {
        Ok(opened) => opened,
        Err(error) => return failed(&unopened(path, &error)),
    };
    match archive::unpack(opened) {
        Ok((meta, _)) => {
            let rows = [
                ("ID", meta.id),
                ("Size", meta.size.to_string()),
                ("Index", meta.index.to_string()),
                ("Term", meta.term.to_string()),
                ("Version", meta.version.to_string()),
            ];
            print_out(&rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect::<String>());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&format!("Error verifying snapshot: {error}")),
    }
}

/// As Go words it.
fn unopened(path: &std::path::Path, error: &std::io::Error) -> String {
    let text = error.to_string();
    let why = text.split(" (os error").next().unwrap_or_default();
    let mut letters = why.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    let why: String = first.into_iter().chain(letters).collect();
    format!("Error opening snapshot file: open {}: {why}", path.display())
}
