//! Who may ask what. Pure.

use causeway_proto::status::{ExportRule, ExportsReply};

use crate::store::fold;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Looks.
    Read,
    /// Changes.
    Write,
}

/// The methods by what they are about, as configuration names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Tokens, policies and roles; only for whom everything is exported to, but for what a token is.
    Acl,
    /// Nodes and services.
    Catalog,
    /// Config entries; who has a primary datacenter copies them from it.
    Config,
    /// Network coordinates of nodes; the whole catalog must be granted.
    Coordinate,
    /// User events.
    Event,
    /// Health of services and checks.
    Health,
    /// Keys of gossip; only for whom everything is exported to.
    Keyring,
    /// Keys and values.
    Kv,
    /// How the servers are kept; changing it is only for whom everything is exported to.
    Operator,
    /// Prepared queries.
    Query,
    /// Sessions.
    Session,
    /// The whole state; only for whom everything is exported to.
    Snapshot,
    /// Who leads, who the servers are.
    Status,
    /// Transactions.
    Txn,
    /// Live copies; DNS of other sites is answered from these.
    View,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 15] = [
        Self::Acl,
        Self::Catalog,
        Self::Config,
        Self::Coordinate,
        Self::Event,
        Self::Health,
        Self::Keyring,
        Self::Kv,
        Self::Operator,
        Self::Query,
        Self::Session,
        Self::Snapshot,
        Self::Status,
        Self::Txn,
        Self::View,
    ];

    /// As in configuration, and as the package of its methods is named.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Catalog => "catalog",
            Self::Config => "config",
            Self::Coordinate => "coordinate",
            Self::Event => "event",
            Self::Health => "health",
            Self::Keyring => "keyring",
            Self::Kv => "kv",
            Self::Operator => "operator",
            Self::Query => "query",
            Self::Session => "session",
            Self::Snapshot => "snapshot",
            Self::Status => "status",
            Self::Txn => "txn",
            Self::View => "view",
        }
    }

    /// The family of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// One grant. What several grant to a site adds up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// To which datacenter; `*`: to every one.
    pub site: String,
    /// Service names, or beginnings that end in `*`.
    pub services: Vec<String>,
    /// Beginnings of keys; the empty one: every key.
    pub kv: Vec<String>,
    /// Whether sessions are meant, too.
    pub sessions: bool,
    /// Whether these may be read.
    pub read: bool,
    /// Whether these may be changed.
    pub write: bool,
    /// By which methods; empty: by all.
    pub methods: Vec<Family>,
}

impl Rule {
    fn grants(&self, family: Family, op: Op) -> bool {
        let op = match op {
            Op::Read => self.read,
            Op::Write => self.write,
        };
        op && (self.methods.is_empty() || self.methods.contains(&family))
    }

    fn names_service(&self, name: &str) -> bool {
        let name = fold(name);
        self.services.iter().any(|pattern| {
            let pattern = fold(pattern);
            match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => *name == *pattern,
            }
        })
    }

    fn names_key(&self, key: &str) -> bool {
        self.kv.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn shown(&self) -> ExportRule {
        let operations = [(self.read, "read"), (self.write, "write")];
        ExportRule {
            site: self.site.clone(),
            services: self.services.clone(),
            kv: self.kv.clone(),
            sessions: self.sessions,
            operations: operations.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect(),
            methods: self.methods.iter().map(|f| f.as_str().to_owned()).collect(),
        }
    }
}

/// What this site lets others ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// `None`: nothing is configured, and every linked site may do everything, as in Consul.
    pub rules: Option<Vec<Rule>>,
}

impl Policy {
    fn matching(&self, site: &str) -> Option<Vec<Rule>> {
        let rules = self.rules.as_ref()?;
        Some(rules.iter().filter(|r| r.site == "*" || r.site.eq_ignore_ascii_case(site)).cloned().collect())
    }

    /// The rights of a call. `from`: the datacenters that ask, as [`causeway_proto::meta::FROM`] has them; `own`: this one, which
    /// is part of the chain where a query comes back to where it began.
    pub fn rights(&self, from: &str, own: &str) -> Rights {
        let sites = from.split(',').map(str::trim).filter(|site| *site != own);
        Rights { sites: sites.filter_map(|site| self.matching(site)).collect() }
    }

