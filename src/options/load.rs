//! Files and flags into [`Settings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Def, Kind, Standing, find, hcl, nearest, table, value};

/// Why a configuration cannot be used: one line that names the file, the key and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}")]
pub struct ConfigError {
    /// The file or flag.
    pub origin: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl ConfigError {
    /// An error at a file or flag.
    pub fn new(origin: impl Into<String>, what: impl Into<String>) -> Self {
        Self { origin: origin.into(), what: what.into() }
    }
}

/// A value and where it was set.
#[derive(Debug, Clone, PartialEq)]
struct Set {
    value: Value,
    origin: String,
}

/// Keys of access control from before Consul 1.4, and what they are called since.
const OLD_SPELLINGS: [(&Def, &Def); 11] = [
    (&table::LEGACY_ACL_DATACENTER, &table::PRIMARY_DATACENTER),
    (&table::LEGACY_ACL_DEFAULT_POLICY, &table::ACL_DEFAULT_POLICY),
    (&table::LEGACY_ACL_DOWN_POLICY, &table::ACL_DOWN_POLICY),
    (&table::LEGACY_ACL_TOKEN, &table::ACL_TOKENS_DEFAULT),
    (&table::LEGACY_ACL_MASTER_TOKEN, &table::ACL_TOKENS_MASTER),
    (&table::LEGACY_ACL_AGENT_TOKEN, &table::ACL_TOKENS_AGENT),
    (&table::LEGACY_ACL_AGENT_MASTER_TOKEN, &table::ACL_TOKENS_AGENT_MASTER),
    (&table::LEGACY_ACL_REPLICATION_TOKEN, &table::ACL_TOKENS_REPLICATION),
    (&table::LEGACY_ACL_TTL, &table::ACL_TOKEN_TTL),
    (&table::LEGACY_ACL_ENABLE_KEY_LIST_POLICY, &table::ACL_ENABLE_KEY_LIST_POLICY),
    (&table::LEGACY_ENABLE_ACL_REPLICATION, &table::ACL_ENABLE_TOKEN_REPLICATION),
];

/// What files and flags say, checked by type; defaults come from the table.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    set: BTreeMap<&'static str, Set>,
    /// Values of raw options (`service`, `checks`, `watches`), in the order they were read.
    raw: Vec<(&'static str, Value, String)>,
    warnings: Vec<String>,
}

impl Settings {
    /// Reads files and directories in the order given (a directory's `.json` and `.hcl` files in lexical order, not below it).
    pub fn read(paths: &[PathBuf], into: &mut Self) -> Result<(), ConfigError> {
        for path in paths {
            let origin = path.display().to_string();
            let meta =
                std::fs::metadata(path).map_err(|e| ConfigError::new(&origin, format!("cannot be read: {e}")))?;
            if !meta.is_dir() {
                into.read_file(path)?;
                continue;
            }
            let listing =
                std::fs::read_dir(path).map_err(|e| ConfigError::new(&origin, format!("cannot be listed: {e}")))?;
            let mut files: Vec<PathBuf> = listing
                .filter_map(|entry| entry.ok().map(|e| e.path()))
                .filter(|p| p.is_file() && p.extension().is_some_and(|e| e == "json" || e == "hcl"))
                .collect();
            files.sort();
            for file in files {
                into.read_file(&file)?;
            }
        }
        Ok(())
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let origin = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|e| ConfigError::new(&origin, format!("cannot be read: {e}")))?;
        let hcl = path.extension().is_some_and(|e| e == "hcl");
        self.read_text(&origin, &text, hcl)
    }

