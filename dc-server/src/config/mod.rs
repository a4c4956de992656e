//! Config entries: which there are, what they may say, and how a datacenter copies those of its primary.
//!
//! `primary_datacenter` is the authority: writes are handed on to it, the leaders of the others follow it and go on with what
//! they have when they are cut off. Where it is not set, each datacenter has its own.

pub(crate) mod driver;

use std::sync::Arc;

use causeway_proto::command::{Command, command};
use causeway_proto::config::{ApplyRequest, Entry, Verb};
use causeway_proto::{kinds, name};

use crate::query::validate::nanoseconds;
use crate::store::same_config;

/// Most datacenters in one entry.
const MOST_DATACENTERS: usize = 64;
/// Longest name of an entry, bytes.
const MOST_NAME: usize = 256;

/// Why an entry is refused. Texts are Consul's where it has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such kind.
    #[error("invalid config entry kind: {0}")]
    Kind(String),
    /// No name.
    #[error("Name is required")]
    NoName,
    /// A name that is too long.
    #[error("Name is longer than 256 bytes")]
    LongName,
    /// A failover to nowhere.
    #[error("Bad Failover[\"*\"] one of Datacenters or Nearest is required")]
    Nowhere,
    /// A datacenter that cannot be one.
    #[error("Bad Failover[\"*\"].Datacenters: {0}")]
    Datacenter(name::NameError),
    /// Too many.
    #[error("Bad Failover[\"*\"].Datacenters: {0} of them; 64 are allowed")]
    Many(usize),
    /// Not a duration, or a negative one.
    #[error("Bad {field}: {text:?} is not a duration of 0s or more; write it as \"10s\", \"500ms\" or \"1h30m\"")]
    Duration {
        /// Which field.
        field: &'static str,
        /// What it said.
        text: String,
    },
}

/// Checks what an entry says.
pub fn check(entry: &Entry) -> Result<(), ConfigError> {
    check_kind(&entry.kind)?;
    match entry.name.len() {
        0 => return Err(ConfigError::NoName),
        n if n > MOST_NAME => return Err(ConfigError::LongName),
        _ => {}
    }
    let Some(resolver) = &entry.resolver else { return Ok(()) };
    for (field, text) in [("Hysteresis", &resolver.hysteresis), ("ConnectTimeout", &resolver.connect_timeout)] {
        if !text.is_empty() && nanoseconds(text).is_none() {
            return Err(ConfigError::Duration { field, text: text.clone() });
        }
    }
    let Some(failover) = &resolver.failover else { return Ok(()) };
    if failover.datacenters.is_empty() && !failover.nearest {
        return Err(ConfigError::Nowhere);
    }
    if failover.datacenters.len() > MOST_DATACENTERS {
        return Err(ConfigError::Many(failover.datacenters.len()));
    }
    for dc in &failover.datacenters {
        name::own_datacenter(dc).map_err(ConfigError::Datacenter)?;
    }
    Ok(())
}

/// Whether there is such a kind.
pub fn check_kind(kind: &str) -> Result<(), ConfigError> {
    if kinds::known(kind) { Ok(()) } else { Err(ConfigError::Kind(kind.to_owned())) }
}

fn command(verb: Verb, entry: Entry) -> Command {
    let request = ApplyRequest { verb: verb.into(), entry: Some(entry), ..ApplyRequest::default() };
    Command { call: None, command: Some(command::Command::Config(request)) }
}

fn is(a: &Entry, b: &Entry) -> bool {
    a.kind == b.kind && a.name.to_lowercase() == b.name.to_lowercase()
}

/// What turns our copy into what the primary has. Entries that were written here, before there was a primary, are not the copy's: they
/// stay while the primary has none of that name.
pub(crate) fn changes(primary: &str, ours: &[Arc<Entry>], theirs: &[Entry]) -> Vec<Command> {
    let gone = ours.iter().filter(|our| !our.origin.is_empty() && !theirs.iter().any(|their| is(our, their)));
    let gone = gone.map(|our| command(Verb::Delete, Entry::clone(our)));
    let there = |their: &Entry| ours.iter().any(|our| our.origin == primary && same_config(our, their));
    let new = theirs.iter().filter(|their| !there(their));
    let copy = |their: &Entry| Entry { origin: primary.to_owned(), ..their.clone() };
    gone.chain(new.map(|their| command(Verb::Set, copy(their)))).collect()
}

/// Entries that were written here: those that the primary's replace with others, and those that stay.
pub(crate) fn own<'a>(ours: &'a [Arc<Entry>], theirs: &[Entry]) -> (Vec<&'a Entry>, Vec<&'a Entry>) {
    let own = || ours.iter().map(AsRef::as_ref).filter(|our: &&Entry| our.origin.is_empty());
    let named = |our: &Entry| theirs.iter().find(|their| is(our, their));
    let replaced = own().filter(|our| named(our).is_some_and(|their| !same_config(our, their)));
    (replaced.collect(), own().filter(|our| named(our).is_none()).collect())
}

