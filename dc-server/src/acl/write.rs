//! What may be written: names, rules, links and times, in Consul's words where they are refused. Pure.

use causeway_proto::access::{ANONYMOUS, GLOBAL_MANAGEMENT, GLOBAL_MANAGEMENT_ID, RuleError, Ruleset};
use causeway_proto::acl::item::Item as Of;
use causeway_proto::acl::{Item, Kind, Link, NodeIdentity, Policy, Role, ServiceIdentity, Token};

use crate::store::State;

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// In Consul's words.
    #[error("{0}")]
    Refused(String),
    /// The rules make no sense.
    #[error(transparent)]
    Rules(#[from] RuleError),
}

/// Shortest time to live of a token, and longest (Consul's `acl_token_min_expiration_ttl` and `_max_`).
const TTL_MS: std::ops::RangeInclusive<u64> = 60_000..=86_400_000;
/// Beginning of what belongs to the system.
const RESERVED: &str = "00000000-0000-0000-0000-0000000000";

fn refuse<T>(text: impl Into<String>) -> Result<T, WriteError> {
    Err(WriteError::Refused(text.into()))
}

/// Whether a text is a UUID.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// What is drawn for an item that is new.
#[derive(Debug)]
pub struct Drawn {
    /// Names it.
    pub id: String,
    /// A token's secret.
    pub secret: String,
    /// Unix time, nanoseconds.
    pub now_ns: u64,
}

/// An item as it is to be written. `again`: this write was asked for before, so that what it made is not in its way.
pub fn prepare(state: &State, item: Item, create: bool, drawn: Drawn, again: bool) -> Result<Item, WriteError> {
    let of = match item.item {
        Some(Of::Token(token)) => Of::Token(prepare_token(state, token, create, drawn, again)?),
        Some(Of::Policy(policy)) => Of::Policy(prepare_policy(state, policy, create, drawn)?),
        Some(Of::Role(role)) => Of::Role(prepare_role(state, role, create, drawn)?),
        None => return refuse("an item is missing"),
    };
    Ok(Item { item: Some(of) })
}

