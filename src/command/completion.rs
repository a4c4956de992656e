//! Completions of the shells: which words may come next, from the table of commands, and the lines in the shells' own files that ask
//! for them. As Consul's: the shell runs this executable with the line so far in `COMP_LINE`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{COMMANDS, Command, agent, api, print_out};

/// Set by the shell: the line that is typed.
const LINE: &str = "COMP_LINE";
/// Set by the shell: where in it the cursor is, in bytes.
const POINT: &str = "COMP_POINT";
/// Ends each line that is ours, so that no other is touched.
const MARK: &str = "# by -autocomplete-install of Causeway";

/// Prints what may come next, where it is a shell that asks.
pub fn answer() -> Option<ExitCode> {
    let line = std::env::var(LINE).ok()?;
    let point = std::env::var(POINT).ok().and_then(|p| p.parse().ok()).unwrap_or(line.len());
    let so_far = line.get(..point).unwrap_or(&line);
    print_out(&candidates(so_far).iter().map(|word| format!("{word}\n")).collect::<String>());
    Some(ExitCode::SUCCESS)
}

/// The words that the last one may become.
fn candidates(line: &str) -> Vec<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let last = if line.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or_default() };
    let given: Vec<&str> = words.into_iter().skip(1).take_while(|w| !w.starts_with('-')).collect();
    let fits = |word: &String| word.starts_with(last);
    if last.starts_with('-') {
        let flags = command(&given).map(flags).unwrap_or_default();
        // Two dashes are as good as one.
        let dashes = if last.starts_with("--") { "--" } else { "-" };
        return flags.iter().map(|name| format!("{dashes}{name}")).filter(fits).collect();
    }
    let mut out: Vec<String> = COMMANDS.iter().filter_map(|c| next(c.name, &given)).filter(fits).collect();
    out.sort();
    out.dedup();
    out
}

/// The word of a command's name that follows those given.
fn next(name: &str, given: &[&str]) -> Option<String> {
    let words: Vec<&str> = name.split(' ').collect();
    (words.len() > given.len() && words.starts_with(given)).then(|| words.get(given.len()).map(|w| (*w).to_owned()))?
}

/// The command that the words begin with; what follows it are operands.
fn command(given: &[&str]) -> Option<&'static Command> {
    let named = |c: &&Command| given.starts_with(&c.name.split(' ').collect::<Vec<_>>());
    COMMANDS.iter().copied().filter(named).max_by_key(|c| c.name.len())
}

fn flags(command: &Command) -> Vec<&'static str> {
    let common = if command.http { api::FLAGS } else { &[] };
    let mut names: Vec<&str> = command.flags.iter().chain(common).map(|f| f.name).collect();
    if command.name == "agent" {
        names.extend(agent::option_flags());
    }
    names.sort_unstable();
    names
}

/// Why the shells' files stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum CompletionError {
    #[error("Did not find any shells to install: there is no ~/.bashrc, ~/.zshrc or ~/.config/fish")]
    NoShell,
    #[error("HOME is not set")]
    NoHome,
    #[error("{0} has characters that would need quoting in the shells' files; link it to a plain path")]
    Path(String),
    #[error("{0} is not ours; remove it, or keep it")]
    Foreign(PathBuf),
    #[error("{0}: {1}")]
    Disk(PathBuf, io::Error),
}

/// What is to be completed, and by which executable.
struct Us {
    name: String,
    path: String,
}

impl Us {
    fn find() -> Result<Self, CompletionError> {
        let disk = |e| CompletionError::Disk(PathBuf::from("the executable"), e);
        let path = std::env::current_exe().map_err(disk)?.display().to_string();
        let called = std::env::args().next().unwrap_or_default();
        let name = Path::new(&called).file_name().map_or("causeway".into(), |n| n.to_string_lossy());
        let us = Self { name: name.into_owned(), path };
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
        match us.path.chars().chain(us.name.chars()).all(plain) {
            true => Ok(us),
            false => Err(CompletionError::Path(us.path)),
        }
    }

    fn end(&self) -> String {
        format!(" {} {MARK}", self.name)
    }

    fn bash(&self) -> String {
        format!("complete -C {}{}", self.path, self.end())
    }

    fn zsh(&self) -> String {
        format!("autoload -U +X bashcompinit && bashcompinit && complete -o nospace -C {}{}", self.path, self.end())
    }

    fn fish(&self) -> String {
        let Self { name, path } = self;
        let function = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!(
            "{MARK}\nfunction __complete_{function}\n    set -lx COMP_LINE (string join ' ' (commandline -co))\n    set -lx COMP_LINE \"$COMP_LINE \"(commandline -ct)\n    {path}\nend\ncomplete -f -c {name} -a \"(__complete_{function})\"\n"
        )
    }

    /// A file with our line in it once, as it is now; everything else as it was. `None`: it is so already.
    fn with(&self, text: &str, line: Option<&str>) -> Option<String> {
        let end = self.end();
        let ours: Vec<&str> = text.lines().filter(|l| l.ends_with(&end)).collect();
        if ours == line.into_iter().collect::<Vec<_>>() {
            return None;
        }
        let mut out: String =
            text.split_inclusive('\n').filter(|l| !l.trim_end_matches('\n').ends_with(&end)).collect();
        if let Some(line) = line {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(line);
            out.push('\n');
        }
        Some(out)
    }
}

