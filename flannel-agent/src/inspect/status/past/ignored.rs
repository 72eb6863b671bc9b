//! Leases that the agent ignores: those of others, and the node's own of before.

use ipnet::Ipv4Net;

use super::Past;
use crate::node::direct::OWN;

/// Leases that are named one by one.
const NAMED: usize = 5;

impl Past {
    /// Leases that this node had until it got another subnet: nobody has to do anything about them.
    pub(super) fn formers(&self) -> impl Iterator<Item = (&Ipv4Net, &String)> {
        let ignored = self.ignored.iter();
        ignored.filter(|(_, why)| self.is_former(why))
    }

    /// In etcd a node takes whatever lease has its address, so that one beside its own is no other node's. In Kubernetes one that names
    /// it is another Node.
    fn is_former(&self, why: &str) -> bool {
        let lease = self.lease.as_ref();
        why.ends_with(OWN) && lease.is_some_and(|lease| lease.source != "kubernetes")
    }

    /// Also while no agent runs: what is pinned goes by the same leases.
    pub(super) fn judge_ignored(&self, attention: &mut impl FnMut(String, &'static str)) {
        let others = || {
            let ignored = self.ignored.iter();
            ignored.filter(|(_, why)| !self.is_former(why))
        };
        for (subnet, why) in others().take(NAMED) {
            attention(
                format!(
                    "the lease of {subnet} is ignored, and its pods are not reached from here: {why}"
                ),
                "put right what its node publishes, or delete the lease if no such node is left",
            );
        }
        let more = others().count().saturating_sub(NAMED) + self.ignored_more;
        if more > 0 {
            attention(
                format!("{more} more leases are ignored"),
                "begin with those above; the agent's log has all of them",
            );
        }
    }
}
