//! Checks that say what others say. Pure.

use causeway_proto::catalog;

use super::Outcome;
use crate::registry::{Local, Status};

/// What an alias for a service of this node (empty: the node's own checks) says, by the registry.
pub fn local(local: &Local, own_id: &str, service: &str, node: &str) -> Outcome {
    if !service.is_empty() && !local.services.contains_key(service) {
        return Outcome::critical(format!("Service {service} could not be found on node {node}"));
    }
    let checks = local.checks.values().filter(|c| c.check.id != own_id).map(|c| &c.check);
    worst(checks, service)
}

/// The worst of the checks that bear on this service: its own and the node's.
pub fn worst<'a>(checks: impl Iterator<Item = &'a catalog::Check>, service: &str) -> Outcome {
    let mut found = None;
    let mut any = false;
    for check in checks {
        // An alias must not feed on another: two of them could hold each other critical for ever.
        if (!check.service_id.is_empty() && check.service_id != service) || check.r#type == "alias" {
            continue;
        }
        any = true;
        let status = Status::parse(&check.status).unwrap_or_default();
        if status != Status::Passing && found.as_ref().is_none_or(|f: &Outcome| f.status < status) {
            found = Some(Outcome::new(status, format!("Aliased check {:?} failing: {}", check.name, check.output)));
        }
    }
    found.unwrap_or_else(|| Outcome::new(Status::Passing, if any { "All checks passing." } else { "No checks found." }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(service: &str, status: &str) -> catalog::Check {
        catalog::Check {
            id: format!("{service}{status}"),
            name: "c".into(),
            service_id: service.into(),
            status: status.into(),
            output: "why".into(),
            ..catalog::Check::default()
        }
    }

    #[test]
    fn the_worst_counts() {
        type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, Status, &'a str);
        let table: [Row<'_>; 5] = [
            (&[], "a", Status::Passing, "No checks found."),
            (&[("a", "passing"), ("b", "critical")], "a", Status::Passing, "All checks passing."),
            (&[("a", "warning"), ("a", "passing")], "a", Status::Warning, "Aliased check \"c\" failing: why"),
            (&[("a", "warning"), ("", "critical")], "a", Status::Critical, "Aliased check \"c\" failing: why"),
            (&[("a", "critical")], "", Status::Passing, "No checks found."),
        ];
        for (checks, service, status, output) in table {
            let checks: Vec<_> = checks.iter().map(|(s, status)| check(s, status)).collect();
            assert_eq!(worst(checks.iter(), service), Outcome::new(status, output), "{checks:?}");
        }
    }

    #[test]
    fn a_service_that_is_not_there_is_critical() {
        let outcome = local(&Local::default(), "own", "web", "n1");
        assert_eq!(outcome, Outcome::critical("Service web could not be found on node n1"));
    }
}
