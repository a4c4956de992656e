//! Network coordinates of nodes, and lists sorted by them.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::coordinate::{Batch, Coordinate, NodeCoordinate};
use causeway_proto::vivaldi;
use imbl::OrdMap;

use super::state::{Name, State, Writer, fold};

/// The coordinates of a node by segment. All but the empty one are written by tools.
pub(super) type Set = OrdMap<Name, Arc<NodeCoordinate>>;

/// The two coordinates of one space by which two nodes are compared. Who has a single one is compared by that, as in Consul.
fn common<'a>(a: &'a Set, b: &'a Set) -> Option<(&'a Coordinate, &'a Coordinate)> {
    let only = |set: &'a Set| set.keys().next().filter(|_| set.len() == 1);
    let segment = only(a).or_else(|| only(b)).map_or("", |name| &**name);
    let of = |set: &'a Set| set.get(segment).and_then(|node| node.coord.as_ref());
    Some((of(a)?, of(b)?))
}

impl State {
    /// Every coordinate, by node and segment, and the index of the table.
    pub fn coordinates(&self) -> (Vec<Arc<NodeCoordinate>>, u64) {
        (self.coordinates.values().flat_map(OrdMap::values).cloned().collect(), self.indexes.coordinates.max(1))
    }

    /// The coordinates of a node, without regard to case, and the index of the table.
    pub fn node_coordinates(&self, node: &str) -> (Vec<Arc<NodeCoordinate>>, u64) {
        let set = self.coordinates.get(&*fold(node));
        (set.into_iter().flat_map(OrdMap::values).cloned().collect(), self.indexes.coordinates.max(1))
    }

    /// Sorts a list by how near the nodes of its entries are to a node; those of which that is not known come last. Where the node
    /// itself has no coordinate, and for the empty name, the list stays as it is. Equals keep their order.
    pub fn sort_by_distance<T>(&self, from: &str, list: &mut [T], node: impl Fn(&T) -> &str) {
        if from.is_empty() {
            return;
        }
        let Some(own) = self.coordinates.get(&*fold(from)) else { return };
        let mut known = BTreeMap::<Name, f64>::new();
        list.sort_by_cached_key(|entry| {
            let name = fold(node(entry));
            let distance = *known.entry(name).or_insert_with_key(|name| {
                let other = self.coordinates.get(name).and_then(|other| common(own, other));
                other.and_then(|(a, b)| vivaldi::distance(a, b)).unwrap_or(f64::INFINITY)
            });
            Far(distance)
        });
    }
}

/// A distance that can be sorted by.
struct Far(f64);

impl PartialEq for Far {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Far {}

impl PartialOrd for Far {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Far {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Writer<'_> {
    /// Takes over what the leader gathered. Nodes that are not registered, or not any more, are passed over.
    pub(super) fn coordinates_update(&mut self, batch: &Batch) {
        for update in &batch.updates {
            let valid = update.coord.as_ref().is_some_and(|coord| vivaldi::check(coord).is_ok());
            let key = fold(&update.node);
            let Some(row) = self.state.nodes.get(&key).filter(|_| valid) else { continue };
            let new = NodeCoordinate { node: row.node.name.clone(), ..update.clone() };
            let set = self.state.coordinates.entry(key).or_default();
            set.insert(new.segment.as_str().into(), Arc::new(new));
            self.state.indexes.coordinates = self.index;
            self.touched.coordinates = true;
        }
    }

