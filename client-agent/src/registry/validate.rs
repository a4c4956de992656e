//! What a registration must be, with Consul 1.8.7's texts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::definition::{CheckDefinition, CheckKind, ScriptCheck, ServiceDefinition};

/// Pairs of metadata a service may have.
const META_PAIRS: usize = 64;
/// Bytes of a metadata key.
const META_KEY: usize = 128;
/// Bytes of a metadata value.
const META_VALUE: usize = 512;

/// Checks a service definition with its checks.
pub fn service(definition: &ServiceDefinition) -> Result<(), String> {
    if definition.name.is_empty() {
        return Err("Missing service name".into());
    }
    if definition.address.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err("Invalid service address".into());
    }
    meta(&definition.meta).map_err(|e| format!("Invalid Service Meta: {e}"))?;
    for check_type in definition.checks.iter().filter(|c| !c.is_empty()) {
        check(check_type)?;
    }
    if let Some(weights) = definition.weights {
        let bad = if weights.passing < 1 {
            "Passing must be greater than 0"
        } else if weights.warning < 0 {
            "Warning must be greater or equal than 0"
        } else if weights.passing > 65535 || weights.warning > 65535 {
            "DNS Weight must be between 0 and 65535"
        } else {
            return Ok(());
        };
        return Err(format!("Invalid Weights: {bad}"));
    }
    Ok(())
}

/// Checks the metadata of a node or a service. Texts are Consul's.
///
/// # Errors
/// Which pair cannot be kept, and why; too many of them.
pub fn meta(pairs: &BTreeMap<String, String>) -> Result<(), String> {
    if pairs.len() > META_PAIRS {
        return Err(format!("Node metadata cannot contain more than {META_PAIRS} key/value pairs"));
    }
    for (key, value) in pairs {
        let bad = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            "Key contains invalid characters".to_owned()
        } else if key.len() > META_KEY {
            format!("Key is too long (limit: {META_KEY} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > META_VALUE {
            format!("Value is too long (limit: {META_VALUE} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {bad}"));
    }
    Ok(())
}

/// Checks what a check does and how often.
pub fn check(definition: &CheckDefinition) -> Result<(), String> {
    let runs = !matches!(definition.kind, CheckKind::Ttl | CheckKind::Alias { .. } | CheckKind::Maintenance);
    let alias = matches!(definition.kind, CheckKind::Alias { .. });
    let bad = if definition.interval > Duration::ZERO && definition.ttl > Duration::ZERO {
        "Interval and TTL cannot both be specified"
    } else if runs && definition.interval.is_zero() {
        "Interval must be > 0 for Script, HTTP, or TCP checks"
    } else if alias && !definition.ttl.is_zero() {
        "TTL must be not be set for Alias checks"
    } else if matches!(definition.kind, CheckKind::Ttl) && definition.ttl.is_zero() {
        "TTL must be > 0 for TTL checks"
    } else if matches!(&definition.kind, CheckKind::Script(ScriptCheck::Args(args)) if args.is_empty()) {
        "Script arguments must name a program"
    } else if definition.failures_before_warning > definition.failures_before_critical {
        "FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
    } else {
        return Ok(());
    };
    Err(format!("Invalid check: {bad}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::registry::definition::{HttpCheck, Weights};

    const SECOND: Duration = Duration::from_secs(1);

    fn web() -> ServiceDefinition {
        ServiceDefinition { name: "web".into(), ..ServiceDefinition::default() }
    }

    /// Texts recorded from Consul 1.8.7.
    #[test]
    fn services() {
        let with_meta = |key: &str, value: &str| ServiceDefinition {
            meta: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            ..web()
        };
        let weights = |passing, warning| ServiceDefinition { weights: Some(Weights { passing, warning }), ..web() };
        let table = [
            (ServiceDefinition::default(), "Missing service name"),
            (ServiceDefinition { address: "0.0.0.0".into(), ..web() }, "Invalid service address"),
            (ServiceDefinition { address: "::".into(), ..web() }, "Invalid service address"),
            (
                with_meta("a b", "x"),
                "Invalid Service Meta: Couldn't load metadata pair ('a b', 'x'): Key contains invalid characters",
            ),
            (with_meta("", "x"), "Invalid Service Meta: Couldn't load metadata pair ('', 'x'): Key cannot be blank"),
            (
                with_meta("consul-foo", "x"),
                "Invalid Service Meta: Couldn't load metadata pair ('consul-foo', 'x'): Key prefix 'consul-' is reserved for internal use",
            ),
            (weights(0, 1), "Invalid Weights: Passing must be greater than 0"),
            (weights(1, -1), "Invalid Weights: Warning must be greater or equal than 0"),
            (weights(70000, 1), "Invalid Weights: DNS Weight must be between 0 and 65535"),
            (
                ServiceDefinition { meta: (0..65).map(|i| (format!("k{i}"), String::new())).collect(), ..web() },
                "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs",
            ),
        ];
        for (definition, text) in table {
            assert_eq!(service(&definition), Err(text.to_owned()));
        }
        assert_eq!(service(&web()), Ok(()));
        assert!(
            service(&with_meta(&"k".repeat(129), "")).unwrap_err().ends_with("Key is too long (limit: 128 characters)")
        );
        assert!(
            service(&with_meta("k", &"v".repeat(513)))
                .unwrap_err()
                .ends_with("Value is too long (limit: 512 characters)")
        );
        assert_eq!(service(&with_meta(&"k".repeat(128), &"v".repeat(512))), Ok(()));
    }

    #[test]
    fn checks() {
        let ttl = || CheckDefinition { ttl: SECOND, ..CheckDefinition::default() };
        let http = || CheckDefinition { kind: CheckKind::Http(HttpCheck::default()), ..CheckDefinition::default() };
        let alias = || CheckDefinition {
            kind: CheckKind::Alias { node: String::new(), service: "a".into() },
            ..CheckDefinition::default()
        };
        let table = [
            (CheckDefinition { interval: SECOND, ..ttl() }, "Interval and TTL cannot both be specified"),
            (http(), "Interval must be > 0 for Script, HTTP, or TCP checks"),
            (CheckDefinition { ttl: SECOND, ..alias() }, "TTL must be not be set for Alias checks"),
            (CheckDefinition { name: "x".into(), ..CheckDefinition::default() }, "TTL must be > 0 for TTL checks"),
        ];
        for (definition, text) in table {
            assert_eq!(check(&definition), Err(format!("Invalid check: {text}")));
        }
        assert_eq!(check(&ttl()), Ok(()));
        assert_eq!(check(&alias()), Ok(()));
        assert_eq!(check(&CheckDefinition { interval: SECOND, ..http() }), Ok(()));
    }

    /// An empty check among a service's is none at all.
    #[test]
    fn an_empty_check_is_no_check() {
        assert_eq!(service(&ServiceDefinition { checks: vec![CheckDefinition::default()], ..web() }), Ok(()));
    }
}
