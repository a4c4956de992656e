//! What turns our copy of another datacenter's prepared queries into what it has. Pure.
//!
//! A copy has the ID that it has there, and no session: it goes when it goes there. What was written here goes before it: where a name
//! is taken, nothing is copied, and a copy makes room for one that is written here.

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_proto::command::{Command, command};
use causeway_proto::query::{ApplyRequest, PreparedQuery, Verb};

use crate::store::fold;
use crate::store::query::is_template;

fn command(verb: Verb, query: PreparedQuery) -> Command {
    let request = ApplyRequest { verb: verb.into(), query: Some(query) };
    Command { call: None, command: Some(command::Command::Query(request)) }
}

fn is_copy(query: &PreparedQuery) -> bool {
    !query.origin.is_empty()
}

/// The name that is taken; `None`: it is found by its ID alone.
fn name(query: &PreparedQuery) -> Option<Arc<str>> {
    (!query.name.is_empty() || is_template(query)).then(|| fold(&query.name))
}

/// The changes, deletions first, so that names are free.
pub(crate) fn changes(primary: &str, ours: &[Arc<PreparedQuery>], theirs: &[PreparedQuery]) -> Vec<Command> {
    let own = || ours.iter().filter(|query| !is_copy(query));
    let (ids, names): (BTreeSet<&str>, BTreeSet<_>) =
        (own().map(|q| q.id.as_str()).collect(), own().filter_map(|q| name(q)).collect());
    // A copy of a copy would outlive what it is of in a circle.
    let theirs = theirs.iter().filter(|their| !is_copy(their) && !their.id.is_empty());
    let free =
        theirs.filter(|their| !ids.contains(their.id.as_str()) && name(their).is_none_or(|n| !names.contains(&n)));
    let wanted: Vec<PreparedQuery> = free
        .map(|their| PreparedQuery {
            origin: primary.to_owned(),
            session: String::new(),
            create_index: 0,
            modify_index: 0,
            ..their.clone()
        })
        .collect();
    let same = |our: &PreparedQuery, want: &PreparedQuery| {
        *want == PreparedQuery { create_index: 0, modify_index: 0, ..our.clone() }
    };
    let copies = || ours.iter().filter(|query| is_copy(query));
    // One that took another's name must go first, or the two stand in each other's way.
    let stays = |our: &PreparedQuery| wanted.iter().any(|want| want.id == our.id && name(want) == name(our));
    let gone = copies().filter(|our| !stays(our)).map(|our| command(Verb::Delete, PreparedQuery::clone(our)));
    let new = wanted.iter().filter(|want| !copies().any(|our| same(our, want)));
    gone.chain(new.map(|want| command(Verb::Create, want.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::store::Store;

    fn query(id: u32, name: &str, ttl: &str) -> PreparedQuery {
        let id = format!("{id:08}-0000-0000-0000-000000000000");
        PreparedQuery { id, name: name.into(), dns_ttl: ttl.into(), ..PreparedQuery::default() }
    }

    /// Whatever is written at both ends, the copy is what the primary has, less the names that are taken here; nothing written here is
    /// touched.
    #[test]
    fn copies_become_the_same_and_own_ones_win() {
        for seed in 0..200_u64 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (here, there) = (Store::new(), Store::new());
            let mut index = 0;
            for _ in 0..30 {
                let name = ["a", "A", "b", "c", "", "d"][rng.random_range(0..6)];
                let (store, id) = if rng.random_bool(0.3) { (&here, 100) } else { (&there, 0) };
                let query = query(id + rng.random_range(0..6), name, ["1s", "2s"][rng.random_range(0..2)]);
                let verb = if rng.random_bool(0.3) { Verb::Delete } else { Verb::Create };
                index += 1;
                // Some are refused.
                let refused = !store.apply(index, &command(verb, query.clone())).outcome.error.is_empty();
                let own = |q: &PreparedQuery| !is_copy(q);
                if !refused && verb == Verb::Create {
                    assert!(store.state().queries().0.iter().any(|q| own(q) && q.id == query.id), "seed {seed}");
                }
                if rng.random_bool(0.6) {
                    continue;
                }
                let theirs: Vec<_> = there.state().queries().0.iter().map(|q| PreparedQuery::clone(q)).collect();
                let before: Vec<_> = here.state().queries().0.into_iter().filter(|q| own(q)).collect();
                for command in changes("dc1", &here.state().queries().0, &theirs) {
                    index += 1;
                    let outcome = here.apply(index, &command).outcome;
                    assert_eq!(outcome.error, "", "seed {seed}: {command:?}");
                }
                let all = here.state().queries().0;
                assert_eq!(changes("dc1", &all, &theirs), [], "seed {seed}");
                let after: Vec<_> = all.iter().filter(|q| own(q)).cloned().collect();
                assert_eq!(after, before, "seed {seed}");
                for their in &theirs {
                    let found = here.state().resolve_query(if their.name.is_empty() { &their.id } else { &their.name });
                    let found = found.unwrap_or_else(|| panic!("seed {seed}: {their:?} is not found"));
                    assert!(own(&found) || found.dns_ttl == their.dns_ttl, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn names_that_change_hands() {
        let store = Store::new();
        let mut index = 0;
        let mut follow = |theirs: &[PreparedQuery]| {
            for command in changes("dc1", &store.state().queries().0, theirs) {
                index += 1;
                assert_eq!(store.apply(index, &command).outcome.error, "");
            }
            store.state().queries().0.iter().map(|q| (q.name.clone(), q.dns_ttl.clone())).collect::<Vec<_>>()
        };
        let pair = |name: &str, ttl: &str| (name.to_owned(), ttl.to_owned());
        follow(&[query(1, "a", "1s"), query(2, "b", "2s")]);
        assert_eq!(follow(&[query(1, "b", "1s"), query(2, "a", "2s")]), [pair("b", "1s"), pair("a", "2s")]);
        // What another datacenter copied is not copied on.
        assert_eq!(follow(&[PreparedQuery { origin: "dc3".into(), ..query(3, "c", "") }]), []);
    }
}
