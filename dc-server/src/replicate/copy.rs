//! What makes a copy equal to its source, and when to try again. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::kv::Entry;
use causeway_proto::txn::{KvOp, Op, TxnRequest, op};

use super::Job;
use crate::rpc::{MAX_KEY, MAX_TXN_OPS};

/// Bytes of values in one transaction, unless one value alone is larger.
const BATCH: usize = 256 << 10;
/// First pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// What is to be written.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Transactions, in order.
    pub batches: Vec<TxnRequest>,
    /// Keys set.
    pub set: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// Keys that are too long here.
    pub skipped: u64,
}

/// What turns the local entries under the target into those of the source. An equal value is not written again; what is gone at the
/// source is deleted. Locks are local to a site and are not copied.
pub fn changes(job: &Job, source: &[Entry], local: &[Arc<Entry>]) -> Changes {
    let mut gone: BTreeMap<&str, &Entry> = local.iter().map(|e| (e.key.as_str(), e.as_ref())).collect();
    let mut out = Changes::default();
    let mut batch = TxnRequest::default();
    let mut bytes = 0;
    let mut push = |batches: &mut Vec<TxnRequest>, verb: &str, entry: Entry| {
        let more = entry.key.len() + entry.value.len();
        if batch.ops.len() >= MAX_TXN_OPS || (bytes + more > BATCH && !batch.ops.is_empty()) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += more;
        batch.ops.push(Op { op: Some(op::Op::Kv(KvOp { verb: verb.to_owned(), entry: Some(entry) })) });
    };
    for entry in source {
        // What the source should not have sent is not ours to write.
        let Some(rest) = entry.key.strip_prefix(job.source.as_str()) else { continue };
        let key = format!("{}{rest}", job.target);
        if key.is_empty() || key.len() > MAX_KEY {
            out.skipped += 1;
            continue;
        }
        let old = gone.remove(key.as_str());
        if old.is_some_and(|old| old.value == entry.value && old.flags == entry.flags) {
            continue;
        }
        out.set += 1;
        push(
            &mut out.batches,
            "set",
            Entry { key, value: entry.value.clone(), flags: entry.flags, ..Entry::default() },
        );
    }
    for key in gone.into_keys() {
        out.deleted += 1;
        push(&mut out.batches, "delete", Entry { key: key.to_owned(), ..Entry::default() });
    }
    if !batch.ops.is_empty() {
        out.batches.push(batch);
    }
    out
}

/// The pause after so many failures in a row; `chance` (0..1) spreads it.
pub fn pause(failures: u32, chance: f64) -> Duration {
    let most = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST);
    most.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn job() -> Job {
        Job { from: "dc2".into(), source: "shared/".into(), target: "copy/".into() }
    }

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.into(), value: value.as_bytes().to_vec(), ..Entry::default() }
    }

    fn verbs(changes: &Changes) -> Vec<String> {
        let ops = changes.batches.iter().flat_map(|b| &b.ops);
        ops.map(|op| match &op.op {
            Some(op::Op::Kv(kv)) => format!("{} {}", kv.verb, kv.entry.as_ref().map_or("", |e| e.key.as_str())),
            _ => "?".into(),
        })
        .collect()
    }

    #[test]
    fn equal_values_are_not_written_and_what_is_gone_is_deleted() {
        let source = [entry("shared/a", "1"), entry("shared/b", "2"), entry("other", "x")];
        let local = [entry("copy/a", "1"), entry("copy/b", "old"), entry("copy/c", "3")].map(Arc::new);
        let changes = changes(&job(), &source, &local);
        assert_eq!(verbs(&changes), ["set copy/b", "delete copy/c"]);
        assert_eq!((changes.set, changes.deleted, changes.skipped), (1, 1, 0));
    }

    #[test]
    fn batches_are_bounded_and_long_keys_left_out() {
        let source: Vec<_> = (0..200).map(|i| entry(&format!("shared/{i:03}"), "v")).collect();
        let got = changes(&job(), &source, &[]);
        assert_eq!(got.batches.iter().map(|b| b.ops.len()).collect::<Vec<_>>(), [64, 64, 64, 8]);
        let large: Vec<_> = (0..3).map(|i| entry(&format!("shared/{i}"), &"v".repeat(200 << 10))).collect();
        assert_eq!(changes(&job(), &large, &[]).batches.len(), 3);
        let long = [entry(&format!("shared/{}", "k".repeat(MAX_KEY)), "v")];
        assert_eq!(changes(&job(), &long, &[]), Changes { skipped: 1, ..Changes::default() });
    }

    /// Whatever both sides hold, applying the changes makes them equal, and then there are none.
    #[test]
    fn a_copy_becomes_its_source() {
        let seed = 5;
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..200 {
            let mut side = |prefix: &str| -> BTreeMap<String, Entry> {
                let keys = (0..12).filter(|_| rng.random()).collect::<Vec<u32>>();
                keys.into_iter()
                    .map(|k| {
                        (format!("{prefix}{k}"), entry(&format!("{prefix}{k}"), ["x", "y"][rng.random_range(0..2)]))
                    })
                    .collect()
            };
            let (source, mut local) = (side("shared/"), side("copy/"));
            let source: Vec<Entry> = source.into_values().collect();
            let arcs = |local: &BTreeMap<String, Entry>| local.values().cloned().map(Arc::new).collect::<Vec<_>>();
            for op in changes(&job(), &source, &arcs(&local)).batches.into_iter().flat_map(|b| b.ops) {
                let Some(op::Op::Kv(KvOp { verb, entry: Some(entry) })) = op.op else { panic!("no KV") };
                if verb == "set" {
                    local.insert(entry.key.clone(), entry)
                } else {
                    local.remove(&entry.key)
                };
            }
            let want: Vec<_> = source.iter().map(|e| (e.key.replace("shared/", "copy/"), e.value.clone())).collect();
            let got: Vec<_> = local.values().map(|e| (e.key.clone(), e.value.clone())).collect();
            assert!(want.iter().all(|w| got.contains(w)) && want.len() == got.len(), "seed {seed} round {round}");
            assert_eq!(changes(&job(), &source, &arcs(&local)), Changes::default());
        }
    }

    #[test]
    fn pauses_grow_are_spread_and_bounded() {
        assert_eq!(pause(1, 1.0), PAUSE);
        assert_eq!(pause(1, 0.0), PAUSE / 2);
        assert!(pause(3, 0.5) > pause(1, 1.0));
        assert_eq!(pause(u32::MAX, 1.0), LONGEST);
    }
}
