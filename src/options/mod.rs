//! Options: each defined once, in [`table`], with its key, type, default, flag and text; help, the reference page and the errors
//! are made from that definition. [`load`] reads files and flags into [`Settings`]; [`definitions`] reads the services and checks
//! among them.

pub mod definitions;
pub mod exports;
pub mod hcl;
pub mod load;
pub mod plan;
pub mod sockaddr;
pub mod table;
mod tls;
pub mod value;
pub mod watches;

pub use load::{ConfigError, Settings};

/// What an option means to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Has its effect.
    Used,
    /// Has its effect and is taken up by `reload`.
    Reloaded,
    /// Known, loads, and has no effect yet: one warning line.
    Later,
    /// Of Consul's files, and what it asks for is so in any case, or there is nothing for it to change: no warning.
    Moot,
    /// Of a feature that Causeway leaves out (mesh, enterprise, cloud vendors): one warning line.
    Foreign,
}

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Number,
    /// `"10s"`, `"1h30m"`, or nanoseconds.
    Duration,
    /// A string or a list of strings; lists of several files append.
    List,
    /// An object of strings.
    Map,
    /// Read by a parser of its own (`service`, `checks`, `watches`).
    Raw,
}

impl Kind {
    /// As the reference page names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Flag => "true or false",
            Self::Number => "number",
            Self::Duration => "duration",
            Self::List => "list of text",
            Self::Map => "object of text",
            Self::Raw => "object",
        }
    }
}

/// One option.
#[derive(Debug)]
pub struct Def {
    /// Its key in a file; a dot stands for an object in an object.
    pub key: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default as text; empty: none.
    pub default: &'static str,
    /// Its command line flag, without dash.
    pub flag: Option<&'static str>,
    /// What it does.
    pub doc: &'static str,
    /// What it means to this version.
    pub standing: Standing,
}

/// The option with this key, in any case of letters, as Consul takes it.
pub fn find(key: &str) -> Option<&'static Def> {
    table::ALL.iter().copied().find(|def| def.key.eq_ignore_ascii_case(key))
}

/// The option with this flag.
pub fn find_flag(flag: &str) -> Option<&'static Def> {
    table::ALL.iter().copied().find(|def| def.flag == Some(flag))
}

/// The known word nearest to one that is not known, if any is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (distance(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().min(word.len()) / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Levenshtein's distance (insert, delete, replace).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The reference page of all options, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# Configuration\n\nMade from the option table by `causeway reference config`; do not edit.\n\nFiles are JSON or HCL, read in lexical order; later values win, lists append, an unknown key is an error.\n\n",
    );
    page.push_str(&reference_rows(|_| true));
    page
}

/// The rows of some options, in Markdown, with their head.
pub fn reference_rows(wanted: impl Fn(&Def) -> bool) -> String {
    let mut page = String::from("| key | type | default | flag | what it does |\n|---|---|---|---|---|\n");
    for def in table::ALL.iter().filter(|def| wanted(def)) {
        let flag = def.flag.map(|f| format!("`-{f}`")).unwrap_or_default();
        let default = if def.default.is_empty() { String::new() } else { format!("`{}`", def.default) };
        let note = match def.standing {
            Standing::Used => "",
            Standing::Reloaded => " Taken up by `reload`.",
            Standing::Moot => " Kept for Consul's files; changes nothing.",
            Standing::Later => " **Accepted, without effect yet.**",
            Standing::Foreign => " **Accepted, without effect: the feature is left out.**",
        };
        page.push_str(&format!("| `{}` | {} | {default} | {flag} | {}{note} |\n", def.key, def.kind.as_str(), def.doc));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_flags_are_unique_and_defaults_fit_their_types() {
        let mut keys = std::collections::BTreeSet::new();
        let mut flags = std::collections::BTreeSet::new();
        for def in table::ALL {
            assert!(keys.insert(def.key), "{} twice", def.key);
            if let Some(flag) = def.flag {
                assert!(flags.insert(flag), "-{flag} twice");
            }
            if !def.default.is_empty() && !matches!(def.kind, Kind::Raw | Kind::Map) {
                value::from_text(def.kind, def.default).unwrap_or_else(|e| panic!("{}: {e}", def.key));
            }
            assert!(!def.doc.is_empty(), "{} says nothing", def.key);
        }
    }

    /// What is accepted without effect has a reason, which the page shows; what waits to be built is known.
    #[test]
    fn keys_without_effect_say_why() {
        let waiting =
            |key: &str| key.starts_with("acl") || key.starts_with("enable_acl") || key == "disable_remote_exec";
        for def in table::ALL {
            match def.standing {
                Standing::Later => assert!(waiting(def.key), "{} has no effect yet", def.key),
                Standing::Moot | Standing::Foreign => {
                    assert!(def.doc.len() >= 10, "{}: {:?} is no reason", def.key, def.doc)
                }
                Standing::Used | Standing::Reloaded => {}
            }
        }
    }

    #[test]
    fn nearest_word() {
        let known = || ["datacenter", "data_dir", "dns_config.node_ttl"].into_iter();
        assert_eq!(nearest("datacentre", known()), Some("datacenter"));
        assert_eq!(nearest("datadir", known()), Some("data_dir"));
        assert_eq!(nearest("zzz", known()), None);
    }
}
