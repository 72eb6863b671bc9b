//! What a trustworthy NAT would remember.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flannel_common::snat::{Key, NANOS, Node, Outbound};
use proptest::prelude::*;

use super::flow::{FIN, Flow, PORTS, RST, SYN, TCP, US};

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
    /// Flows of which a FIN or a reset was seen: their ports may be taken soon.
    pub(crate) closing: BTreeSet<Flow>,
    /// Connections that came in, with the time of their last packet.
    pub(crate) noted: HashMap<Flow, u64>,
}

/// Shorter than any lifetime.
const FRESH: u64 = 9 * NANOS;
/// No longer than a closed connection keeps its port.
const FRESH_CLOSING: u64 = NANOS;

impl Reference {
    pub(crate) fn new() -> Self {
        Self {
            local: US,
            now: 1_000_000 * NANOS,
            owner: HashMap::new(),
            sent: Vec::new(),
            whole: BTreeMap::new(),
            closing: BTreeSet::new(),
            noted: HashMap::new(),
        }
    }

    pub(crate) fn node(&self) -> Node {
        Node {
            local: self.local,
            device: 2,
            ports: PORTS,
            now: self.now,
        }
    }

    pub(crate) fn fresh(&self, flow: &Flow) -> Option<Outbound> {
        let (as_whom, at) = self.whole.get(flow)?;
        let fresh = if self.closing.contains(flow) {
            FRESH_CLOSING
        } else {
            FRESH
        };
        (self.now - at <= fresh).then_some(*as_whom)
    }

    /// A packet of `flow` with these TCP flags, either way.
    pub(crate) fn flags_seen(&mut self, flow: &Flow, flags: u8) {
        if flow.proto == TCP && flags & (FIN | RST) != 0 {
            self.closing.insert(*flow);
        }
    }

    /// `flow` was let out `as_whom`, by a packet with these TCP flags. One that need not be believed, since something of the
    /// flow was `held` before, does not make it younger; of what an eviction left nothing is known then.
    pub(crate) fn goes_on(&mut self, flow: Flow, as_whom: Outbound, flags: u8, held: bool) {
        let doubtful = held && flow.proto == TCP && flags & (SYN | RST) != 0;
        match self.whole.get(&flow) {
            Some((before, _)) if doubtful && *before == as_whom => {}
            _ if doubtful => {
                self.whole.remove(&flow);
            }
            _ => {
                self.whole.insert(flow, (as_whom, self.now));
            }
        }
    }

    /// `flow` is now `seen` at the remote end, where somebody else may have been; `here` is where that one lived.
    pub(crate) fn takes_over(
        &mut self,
        seen: Flow,
        flow: Flow,
        here: Outbound,
    ) -> Result<(), TestCaseError> {
        let before = self.owner.insert(seen, flow);
        if let Some(other) = before.filter(|other| *other != flow) {
            prop_assert_ne!(self.fresh(&other), Some(here), "{:?} lives there", other);
            self.ousted(&other, here);
        }
        Ok(())
    }

    /// Another flow has taken over `flow`'s tuple.
    fn ousted(&mut self, flow: &Flow, tuple: Outbound) {
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
