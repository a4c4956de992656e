//! What other sites may ask of this one (`exports`) and which keys are copied from them (`kv_replication`).

use causeway_proto::name;
pub use causeway_server::exports::{Family, Policy, Rule};
pub use causeway_server::replicate::Job;
use causeway_server::replicate::loops::overlap;

use super::definitions::{Reader, each};
use super::{ConfigError, Def, Settings, nearest, table as t};

/// Every key of a block of `exports`.
const EXPORT_KEYS: &[&str] = &["to", "services", "kv", "sessions", "operations", "methods"];
/// Every key of a block of `kv_replication`.
const COPY_KEYS: &[&str] = &["from", "prefix", "to_prefix"];

/// What another site may ask; nothing configured: everything, as in Consul.
pub fn exports(s: &Settings, datacenter: &str) -> Result<Policy, ConfigError> {
    let mut rules = None;
    for (v, origin) in s.raw(&t::EXPORTS) {
        // An empty list is a policy as well: nobody may ask anything.
        let rules: &mut Vec<Rule> = rules.get_or_insert_default();
        each(v, origin, t::EXPORTS.key, &mut |object| {
            rules.push(rule(&Reader::new(origin, t::EXPORTS.key, object), datacenter)?);
            Ok(())
        })?;
    }
    Ok(Policy { rules })
}

fn rule(reader: &Reader<'_>, datacenter: &str) -> Result<Rule, ConfigError> {
    reader.only(EXPORT_KEYS)?;
    let site = match reader.text("to")?.as_str() {
        "" => return Err(reader.fail("to", "is missing: name a datacenter, or \"*\" for every one")),
        "*" => "*".to_owned(),
        text => name::datacenter(text).map_err(|e| reader.fail("to", e))?,
    };
    if site == datacenter {
        return Err(
            reader.fail("to", format!("is {site:?}, this datacenter itself: what it asks of itself is not limited"))
        );
    }
    let services = reader.list("services")?;
    for text in &services {
        if text.is_empty() || text.trim_end_matches('*').contains('*') || text.ends_with("**") {
            return Err(reader.fail("services", format!("holds {text:?}; write a name, or its beginning and one *")));
        }
    }
    let mut kv = reader.list("kv")?;
    for text in &mut kv {
        match text.as_str() {
            "*" => text.clear(),
            other if other.ends_with('*') => {
                return Err(reader.fail(
                    "kv",
                    format!("holds {other:?}; a beginning of keys needs no * (\"*\" alone is every key)"),
                ));
            }
            _ => {}
        }
    }
    let (mut read, mut write) = (false, false);
    for text in reader.list("operations")? {
        match text.as_str() {
            "read" => read = true,
            "write" => write = true,
            _ => return Err(reader.fail("operations", format!("holds {text:?}; it is read, write, or both"))),
        }
    }
    let mut methods = Vec::new();
    for text in reader.list("methods")? {
        methods.push(Family::parse(&text).ok_or_else(|| {
            let known = || Family::ALL.iter().map(|f| f.as_str());
            let hint = nearest(&text, known()).map(|k| format!("; did you mean {k:?}?")).unwrap_or_default();
            reader
                .fail("methods", format!("holds {text:?}; known are {}{hint}", known().collect::<Vec<_>>().join(", ")))
        })?);
    }
    let sessions = reader.on("sessions")?;
    // Reading is what is meant where nothing is said.
    Ok(Rule { site, services, kv, sessions, read: read || !write, write, methods })
}

/// The prefixes that are copied here.
pub fn copies(s: &Settings, datacenter: &str) -> Result<Vec<Job>, ConfigError> {
    let mut jobs: Vec<Job> = Vec::new();
    for (v, origin) in s.raw(&t::KV_REPLICATION) {
        each(v, origin, t::KV_REPLICATION.key, &mut |object| {
            let reader = Reader::new(origin, t::KV_REPLICATION.key, object);
            reader.only(COPY_KEYS)?;
            let from = match reader.text("from")?.as_str() {
                "" => return Err(reader.fail("from", "is missing: name the datacenter that has the keys")),
                text => name::datacenter(text).map_err(|e| reader.fail("from", e))?,
            };
            if from == datacenter {
                return Err(
                    reader.fail("from", format!("is {from:?}, this datacenter itself: keys are copied from others"))
                );
            }
            let source = reader.text("prefix")?;
            if source.is_empty() {
                return Err(reader.fail("prefix", "is missing: write the beginning of the keys, such as \"shared/\""));
            }
            let target = Some(reader.text("to_prefix")?).filter(|p| !p.is_empty()).unwrap_or_else(|| source.clone());
            if let Some(other) = jobs.iter().find(|other| overlap(&other.target, &target)) {
                let text = format!(
                    "copies to {target:?}, which overlaps {:?}, the copy from {}: each key can have one source",
                    other.target, other.from
                );
                return Err(reader.fail("prefix", text));
            }
            jobs.push(Job { from, source, target });
            Ok(())
        })?;
    }
    Ok(jobs)
}

