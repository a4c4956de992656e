//! LAN gossip: its timing and its keys.

use std::time::Duration;

use base64::Engine;

use crate::options::{ConfigError, Def, Settings, table as t};

/// LAN gossip's timing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipPlan {
    /// Time between rounds.
    pub gossip_interval: Duration,
    /// Members told in a round.
    pub gossip_nodes: usize,
    /// Time between probes.
    pub probe_interval: Duration,
    /// Time a probe may take.
    pub probe_timeout: Duration,
    /// How long a suspect has.
    pub suspicion_mult: u32,
    /// How often news is passed on.
    pub retransmit_mult: u32,
}

pub(super) fn keys(s: &Settings) -> Result<Vec<Vec<u8>>, ConfigError> {
    let Some(text) = s.some_text(&t::ENCRYPT) else { return Ok(Vec::new()) };
    let key = base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .map_err(|_| s.error(&t::ENCRYPT, "is not base64: make a key with `causeway keygen`"))?;
    if !matches!(key.len(), 16 | 24 | 32) {
        return Err(s.error(
            &t::ENCRYPT,
            format!("holds {} bytes; a key has 16, 24 or 32: make one with `causeway keygen`", key.len()),
        ));
    }
    Ok(vec![key])
}

pub(super) fn timing(s: &Settings) -> Result<GossipPlan, ConfigError> {
    let positive = |def: &Def| -> Result<Duration, ConfigError> {
        let d = s.duration(def);
        if d < Duration::from_millis(1) {
            return Err(s.error(def, "must be at least 1ms"));
        }
        Ok(d)
    };
    let small = |def: &Def| Ok::<u32, ConfigError>(u32::try_from(s.bounded(def, 1..=100)?).unwrap_or(1));
    Ok(GossipPlan {
        gossip_interval: positive(&t::GOSSIP_LAN_GOSSIP_INTERVAL)?,
        gossip_nodes: small(&t::GOSSIP_LAN_GOSSIP_NODES)? as usize,
        probe_interval: positive(&t::GOSSIP_LAN_PROBE_INTERVAL)?,
        probe_timeout: positive(&t::GOSSIP_LAN_PROBE_TIMEOUT)?,
        suspicion_mult: small(&t::GOSSIP_LAN_SUSPICION_MULT)?,
        retransmit_mult: small(&t::GOSSIP_LAN_RETRANSMIT_MULT)?,
    })
}
