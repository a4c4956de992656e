//! How far a watch has come: which answers are new, and when to ask again. Pure.

use std::time::Duration;

use serde_json::Value;

use super::{Kind, Watch};

/// The wait after a first failure; it grows with the square of their number.
const RETRY: Duration = Duration::from_secs(5);
/// The longest wait after a failure.
const RETRY_MOST: Duration = Duration::from_secs(180);

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Progress {
    index: Option<u64>,
    last: Value,
    /// The newest event that was handed on.
    event: String,
    failures: u32,
}

impl Progress {
    /// The index to ask with.
    pub fn index(&self) -> u64 {
        self.index.unwrap_or(0)
    }

    /// Takes an answer; gives what the handler shall have, where it is new. The first always is.
    pub fn answered(&mut self, watch: &Watch, index: u64, mut data: Value) -> Option<Value> {
        self.failures = 0;
        if self.index == Some(index) {
            return None;
        }
        let first = self.index.is_none();
        // Behind what we knew: another log (a restore), so it is asked for at once and in full. An event's index has no order.
        let back = self.index.is_some_and(|before| index < before) && !matches!(watch.kind, Kind::Event(_));
        self.index = Some(if back { 0 } else { index });
        if let (Kind::Event(_), Value::Array(events)) = (&watch.kind, &mut data) {
            let id = |event: &Value| event.get("ID").and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Some(at) = events.iter().rposition(|event| id(event) == self.event) {
                events.drain(..=at);
            }
            match events.last() {
                Some(newest) => self.event = id(newest),
                None if !first => return None,
                None => {}
            }
        }
        if !first && self.last == data {
            return None;
        }
        self.last.clone_from(&data);
        Some(data)
    }

    /// Takes a failure; gives the time to wait. What is asked for then is asked for in full.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.index = self.index.map(|_| 0);
        RETRY.saturating_mul(self.failures.saturating_mul(self.failures)).min(RETRY_MOST)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn watch(value: &Value) -> Watch {
        Watch::parse(value.as_object().unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_new_is_handed_on() {
        let watch = watch(&json!({"type":"key","key":"a"}));
        let mut progress = Progress::default();
        for (index, data, new) in [
            (5, Value::Null, true),
            (5, Value::Null, false),
            (6, Value::Null, false),
            (7, json!({"Value":"x"}), true),
            (7, json!({"Value":"y"}), false),
            (9, json!({"Value":"x"}), false),
            (10, Value::Null, true),
        ] {
            assert_eq!(progress.answered(&watch, index, data.clone()), new.then_some(data), "{index}");
            assert_eq!(progress.index(), index);
        }
        assert_eq!(progress.answered(&watch, 3, json!(1)), Some(json!(1)));
        assert_eq!(progress.index(), 0, "an index that goes back is asked for in full");
        assert_eq!(progress.answered(&watch, 3, json!(1)), None);
    }

    #[test]
    fn each_event_is_handed_on_once() {
        let watch = watch(&json!({"type":"event"}));
        let mut progress = Progress::default();
        let list = |ids: &[&str]| Value::Array(ids.iter().map(|id| json!({"ID":id})).collect());
        assert_eq!(progress.answered(&watch, 1, list(&[])), Some(list(&[])));
        assert_eq!(progress.answered(&watch, 90, list(&["a"])), Some(list(&["a"])));
        assert_eq!(progress.answered(&watch, 70, list(&["a", "b", "c"])), Some(list(&["b", "c"])));
        assert_eq!(progress.index(), 70, "an event's index has no order");
        assert_eq!(progress.answered(&watch, 70, list(&["a", "b", "c"])), None);
        assert_eq!(progress.answered(&watch, 80, list(&["x", "y"])), Some(list(&["x", "y"])), "so many that c is gone");
    }

    #[test]
    fn failures_are_asked_again_later_and_later() {
        let mut progress = Progress::default();
        let waits: Vec<u64> = (0..7).map(|_| progress.failed().as_secs()).collect();
        assert_eq!(waits, [5, 20, 45, 80, 125, 180, 180]);
        let watch = watch(&json!({"type":"nodes"}));
        assert_eq!(progress.answered(&watch, 4, json!([])), Some(json!([])));
        assert_eq!(progress.failed(), RETRY);
        assert_eq!(
            (progress.index(), progress.answered(&watch, 4, json!([]))),
            (0, None),
            "the same is not handed on again"
        );
    }
}
