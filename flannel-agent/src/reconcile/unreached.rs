//! Says which peers cannot be reached, or not with long packets, each once.

mod narrow;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::reconcile::desired::Facts;
use narrow::Narrow;

/// More are counted: an uplink without carrier has all of them.
const NAMED: usize = 10;

/// What was said.
#[derive(Debug, Default)]
pub struct Unreached {
    said: BTreeMap<Ipv4Addr, String>,
    narrow: Narrow,
}

impl Unreached {
    /// Logs what is new, and what is over; `longest` is the longest tunnel packet, `None` without a tunnel.
    pub fn tell(&mut self, facts: &Facts, longest: Option<u32>) {
        if let Some(longest) = longest {
            self.narrow.tell(facts, longest);
        }
        let now = &facts.unreached;
        let fresh: Vec<_> = now
            .iter()
            .filter(|(peer, why)| self.said.get(*peer) != Some(*why))
            .collect();
        for (peer, why) in fresh.iter().take(NAMED) {
            tracing::warn!(%peer, "the peer {peer} cannot be reached: {why}");
        }
        if let Some(more) = fresh.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!("{more} more peers cannot be reached (flannel-agent doctor names them)");
        }
        let over = self.said.keys().filter(|peer| !now.contains_key(*peer));
        for peer in over.take(NAMED) {
            tracing::info!(%peer, "there is a way to the peer {peer} again");
        }
        self.said.clone_from(now);
    }
}
