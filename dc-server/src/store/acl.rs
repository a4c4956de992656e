//! Tokens, policies and roles. What each says was checked before it was written; here only what the others say against it.
//!
//! A secret is never compared with others: it is looked up by its digest, so that no time tells how much of one was right.

use std::sync::Arc;

use causeway_proto::acl::item::Item as Of;
use causeway_proto::acl::{Bootstrap, Change, Item, Kind, Link, Policy, Ref, Role, Token};
use imbl::OrdMap;
use ring::digest::{SHA256, digest};

use super::state::{Name, Refusal, State, Writer, fold};

/// SHA-256 of a secret.
type Digest = [u8; 32];

fn secret_digest(secret: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    out
}

/// The tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Acls {
    /// By accessor.
    tokens: OrdMap<Name, Arc<Token>>,
    /// Accessors by the digest of the secret.
    secrets: OrdMap<Digest, Name>,
    policies: OrdMap<Name, Arc<Policy>>,
    /// IDs by lowered name.
    policy_names: OrdMap<Name, Name>,
    roles: OrdMap<Name, Arc<Role>>,
    role_names: OrdMap<Name, Name>,
}

/// Whether two items say the same, whenever they were written.
pub(crate) fn same(a: &Item, b: &Item) -> bool {
    let plain = |item: &Item| {
        let mut item = item.clone();
        match &mut item.item {
            Some(Of::Token(t)) => {
                (t.create_index, t.modify_index) = (0, 0);
                t.policies.iter_mut().chain(&mut t.roles).for_each(|link| link.name.clear());
            }
            Some(Of::Policy(p)) => (p.create_index, p.modify_index) = (0, 0),
            Some(Of::Role(r)) => {
                (r.create_index, r.modify_index) = (0, 0);
                r.policies.iter_mut().for_each(|link| link.name.clear());
            }
            None => {}
        }
        item
    };
    plain(a) == plain(b)
}

/// What an item is called in refusals, and by whom it is named.
pub(crate) fn reference(item: &Item) -> Ref {
    let (kind, id) = match &item.item {
        Some(Of::Token(token)) => (Kind::Token, token.accessor_id.as_str()),
        Some(Of::Policy(policy)) => (Kind::Policy, policy.id.as_str()),
        Some(Of::Role(role)) => (Kind::Role, role.id.as_str()),
        None => (Kind::Unspecified, ""),
    };
    Ref { kind: kind.into(), id: id.to_owned() }
}

fn token(token: Token) -> Item {
    Item { item: Some(Of::Token(token)) }
}
fn policy(policy: Policy) -> Item {
    Item { item: Some(Of::Policy(policy)) }
}
fn role(role: Role) -> Item {
    Item { item: Some(Of::Role(role)) }
}

impl State {
    /// The token with this secret, as it was written.
    pub fn acl_by_secret(&self, secret: &str) -> Option<&Arc<Token>> {
        let accessor = self.acls.secrets.get(&secret_digest(secret))?;
        self.acls.tokens.get(accessor)
    }

