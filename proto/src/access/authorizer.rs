//! What a set of rules says to each question.

use std::collections::BTreeMap;

use super::rules::{Access, Kind, Ruleset};

/// What holds where no rule says anything (`acl.default_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPolicy {
    /// Everything but the access control itself and whole states.
    Allow,
    /// Nothing.
    Deny,
}

/// The rules of a service identity: its own service to write, and all that a service needs to find others.
pub fn service_identity(name: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.put(Kind::Service, false, name, Access::Write);
    rules.put(Kind::Service, false, &format!("{name}-sidecar-proxy"), Access::Write);
    rules.put(Kind::Service, true, "", Access::Read);
    rules.put(Kind::Node, true, "", Access::Read);
    rules
}

/// The rules of a node identity: an agent that registers its node and finds services.
pub fn node_identity(name: &str) -> Ruleset {
    let mut rules = Ruleset::default();
    rules.put(Kind::Node, false, name, Access::Write);
    rules.put(Kind::Service, true, "", Access::Read);
    rules
}

/// Rules of one kind, ready to be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Names {
    exact: BTreeMap<String, Access>,
    prefix: BTreeMap<String, Access>,
    /// Lengths of the prefixes there are, the longest first: a question costs one look-up a length.
    lengths: Vec<usize>,
}

impl Names {
    fn rule(&self, name: &str) -> Option<Access> {
        self.exact.get(name).copied().or_else(|| self.longest(name))
    }

    fn longest(&self, name: &str) -> Option<Access> {
        self.lengths.iter().find_map(|len| self.prefix.get(name.get(..*len)?).copied())
    }
}

/// Answers what a token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorizer {
    acl: Option<Access>,
    keyring: Option<Access>,
    operator: Option<Access>,
    names: BTreeMap<Kind, Names>,
    default: DefaultPolicy,
    everything: bool,
}

const KINDS: [Kind; 7] = [Kind::Agent, Kind::Event, Kind::Key, Kind::Node, Kind::Query, Kind::Service, Kind::Session];

impl Authorizer {
    /// By these rules, and where none says anything by the default.
    pub fn new(rules: &Ruleset, default: DefaultPolicy) -> Self {
        let kinds = rules.exact.keys().chain(rules.prefix.keys());
        let names = kinds.map(|kind| {
            let exact = rules.exact.get(kind).cloned().unwrap_or_default();
            let prefix = rules.prefix.get(kind).cloned().unwrap_or_default();
            let mut lengths: Vec<usize> = prefix.keys().map(String::len).collect();
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
            (*kind, Names { exact, prefix, lengths })
        });
        let whole = |access: Option<Access>| access == Some(Access::Write);
        Self {
            acl: rules.acl,
            keyring: rules.keyring,
            operator: rules.operator,
            names: names.collect(),
            default,
            everything: whole(rules.acl)
                && whole(rules.keyring)
                && whole(rules.operator)
                && KINDS.into_iter().all(|kind| whole(rules.everything(kind))),
        }
    }

