//! What a blocking reader may be told: indexes that never go back, each once, one value each. That nothing is lost is for whoever writes
//! last to look at: each reader has to come to it.

use std::collections::BTreeMap;

use super::search::Time;
use super::stale::Index;

/// One answer to a blocking reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The server that was asked, and which of its lives.
    pub server: (usize, usize),
    pub start: Time,
    pub end: Time,
    /// How long it was to wait, by a clock that may have jumped.
    pub wait: Time,
    /// The index that the reader had.
    pub had: Index,
    /// The index it was told.
    pub index: Index,
    /// What was read; each write writes another.
    pub value: String,
}

/// Judges what one reader was told. `stale`: of a server's own state, which begins anew with the server. `values`: what is known of each
/// index, from all readers of the same.
pub fn check(told: &[Told], stale: bool, values: &mut BTreeMap<Index, String>) -> Result<(), String> {
    let mut before: Option<&Told> = None;
    for answer in told {
        if let Some(before) = before.filter(|b| !stale || b.server == answer.server) {
            if answer.index < before.index {
                return Err(format!("the index went backwards: {before:?}, then {answer:?}"));
            }
            if answer.index == before.index && answer.value != before.value {
                return Err(format!("one index, two values: {before:?}, then {answer:?}"));
            }
        }
        if answer.had == answer.index && answer.had > 0 && answer.end - answer.start < answer.wait / 2 {
            return Err(format!("told twice, before its time was over: {answer:?}"));
        }
        let known = values.entry(answer.index).or_insert_with(|| answer.value.clone());
        if *known != answer.value {
            return Err(format!("another was told {known:?} of this index: {answer:?}"));
        }
        before = Some(answer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(start: Time, end: Time, had: Index, index: Index, value: &str) -> Told {
        Told { server: (1, 1), start, end, wait: 100, had, index, value: value.to_owned() }
    }

    fn judge(told: &[Told], stale: bool) -> Result<(), String> {
        check(told, stale, &mut BTreeMap::new())
    }

    #[test]
    fn good_and_bad() {
        let good = [told(0, 1, 0, 5, "a"), told(1, 30, 5, 7, "b"), told(30, 140, 7, 7, "b"), told(140, 150, 7, 9, "c")];
        judge(&good, false).unwrap();
        judge(&[good[0].clone(), told(1, 30, 5, 4, "z")], false).unwrap_err();
        judge(&[good[0].clone(), told(1, 30, 5, 5, "a")], false).unwrap_err();
        judge(&[told(0, 1, 0, 5, "a"), told(1, 2, 0, 5, "b")], false).unwrap_err();
        check(&good[..1], false, &mut [(5, "b".to_owned())].into()).unwrap_err();
    }

    #[test]
    fn a_server_that_began_anew_may_know_less() {
        let anew = Told { server: (1, 2), ..told(2, 3, 5, 4, "z") };
        let seen = [told(0, 1, 0, 5, "a"), anew];
        judge(&seen, true).unwrap();
        judge(&seen, false).unwrap_err();
    }
}