    /// The node is gone.
    pub(super) fn coordinates_forget(&mut self, key: &Name) {
        if self.state.coordinates.remove(key).is_some() {
            self.state.indexes.coordinates = self.index;
            self.touched.coordinates = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::catalog::{DeregisterRequest, Node, RegisterRequest};
    use causeway_proto::command::{Command, command};

    use super::super::Store;
    use super::*;

    fn coord(x: f64) -> Coordinate {
        let mut coord = vivaldi::unknown();
        coord.vec[0] = x;
        coord
    }

    fn update(node: &str, segment: &str, x: f64) -> NodeCoordinate {
        NodeCoordinate { node: node.into(), segment: segment.into(), coord: Some(coord(x)) }
    }

    fn store(nodes: &[&str]) -> Store {
        let store = Store::new();
        for (index, name) in nodes.iter().enumerate() {
            let node = Some(Node { name: (*name).into(), address: "127.0.0.1".into(), ..Node::default() });
            let request = RegisterRequest { node, ..RegisterRequest::default() };
            apply(&store, index as u64 + 1, command::Command::Register(request));
        }
        store
    }

    fn apply(store: &Store, index: u64, command: command::Command) -> bool {
        store.apply(index, &Command { call: None, command: Some(command) }).outcome.done
    }

    fn batch(store: &Store, index: u64, updates: Vec<NodeCoordinate>) {
        assert!(apply(store, index, command::Command::Coordinates(Batch { updates })));
    }

    fn sorted(store: &Store, from: &str) -> Vec<String> {
        let state = store.state();
        let mut list = state.nodes(&BTreeMap::new()).0;
        state.sort_by_distance(from, &mut list, |node| &node.name);
        list.iter().map(|node| node.name.clone()).collect()
    }

    #[test]
    fn the_near_come_first_and_the_unknown_last() {
        let store = store(&["a", "B", "c", "d", "e"]);
        assert_eq!(sorted(&store, "a"), ["a", "B", "c", "d", "e"], "nothing is known");
        let updates = vec![update("a", "", 0.3), update("b", "", 0.2), update("c", "", 0.9), update("e", "", 0.31)];
        batch(&store, 9, updates);
        assert_eq!(sorted(&store, "A"), ["a", "e", "B", "c", "d"]);
        assert_eq!(sorted(&store, "c"), ["c", "e", "a", "B", "d"]);
        for nobody in ["", "d", "nobody", "_ip"] {
            assert_eq!(sorted(&store, nobody), ["a", "B", "c", "d", "e"], "{nobody}");
        }
    }

    #[test]
    fn a_single_segment_is_what_two_are_compared_by() {
        let store = store(&["a", "b", "c"]);
        batch(
            &store,
            9,
            vec![update("a", "x", 0.1), update("b", "", 0.1), update("c", "", 0.8), update("c", "x", 0.3)],
        );
        assert_eq!(sorted(&store, "a"), ["a", "c", "b"], "only c is in that segment");
        assert_eq!(sorted(&store, "c"), ["c", "a", "b"], "0.2 in segment x, 0.7 in the other");
    }

    #[test]
    fn what_is_kept_and_what_is_forgotten() {
        let store = store(&["a", "Bee"]);
        let bad = NodeCoordinate { coord: Some(Coordinate::default()), ..update("a", "", 0.0) };
        batch(&store, 5, vec![update("nobody", "", 1.0), bad]);
        assert_eq!(store.state().coordinates(), (vec![], 1));
        batch(&store, 6, vec![update("bee", "", 0.5), update("bee", "s", 0.6), update("bee", "", 0.7)]);
        let (found, index) = store.state().node_coordinates("BEE");
        let shown: Vec<_> = found.iter().map(|c| (c.node.as_str(), c.segment.as_str())).collect();
        assert_eq!((shown, index), (vec![("Bee", ""), ("Bee", "s")], 6));
        assert_eq!(found[0].coord, Some(coord(0.7)));
        let mut bytes = Vec::new();
        Store::write_snapshot(&store.state(), &mut bytes).unwrap();
        let other = Store::new();
        other.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(other.state().coordinates(), store.state().coordinates());
        let gone = DeregisterRequest { node: "bee".into(), ..DeregisterRequest::default() };
        apply(&store, 7, command::Command::Deregister(gone));
        assert_eq!(store.state().coordinates(), (vec![], 7));
    }
}