    /// Reads one file's text. An empty one is allowed.
    pub fn read_text(&mut self, origin: &str, text: &str, hcl: bool) -> Result<(), ConfigError> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let tree: Value = if hcl {
            hcl::parse(text).map_err(|e| ConfigError::new(origin, format!("is not HCL: {e}")))?
        } else {
            serde_json::from_str(text).map_err(|e| ConfigError::new(origin, format!("is not JSON: {e}")))?
        };
        let Value::Object(map) = tree else {
            return Err(ConfigError::new(origin, "must hold an object { ... }"));
        };
        self.read_object(origin, "", &map)
    }

    fn read_object(
        &mut self,
        origin: &str,
        prefix: &str,
        map: &serde_json::Map<String, Value>,
    ) -> Result<(), ConfigError> {
        for (name, v) in map {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if let Some(def) = find(&key) {
                self.put(def, v, origin)?;
                continue;
            }
            let inner = format!("{key}.");
            let is_object = table::ALL
                .iter()
                .any(|d| d.key.get(..inner.len()).is_some_and(|start| start.eq_ignore_ascii_case(&inner)));
            match v {
                Value::Object(object) if is_object => self.read_object(origin, &key, object)?,
                // An HCL block read as a list of one or more.
                Value::Array(items) if is_object && items.iter().all(Value::is_object) => {
                    for object in items.iter().filter_map(Value::as_object) {
                        self.read_object(origin, &key, object)?;
                    }
                }
                _ if is_object => {
                    return Err(ConfigError::new(origin, format!("key {key:?} must be an object {{ ... }}")));
                }
                _ => {
                    let hint = nearest(&key, table::ALL.iter().map(|d| d.key))
                        .map(|k| format!("; did you mean {k:?}?"))
                        .unwrap_or_else(|| "; remove it (`causeway reference config` lists all keys)".to_owned());
                    return Err(ConfigError::new(origin, format!("invalid config key {key:?}{hint}")));
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, def: &'static Def, v: &Value, origin: &str) -> Result<(), ConfigError> {
        if v.is_null() {
            return Ok(());
        }
        let checked =
            value::check(def.kind, v).map_err(|e| ConfigError::new(origin, format!("key {:?} {e}", def.key)))?;
        self.merge(def, checked, origin);
        Ok(())
    }

    /// Takes a flag's text.
    pub fn flag(&mut self, def: &'static Def, text: &str) -> Result<(), ConfigError> {
        let origin = format!("flag -{}", def.flag.unwrap_or(def.key));
        let checked = value::from_text(def.kind, text).map_err(|e| ConfigError::new(&origin, e))?;
        self.merge(def, checked, &origin);
        Ok(())
    }

    fn merge(&mut self, def: &'static Def, value: Value, origin: &str) {
        match def.standing {
            Standing::Later => self.warn(format!("{origin}: key {:?} is accepted and has no effect yet", def.key)),
            Standing::Foreign => {
                self.warn(format!(
                    "{origin}: key {:?} belongs to a feature that Causeway leaves out; it has no effect",
                    def.key
                ));
            }
            Standing::Used | Standing::Reloaded | Standing::Moot => {}
        }
        if def.kind == Kind::Raw {
            self.raw.push((def.key, value, origin.to_owned()));
            return;
        }
        match (self.set.get_mut(def.key), value) {
            (Some(Set { value: Value::Array(have), .. }), Value::Array(more)) => have.extend(more),
            (Some(Set { value: Value::Object(have), .. }), Value::Object(more)) => have.extend(more),
            (_, value) => {
                self.set.insert(def.key, Set { value, origin: origin.to_owned() });
            }
        }
    }

    /// The same in the names of today: what is set by the name that it had before Consul 1.4 holds where its new one is not set, as in
    /// Consul 1.8, and a line says so. A datacenter of access control switches it on.
    pub(super) fn spelled_anew(&self) -> Self {
        let mut new = self.clone();
        for (old, now) in OLD_SPELLINGS {
            let Some(set) = self.set.get(old.key) else { continue };
            new.warn(format!("{}: key {:?} is the old spelling of {:?}", set.origin, old.key, now.key));
            new.set.entry(now.key).or_insert_with(|| set.clone());
        }
        if let Some(Set { origin, .. }) = self.set.get(table::LEGACY_ACL_DATACENTER.key) {
            let on = Set { value: Value::Bool(true), origin: origin.clone() };
            new.set.entry(table::ACL_ENABLED.key).or_insert(on);
        }
        new
    }

    /// Adds a line about what was accepted without effect.
    pub(super) fn warn(&mut self, line: String) {
        if !self.warnings.contains(&line) {
            self.warnings.push(line);
        }
    }

    /// Lines about what was accepted without effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The options that have their effect at a start only and say something else in `new`.
    pub fn for_the_next_start(&self, new: &Self) -> Vec<&'static Def> {
        let differs = |def: &Def| match def.kind {
            Kind::Raw => !self.raw(def).map(|(v, _)| v).eq(new.raw(def).map(|(v, _)| v)),
            _ => self.get(def) != new.get(def),
        };
        let at_start = |def: &&&'static Def| def.standing == Standing::Used;
        table::ALL.iter().filter(at_start).copied().filter(|def| differs(def)).collect()
    }

    /// Whether a file or flag sets it.
    pub fn is_set(&self, def: &Def) -> bool {
        self.set.contains_key(def.key)
    }

    /// Where it was set, for errors about its meaning; the key is named.
    pub fn error(&self, def: &Def, what: impl std::fmt::Display) -> ConfigError {
        let set = self.set.get(def.key).map(|s| s.origin.as_str());
        let raw = || self.raw.iter().find(|(key, ..)| *key == def.key).map(|(.., origin)| origin.as_str());
        let origin = set.or_else(raw).unwrap_or("default");
        ConfigError::new(origin, format!("key {:?} {what}", def.key))
    }

    fn get(&self, def: &Def) -> Value {
        match self.set.get(def.key) {
            Some(set) => set.value.clone(),
            None if def.default.is_empty() => Value::Null,
            None => value::from_text(def.kind, def.default).unwrap_or(Value::Null),
        }
    }

    /// Text; empty where unset without default.
    pub fn text(&self, def: &Def) -> String {
        self.get(def).as_str().unwrap_or_default().to_owned()
    }

    /// Text where it is set to something not empty.
    pub fn some_text(&self, def: &Def) -> Option<String> {
        Some(self.text(def)).filter(|t| !t.is_empty())
    }

    /// True or false.
    pub fn on(&self, def: &Def) -> bool {
        self.get(def).as_bool().unwrap_or(false)
    }

    /// True or false where it is set.
    pub fn some_on(&self, def: &Def) -> Option<bool> {
        self.is_set(def).then(|| self.on(def))
    }

    /// A whole number.
    pub fn number(&self, def: &Def) -> i64 {
        self.get(def).as_i64().unwrap_or(0)
    }

    /// A whole number within bounds, or an error that names them.
    pub fn bounded(&self, def: &Def, range: std::ops::RangeInclusive<i64>) -> Result<i64, ConfigError> {
        let n = self.number(def);
        if range.contains(&n) {
            return Ok(n);
        }
        Err(self.error(def, format!("is {n}; it must be from {} to {}", range.start(), range.end())))
    }

    /// A duration.
    pub fn duration(&self, def: &Def) -> Duration {
        Duration::from_nanos(self.get(def).as_u64().unwrap_or(0))
    }

    /// A list of text.
    pub fn list(&self, def: &Def) -> Vec<String> {
        match self.get(def) {
            Value::Array(items) => items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        }
    }

    /// An object of text.
    pub fn map(&self, def: &Def) -> BTreeMap<String, String> {
        match self.get(def) {
            Value::Object(map) => map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            _ => BTreeMap::new(),
        }
    }

    /// The raw values of one option, each with its file.
    pub fn raw<'a>(&'a self, def: &'a Def) -> impl Iterator<Item = (&'a Value, &'a str)> + 'a {
        self.raw.iter().filter(|(key, ..)| *key == def.key).map(|(_, v, origin)| (v, origin.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        for (name, text) in texts {
            settings.read_text(name, text, name.ends_with(".hcl"))?;
        }
        Ok(settings)
    }

    #[test]
    fn later_wins_lists_append_maps_merge() {
        let s = read(&[
            ("a.json", r#"{"datacenter":"dc1","retry_join":["a"],"node_meta":{"x":"1"}}"#),
            ("b.hcl", "datacenter = \"dc2\"\nretry_join = [\"b\"]\nnode_meta { y = \"2\" }\nports { dns = 53 }\nserver = true"),
        ])
        .unwrap();
        assert_eq!(s.text(&table::DATACENTER), "dc2");
        assert_eq!(s.list(&table::RETRY_JOIN), ["a", "b"]);
        assert_eq!(s.map(&table::NODE_META).len(), 2);
        assert_eq!(s.number(&table::PORTS_DNS), 53);
        assert!(s.on(&table::SERVER));
        assert_eq!(s.number(&table::PORTS_HTTP), 8500);
    }

    #[test]
    fn errors_name_file_key_and_mend() {
        let e = read(&[("x.json", r#"{"datacentre":"a"}"#)]).unwrap_err().to_string();
        assert_eq!(e, r#"x.json: invalid config key "datacentre"; did you mean "datacenter"?"#);
        let e = read(&[("x.json", r#"{"ports":{"dns":"abc"}}"#)]).unwrap_err().to_string();
        assert_eq!(e, r#"x.json: key "ports.dns" must be a whole number, not "abc""#);
        let e = read(&[("x.json", r#"{"ports":3}"#)]).unwrap_err().to_string();
        assert_eq!(e, r#"x.json: key "ports" must be an object { ... }"#);
        let e = read(&[("x.json", "{")]).unwrap_err().to_string();
        assert!(e.starts_with("x.json: is not JSON"), "{e}");
        let e = read(&[("x.hcl", "a = = b")]).unwrap_err().to_string();
        assert!(e.starts_with("x.hcl: is not HCL") && !e.contains('\n'), "{e}");
        assert!(read(&[("empty.json", " \n")]).is_ok());
    }

    #[test]
    fn keys_of_consul_that_have_no_effect_load() {
        for (text, warnings) in [
            (r#"{"enable_central_service_config":true,"snapshot_agent":{"log":{"level":"x"}}}"#, 2),
            (r#"{"acl":{"msp_disable_bootstrap":true},"sync_coordinate_rate_target":64.5}"#, 1),
            (
                r#"{"sync_coordinate_interval_min":"15s","check_reap_interval":"30s","ae_interval":"1m","version":"1"}"#,
                3,
            ),
            (r#"{"version_prerelease":"","revision":"x","segment_limit":64,"segment_name_limit":64}"#, 4),
            (r#"{"check_deregister_interval_min":"1m","advertise_reconnect_timeout":"15m"}"#, 2),
            (r#"{"telemetry":{"retry_failed_connection":true},"reporting":{"license":{"enabled":false}}}"#, 1),
            (r#"{"locality":{"region":"x"},"default_intention_policy":"allow"}"#, 2),
            // What is so in any case is not worth a line.
            (
                r#"{"verify_outgoing":true,"verify_server_hostname":true,"disable_update_check":false,"ports":{"serf_wan":-1}}"#,
                0,
            ),
        ] {
            let s = read(&[("a.json", text)]).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(s.warnings().len(), warnings, "{text}: {:?}", s.warnings());
        }
    }

    #[test]
    fn the_case_of_keys_does_not_matter() {
        let s = read(&[("a.json", r#"{"Datacenter":"x","Ports":{"DNS":1},"Service":{"Name":"a"}}"#)]).unwrap();
        assert_eq!((s.text(&table::DATACENTER).as_str(), s.number(&table::PORTS_DNS)), ("x", 1));
        assert_eq!(s.raw(&table::SERVICE).count(), 1);
    }

    #[test]
    fn foreign_keys_warn_once() {
        let s = read(&[("a.json", r#"{"connect":{"enabled":true}}"#)]).unwrap();
        assert_eq!(s.warnings().len(), 1, "{:?}", s.warnings());
    }
}
