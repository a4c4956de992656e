//! The absences of the house, as tests: what never names what. They read manifests and sources, so that a breach fails here and
//! not in a review a year later.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

use std::fs;
use std::path::{Path, PathBuf};

const ROLES: [&str; 3] = ["causeway-server", "causeway-agent", "causeway-gateway"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a file holds nothing but tests.
fn is_test(path: &Path) -> bool {
    let named = |name: &str| {
        name == "tests"
            || name == "testing"
            || name == "simulation"
            || name == "fake"
            || name == "fuzz"
            || name == "suite"
            || name.ends_with("_tests")
    };
    path.file_stem().is_some_and(|n| named(&n.to_string_lossy()))
        || path.components().any(|c| named(&c.as_os_str().to_string_lossy()))
}

/// Every Rust source below a folder that is not a test, with its path from the root.
fn product(folder: &str) -> Vec<(PathBuf, String)> {
    sources(folder).into_iter().filter(|(path, _)| !is_test(path)).collect()
}

/// Every Rust source below a folder, with its path from the root.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                if path.file_name().is_some_and(|n| n != "target") {
                    walk(&path, out);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                out.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    let mut out = Vec::new();
    walk(&root().join(folder), &mut out);
    assert!(!out.is_empty(), "{folder} has no sources");
    out
}

/// The code of a source: without its tests and comments.
fn code(text: &str) -> String {
    let text = text.find("#[cfg(test)]\nmod tests {").map_or(text, |end| &text[..end]);
    let text = text.find("#[cfg(test)]\n#[allow").map_or(text, |end| &text[..end]);
    text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| format!("{l}\n")).collect()
}

fn dependencies(folder: &str) -> String {
    let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let start = manifest.find("[dependencies]").unwrap();
    let rest = &manifest[start + 14..];
    rest.split("\n[").next().unwrap_or_default().to_owned()
}

#[test]
fn siblings_never_name_each_other_and_proto_names_nobody() {
    for (folder, own) in [("dc-server", ROLES[0]), ("client-agent", ROLES[1]), ("wan-gateway", ROLES[2])] {
        for other in ROLES.iter().filter(|r| **r != own) {
            assert!(!dependencies(folder).contains(other), "{folder} depends on its sibling {other}");
        }
    }
    for name in ROLES.iter().chain(&["causeway-certs", "tokio.", "quinn", "rustls", "axum", "openraft"]) {
        assert!(!dependencies("proto").contains(name), "proto depends on {name}");
    }
    for role in ROLES {
        assert!(!dependencies("certs").contains(role), "certs depends on {role}");
    }
}

#[test]
fn only_run_sees_all_roles() {
    for (path, text) in sources("src") {
        let named = ["causeway_server", "causeway_agent", "causeway_gateway"]
            .iter()
            .filter(|r| code(&text).contains(*r))
            .count();
        let allowed = if path.starts_with("src/run.rs") || path.starts_with("src/run/") { 3 } else { 1 };
        // log.rs names them as text, to set their levels.
        assert!(
            named <= allowed || path == Path::new("src/log.rs"),
            "{} names {named} roles; src/run alone wires them",
            path.display()
        );
    }
}

#[test]
fn only_drivers_touch_the_world() {
    for folder in ["proto/src", "certs/src", "dc-server/src", "client-agent/src", "wan-gateway/src"] {
        for (path, text) in product(folder) {
            let is_driver = path.file_name().is_some_and(|n| n == "driver.rs")
                || path
                    .components()
                    .any(|c| c.as_os_str() == "driver" || c.as_os_str() == "tests" || c.as_os_str() == "testing");
            if is_driver {
                continue;
            }
            let code = code(&text);
            for word in [
                "allow(clippy::disallowed_methods",
                "Instant::now()",
                "SystemTime::now()",
                "tokio::spawn(",
                "thread::spawn(",
                "rand::rng()",
                "rand::random",
            ] {
                assert!(!code.contains(word), "{} says {word}; only driver.rs files touch the world", path.display());
            }
        }
    }
}

