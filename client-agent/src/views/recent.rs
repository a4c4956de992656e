//! What was learned a moment ago and is not worth a stream: names that do not exist, sites that cannot be reached.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A bounded memory of short-lived facts. The oldest fact goes first where it is full.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    facts: HashMap<String, (Instant, V)>,
    order: VecDeque<(Instant, String)>,
    most: usize,
}

impl<V: Clone> Recent<V> {
    /// Remembers at most this many facts.
    pub(crate) fn new(most: usize) -> Self {
        Self { facts: HashMap::new(), order: VecDeque::new(), most: most.max(1) }
    }

    /// Learns a fact that is good until `until`.
    pub(crate) fn learn(&mut self, now: Instant, name: &str, fact: V, keep: Duration) {
        let until = now + keep;
        while let Some((end, _)) = self.order.front()
            && (*end <= now || self.order.len() >= self.most)
        {
            if let Some((end, name)) = self.order.pop_front()
                && self.facts.get(&name).is_some_and(|(until, _)| *until == end)
            {
                self.facts.remove(&name);
            }
        }
        self.facts.insert(name.to_owned(), (until, fact));
        self.order.push_back((until, name.to_owned()));
    }

    /// The fact, while it is good.
    pub(crate) fn get(&self, now: Instant, name: &str) -> Option<V> {
        self.facts.get(name).filter(|(until, _)| *until > now).map(|(_, fact)| fact.clone())
    }

    /// How many facts take up memory.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.facts.len().max(self.order.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test's clock")]
    use super::*;

    #[test]
    fn facts_end_and_are_bounded() {
        let t = Instant::now();
        let mut recent = Recent::new(3);
        recent.learn(t, "a", 1, Duration::from_millis(250));
        assert_eq!(recent.get(t, "a"), Some(1));
        assert_eq!(recent.get(t + Duration::from_millis(250), "a"), None);
        for i in 0..1000 {
            recent.learn(t, &format!("n{i}"), i, Duration::from_secs(1));
            assert!(recent.len() <= 3);
        }
        assert_eq!(recent.get(t, "n999"), Some(999));
        assert_eq!(recent.get(t, "n0"), None);
    }

    #[test]
    fn learning_again_prolongs() {
        let t = Instant::now();
        let mut recent = Recent::new(8);
        recent.learn(t, "a", 1, Duration::from_secs(1));
        recent.learn(t + Duration::from_millis(900), "a", 2, Duration::from_secs(1));
        recent.learn(t + Duration::from_millis(1100), "b", 2, Duration::from_secs(1));
        assert_eq!(recent.get(t + Duration::from_millis(1500), "a"), Some(2));
    }
}