fn is_name(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn old<T>(state: &State, kind: Kind, id: &str, of: impl Fn(Of) -> Option<T>) -> Option<T> {
    state.acl(kind, id, "").0.and_then(|item| item.item).and_then(of)
}

fn prepare_policy(state: &State, mut policy: Policy, create: bool, drawn: Drawn) -> Result<Policy, WriteError> {
    policy.origin.clear();
    if create {
        policy.id = drawn.id;
    } else {
        let of = |item| if let Of::Policy(policy) = item { Some(policy) } else { None };
        if old(state, Kind::Policy, &policy.id, of).is_none() {
            return refuse(format!("cannot find policy {}", policy.id));
        }
    }
    if policy.name.is_empty() {
        return refuse("Invalid Policy: no Name is set");
    }
    if !is_name(&policy.name, 128) {
        return refuse("Invalid Policy: invalid Name. Only alphanumeric characters, '-' and '_' are allowed");
    }
    if policy.id == GLOBAL_MANAGEMENT_ID {
        if !policy.datacenters.is_empty() {
            return refuse("Changing the Datacenters of the builtin global-management policy is not permitted");
        }
        if policy.rules != GLOBAL_MANAGEMENT {
            return refuse("Changing the Rules for the builtin global-management policy is not permitted");
        }
    }
    for dc in &mut policy.datacenters {
        *dc = dc.to_lowercase();
    }
    Ruleset::parse(&policy.rules)?;
    Ok(policy)
}

fn prepare_role(state: &State, mut role: Role, create: bool, drawn: Drawn) -> Result<Role, WriteError> {
    role.origin.clear();
    if create {
        role.id = drawn.id;
    } else {
        let of = |item| if let Of::Role(role) = item { Some(role) } else { None };
        if old(state, Kind::Role, &role.id, of).is_none() {
            return refuse(format!("cannot find role {}", role.id));
        }
    }
    if role.name.is_empty() {
        return refuse("Invalid Role: no Name is set");
    }
    if !is_name(&role.name, 256) {
        return refuse("Invalid Role: invalid Name. Only alphanumeric characters, '-' and '_' are allowed");
    }
    links(state, Kind::Policy, &mut role.policies)?;
    identities(&mut role.service_identities, &mut role.node_identities, "role")?;
    Ok(role)
}

fn prepare_token(
    state: &State,
    mut token: Token,
    create: bool,
    drawn: Drawn,
    again: bool,
) -> Result<Token, WriteError> {
    token.origin.clear();
    let of = |item| if let Of::Token(token) = item { Some(token) } else { None };
    let before = |id: &str| old(state, Kind::Token, id, of);
    if !token.accessor_id.is_empty() && !is_uuid(&token.accessor_id) {
        return refuse(
            "Failed acl token lookup by accessor: failed acl token lookup: index error: UUID must be 36 characters",
        );
    }
    if create {
        if token.accessor_id.is_empty() {
            token.accessor_id = drawn.id;
        } else if token.accessor_id.starts_with(RESERVED) {
            return refuse(format!("Invalid Token: UUIDs with the prefix {RESERVED:?} are reserved"));
        } else if before(&token.accessor_id).is_some() && !again {
            return refuse("Invalid Token: AccessorID is already in use");
        }
        if token.secret_id.is_empty() {
            token.secret_id = drawn.secret;
        } else if !is_uuid(&token.secret_id) {
            return refuse("Invalid Token: SecretID is not a valid UUID");
        } else if token.secret_id.starts_with(RESERVED) {
            return refuse(format!("Invalid Token: UUIDs with the prefix {RESERVED:?} are reserved"));
        } else if state.acl_by_secret(&token.secret_id).is_some() && !again {
            return refuse("Invalid Token: SecretID is already in use");
        }
        token.create_time_ns = drawn.now_ns;
        expiry(&mut token, drawn.now_ns / 1_000_000)?;
    } else {
        let Some(old) = before(&token.accessor_id) else {
            return refuse(format!("Cannot find token {:?}", token.accessor_id));
        };
        if !token.secret_id.is_empty() && token.secret_id != old.secret_id {
            return refuse("Changing a tokens SecretID is not permitted");
        }
        if token.local != old.local {
            return refuse(format!("cannot toggle local mode of {}", token.accessor_id));
        }
        if token.expiration_ttl_ns != 0
            || token.expiration_time_ms != 0 && token.expiration_time_ms != old.expiration_time_ms
        {
            return refuse(format!("Cannot change expiration time of {}", token.accessor_id));
        }
        if !token.auth_method.is_empty() && token.auth_method != old.auth_method {
            return refuse(format!("Cannot change AuthMethod of {}", token.accessor_id));
        }
        token.secret_id = old.secret_id;
        token.create_time_ns = old.create_time_ns;
        token.expiration_time_ms = old.expiration_time_ms;
        token.auth_method = old.auth_method;
    }
    links(state, Kind::Policy, &mut token.policies)?;
    links(state, Kind::Role, &mut token.roles)?;
    identities(&mut token.service_identities, &mut token.node_identities, "token")?;
    if let Some(identity) = token.service_identities.iter().find(|i| token.local && !i.datacenters.is_empty()) {
        return refuse(format!(
            "Service identity {:?} cannot specify a list of datacenters on a local token",
            identity.service_name
        ));
    }
    Ok(token)
}

/// As Go prints a duration of whole milliseconds.
fn go_duration(ms: u64) -> String {
    let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    let seconds = if ms == 0 { format!("{s}s") } else { format!("{s}.{}s", format!("{ms:03}").trim_end_matches('0')) };
    match (h, m) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

fn expiry(token: &mut Token, now_ms: u64) -> Result<(), WriteError> {
    let ttl = std::mem::take(&mut token.expiration_ttl_ns) / 1_000_000;
    match (ttl, token.expiration_time_ms) {
        (0, 0) => return Ok(()),
        (1.., 1..) => return refuse("Token Expiration TTL and Expiration Time cannot both be set"),
        (1.., 0) => token.expiration_time_ms = now_ms.saturating_add(ttl),
        (0, 1..) => {}
    }
    let left = token.expiration_time_ms.saturating_sub(now_ms);
    if left == 0 {
        return refuse("ExpirationTime cannot be before CreateTime");
    }
    if left < *TTL_MS.start() {
        let (least, was) = (go_duration(*TTL_MS.start()), go_duration(left));
        return refuse(format!("ExpirationTime cannot be less than {least} in the future (was {was})"));
    }
    if left > *TTL_MS.end() {
        let (most, was) = (go_duration(*TTL_MS.end()), go_duration(left));
        return refuse(format!("ExpirationTime cannot be more than {most} in the future (was {was})"));
    }
    Ok(())
}

/// Links by name become links by ID; each is there once.
fn links(state: &State, kind: Kind, links: &mut Vec<Link>) -> Result<(), WriteError> {
    let what = if kind == Kind::Role { "role" } else { "policy" };
    for link in links.iter_mut() {
        if link.id.is_empty() {
            let found = state.acl(kind, "", &link.name).0;
            let Some(found) = found.filter(|_| !link.name.is_empty()) else {
                return refuse(format!("No such ACL {what} with name {:?}", link.name));
            };
            link.id = crate::store::acl_reference(&found).id;
        } else if link.id.len() != 36 {
            return refuse(format!(
                "Error looking up {what} for id {:?}: failed acl {what} lookup: index error: UUID must be 36 characters",
                link.id
            ));
        }
        link.name.clear();
    }
    let mut seen = std::collections::BTreeSet::new();
    links.retain(|link| seen.insert(link.id.clone()));
    Ok(())
}

fn identities(services: &mut [ServiceIdentity], nodes: &mut [NodeIdentity], of: &str) -> Result<(), WriteError> {
    let lower = |name: &str, most| {
        let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        is_name(name, most)
            && !name.bytes().any(|b| b.is_ascii_uppercase())
            && ends(name.as_bytes().first())
            && ends(name.as_bytes().last())
    };
    for identity in services {
        if identity.service_name.is_empty() {
            return refuse(format!("Service identity is missing the service name field on this {of}"));
        }
        if !lower(&identity.service_name, 256) {
            return refuse(format!(
                "Service identity {:?} has an invalid name. Only alphanumeric characters, '-' and '_' are allowed",
                identity.service_name
            ));
        }
        identity.datacenters.iter_mut().for_each(|dc| *dc = dc.to_lowercase());
    }
    for identity in nodes {
        if identity.node_name.is_empty() {
            return refuse(format!("Node identity is missing the node name field on this {of}"));
        }
        if identity.datacenter.is_empty() {
            return refuse(format!("Node identity is missing the datacenter field on this {of}"));
        }
        if !lower(&identity.node_name, 256) {
            return refuse(format!(
                "Node identity has an invalid name. Only lowercase alphanumeric characters, '-' and '_' are allowed on this {of}"
            ));
        }
        identity.datacenter = identity.datacenter.to_lowercase();
    }
    Ok(())
}

/// Whether an item may be deleted. `caller`: accessor of who asks.
pub fn may_delete(kind: Kind, id: &str, caller: &str) -> Result<(), WriteError> {
    match kind {
        Kind::Token if !is_uuid(id) => refuse("Accessor ID is missing or an invalid UUID"),
        Kind::Token if id == ANONYMOUS => refuse("Delete operation not permitted on the anonymous token"),
        Kind::Token if id == caller => refuse("Deletion of the request's authorization token is not permitted"),
        Kind::Policy if id.len() != 36 => refuse("failed acl policy lookup: index error: UUID must be 36 characters"),
        Kind::Policy if id == GLOBAL_MANAGEMENT_ID => {
            refuse("Delete operation not permitted on the builtin global-management policy")
        }
        Kind::Role if id.len() != 36 => refuse("failed acl role lookup: index error: UUID must be 36 characters"),
        Kind::Unspecified => refuse("nothing of this kind can be deleted"),
        _ => Ok(()),
    }
}

/// The policy that allows everything.
pub fn global_management() -> Item {
    Item {
        item: Some(Of::Policy(Policy {
            id: GLOBAL_MANAGEMENT_ID.to_owned(),
            name: "global-management".to_owned(),
            description: "Builtin Policy that grants unlimited access".to_owned(),
            rules: GLOBAL_MANAGEMENT.to_owned(),
            ..Policy::default()
        })),
    }
}

/// The token of callers without one.
pub fn anonymous(now_ns: u64) -> Item {
    Item {
        item: Some(Of::Token(Token {
            accessor_id: ANONYMOUS.to_owned(),
            secret_id: causeway_proto::access::ANONYMOUS_SECRET.to_owned(),
            description: "Anonymous Token".to_owned(),
            create_time_ns: now_ns,
            ..Token::default()
        })),
    }
}

/// A token that may do everything.
pub fn management(accessor: String, secret: String, description: &str, now_ns: u64) -> Item {
    Item {
        item: Some(Of::Token(Token {
            accessor_id: accessor,
            secret_id: secret,
            description: description.to_owned(),
            policies: vec![Link { id: GLOBAL_MANAGEMENT_ID.to_owned(), name: String::new() }],
            create_time_ns: now_ns,
            ..Token::default()
        })),
    }
}

/// What makes our copies equal to the primary's. `ours`: all that is here; local tokens stay. Deletions first, so that names are free.
pub fn changes(primary: &str, ours: &[Item], theirs: &[Item]) -> (Vec<causeway_proto::acl::Ref>, Vec<Item>) {
    use crate::store::{acl_reference, same_acl};
    let key = |item: &Item| {
        let of = acl_reference(item);
        (of.kind, of.id)
    };
    let local = |item: &Item| matches!(&item.item, Some(Of::Token(token)) if token.local);
    let ours: std::collections::BTreeMap<_, _> = ours.iter().filter(|item| !local(item)).map(|i| (key(i), i)).collect();
    let mut wanted = std::collections::BTreeMap::new();
    for item in theirs.iter().filter(|item| !local(item)) {
        let mut copy = item.clone();
        match &mut copy.item {
            Some(Of::Token(token)) => primary.clone_into(&mut token.origin),
            Some(Of::Policy(policy)) => primary.clone_into(&mut policy.origin),
            Some(Of::Role(role)) => primary.clone_into(&mut role.origin),
            None => continue,
        }
        wanted.insert(key(&copy), copy);
    }
    let gone = ours.iter().filter(|(key, _)| !wanted.contains_key(*key)).map(|(_, item)| acl_reference(item)).collect();
    let set = wanted.into_iter().filter(|(key, new)| !ours.get(key).is_some_and(|old| same_acl(old, new)));
    // Policies before what names them.
    let mut set: Vec<Item> = set.map(|(_, item)| item).collect();
    set.sort_by_key(|item| match &item.item {
        Some(Of::Policy(_)) => 0,
        Some(Of::Role(_)) => 1,
        _ => 2,
    });
    (gone, set)
}

#[cfg(test)]
mod tests {
    use causeway_proto::acl::Change;
    use causeway_proto::command::{Command, command};

    use super::*;
    use crate::store::Store;

    fn drawn() -> Drawn {
        Drawn {
            id: "aaaaaaaa-0000-0000-0000-000000000001".into(),
            secret: "bbbbbbbb-0000-0000-0000-000000000001".into(),
            now_ns: 1_000_000_000_000_000_000,
        }
    }

    fn store() -> Store {
        let store = Store::new();
        let policy =
            Policy { id: "11111111-1111-1111-1111-111111111111".into(), name: "kv".into(), ..Policy::default() };
        let token = Token {
            accessor_id: "22222222-1111-1111-1111-111111111111".into(),
            secret_id: "33333333-1111-1111-1111-111111111111".into(),
            local: true,
            ..Token::default()
        };
        let set = vec![
            Item { item: Some(Of::Policy(policy)) },
            Item { item: Some(Of::Token(token)) },
            global_management(),
            anonymous(1),
        ];
        let change = Change { set, ..Change::default() };
        store.apply(5, &Command { call: None, command: Some(command::Command::Acl(change)) });
        store
    }

    fn of_token(token: Token, create: bool) -> Result<Token, String> {
        let item = Item { item: Some(Of::Token(token)) };
        match prepare(&store().state(), item, create, drawn(), false).map_err(|e| e.to_string())?.item {
            Some(Of::Token(token)) => Ok(token),
            _ => Err("no token".into()),
        }
    }

    /// Asked of Consul 1.8.7.
    #[test]
    fn tokens_are_refused_in_consuls_words() {
        let link = |name: &str| vec![Link { name: name.into(), ..Link::default() }];
        let existing = "22222222-1111-1111-1111-111111111111";
        let t = Token::default;
        for (token, create, text) in [
            (Token { policies: link("nope"), ..t() }, true, "No such ACL policy with name \"nope\""),
            (Token { policies: link(""), ..t() }, true, "No such ACL policy with name \"\""),
            (Token { roles: link("nope"), ..t() }, true, "No such ACL role with name \"nope\""),
            (
                Token { expiration_ttl_ns: 1_000_000_000, ..t() },
                true,
                "ExpirationTime cannot be less than 1m0s in the future (was 1s)",
            ),
            (
                Token { expiration_ttl_ns: 172_800_000_000_000, ..t() },
                true,
                "ExpirationTime cannot be more than 24h0m0s in the future (was 48h0m0s)",
            ),
            (
                Token { expiration_ttl_ns: 3_600_000_000_000, expiration_time_ms: 9, ..t() },
                true,
                "Token Expiration TTL and Expiration Time cannot both be set",
            ),
            (Token { accessor_id: existing.into(), ..t() }, true, "Invalid Token: AccessorID is already in use"),
            (
                Token { secret_id: "33333333-1111-1111-1111-111111111111".into(), ..t() },
                true,
                "Invalid Token: SecretID is already in use",
            ),
            (
                Token { secret_id: "00000000-0000-0000-0000-000000000009".into(), ..t() },
                true,
                "Invalid Token: UUIDs with the prefix \"00000000-0000-0000-0000-0000000000\" are reserved",
            ),
            (Token { secret_id: "nouuid".into(), ..t() }, true, "Invalid Token: SecretID is not a valid UUID"),
            (
                Token { accessor_id: existing.into(), ..t() },
                false,
                "cannot toggle local mode of 22222222-1111-1111-1111-111111111111",
            ),
            (
                Token {
                    accessor_id: existing.into(),
                    local: true,
                    secret_id: "44444444-1111-1111-1111-111111111111".into(),
                    ..t()
                },
                false,
                "Changing a tokens SecretID is not permitted",
            ),
            (
                Token { accessor_id: existing.into(), local: true, expiration_time_ms: 7, ..t() },
                false,
                "Cannot change expiration time of 22222222-1111-1111-1111-111111111111",
            ),
            (
                Token { accessor_id: existing.into(), local: true, auth_method: "x".into(), ..t() },
                false,
                "Cannot change AuthMethod of 22222222-1111-1111-1111-111111111111",
            ),
            (
                Token {
                    local: true,
                    service_identities: vec![ServiceIdentity {
                        service_name: "web".into(),
                        datacenters: vec!["dc1".into()],
                    }],
                    ..t()
                },
                true,
                "Service identity \"web\" cannot specify a list of datacenters on a local token",
            ),
        ] {
            assert_eq!(of_token(token.clone(), create), Err(text.to_owned()), "{token:?}");
        }
        let made = of_token(Token { policies: link("KV"), expiration_ttl_ns: 3_600_000_000_000, ..t() }, true).unwrap();
        assert_eq!((made.accessor_id, made.secret_id), (drawn().id, drawn().secret));
        assert_eq!(made.policies[0].id, "11111111-1111-1111-1111-111111111111");
        assert_eq!((made.expiration_time_ms, made.expiration_ttl_ns), (1_000_003_600_000, 0));
        let kept = of_token(Token { accessor_id: existing.into(), local: true, ..t() }, false).unwrap();
        assert_eq!(kept.secret_id, "33333333-1111-1111-1111-111111111111");
    }

    #[test]
    fn policies_and_roles_are_refused_in_consuls_words() {
        let state = store().state();
        let of = |item, create| {
            prepare(&state, Item { item: Some(item) }, create, drawn(), false).map_err(|e| e.to_string())
        };
        let policy = |id: &str, name: &str, rules: &str| {
            Of::Policy(Policy { id: id.into(), name: name.into(), rules: rules.into(), ..Policy::default() })
        };
        for (item, create, text) in [
            (policy("", "", ""), true, "Invalid Policy: no Name is set"),
            (
                policy("", "bad name", ""),
                true,
                "Invalid Policy: invalid Name. Only alphanumeric characters, '-' and '_' are allowed",
            ),
            (
                policy("11111111-1111-1111-1111-111111111112", "z", ""),
                false,
                "cannot find policy 11111111-1111-1111-1111-111111111112",
            ),
            (
                policy(GLOBAL_MANAGEMENT_ID, "gm", ""),
                false,
                "Changing the Rules for the builtin global-management policy is not permitted",
            ),
            (Of::Role(Role::default()), true, "Invalid Role: no Name is set"),
            (
                Of::Role(Role {
                    name: "r".into(),
                    service_identities: vec![ServiceIdentity::default()],
                    ..Role::default()
                }),
                true,
                "Service identity is missing the service name field on this role",
            ),
            (
                Of::Role(Role {
                    name: "r".into(),
                    service_identities: vec![ServiceIdentity { service_name: "WEB!".into(), datacenters: vec![] }],
                    ..Role::default()
                }),
                true,
                "Service identity \"WEB!\" has an invalid name. Only alphanumeric characters, '-' and '_' are allowed",
            ),
            (
                Of::Role(Role {
                    name: "r".into(),
                    node_identities: vec![NodeIdentity { node_name: "n1".into(), ..NodeIdentity::default() }],
                    ..Role::default()
                }),
                true,
                "Node identity is missing the datacenter field on this role",
            ),
        ] {
            assert_eq!(of(item.clone(), create), Err(text.to_owned()), "{item:?}");
        }
        assert!(of(policy("", "x", "key \"\" { policy = \"reed\" }"), true).is_err());
        assert!(of(policy(GLOBAL_MANAGEMENT_ID, "all", GLOBAL_MANAGEMENT), false).is_ok());
    }

    #[test]
    fn deletions() {
        let text = |kind, id| may_delete(kind, id, "22222222-1111-1111-1111-111111111111").map_err(|e| e.to_string());
        assert!(text(Kind::Token, ANONYMOUS).is_err() && text(Kind::Policy, GLOBAL_MANAGEMENT_ID).is_err());
        assert!(text(Kind::Token, "22222222-1111-1111-1111-111111111111").unwrap_err().contains("authorization token"));
        assert!(
            text(Kind::Token, "x").is_err() && text(Kind::Role, "x").is_err() && text(Kind::Unspecified, "x").is_err()
        );
        assert_eq!(text(Kind::Token, "22222222-1111-1111-1111-111111111112"), Ok(()));
    }

    #[test]
    fn copies_follow_the_primary_and_local_tokens_stay() {
        let state = store().state();
        let all = |state: &State| [Kind::Token, Kind::Policy, Kind::Role].map(|kind| state.acls(kind).0).concat();
        let theirs = vec![global_management(), management("a".into(), "s".into(), "m", 1)];
        let (gone, set) = changes("dc1", &all(&state), &theirs);
        let gone: Vec<_> = gone.iter().map(|of| of.id.as_str()).collect();
        assert_eq!(gone, [ANONYMOUS, "11111111-1111-1111-1111-111111111111"], "not the local token");
        assert_eq!(set.len(), 2, "the policy has another origin now");
        assert!(matches!(&set[0].item, Some(Of::Policy(policy)) if policy.origin == "dc1"));
        let other = Store::new();
        let change = Change { set, copied: true, ..Change::default() };
        other.apply(5, &Command { call: None, command: Some(command::Command::Acl(change)) });
        assert_eq!(changes("dc1", &all(&other.state()), &theirs), (vec![], vec![]));
        // What is local to the primary never comes.
        let mut local = management("l".into(), "t".into(), "", 1);
        if let Some(Of::Token(token)) = &mut local.item {
            token.local = true;
        }
        assert_eq!(changes("dc1", &all(&other.state()), &[theirs, vec![local]].concat()), (vec![], vec![]));
    }
}
