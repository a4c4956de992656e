//! The authority that certifies agents: one entry, written by a leader that finds none.

use std::sync::Arc;

use causeway_proto::signing::{Authority, SetAuthority};

use super::state::{Refusal, Writer};

impl Writer<'_> {
    /// Whether it took the place of the one that was to be replaced.
    pub(super) fn authority_set(&mut self, request: &SetAuthority) -> Result<bool, Refusal> {
        let Some(authority) = &request.authority else { return Err(Refusal::NoAuthority) };
        if self.state.authority.as_ref().map_or(0, |old| old.index) != request.replaces {
            return Ok(false);
        }
        self.state.authority = Some(Arc::new(Authority { index: self.index, ..authority.clone() }));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::command::{Command, command};
    use causeway_proto::snapshot::RestoreRequest;

    use super::super::Store;
    use super::*;

    fn set(store: &Store, index: u64, certificate: &str, replaces: u64) -> bool {
        let (certificate, key) = (certificate.to_owned(), "a secret".to_owned());
        let authority = Some(Authority { certificate, key, index: 0 });
        let request = SetAuthority { authority, replaces };
        let command = Command { call: None, command: Some(command::Command::Authority(request)) };
        store.apply(index, &command).outcome.done
    }

    fn saved(store: &Store) -> Vec<u8> {
        let mut bytes = Vec::new();
        Store::write_snapshot(&store.state(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_first_counts_until_it_is_replaced_and_snapshots_have_it() {
        let store = Store::new();
        assert!(set(&store, 4, "one", 0));
        assert!(!set(&store, 5, "two", 0), "two leaders, one authority");
        assert!(set(&store, 6, "three", 4));
        let found = store.state().authority().cloned().unwrap();
        assert_eq!((found.certificate.as_str(), found.index), ("three", 6));
        assert!(!format!("{:?}", store.state()).contains("a secret"), "a key in the log");
        let other = Store::new();
        other.restore(&mut saved(&store).as_slice()).unwrap();
        assert_eq!(other.state().authority(), Some(&found));
    }

    /// Agents have certificates of the authority that is, whatever the state that is put back knew.
    #[test]
    fn a_state_put_back_does_not_replace_it() {
        let (store, old) = (Store::new(), Store::new());
        assert!(set(&store, 4, "now", 0) && set(&old, 4, "then", 0));
        let restore = |store: &Store, index, bytes: Vec<u8>| {
            let piece = RestoreRequest { id: "r".into(), offset: 0, bytes, last: true };
            let command = Command { call: None, command: Some(command::Command::Restore(piece)) };
            assert!(store.apply(index, &command).outcome.done);
            store.state().authority().map(|a| a.certificate.clone())
        };
        assert_eq!(restore(&store, 5, saved(&old)).as_deref(), Some("now"));
        assert_eq!(restore(&Store::new(), 5, saved(&old)).as_deref(), Some("then"));
    }
}