/// Puts the lines into the files of the shells that are there, or takes them out.
pub fn install(on: bool) -> ExitCode {
    match Us::find().and_then(|us| {
        let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).ok_or(CompletionError::NoHome)?;
        let config = std::env::var_os("XDG_CONFIG_HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let home = PathBuf::from(home);
        let config = config.unwrap_or_else(|| home.join(".config"));
        all(&us, &home, &config, on)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn all(us: &Us, home: &Path, config: &Path, on: bool) -> Result<(), CompletionError> {
    // The first that is there: one of them reads the others.
    let bash = [".bashrc", ".bash_profile", ".bash_login", ".profile"].map(|f| home.join(f));
    let bash = bash.into_iter().find(|f| f.is_file());
    let zsh = Some(home.join(".zshrc")).filter(|f| f.is_file());
    let fish = Some(config.join("fish")).filter(|d| d.is_dir());
    if on && bash.is_none() && zsh.is_none() && fish.is_none() {
        return Err(CompletionError::NoShell);
    }
    for (file, line) in [(bash, us.bash()), (zsh, us.zsh())] {
        let Some(file) = file else { continue };
        let failed = |e| CompletionError::Disk(file.clone(), e);
        let text = fs::read_to_string(&file).map_err(failed)?;
        if let Some(text) = us.with(&text, on.then_some(line.as_str())) {
            replace(&file, &text).map_err(failed)?;
        }
    }
    let Some(fish) = fish else { return Ok(()) };
    let file = fish.join("completions").join(format!("{}.fish", us.name));
    let failed = |e| CompletionError::Disk(file.clone(), e);
    let there = match fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(e)),
    };
    match (there, on) {
        (Some(text), _) if !text.starts_with(MARK) => {
            if on {
                Err(CompletionError::Foreign(file))
            } else {
                Ok(())
            }
        }
        (Some(text), true) if text == us.fish() => Ok(()),
        (_, true) => {
            fs::create_dir_all(fish.join("completions")).map_err(failed)?;
            fs::write(&file, us.fish()).map_err(failed)
        }
        (Some(_), false) => fs::remove_file(&file).map_err(failed),
        (None, false) => Ok(()),
    }
}

/// Writes a file anew in one step: whoever reads it sees the old one or the new one. A link stays one, and the mode stays.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let real = fs::canonicalize(file)?;
    let mut beside = real.clone().into_os_string();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut new = fs::File::create_new(&beside)?;
        new.set_permissions(fs::metadata(&real)?.permissions())?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&beside, &real)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_may_follow() {
        for (line, words) in [
            ("causeway kv ge", &["get"][..]),
            ("causeway k", &["keygen", "kv"]),
            ("causeway operator raft ", &["list-peers", "remove-peer", "transfer-leader"]),
            ("causeway kv get -rec", &["-recurse"]),
            ("causeway kv get --rec", &["--recurse"]),
            ("causeway kv get some/key -tok", &["-token", "-token-file"]),
            ("causeway kv get -token=x -rec", &["-recurse"]),
            ("causeway nothing -", &[]),
            ("causeway kv get ", &[]),
        ] {
            let found = candidates(line);
            let found: Vec<&str> = found.iter().map(String::as_str).filter(|w| *w != "keyring").collect();
            assert_eq!(found, words, "{line:?}");
        }
        assert!(candidates("causeway agent -bind").contains(&"-bind".to_owned()));
        assert!(candidates("causeway ").len() > 10);
    }

    #[test]
    fn only_our_lines_are_touched() {
        let us = |path: &str| Us { name: "causeway".into(), path: path.into() };
        let theirs = "alias ll='ls -l'\ncomplete -C /usr/bin/consul consul\nlast line without end";
        let new = us("/usr/bin/causeway");
        let once = new.with(theirs, Some(&new.bash())).unwrap();
        assert_eq!(once, format!("{theirs}\n{}\n", new.bash()));
        assert_eq!(new.with(&once, Some(&new.bash())), None, "a second time changes nothing");
        let moved = us("/opt/causeway");
        let other = moved.with(&once, Some(&moved.bash())).unwrap();
        assert_eq!(other, format!("{theirs}\n{}\n", moved.bash()));
        assert_eq!(new.with(&other, None).unwrap(), format!("{theirs}\n"));
        assert_eq!(new.with(theirs, None), None);
    }

    #[test]
    fn files_of_three_shells() {
        let dir = std::env::temp_dir().join(format!("causeway-completion-{}", std::process::id()));
        let (home, fish) = (dir.join("home"), dir.join("config/fish"));
        fs::create_dir_all(&home).unwrap();
        let us = Us { name: "consul".into(), path: "/usr/bin/causeway".into() };
        assert!(matches!(all(&us, &home, &dir.join("config"), true), Err(CompletionError::NoShell)));
        fs::create_dir_all(&fish).unwrap();
        for file in [".bashrc", ".zshrc"] {
            fs::write(home.join(file), "mine\n").unwrap();
        }
        for _ in 0..2 {
            all(&us, &home, &dir.join("config"), true).unwrap();
        }
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(home.join(".bashrc")), format!("mine\n{}\n", us.bash()));
        assert_eq!(read(home.join(".zshrc")), format!("mine\n{}\n", us.zsh()));
        assert_eq!(read(fish.join("completions/consul.fish")), us.fish());
        all(&us, &home, &dir.join("config"), false).unwrap();
        assert_eq!((read(home.join(".bashrc")), read(home.join(".zshrc"))), ("mine\n".into(), "mine\n".into()));
        assert!(!fish.join("completions/consul.fish").exists());
        fs::write(fish.join("completions/consul.fish"), "# somebody's\n").unwrap();
        assert!(matches!(all(&us, &home, &dir.join("config"), true), Err(CompletionError::Foreign(_))));
        fs::remove_dir_all(&dir).unwrap();
    }
}
