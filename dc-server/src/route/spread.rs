//! Which gateway follows which remote topic. Pure.

use std::net::SocketAddr;

/// Orders gateways for a view, best first: rendezvous hashing, so that all servers of a site choose the same one, and losing a
/// gateway moves only the views that it had. `ask`: the subscription as it came.
pub(super) fn order(datacenter: &str, ask: &[u8], gateways: &mut [SocketAddr]) {
    let topic = hash(hash(SEED, datacenter.as_bytes()), ask);
    gateways.sort_by_cached_key(|gateway| {
        let score = mix(topic ^ mix(hash(SEED, gateway.to_string().as_bytes())));
        (std::cmp::Reverse(score), *gateway)
    });
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a; servers of other versions must get the same.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads what differs in few bits (the finalizer of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateways(n: u8) -> Vec<SocketAddr> {
        (1..=n).map(|i| SocketAddr::from(([10, 0, 0, i], 8303))).collect()
    }

    #[test]
    fn all_servers_choose_alike_and_a_loss_moves_only_its_own() {
        let (mut load, mut moved) = ([0_usize; 3], 0);
        for topic in 0..3000 {
            let ask = format!("svc-{topic}");
            let mut all = gateways(3);
            order("dc2", ask.as_bytes(), &mut all);
            let mut other = gateways(3);
            other.reverse();
            order("dc2", ask.as_bytes(), &mut other);
            assert_eq!(all, other);
            let best = all[0];
            load[gateways(3).iter().position(|g| *g == best).unwrap()] += 1;
            let mut left: Vec<_> = gateways(3).into_iter().filter(|g| *g != gateways(3)[2]).collect();
            order("dc2", ask.as_bytes(), &mut left);
            moved += usize::from(best != gateways(3)[2] && left[0] != best);
        }
        assert!(load.iter().all(|n| (800..1200).contains(n)), "{load:?}");
        assert_eq!(moved, 0);
    }
}
