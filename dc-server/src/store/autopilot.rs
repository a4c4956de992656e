//! How servers are kept: one entry, written by the first leader from its configuration, then by operators.

use std::sync::Arc;

use causeway_proto::operator::{Autopilot, SetAutopilotRequest};

use super::state::{Refusal, Writer};

impl Writer<'_> {
    /// Whether the condition held.
    pub(super) fn autopilot_set(&mut self, request: &SetAutopilotRequest) -> Result<bool, Refusal> {
        let Some(config) = &request.config else { return Err(Refusal::NoAutopilot) };
        let old = self.state.autopilot.as_deref();
        if request.cas_index.is_some_and(|index| index != old.map_or(0, |old| old.modify_index)) {
            return Ok(false);
        }
        let create_index = old.map_or(self.index, |old| old.create_index);
        self.state.autopilot = Some(Arc::new(Autopilot { create_index, modify_index: self.index, ..config.clone() }));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::command::{Command, command};

    use super::super::Store;
    use super::*;

    #[test]
    fn written_by_condition_and_kept_in_snapshots() {
        let store = Store::new();
        let set = |index, min_quorum, cas_index| {
            let config = Some(Autopilot { min_quorum, ..Autopilot::default() });
            let request = SetAutopilotRequest { config, cas_index };
            let command = Command { call: None, command: Some(command::Command::Autopilot(request)) };
            store.apply(index, &command).outcome.done
        };
        assert!(store.state().autopilot().is_none());
        assert!(!set(4, 1, Some(3)));
        assert!(set(5, 1, Some(0)));
        assert!(!set(6, 2, Some(0)), "a leader's own never replaces what is there");
        assert!(set(7, 3, Some(5)));
        assert!(set(8, 4, None));
        let found = store.state().autopilot().cloned().unwrap();
        assert_eq!((found.min_quorum, found.create_index, found.modify_index), (4, 5, 8));
        let mut bytes = Vec::new();
        Store::write_snapshot(&store.state(), &mut bytes).unwrap();
        let other = Store::new();
        other.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(other.state().autopilot(), Some(&found));
        let nothing =
            Command { call: None, command: Some(command::Command::Autopilot(SetAutopilotRequest::default())) };
        assert!(!store.apply(9, &nothing).outcome.done);
    }
}
