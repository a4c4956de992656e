//! Asks the service manager of the machine, systemd, for a unit.

use std::time::Duration;

use super::{Outcome, script};
use crate::registry::{ScriptCheck, Status};

/// The program that knows.
pub(super) const SYSTEMCTL: &str = "systemctl";

/// Asks; passing where the unit is active, warning while it is about to be.
pub(super) async fn run(systemctl: &str, unit: &str, within: Duration) -> Outcome {
    let args = [systemctl, "is-active", "--", unit].map(str::to_owned).to_vec();
    let said = script::run(&ScriptCheck::Args(args), 4096, within).await;
    let state = said.output.trim();
    match state {
        "active" => Outcome::new(Status::Passing, format!("Service \"{unit}\" is healthy")),
        "activating" | "reloading" => Outcome::new(Status::Warning, format!("Service \"{unit}\" is {state}")),
        "inactive" | "failed" | "deactivating" | "unknown" | "maintenance" => {
            Outcome::critical(format!("Service \"{unit}\" is unhealthy: {state}"))
        }
        other => Outcome::critical(format!("Unable to ask for service \"{unit}\": {other}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests write a program")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn states_of_units() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        // Says the name of the unit, and fails for all that are not active, as systemctl does.
        std::fs::write(
            &program,
            "#!/bin/sh\ntest \"$1 $2\" = 'is-active --' || exit 9\necho \"$3\"\ntest \"$3\" = active || exit 3\n",
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        for (unit, status) in [
            ("active", Status::Passing),
            ("activating", Status::Warning),
            ("failed", Status::Critical),
            ("-h", Status::Critical),
        ] {
            let outcome = run(program.to_str().unwrap(), unit, Duration::from_secs(20)).await;
            assert_eq!(outcome.status, status, "{outcome:?}");
            assert!(outcome.output.contains(&format!("\"{unit}\"")), "{outcome:?}");
        }
        let none = run("/nonexist/systemctl", "a", Duration::from_secs(20)).await;
        assert!(none.output.starts_with("Unable to ask for service \"a\": fork/exec"), "{none:?}");
    }
}