/// What a configuration file defines and is not there yet: it never replaces what somebody wrote later.
pub(crate) fn missing(ours: &[Arc<Entry>], wanted: &[Entry]) -> Vec<Command> {
    let new = wanted.iter().filter(|entry| !ours.iter().any(|our| is(our, entry)));
    new.map(|entry| {
        let request = ApplyRequest { verb: Verb::Cas.into(), entry: Some(entry.clone()), ..ApplyRequest::default() };
        Command { call: None, command: Some(command::Command::Config(request)) }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use causeway_proto::config::{Failover, ServiceResolver};

    use super::*;

    fn entry(name: &str, dcs: &[&str], nearest: bool) -> Entry {
        let datacenters = dcs.iter().map(|dc| (*dc).to_owned()).collect();
        let resolver =
            ServiceResolver { failover: Some(Failover { datacenters, nearest }), ..ServiceResolver::default() };
        Entry {
            kind: kinds::SERVICE_RESOLVER.into(),
            name: name.into(),
            resolver: Some(resolver),
            create_index: 1,
            modify_index: 1,
            ..Entry::default()
        }
    }

    #[test]
    fn checked() {
        let with = |f: &dyn Fn(&mut Entry)| {
            let mut entry = entry("web", &["dc2"], false);
            f(&mut entry);
            check(&entry).err().map(|e| e.to_string())
        };
        assert_eq!(with(&|_| {}), None);
        assert_eq!(with(&|e| e.name = "*".into()), None);
        assert_eq!(with(&|e| e.resolver = None), None);
        assert_eq!(with(&|e| e.resolver.as_mut().unwrap().hysteresis = "1m".into()), None);
        let refused = |f: &dyn Fn(&mut Entry)| with(f).expect("refused");
        assert_eq!(refused(&|e| e.kind = "nope".into()), "invalid config entry kind: nope");
        assert_eq!(with(&|e| e.kind = "proxy-defaults".into()), None);
        assert_eq!(refused(&|e| e.name.clear()), "Name is required");
        assert!(refused(&|e| e.resolver.as_mut().unwrap().hysteresis = "soon".into()).contains("\"soon\""));
        assert!(refused(&|e| e.resolver.as_mut().unwrap().hysteresis = "-1s".into()).contains("Hysteresis"));
        assert!(refused(&|e| *e = entry("web", &[], false)).contains("Datacenters or Nearest"));
        assert!(refused(&|e| *e = entry("web", &["any"], false)).contains("\"any\""));
        assert!(refused(&|e| *e = entry("web", &["d/c"], false)).contains("d/c"));
    }

    /// Whatever two datacenters hold, the changes make the one's entries those of the other; then there are none.
    #[test]
    fn copies_become_the_same() {
        use rand::{Rng, SeedableRng};
        for seed in 0..200_u64 {
            let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
            let store = crate::store::Store::new();
            let mut some = || -> Vec<Entry> {
                let names = ["a", "b", "c", "d", "*"];
                names
                    .iter()
                    .filter_map(|name| {
                        let dc = format!("dc{}", rng.random_range(2..4));
                        rng.random_bool(0.6).then(|| entry(name, &[&dc], false))
                    })
                    .collect()
            };
            let mut index = 0;
            for _ in 0..4 {
                let theirs = some();
                for command in changes("dc1", &store.state().configs("", "").0, &theirs) {
                    index += 1;
                    assert!(store.apply(index, &command).outcome.done);
                }
                let ours = store.state().configs("", "").0;
                assert_eq!(ours.len(), theirs.len(), "seed {seed}");
                assert_eq!(changes("dc1", &ours, &theirs), [], "seed {seed}");
            }
        }
    }

    /// A site that newly gets a primary: what was written there is not deleted, and what is replaced is known before.
    #[test]
    fn own_entries_stay_where_the_primary_has_none() {
        let store = crate::store::Store::new();
        for (index, own) in
            [entry("web", &["dc3"], false), entry("db", &[], true), entry("same", &[], true)].iter().enumerate()
        {
            store.apply(index as u64 + 1, &command(Verb::Set, own.clone()));
        }
        let names = |all: Vec<&Entry>| all.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
        let ours = || store.state().configs("", "").0;
        let theirs = [entry("web", &["dc2"], false), entry("api", &[], true), entry("Same", &[], true)];
        let before = ours();
        let (replaced, stay) = own(&before, &theirs);
        assert_eq!((names(replaced), names(stay)), (vec!["same".into(), "web".into()], vec!["db".into()]));
        let mut index = 9;
        let mut follow = |theirs: &[Entry]| {
            for command in changes("dc1", &ours(), theirs) {
                index += 1;
                assert!(store.apply(index, &command).outcome.done);
            }
            assert_eq!(changes("dc1", &ours(), theirs), []);
            ours().iter().map(|e| (e.name.clone(), e.origin.clone())).collect::<Vec<_>>()
        };
        let pair = |name: &str, origin: &str| (name.to_owned(), origin.to_owned());
        assert_eq!(follow(&theirs), [pair("api", "dc1"), pair("db", ""), pair("Same", "dc1"), pair("web", "dc1")]);
        // What is a copy goes with what it is of.
        assert_eq!(follow(&theirs[..1]), [pair("db", ""), pair("web", "dc1")]);
        assert_eq!(follow(&[]), [pair("db", "")]);
    }

    #[test]
    fn files_only_add() {
        let ours = [Arc::new(entry("web", &["dc3"], false))];
        let wanted = [entry("WEB", &["dc2"], false), entry("db", &[], true)];
        let commands = missing(&ours, &wanted);
        assert_eq!(commands.len(), 1);
    }
}
