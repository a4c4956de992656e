//! `watches` in files: what is looked at, and what is run when it changes.

use causeway_agent::http::watch::{Plan, PlanError};

use super::definitions::each;
use super::{ConfigError, Settings, table as t};

/// The watches of the files.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Watching {
    /// Those that run.
    pub plans: Vec<Plan>,
    /// Lines about the others, and about old spellings.
    pub warnings: Vec<String>,
}

/// Reads them all.
pub fn read(settings: &Settings) -> Result<Watching, ConfigError> {
    let mut out = Watching::default();
    for (v, origin) in settings.raw(&t::WATCHES) {
        let key = t::WATCHES.key;
        each(v, origin, key, &mut |object| {
            if object.contains_key("handler") {
                out.warnings.push(format!(
                    "{origin}: key \"watches.handler\" is Consul's old spelling; write the command in \"args\""
                ));
            }
            match Plan::parse(object) {
                Ok(plan) => out.plans.push(plan),
                Err(error @ PlanError::Connect(_)) => {
                    out.warnings
                        .push(format!("{origin}: key {key:?}: {error}: the mesh is left out; it is not watched"));
                }
                Err(error) => return Err(ConfigError::new(origin, format!("key {key:?}: {error}"))),
            }
            Ok(())
        })?;
    }
    out.warnings.dedup();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(text: &str) -> Result<Watching, String> {
        let mut settings = Settings::default();
        settings.read_text("x", text, !text.starts_with('{')).unwrap();
        read(&settings).map_err(|e| e.to_string())
    }

    #[test]
    fn watches_in_both_spellings() {
        let json =
            r#"{"watches":[{"type":"key","key":"a","args":["run","-x"]},{"type":"connect_roots","args":["x"]}]}"#;
        let hcl = "watches = [{\n type = \"key\"\n key = \"a\"\n args = [\"run\", \"-x\"]\n}]\nwatches {\n type = \"connect_leaf\"\n args = [\"x\"]\n}";
        for text in [json, hcl.rsplit_once("\nwatches").unwrap().0] {
            assert_eq!(watching(text).unwrap().plans.len(), 1, "{text}");
        }
        assert_eq!(watching(json).unwrap().warnings.len(), 1);
        let old =
            watching(r#"{"watches":[{"type":"nodes","handler":"a b"},{"type":"services","handler":"c"}]}"#).unwrap();
        assert_eq!((old.plans.len(), old.warnings.len()), (2, 1));
        assert_eq!(
            watching(r#"{"watches":[{"type":"key","args":["x"]}]}"#).unwrap_err(),
            "x: key \"watches\": Must specify a single key to watch"
        );
    }
}