#[test]
fn formats_are_known_in_one_place_each() {
    for (word, home) in [
        ("serde_json", "client-agent/src/http"),
        ("hickory_proto", "client-agent/src/dns"),
        ("quinn::", "wan-gateway/src"),
        ("openraft", "dc-server/src"),
    ] {
        for folder in ["proto/src", "certs/src", "dc-server/src", "client-agent/src", "wan-gateway/src"] {
            for (path, text) in product(folder) {
                assert!(
                    !code(&text).contains(word) || path.starts_with(home),
                    "{} knows {word}, which lives in {home}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn the_store_has_no_clock_no_chance_and_no_configuration() {
    for (path, text) in product("dc-server/src/store") {
        for word in ["Instant", "SystemTime", "rand::", "ServerConfig", "std::env"] {
            assert!(!code(&text).contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn nothing_is_left_behind() {
    for folder in ["src", "proto", "certs", "dc-server", "client-agent", "wan-gateway", "tests"] {
        for (path, text) in sources(folder) {
            if path == Path::new("tests/tidy.rs") {
                continue;
            }
            for word in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "FIXME", "XXX"] {
                assert!(!text.contains(word), "{} holds {word}", path.display());
            }
        }
    }
}

#[test]
fn tests_wait_for_conditions() {
    // What may let time pass, and why. Everything else waits for a condition with a deadline: `harness::wait`, a channel, a watch.
    let allowed = [
        // A packet is under way until it is due: that is what an emulator of a WAN does.
        ("sleep_until(", ["tests/wan/mod.rs"].as_slice()),
        // The step between two looks at a condition, and the beat of a load; a packet that is under way, between threads.
        ("park_timeout(", &["tests/harness/mod.rs", "tests/lab/mod.rs"]),
        ("sleep(", &[]),
    ];
    for (path, text) in sources("tests") {
        for (word, homes) in allowed {
            let is_home = path == Path::new("tests/tidy.rs") || homes.iter().any(|home| path == Path::new(home));
            assert!(is_home || !text.contains(word), "{} says {word}; wait for a condition", path.display());
        }
    }
}

#[test]
fn a_file_is_one_thing() {
    for folder in ["src", "proto/src", "certs/src", "dc-server/src", "client-agent/src", "wan-gateway/src"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 1200, "{} has {lines} lines; is it still one thing?", path.display());
        }
    }
}

/// A licence in SPDX's words: names, `AND`, `OR` (`/` in old manifests), parentheses; `WITH` belongs to the name before it.
struct Licence<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<String>>,
    allowed: &'a [String],
}

impl Licence<'_> {
    fn allowed(text: &str, allowed: &[String]) -> bool {
        let text = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let mut licence = Licence { words: words.into_iter().peekable(), allowed };
        let any = licence.any();
        any && licence.words.next().is_none()
    }

    fn any(&mut self) -> bool {
        let mut ok = self.all();
        while self.words.next_if(|w| w == "OR").is_some() {
            ok |= self.all();
        }
        ok
    }

    fn all(&mut self) -> bool {
        let mut ok = self.one();
        while self.words.next_if(|w| w == "AND").is_some() {
            ok &= self.one();
        }
        ok
    }

    fn one(&mut self) -> bool {
        let Some(mut name) = self.words.next() else { return false };
        if name == "(" {
            let ok = self.any();
            return self.words.next().is_some_and(|w| w == ")") && ok;
        }
        if self.words.next_if(|w| w == "WITH").is_some() {
            name = format!("{name} WITH {}", self.words.next().unwrap_or_default());
        }
        // "Or any later version".
        self.allowed.iter().any(|allowed| allowed == name.trim_end_matches('+'))
    }
}

/// `cargo deny check licenses sources`, where cargo-deny is not installed: the same list, what cargo itself knows of this platform.
#[test]
fn dependencies_have_allowed_licences_and_come_from_crates_io() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = deny.split("[licenses]").nth(1).and_then(|rest| rest.split_once('[')?.1.split_once(']')).unwrap().0;
    let allowed: Vec<String> = list.split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect();
    assert!(Licence::allowed("(MIT OR GPL-3.0) AND Apache-2.0 WITH LLVM-exception", &allowed));
    assert!(!Licence::allowed("MIT AND GPL-3.0", &allowed) && !Licence::allowed("", &allowed));

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |program: &std::ffi::OsStr, args: &[&str]| {
        let out = std::process::Command::new(program).args(args).current_dir(root()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let version = run("rustc".as_ref(), &["-vV"]);
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let metadata: serde_json::Value = serde_json::from_str(&run(&cargo, &args)).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let (name, source) = (&package["name"], &package["source"]);
        let ours = source.is_null();
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        assert!(ours || source == registry, "{name} comes from {source}");
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(
            Licence::allowed(licence, &allowed),
            "{name} has the licence {licence:?}; deny.toml lists what is allowed"
        );
    }
}
