//! What a trustworthy NAT would remember.

use std::collections::{BTreeMap, HashMap};

use flannel_common::snat::{Key, NANOS, Node, Outbound};

use super::flow::{Flow, PORTS, US};

/// What a trustworthy NAT would remember: who was last let out as whom, and who of them nothing has happened to.
pub(crate) struct Reference {
    pub(crate) local: [u8; 4],
    pub(crate) now: u64,
    /// As the remote end sees it → who that was last.
    pub(crate) owner: HashMap<Flow, Flow>,
    /// Let out at least once, in order.
    pub(crate) sent: Vec<Flow>,
    /// Flows whose entries nobody evicted and whose last packet is not long ago: they must go on as before.
    pub(crate) whole: BTreeMap<Flow, (Outbound, u64)>,
    /// Connections that came in, with the time of their last packet.
    pub(crate) noted: HashMap<Flow, u64>,
}

/// Shorter than any lifetime.
const FRESH: u64 = 9 * NANOS;

impl Reference {
    pub(crate) fn new() -> Self {
        Self {
            local: US,
            now: 1_000_000 * NANOS,
            owner: HashMap::new(),
            sent: Vec::new(),
            whole: BTreeMap::new(),
            noted: HashMap::new(),
        }
    }

    pub(crate) fn node(&self) -> Node {
        Node {
            local: self.local,
            ports: PORTS,
            now: self.now,
        }
    }

    pub(crate) fn fresh(&self, flow: &Flow) -> Option<Outbound> {
        let (as_whom, at) = self.whole.get(flow)?;
        (self.now - at < FRESH).then_some(*as_whom)
    }

    /// Another flow has taken over `flow`'s tuple.
    pub(crate) fn ousted(&mut self, flow: &Flow, tuple: Outbound) {
        if self
            .whole
            .get(flow)
            .is_some_and(|(as_whom, _)| *as_whom == tuple)
        {
            self.whole.remove(flow);
        }
    }

    pub(crate) fn evicted(&mut self, key: &Key) {
        self.whole.retain(|flow, (as_whom, _)| {
            let back = match as_whom {
                Outbound::Translate(to) => flow.out().other_half(*to),
                Outbound::Leave => flow.out().other_half(flow.source()),
            };
            flow.out() != *key && back != *key
        });
    }
}
