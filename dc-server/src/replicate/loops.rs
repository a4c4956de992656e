//! Whether a copy would come back to where it was taken from. Pure.
//!
//! Each site tells what it copies. From a job's source the ways are followed backwards, over as many sites as there are: what feeds
//! this prefix there, and what feeds that. Where the way arrives at the job itself, every change would travel for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::Job;

/// What is known of the ways behind a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// This datacenter must be asked first.
    Ask(String),
    /// A loop: the datacenters that a change passes, this one first and last.
    Loop(Vec<String>),
    /// None.
    Clear,
}

/// Whether one of two prefixes begins with the other.
pub fn overlap(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// Follows the ways behind `job` of datacenter `own`, whose jobs are `jobs`; `known`: the jobs of the others.
pub fn trace(own: &str, job: &Job, jobs: &[Job], known: &BTreeMap<String, Vec<Job>>) -> Trace {
    let mut seen = BTreeSet::new();
    let mut open = vec![(job.from.clone(), job.source.clone(), vec![own.to_owned(), job.from.clone()])];
    while let Some((dc, prefix, path)) = open.pop() {
        let there = if dc == own {
            jobs
        } else {
            match known.get(&dc) {
                Some(jobs) => jobs,
                None => return Trace::Ask(dc),
            }
        };
        for feeder in there.iter().filter(|feeder| overlap(&feeder.target, &prefix)) {
            if dc == own && feeder == job {
                return Trace::Loop(path);
            }
            // The narrower of the two, as it is called at the feeder's source.
            let rest = prefix.strip_prefix(feeder.target.as_str()).unwrap_or_default();
            let next = format!("{}{rest}", feeder.source);
            if seen.insert((dc.clone(), feeder.clone(), next.clone())) && seen.len() < 1024 {
                let mut path = path.clone();
                path.push(feeder.from.clone());
                open.push((feeder.from.clone(), next, path));
            }
        }
    }
    Trace::Clear
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(from: &str, source: &str, target: &str) -> Job {
        Job { from: from.into(), source: source.into(), target: target.into() }
    }

    fn known(all: &[(&str, &[Job])]) -> BTreeMap<String, Vec<Job>> {
        all.iter().map(|(dc, jobs)| ((*dc).to_owned(), jobs.to_vec())).collect()
    }

    fn of(mine: &Job, others: &[(&str, &[Job])]) -> Trace {
        trace("dc1", mine, std::slice::from_ref(mine), &known(others))
    }

    #[test]
    fn there_and_back_is_a_loop_overlapping_or_not() {
        let mine = job("dc2", "p/", "p/");
        let path = Trace::Loop(vec!["dc1".into(), "dc2".into(), "dc1".into()]);
        assert_eq!(of(&mine, &[("dc2", &[job("dc1", "p/", "p/")])]), path);
        assert_eq!(of(&mine, &[("dc2", &[job("dc1", "p/a/", "p/a/")])]), path, "a part of it");
        assert_eq!(of(&mine, &[("dc2", &[job("dc1", "", "")])]), path, "the whole that holds it");
        assert_eq!(of(&mine, &[("dc2", &[job("dc1", "q/", "q/")])]), Trace::Clear);
        assert_eq!(of(&mine, &[("dc2", &[job("dc1", "other/", "p/x/")])]), Trace::Clear, "from another prefix of ours");
        assert_eq!(of(&mine, &[("dc2", &[job("dc3", "p/", "p/")]), ("dc3", &[])]), Trace::Clear, "a chain");
        assert_eq!(of(&mine, &[]), Trace::Ask("dc2".into()));
    }

    #[test]
    fn loops_over_many_sites_and_other_names_are_found() {
        let mine = job("dc2", "a/", "b/");
        let others: &[(&str, &[Job])] = &[("dc2", &[job("dc3", "c/", "a/")]), ("dc3", &[job("dc1", "b/", "c/")])];
        assert!(matches!(of(&mine, others), Trace::Loop(path) if path.len() == 4));
        assert_eq!(of(&mine, &others[..1]), Trace::Ask("dc3".into()));
        // What dc3 takes from us is not what we copy.
        assert_eq!(of(&mine, &[others[0], ("dc3", &[job("dc1", "x/", "c/")])]), Trace::Clear);
    }

    #[test]
    fn narrow_ways_through_wide_jobs_are_followed_by_name() {
        // We copy p/x/ from dc2, which copies all of p/ from q/ of ours: the keys meet only if what we write is below q/x/.
        let wide: &[(&str, &[Job])] = &[("dc2", &[job("dc1", "q/", "p/")])];
        assert_eq!(of(&job("dc2", "p/x/", "q/y/"), wide), Trace::Clear);
        assert!(matches!(of(&job("dc2", "p/x/", "q/x/"), wide), Trace::Loop(_)));
    }

    /// A loop among others that does not pass this site does not end in searching for ever, and is not ours.
    #[test]
    fn a_loop_elsewhere_ends() {
        let mine = job("dc2", "p/", "p/");
        let others: &[(&str, &[Job])] = &[("dc2", &[job("dc3", "p/", "p/")]), ("dc3", &[job("dc2", "p/", "p/")])];
        assert_eq!(of(&mine, others), Trace::Clear);
        let growing: &[(&str, &[Job])] = &[("dc2", &[job("dc3", "p/p/", "p/")]), ("dc3", &[job("dc2", "p/", "p/")])];
        assert_eq!(of(&mine, growing), Trace::Clear);
    }
}
