//! More peers than the maps hold: who is served is served on, who finds no room is named, and comes in when there is some.

use flannel_common::maps::BY_STACK;
use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::{Desired, Way};
use crate::dataplane::Peer;

impl Desired {
    /// Leaves out of the peers what is more than `capacity`: those not `held` first, of these the last. Their routes into the
    /// tunnel go as well; without a tunnel the kernel forwards alone.
    #[must_use]
    pub fn within(mut self, capacity: usize, held: impl Fn(&Ipv4Net) -> bool) -> Self {
        let surplus = self.peers.table.len().saturating_sub(capacity);
        if surplus == 0 || self.node.programs.is_empty() {
            return self;
        }
        let last_first = || self.peers.table.keys().rev();
        let new = last_first().filter(|subnet| !held(subnet));
        let old = last_first().filter(|subnet| held(subnet));
        let out: Vec<Ipv4Net> = new.chain(old).take(surplus).copied().collect();
        for subnet in out {
            let Some(peer) = self.peers.table.remove(&subnet) else {
                continue;
            };
            self.forget_sender(&peer);
            let mut instead = "nothing is sent there";
            if self.routes.get(&subnet) == Some(&Way::Tunnel) {
                self.routes.remove(&subnet);
            } else {
                instead = "its packets take the stack";
            }
            let why = format!(
                "there is room for {capacity} peers, and others have it: {instead}; larger subnets (SubnetLen) are fewer"
            );
            self.peers.ignored.insert(subnet, why);
        }
        self
    }

    /// One lease less names it.
    fn forget_sender(&mut self, peer: &Peer) {
        less(&mut self.peers.vteps, &peer.public_ip);
        less(&mut self.peers.macs, &peer.vtep_mac);
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, u32>, key: &K) {
    let Some(count) = counts.get_mut(key) else {
        return;
    };
    *count = count.saturating_sub(1);
    if *count & !BY_STACK == 0 {
        counts.remove(key);
    }
}