    /// Whether nothing is refused, so that nobody need ask.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    fn by_default(&self) -> bool {
        self.default == DefaultPolicy::Allow
    }

    fn may(&self, kind: Kind, name: &str, needed: Access) -> bool {
        let rule = self.names.get(&kind).and_then(|names| names.rule(name));
        rule.map_or_else(|| self.by_default(), |access| access.grants(needed))
    }

    /// Whether the access control may be read, or (`write`) changed. Never by default.
    pub fn acl(&self, needed: Access) -> bool {
        self.acl.is_some_and(|access| access.grants(needed))
    }

    /// Whether the whole state may be taken or put back.
    pub fn snapshot(&self) -> bool {
        self.acl(Access::Write)
    }

    /// Keys of gossip.
    pub fn keyring(&self, needed: Access) -> bool {
        self.keyring.map_or_else(|| self.by_default(), |access| access.grants(needed))
    }

    /// The servers.
    pub fn operator(&self, needed: Access) -> bool {
        self.operator.map_or_else(|| self.by_default(), |access| access.grants(needed))
    }

    /// The agent on this node.
    pub fn agent(&self, node: &str, needed: Access) -> bool {
        self.may(Kind::Agent, node, needed)
    }

    /// Events of this name.
    pub fn event(&self, name: &str, needed: Access) -> bool {
        self.may(Kind::Event, name, needed)
    }

    /// A key.
    pub fn key(&self, key: &str, needed: Access) -> bool {
        self.may(Kind::Key, key, needed)
    }

    /// Whether every key that begins so may be written: the rule that applies to the prefix grants it, and none below refuses.
    pub fn key_tree(&self, prefix: &str) -> bool {
        let Some(names) = self.names.get(&Kind::Key) else { return self.by_default() };
        let below = |rules: &BTreeMap<String, Access>| {
            let found = rules.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
            found.into_iter().any(|(_, access)| *access != Access::Write)
        };
        // Consul refuses where any rule on the way to the prefix refuses, not the longest alone.
        let mut on_the_way = names.lengths.iter().filter_map(|len| names.prefix.get(prefix.get(..*len)?));
        if below(&names.exact) || below(&names.prefix) {
            return false;
        }
        match on_the_way.next() {
            Some(access) => *access == Access::Write && on_the_way.all(|access| *access == Access::Write),
            None => self.by_default(),
        }
    }

    /// A node.
    pub fn node(&self, name: &str, needed: Access) -> bool {
        self.may(Kind::Node, name, needed)
    }

    /// Prepared queries of this name.
    pub fn query(&self, name: &str, needed: Access) -> bool {
        self.may(Kind::Query, name, needed)
    }

    /// A service.
    pub fn service(&self, name: &str, needed: Access) -> bool {
        self.may(Kind::Service, name, needed)
    }

    /// Sessions of this node.
    pub fn session(&self, node: &str, needed: Access) -> bool {
        self.may(Kind::Session, node, needed)
    }

    /// Who may connect to a service; by default as the service's own rule says, at most to read.
    pub fn intention(&self, service: &str, needed: Access) -> bool {
        let rule = self.names.get(&Kind::Intention).and_then(|names| names.rule(service));
        match rule {
            Some(access) => access.grants(needed),
            None => {
                let of = self.names.get(&Kind::Service).and_then(|names| names.rule(service));
                match of {
                    Some(Access::Read | Access::Write) => needed == Access::Read,
                    Some(_) => false,
                    None => self.by_default(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Access::{Deny, List, Read, Write};
    use super::*;

    fn of(text: &str, default: DefaultPolicy) -> Authorizer {
        Authorizer::new(&Ruleset::parse(text).unwrap(), default)
    }

    fn deny(text: &str) -> Authorizer {
        of(text, DefaultPolicy::Deny)
    }

    #[test]
    fn the_exact_rule_goes_first_then_the_longest_prefix_then_the_default() {
        let a = deny(
            "key_prefix \"\" { policy = \"read\" } key_prefix \"a/\" { policy = \"write\" } key_prefix \"a/b/\" { policy = \"deny\" } \
             key \"a/b/c\" { policy = \"list\" }",
        );
        for (key, read, list, write) in [
            ("", true, false, false),
            ("x", true, false, false),
            ("a", true, false, false),
            ("a/", true, true, true),
            ("a/x", true, true, true),
            ("a/b", true, true, true),
            ("a/b/", false, false, false),
            ("a/b/x", false, false, false),
            ("a/b/c", true, true, false),
            ("a/b/cd", false, false, false),
            ("a/\u{e9}", true, true, true),
        ] {
            assert_eq!((a.key(key, Read), a.key(key, List), a.key(key, Write)), (read, list, write), "{key:?}");
            assert!(!a.key(key, Deny));
        }
        assert!(!a.node("n", Read));
        assert!(of("", DefaultPolicy::Allow).node("n", Write));
        assert!(!of("node_prefix \"n\" { policy = \"read\" }", DefaultPolicy::Allow).node("n1", Write));
    }

    /// A prefix that ends inside a character of a name does not match it, and does not hide a shorter one.
    #[test]
    fn prefixes_are_compared_by_characters() {
        let a = deny("service_prefix \"\u{e9}a\" { policy = \"deny\" } service_prefix \"\" { policy = \"read\" }");
        assert!(a.service("\u{20ac}", Read));
    }

    #[test]
    fn the_access_control_itself_is_never_open_by_default() {
        let open = of("", DefaultPolicy::Allow);
        assert!(!open.acl(Read) && !open.acl(Write) && !open.snapshot());
        assert!(open.operator(Write) && open.keyring(Write) && open.agent("n", Write) && open.event("e", Write));
        assert!(!open.is_everything());
        let reads = deny("acl = \"read\"");
        assert!(reads.acl(Read) && !reads.acl(Write) && !reads.snapshot());
        assert!(deny("acl = \"write\"").snapshot());
        let all = deny(super::super::GLOBAL_MANAGEMENT);
        assert!(all.is_everything() && all.acl(Write) && all.keyring(Write) && all.operator(Write));
        let nearly = format!("{}\nkey \"secret\" {{ policy = \"deny\" }}", super::super::GLOBAL_MANAGEMENT);
        assert!(!deny(&nearly).is_everything() && !deny(&nearly).key("secret", Read));
        let none = deny("");
        assert!(!none.operator(Read) && !none.keyring(Read) && !none.query("q", Read) && !none.session("n", Read));
    }

    #[test]
    fn a_tree_is_deleted_only_where_all_of_it_may_be_written() {
        let writes = "key_prefix \"a/\" { policy = \"write\" }";
        for (text, prefix, allowed) in [
            (writes, "a/", true),
            (writes, "a/b", true),
            (writes, "a", false),
            (writes, "", false),
            ("key_prefix \"a/\" { policy = \"write\" } key \"a/b/c\" { policy = \"read\" }", "a/", false),
            ("key_prefix \"a/\" { policy = \"write\" } key \"a/b/c\" { policy = \"read\" }", "a/x", true),
            ("key_prefix \"a/\" { policy = \"write\" } key_prefix \"a/b/\" { policy = \"deny\" }", "a/b/", false),
            ("key_prefix \"a/\" { policy = \"read\" } key_prefix \"a/b/\" { policy = \"write\" }", "a/b/", false),
            ("key \"a/\" { policy = \"write\" }", "a/", false),
            ("key_prefix \"\" { policy = \"write\" }", "", true),
        ] {
            assert_eq!(deny(text).key_tree(prefix), allowed, "{text} {prefix}");
        }
        assert!(of("", DefaultPolicy::Allow).key_tree(""));
        assert!(!of("key \"a\" { policy = \"read\" }", DefaultPolicy::Allow).key_tree(""));
        assert!(of("key \"a\" { policy = \"write\" }", DefaultPolicy::Allow).key_tree(""));
    }

    #[test]
    fn identities() {
        let web = Authorizer::new(&service_identity("web"), DefaultPolicy::Deny);
        assert!(web.service("web", Write) && web.service("web-sidecar-proxy", Write) && web.service("db", Read));
        assert!(!web.service("db", Write) && web.node("n", Read) && !web.node("n", Write) && !web.key("k", Read));
        let node = Authorizer::new(&node_identity("n1"), DefaultPolicy::Deny);
        assert!(node.node("n1", Write) && !node.node("n10", Read) && node.service("db", Read));
        assert!(!node.service("db", Write));
    }

    #[test]
    fn intentions_follow_the_service_to_read_at_most() {
        let a =
            deny("service \"web\" { policy = \"write\" } service \"db\" { policy = \"read\" intentions = \"write\" }");
        assert!(a.intention("web", Read) && !a.intention("web", Write));
        assert!(a.intention("db", Write) && !a.intention("x", Read));
    }
}
