//! Whether scripts may run on this agent.

use crate::registry::definition::{CheckDefinition, CheckKind, Source};

/// What the configuration allows. Running scripts that came in by an open HTTP API lets anyone run anything, so both are off
/// unless they were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Scripts from anywhere (`enable_script_checks`).
    pub enable_script_checks: bool,
    /// Scripts of configuration files only (`enable_local_script_checks`).
    pub enable_local_script_checks: bool,
    /// Bytes of a check's output that are kept at most, whatever its definition says; 0: 4096 (`check_output_max_size`).
    pub output_max_size: usize,
}

/// Consul's text for a script of a configuration file.
pub const REFUSED_LOCAL: &str = "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true";
/// Consul's text for a script of the HTTP API.
pub const REFUSED_REMOTE: &str =
    "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true";

impl Policy {
    /// The text of the refusal, where this check may not run.
    pub fn refuses(self, check: &CheckDefinition, source: Source) -> Option<&'static str> {
        if !matches!(check.kind, CheckKind::Script(_) | CheckKind::Docker { .. }) || self.enable_script_checks {
            return None;
        }
        match source {
            Source::Config => (!self.enable_local_script_checks).then_some(REFUSED_LOCAL),
            Source::Api => Some(REFUSED_REMOTE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::definition::ScriptCheck;

    #[test]
    fn scripts_run_only_where_they_were_asked_for() {
        let script = CheckDefinition {
            kind: CheckKind::Script(ScriptCheck::Shell("true".into())),
            ..CheckDefinition::default()
        };
        let table = [
            (false, false, Source::Config, Some(REFUSED_LOCAL)),
            (false, false, Source::Api, Some(REFUSED_REMOTE)),
            (false, true, Source::Config, None),
            (false, true, Source::Api, Some(REFUSED_REMOTE)),
            (true, false, Source::Config, None),
            (true, false, Source::Api, None),
        ];
        for (all, local, source, expected) in table {
            let policy = Policy { enable_script_checks: all, enable_local_script_checks: local, ..Policy::default() };
            assert_eq!(policy.refuses(&script, source), expected, "{policy:?} {source:?}");
            assert_eq!(policy.refuses(&CheckDefinition::default(), source), None);
        }
    }
}