    /// A policy as it was written.
    pub fn acl_policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.acls.policies.get(id)
    }

    /// A role as it was written.
    pub fn acl_role(&self, id: &str) -> Option<&Arc<Role>> {
        self.acls.roles.get(id)
    }

    /// Links as they are shown: with today's names, without what is gone.
    fn policy_links(&self, links: &[Link]) -> Vec<Link> {
        let named = |link: &Link| self.acls.policies.get(link.id.as_str()).map(|p| p.name.clone());
        links.iter().filter_map(|link| Some(Link { name: named(link)?, id: link.id.clone() })).collect()
    }

    fn shown_token(&self, it: &Token) -> Token {
        let named = |link: &Link| self.acls.roles.get(link.id.as_str()).map(|r| r.name.clone());
        let roles = it.roles.iter().filter_map(|link| Some(Link { name: named(link)?, id: link.id.clone() }));
        Token { policies: self.policy_links(&it.policies), roles: roles.collect(), ..it.clone() }
    }

    fn shown_role(&self, it: &Role) -> Role {
        Role { policies: self.policy_links(&it.policies), ..it.clone() }
    }

    /// One item by ID or, where that is empty, by name without regard to case; and its table's index.
    pub fn acl(&self, kind: Kind, id: &str, name: &str) -> (Option<Item>, u64) {
        let tables = &self.acls;
        let find = |names: &OrdMap<Name, Name>| match id {
            "" => names.get(&fold(name)).cloned(),
            id => Some(Name::from(id)),
        };
        let item = match kind {
            Kind::Token => tables.tokens.get(id).map(|it| token(self.shown_token(it))),
            Kind::Policy => {
                find(&tables.policy_names).and_then(|id| tables.policies.get(&id)).map(|it| policy(Policy::clone(it)))
            }
            Kind::Role => {
                find(&tables.role_names).and_then(|id| tables.roles.get(&id)).map(|it| role(self.shown_role(it)))
            }
            Kind::Unspecified => None,
        };
        (item, self.acl_index(kind))
    }

    /// All of a kind, as they are shown, by ID.
    pub fn acls(&self, kind: Kind) -> (Vec<Item>, u64) {
        let tables = &self.acls;
        let items = match kind {
            Kind::Token => tables.tokens.values().map(|it| token(self.shown_token(it))).collect(),
            Kind::Policy => tables.policies.values().map(|it| policy(Policy::clone(it))).collect(),
            Kind::Role => tables.roles.values().map(|it| role(self.shown_role(it))).collect(),
            Kind::Unspecified => Vec::new(),
        };
        (items, self.acl_index(kind))
    }

    /// Index of the last change of a kind; unspecified: of any.
    pub fn acl_index(&self, kind: Kind) -> u64 {
        let i = &self.indexes;
        match kind {
            Kind::Token => i.acl_tokens,
            Kind::Policy => i.acl_policies,
            Kind::Role => i.acl_roles,
            Kind::Unspecified => i.acl_tokens.max(i.acl_policies).max(i.acl_roles),
        }
        .max(1)
    }

    /// Index of the last bootstrap; 0: none was done yet.
    pub fn acl_bootstrap(&self) -> u64 {
        self.indexes.acl_bootstrap
    }

    /// Tokens whose time has passed.
    pub fn acl_expired(&self, now_ms: u64) -> Vec<Ref> {
        let over =
            |it: &&Arc<Token>| it.expiration_time_ms != 0 && it.expiration_time_ms <= now_ms && it.origin.is_empty();
        let of = |it: &Arc<Token>| Ref { kind: Kind::Token.into(), id: it.accessor_id.clone() };
        self.acls.tokens.values().filter(over).map(of).collect()
    }

    /// All of them as they were written, for snapshots.
    pub(super) fn acl_items(&self) -> impl Iterator<Item = Item> {
        let tables = &self.acls;
        let policies = tables.policies.values().map(|it| policy(Policy::clone(it)));
        let roles = tables.roles.values().map(|it| role(Role::clone(it)));
        policies.chain(roles).chain(tables.tokens.values().map(|it| token(Token::clone(it))))
    }

    /// Puts an item into its tables.
    pub(super) fn link_acl(&mut self, item: Item) {
        self.unlink_acl(&reference(&item));
        let tables = &mut self.acls;
        match item.item {
            Some(Of::Token(token)) => {
                let id = Name::from(token.accessor_id.as_str());
                tables.secrets.insert(secret_digest(&token.secret_id), id.clone());
                tables.tokens.insert(id, Arc::new(token));
            }
            Some(Of::Policy(policy)) => {
                let id = Name::from(policy.id.as_str());
                tables.policy_names.insert(fold(&policy.name), id.clone());
                tables.policies.insert(id, Arc::new(policy));
            }
            Some(Of::Role(role)) => {
                let id = Name::from(role.id.as_str());
                tables.role_names.insert(fold(&role.name), id.clone());
                tables.roles.insert(id, Arc::new(role));
            }
            None => {}
        }
    }

    /// Takes an item out of its tables; whether it was there.
    fn unlink_acl(&mut self, of: &Ref) -> bool {
        let tables = &mut self.acls;
        match of.kind() {
            Kind::Token => {
                let Some(token) = tables.tokens.remove(of.id.as_str()) else { return false };
                tables.secrets.remove(&secret_digest(&token.secret_id));
            }
            Kind::Policy => {
                let Some(policy) = tables.policies.remove(of.id.as_str()) else { return false };
                tables.policy_names.remove(&fold(&policy.name));
            }
            Kind::Role => {
                let Some(role) = tables.roles.remove(of.id.as_str()) else { return false };
                tables.role_names.remove(&fold(&role.name));
            }
            Kind::Unspecified => return false,
        }
        true
    }
}

fn refused<T>(text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Acl(text.into()))
}

