//! Access control: Consul's rule language, and what a token's rules allow. Pure; servers and agents decide by the same code.
//!
//! [`rules`] reads a policy's text, [`Ruleset`] adds several up as Consul does (deny before write before list before read for the same
//! name), and [`Authorizer`] answers questions: the exact rule first, then the longest prefix, then the default.

mod authorizer;
mod rules;
mod tokens;

pub use authorizer::{Authorizer, DefaultPolicy, node_identity, service_identity};
pub use rules::{Access, GLOBAL_MANAGEMENT, Kind, RuleError, Ruleset};
pub use tokens::{Tokens, Use};

/// Consul's text for a token that there is none of.
pub const NOT_FOUND: &str = "ACL not found";
/// Consul's text for a token whose rules do not allow it.
pub const DENIED: &str = "Permission denied";
/// Consul's text where access control is off.
pub const DISABLED: &str = "ACL support disabled";
/// Accessor of the anonymous token: what callers without a token may do.
pub const ANONYMOUS: &str = "00000000-0000-0000-0000-000000000002";
/// Secret of the anonymous token; no secret at all: callers that name it are taken for anonymous.
pub const ANONYMOUS_SECRET: &str = "anonymous";
/// The policy that allows everything.
pub const GLOBAL_MANAGEMENT_ID: &str = "00000000-0000-0000-0000-000000000001";

use crate::acl::{NodeIdentity, Policy, ServiceIdentity};

/// What policies and identities allow in a datacenter: those that do not hold there are left out.
pub fn compile<'a>(
    datacenter: &str,
    policies: impl IntoIterator<Item = &'a Policy>,
    services: impl IntoIterator<Item = &'a ServiceIdentity>,
    nodes: impl IntoIterator<Item = &'a NodeIdentity>,
    default: DefaultPolicy,
) -> Result<Authorizer, RuleError> {
    let holds = |list: &[String]| list.is_empty() || list.iter().any(|dc| dc.eq_ignore_ascii_case(datacenter));
    let mut rules = Ruleset::default();
    for policy in policies.into_iter().filter(|policy| holds(&policy.datacenters)) {
        rules.merge(&Ruleset::parse(&policy.rules)?);
    }
    for identity in services.into_iter().filter(|identity| holds(&identity.datacenters)) {
        rules.merge(&service_identity(&identity.service_name));
    }
    for identity in nodes.into_iter().filter(|identity| identity.datacenter.eq_ignore_ascii_case(datacenter)) {
        rules.merge(&node_identity(&identity.node_name));
    }
    Ok(Authorizer::new(&rules, default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_another_datacenter_does_not_hold_here() {
        let policy = |rules: &str, dcs: &[&str]| Policy {
            rules: rules.to_owned(),
            datacenters: dcs.iter().map(|dc| (*dc).to_owned()).collect(),
            ..Policy::default()
        };
        let policies = [
            policy("key \"all\" { policy = \"read\" }", &[]),
            policy("key \"one\" { policy = \"read\" }", &["dc1"]),
            policy("key \"two\" { policy = \"read\" }", &["dc2"]),
        ];
        let services = [ServiceIdentity { service_name: "web".into(), datacenters: vec!["dc2".into()] }];
        let nodes = [NodeIdentity { node_name: "n".into(), datacenter: "dc1".into() }];
        let of = |dc: &str| compile(dc, &policies, &services, &nodes, DefaultPolicy::Deny).unwrap();
        let seen = |a: &Authorizer| {
            let key = |key| a.key(key, Access::Read);
            [key("all"), key("one"), key("two"), a.service("web", Access::Write), a.node("n", Access::Write)]
        };
        assert_eq!(seen(&of("dc1")), [true, true, false, false, true]);
        assert_eq!(seen(&of("dc2")), [true, false, true, true, false]);
        assert!(compile("dc1", &[policy("key {", &[])], &[], &[], DefaultPolicy::Allow).is_err());
    }
}
