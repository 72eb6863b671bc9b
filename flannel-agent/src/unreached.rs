//! Says which peers cannot be reached, each once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// More are counted: an uplink without carrier has all of them.
const NAMED: usize = 10;

/// What was said.
#[derive(Debug, Default)]
pub struct Unreached(BTreeMap<Ipv4Addr, String>);

impl Unreached {
    /// Logs what is new in `now`, and what is over.
    pub fn tell(&mut self, now: &BTreeMap<Ipv4Addr, String>) {
        let fresh: Vec<_> = now
            .iter()
            .filter(|(peer, why)| self.0.get(*peer) != Some(*why))
            .collect();
        for (peer, why) in fresh.iter().take(NAMED) {
            tracing::warn!(%peer, "the peer {peer} cannot be reached: {why}");
        }
        if let Some(more) = fresh.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!("{more} more peers cannot be reached (flannel-agent doctor names them)");
        }
        let over = self.0.keys().filter(|peer| !now.contains_key(*peer));
        for peer in over.take(NAMED) {
            tracing::info!(%peer, "there is a way to the peer {peer} again");
        }
        self.0.clone_from(now);
    }
}