impl Writer<'_> {
    /// All of a change, or nothing of it.
    pub(super) fn acl_apply(&mut self, change: &Change) -> Result<(), Refusal> {
        if let Some(bootstrap) = &change.bootstrap {
            self.may_bootstrap(bootstrap)?;
        }
        let before = (self.state.acls.clone(), self.state.indexes, self.touched.acls);
        let done = self.acl_change(change);
        if done.is_err() {
            (self.state.acls, self.state.indexes, self.touched.acls) = before;
        }
        done
    }

    fn may_bootstrap(&self, bootstrap: &Bootstrap) -> Result<(), Refusal> {
        match (self.state.indexes.acl_bootstrap, bootstrap.reset_index) {
            (0, _) => Ok(()),
            (last, 0) => refused(format!("ACL bootstrap no longer allowed (reset index: {last})")),
            (last, asked) if last == asked => Ok(()),
            (last, asked) => refused(format!("Invalid bootstrap reset index (specified {asked}, reset index: {last})")),
        }
    }

    fn acl_change(&mut self, change: &Change) -> Result<(), Refusal> {
        for of in &change.delete {
            if self.state.unlink_acl(of) {
                self.acl_touch(of.kind());
            }
        }
        for item in &change.set {
            self.acl_set(item.clone(), change.copied)?;
        }
        if change.bootstrap.is_some() {
            self.state.indexes.acl_bootstrap = self.index;
        }
        Ok(())
    }

    fn acl_set(&mut self, mut item: Item, copied: bool) -> Result<(), Refusal> {
        let of = reference(&item);
        let kind = of.kind();
        let index = self.index;
        let tables = &self.state.acls;
        let known = |link: &Link| tables.policies.contains_key(link.id.as_str());
        // A copy may come before what it names.
        let missing = |links: &[Link]| links.iter().find(|link| !copied && !known(link)).cloned();
        match &mut item.item {
            Some(Of::Token(token)) => {
                let owner = tables.secrets.get(&secret_digest(&token.secret_id));
                if owner.is_some_and(|owner| **owner != *token.accessor_id) {
                    return refused("Invalid Token: SecretID is already in use");
                }
                if let Some(link) = missing(&token.policies) {
                    return refused(format!("No such policy with ID: {}", link.id));
                }
                let gone = |link: &&Link| !copied && !tables.roles.contains_key(link.id.as_str());
                if let Some(link) = token.roles.iter().find(gone) {
                    return refused(format!("No such role with ID: {}", link.id));
                }
                let old = tables.tokens.get(token.accessor_id.as_str());
                (token.create_index, token.modify_index) = (old.map_or(index, |old| old.create_index), index);
            }
            Some(Of::Policy(policy)) => {
                let owner = tables.policy_names.get(&fold(&policy.name));
                if owner.is_some_and(|owner| **owner != *policy.id) {
                    return refused(format!("Invalid Policy: A Policy with Name {:?} already exists", policy.name));
                }
                let old = tables.policies.get(policy.id.as_str());
                (policy.create_index, policy.modify_index) = (old.map_or(index, |old| old.create_index), index);
            }
            Some(Of::Role(role)) => {
                let owner = tables.role_names.get(&fold(&role.name));
                if owner.is_some_and(|owner| **owner != *role.id) {
                    return refused(format!("Invalid Role: A Role with Name {:?} already exists", role.name));
                }
                if let Some(link) = missing(&role.policies) {
                    return refused(format!("No such policy with ID: {}", link.id));
                }
                let old = tables.roles.get(role.id.as_str());
                (role.create_index, role.modify_index) = (old.map_or(index, |old| old.create_index), index);
            }
            None => return refused("an item is missing"),
        }
        self.state.link_acl(item);
        self.acl_touch(kind);
        Ok(())
    }

    fn acl_touch(&mut self, kind: Kind) {
        let i = &mut self.state.indexes;
        match kind {
            Kind::Token => i.acl_tokens = self.index,
            Kind::Policy => i.acl_policies = self.index,
            Kind::Role => i.acl_roles = self.index,
            Kind::Unspecified => {}
        }
        self.touched.acls = true;
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::command::{Command, command};

    use super::super::Store;
    use super::*;

    fn a_token(accessor: &str, secret: &str, policies: &[&str]) -> Item {
        let policies = policies.iter().map(|id| Link { id: (*id).into(), ..Link::default() }).collect();
        token(Token { accessor_id: accessor.into(), secret_id: secret.into(), policies, ..Token::default() })
    }

    fn a_policy(id: &str, name: &str) -> Item {
        policy(Policy { id: id.into(), name: name.into(), ..Policy::default() })
    }

    fn apply(store: &Store, index: u64, change: Change) -> String {
        store.apply(index, &Command { call: None, command: Some(command::Command::Acl(change)) }).outcome.error
    }

    fn set(store: &Store, index: u64, items: &[Item]) -> String {
        apply(store, index, Change { set: items.to_vec(), ..Change::default() })
    }

    fn delete(store: &Store, index: u64, kind: Kind, id: &str) -> String {
        let of = Ref { kind: kind.into(), id: id.into() };
        apply(store, index, Change { delete: vec![of], ..Change::default() })
    }

    #[test]
    fn a_token_is_found_by_its_secret_alone() {
        let store = Store::new();
        assert_eq!(set(&store, 5, &[a_policy("p1", "One"), a_token("a1", "s1", &["p1"])]), "");
        let state = store.state();
        assert_eq!(state.acl_by_secret("s1").unwrap().accessor_id, "a1");
        assert!(state.acl_by_secret("a1").is_none() && state.acl_by_secret("").is_none());
        assert!(set(&store, 6, &[a_token("a2", "s1", &[])]).contains("already in use"));
        // Another secret for the same token: the old one is nobody's.
        assert_eq!(set(&store, 7, &[a_token("a1", "s2", &[])]), "");
        assert!(store.state().acl_by_secret("s1").is_none());
        assert_eq!(delete(&store, 8, Kind::Token, "a1"), "");
        assert!(store.state().acl_by_secret("s2").is_none());
        assert_eq!(store.state().acl_index(Kind::Token), 8);
    }

    #[test]
    fn links_show_todays_names_and_nothing_that_is_gone() {
        let store = Store::new();
        set(&store, 5, &[a_policy("p1", "one"), a_policy("p2", "two"), a_token("a1", "s1", &["p1", "p2"])]);
        set(&store, 6, &[a_policy("p1", "uno")]);
        delete(&store, 7, Kind::Policy, "p2");
        let Some(Item { item: Some(Of::Token(token)) }) = store.state().acl(Kind::Token, "a1", "").0 else { panic!() };
        assert_eq!(token.policies, [Link { id: "p1".into(), name: "uno".into() }]);
        assert!(store.state().acl(Kind::Policy, "", "UNO").0.is_some());
        assert!(store.state().acl(Kind::Policy, "", "one").0.is_none());
    }

    #[test]
    fn a_change_is_done_whole_or_not_at_all() {
        let store = Store::new();
        set(&store, 5, &[a_policy("p1", "one")]);
        let error = set(&store, 6, &[a_policy("p2", "two"), a_token("a1", "s1", &["p9"])]);
        assert_eq!(error, "No such policy with ID: p9");
        assert!(store.state().acl_policy("p2").is_none() && store.state().acl_index(Kind::Policy) == 5);
        assert_eq!(
            set(&store, 7, &[a_policy("p2", "ONE")]),
            "Invalid Policy: A Policy with Name \"ONE\" already exists"
        );
    }

    #[test]
    fn a_bootstrap_is_done_once_and_again_by_its_index_only() {
        let store = Store::new();
        let bootstrap = |reset_index, n: u64| Change {
            bootstrap: Some(Bootstrap { reset_index }),
            set: vec![a_token(&format!("a{n}"), &format!("s{n}"), &[])],
            ..Change::default()
        };
        assert_eq!(apply(&store, 5, bootstrap(0, 5)), "");
        assert_eq!(apply(&store, 6, bootstrap(0, 6)), "ACL bootstrap no longer allowed (reset index: 5)");
        assert_eq!(apply(&store, 7, bootstrap(4, 7)), "Invalid bootstrap reset index (specified 4, reset index: 5)");
        assert!(store.state().acl_by_secret("s6").is_none() && store.state().acl_by_secret("s7").is_none());
        assert_eq!(apply(&store, 8, bootstrap(5, 8)), "");
        assert_eq!(store.state().acl_bootstrap(), 8);
        assert!(store.state().acl_by_secret("s5").is_some() && store.state().acl_by_secret("s8").is_some());
    }

    #[test]
    fn snapshots_hold_them() {
        let store = Store::new();
        set(&store, 5, &[a_policy("p1", "one"), a_token("a1", "s1", &["p1"])]);
        let it = role(Role { id: "r1".into(), name: "role".into(), ..Role::default() });
        apply(&store, 6, Change { set: vec![it], bootstrap: Some(Bootstrap::default()), ..Change::default() });
        let mut bytes = Vec::new();
        Store::write_snapshot(&store.state(), &mut bytes).unwrap();
        let other = Store::new();
        other.restore(&mut bytes.as_slice()).unwrap();
        for kind in [Kind::Token, Kind::Policy, Kind::Role] {
            assert_eq!(other.state().acls(kind), store.state().acls(kind));
        }
        assert_eq!(other.state().acl_bootstrap(), 6);
        assert_eq!(other.state().acl_by_secret("s1").unwrap().accessor_id, "a1");
    }

    #[test]
    fn what_has_expired() {
        let store = Store::new();
        let with = |n: &str, at| match a_token(n, n, &[]).item {
            Some(Of::Token(it)) => token(Token { expiration_time_ms: at, ..it }),
            _ => unreachable!(),
        };
        set(&store, 5, &[with("never", 0), with("soon", 100), with("late", 200)]);
        let expired: Vec<_> = store.state().acl_expired(100).into_iter().map(|of| of.id).collect();
        assert_eq!(expired, ["soon"]);
    }
}