/// Both have their effect on servers; elsewhere one would believe in a limit that is none.
pub fn servers_only(s: &Settings, server: bool) -> Result<(), ConfigError> {
    let set = |def: &'static Def| s.raw(def).next().map(|(_, origin)| (def, origin.to_owned()));
    match set(&t::EXPORTS).or_else(|| set(&t::KV_REPLICATION)) {
        Some((def, origin)) if !server => Err(ConfigError::new(
            origin,
            format!("key {:?} has its effect on servers only: set it on every server of this datacenter", def.key),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        settings.read_text("x", text, !text.starts_with('{')).unwrap();
        settings
    }

    #[test]
    fn exports_in_both_spellings() {
        let json = r#"{"exports":[{"to":"dc2","services":["web","api*"],"kv":["shared/"]},{"to":"*","kv":["*"],"sessions":true,"operations":["write"],"methods":["kv"]}]}"#;
        let hcl = "exports {\n to = \"dc2\"\n services = [\"web\", \"api*\"]\n kv = [\"shared/\"]\n}\nexports {\n to = \"*\"\n kv = [\"*\"]\n sessions = true\n operations = [\"write\"]\n methods = [\"kv\"]\n}";
        let want = vec![
            Rule {
                site: "dc2".into(),
                services: vec!["web".into(), "api*".into()],
                kv: vec!["shared/".into()],
                read: true,
                ..Rule::default()
            },
            Rule {
                site: "*".into(),
                kv: vec![String::new()],
                sessions: true,
                write: true,
                methods: vec![Family::Kv],
                ..Rule::default()
            },
        ];
        for text in [json, hcl] {
            assert_eq!(exports(&settings(text), "dc1").unwrap().rules.as_ref(), Some(&want), "{text}");
        }
        assert_eq!(exports(&settings("{}"), "dc1").unwrap(), Policy::default());
        assert_eq!(exports(&settings(r#"{"exports":[]}"#), "dc1").unwrap().rules, Some(Vec::new()), "closed");
    }

    #[test]
    fn errors_name_the_key_and_the_mend() {
        for (text, wanted) in [
            (r#"{"services":["web"]}"#, r#"key "exports.to" is missing: name a datacenter, or "*" for every one"#),
            (r#"{"to":"dc1"}"#, "this datacenter itself"),
            (r#"{"to":"d c"}"#, "only a-z"),
            (r#"{"to":"*","service":["web"]}"#, r#"invalid config key "exports.service"; did you mean "services"?"#),
            (r#"{"to":"*","services":["*web"]}"#, "its beginning and one *"),
            (r#"{"to":"*","kv":["a/*"]}"#, "needs no *"),
            (r#"{"to":"*","operations":["all"]}"#, "read, write, or both"),
            (r#"{"to":"*","methods":["heath"]}"#, r#"did you mean "health"?"#),
        ] {
            let error = exports(&settings(&format!(r#"{{"exports":{text}}}"#)), "dc1").unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        for (text, wanted) in [
            (r#"[{"prefix":"a/"}]"#, r#"key "kv_replication.from" is missing"#),
            (r#"[{"from":"DC1","prefix":"a/"}]"#, "this datacenter itself"),
            (r#"[{"from":"dc2"}]"#, r#"key "kv_replication.prefix" is missing"#),
            (r#"[{"from":"dc2","prefix":"a/"},{"from":"dc3","prefix":"a/b/"}]"#, "each key can have one source"),
            (r#"[{"from":"dc2","prefix":"a/"},{"from":"dc3","prefix":"b/","to_prefix":"a/"}]"#, "overlaps \"a/\""),
        ] {
            let error = copies(&settings(&format!(r#"{{"kv_replication":{text}}}"#)), "dc1").unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let error = servers_only(&settings(r#"{"exports":[]}"#), false).unwrap_err().to_string();
        assert!(error.contains("on servers only"), "{error}");
    }

    #[test]
    fn copies_keep_or_change_the_name() {
        let text = r#"{"kv_replication":[{"from":"dc2","prefix":"a/"},{"from":"dc2","prefix":"b/","to_prefix":"from-dc2/b/"}]}"#;
        let jobs = copies(&settings(text), "dc1").unwrap();
        assert_eq!((jobs[0].target.as_str(), jobs[1].target.as_str()), ("a/", "from-dc2/b/"));
    }
}
