//! Which services go because a check of theirs was critical for too long. Pure.

use std::time::{Duration, Instant};

use crate::registry::Local;

/// The shortest time a check must have been critical (Consul's minimum).
pub const MINIMUM: Duration = Duration::from_secs(60);
/// How often is looked (Consul's reaper).
pub const EVERY: Duration = Duration::from_secs(30);

/// The ids of services to be removed now, each with the check that decides.
pub fn due(local: &Local, minimum: Duration, now: Instant) -> Vec<(String, String)> {
    let mut due: Vec<_> = local
        .checks
        .values()
        .filter(|c| !c.check.service_id.is_empty() && !c.definition.deregister_critical_service_after.is_zero())
        .filter(|c| {
            let after = c.definition.deregister_critical_service_after.max(minimum);
            c.critical_since.is_some_and(|since| now.saturating_duration_since(since) >= after)
        })
        .map(|c| (c.check.service_id.clone(), c.check.id.clone()))
        .collect();
    due.dedup_by(|a, b| a.0 == b.0);
    due
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests start from the present")]

    use super::*;
    use crate::checks::Policy;
    use crate::registry::state::State;
    use crate::registry::{CheckDefinition, ServiceDefinition, Source, Status};

    #[test]
    fn services_go_when_critical_for_long_and_not_before() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut state = State::new("n".into(), Policy::default());
        for (id, after) in [("short", 5), ("long", 120), ("never", 0)] {
            let check = CheckDefinition {
                ttl: 9 * second,
                deregister_critical_service_after: after * second,
                ..CheckDefinition::default()
            };
            let service = ServiceDefinition { name: id.into(), checks: vec![check], ..ServiceDefinition::default() };
            state.add_service(service, Source::Api, false, t0).unwrap();
        }
        let ids = |state: &State, s: u32| {
            due(state.local(), MINIMUM, t0 + s * second).into_iter().map(|d| d.0).collect::<Vec<_>>()
        };
        assert!(ids(&state, 59).is_empty(), "five seconds count as a minute");
        assert_eq!(ids(&state, 60), ["short"]);
        assert_eq!(ids(&state, 120), ["long", "short"]);
        state.update_ttl("service:long", Status::Passing, "", t0 + 100 * second).unwrap();
        assert_eq!(ids(&state, 120), ["short"]);
        assert_eq!(due(state.local(), 5 * second, t0 + 5 * second).len(), 1, "tests may set it lower");
    }
}
