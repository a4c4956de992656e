//! The tokens that an agent and a server use for what they do themselves, and for callers who show none.

use std::sync::{Arc, PoisonError, RwLock};

/// One of them (`acl.tokens.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// For callers who show none, and for DNS.
    Default,
    /// For what the agent says of its node.
    Agent,
    /// Known by this agent alone, while no server can be asked.
    Recovery,
    /// For what is copied from other datacenters.
    Replication,
}

impl Use {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Default, Self::Agent, Self::Recovery, Self::Replication];

    /// As `/v1/agent/token/` has it; the second name is that of later versions.
    pub fn names(self) -> [&'static str; 2] {
        match self {
            Self::Default => ["default", "acl_token"],
            Self::Agent => ["agent", "acl_agent_token"],
            Self::Recovery => ["agent_master", "agent_recovery"],
            Self::Replication => ["replication", "acl_replication_token"],
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "acl_agent_master_token" => Some(Self::Recovery),
            name => Self::ALL.into_iter().find(|of| of.names().contains(&name)),
        }
    }

    fn place(self) -> usize {
        self as usize
    }
}

/// All of them; clones share what is set.
#[derive(Clone, Default)]
pub struct Tokens(Arc<RwLock<[Option<Arc<str>>; 4]>>);

impl std::fmt::Debug for Tokens {
    /// Never shows a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// The token itself; `None`: none was configured.
    pub fn of(&self, of: Use) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(of.place()).cloned().flatten()
    }

    /// What the agent uses for itself: its own, else the one for everybody.
    pub fn agent(&self) -> Option<Arc<str>> {
        self.of(Use::Agent).or_else(|| self.of(Use::Default))
    }

    /// Sets one; empty: there is none.
    pub fn set(&self, of: Use, secret: &str) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = all.get_mut(of.place()) {
            *place = (!secret.is_empty()).then(|| secret.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_its_names() {
        let tokens = Tokens::default();
        for of in Use::ALL {
            tokens.set(of, of.names()[0]);
            assert_eq!(Use::parse(of.names()[0]), Some(of));
            assert_eq!(Use::parse(of.names()[1]), Some(of));
        }
        assert_eq!(Use::parse("acl_agent_master_token"), Some(Use::Recovery));
        assert_eq!(Use::parse("x"), None);
        for of in Use::ALL {
            assert_eq!(tokens.of(of).as_deref(), Some(of.names()[0]));
        }
        assert_eq!(tokens.agent().as_deref(), Some("agent"));
        tokens.set(Use::Agent, "");
        assert_eq!(tokens.agent().as_deref(), Some("default"));
        assert_eq!(format!("{tokens:?}"), "Tokens");
    }
}