    /// As it is shown to `from`; `None`: to somebody of this site.
    pub fn shown(&self, datacenter: &str, from: Option<&str>) -> ExportsReply {
        let rules = match from.and_then(|chain| chain.rsplit(',').next()) {
            None => self.rules.clone(),
            Some(site) => self.matching(site.trim()),
        };
        ExportsReply {
            datacenter: datacenter.to_owned(),
            open: rules.is_none(),
            rules: rules.into_iter().flatten().map(|rule| rule.shown()).collect(),
        }
    }
}

/// What a call may do: what each of the sites that ask may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// The rules for each site; none: no limits.
    sites: Vec<Vec<Rule>>,
}

impl Rights {
    /// Whether there are no limits.
    pub fn is_everything(&self) -> bool {
        self.sites.is_empty()
    }

    fn every(&self, granted: impl Fn(&Rule) -> bool) -> bool {
        self.sites.iter().all(|rules| rules.iter().any(&granted))
    }

    /// Whether it may use the family at all.
    pub fn any(&self, family: Family, op: Op) -> bool {
        self.every(|r| r.grants(family, op))
    }

    /// A service by name.
    pub fn service(&self, family: Family, op: Op, name: &str) -> bool {
        self.every(|r| r.grants(family, op) && r.names_service(name))
    }

    /// Every service, and with that the catalog as a whole.
    pub fn services(&self, family: Family, op: Op) -> bool {
        self.every(|r| r.grants(family, op) && r.services.iter().any(|s| s == "*"))
    }

    /// A key, or all that begin with it.
    pub fn key(&self, family: Family, op: Op, key: &str) -> bool {
        self.every(|r| r.grants(family, op) && r.names_key(key))
    }

    /// Sessions.
    pub fn sessions(&self, family: Family, op: Op) -> bool {
        self.every(|r| r.grants(family, op) && r.sessions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(site: &str) -> Rule {
        Rule { site: site.into(), read: true, ..Rule::default() }
    }

    fn policy() -> Policy {
        let web = Rule { services: vec!["Web".into(), "api-*".into()], kv: vec!["shared/".into()], ..rule("dc2") };
        let inbox = Rule { kv: vec!["inbox/".into()], write: true, ..rule("dc2") };
        let all = Rule { services: vec!["public".into()], methods: vec![Family::Health], ..rule("*") };
        Policy { rules: Some(vec![web, inbox, all]) }
    }

    #[test]
    fn grants_add_up_and_names_fold() {
        let rights = policy().rights("dc2", "dc1");
        let read = |name| rights.service(Family::Health, Op::Read, name);
        assert!(read("web") && read("WEB") && read("api-x") && read("public"));
        assert!(!read("api") && !read("webx") && !read(""));
        assert!(!rights.service(Family::View, Op::Read, "public"), "by health alone");
        assert!(!rights.service(Family::Health, Op::Write, "web"));
        let key = |op, key| rights.key(Family::Kv, op, key);
        assert!(key(Op::Read, "shared/a") && key(Op::Write, "inbox/a") && key(Op::Read, "inbox/a"));
        assert!(!key(Op::Write, "shared/a") && !key(Op::Read, "share") && !key(Op::Read, ""));
        assert!(!rights.sessions(Family::Session, Op::Read) && !rights.services(Family::Catalog, Op::Read));
    }

    #[test]
    fn nobody_gains_by_a_name() {
        let policy = policy();
        let read = |from: &str, name| policy.rights(from, "dc1").service(Family::Health, Op::Read, name);
        assert!(read("dc9", "public") && !read("dc9", "web") && !read("", "web"));
        // dc9 asks and says that it asks for dc2, or for us: its own rights remain the bound. dc2 asks for dc9: dc9's.
        for chain in ["dc2,dc9", "dc1,dc9", "dc9,dc2", "?,dc2", ",dc9"] {
            assert!(!read(chain, "web") && read(chain, "public"), "{chain}");
        }
        assert!(read("dc1,dc2", "web"));
        assert!(Policy::default().rights("dc9", "dc1").is_everything());
        assert!(!Policy { rules: Some(Vec::new()) }.rights("dc9", "dc1").is_everything());
    }

    #[test]
    fn what_is_shown_is_what_concerns_the_asker() {
        let shown = policy().shown("dc1", Some("dc9"));
        assert_eq!((shown.open, shown.rules.len(), shown.rules[0].site.as_str()), (false, 1, "*"));
        assert_eq!(policy().shown("dc1", None).rules.len(), 3);
        assert!(Policy::default().shown("dc1", Some("dc9")).open);
    }
}
