//! Whether what the kernel announces may wait.

use super::Kernel;
use crate::daemon::node::Change;
use crate::node::net;
use crate::node::uplink::Uplink;
use crate::reconcile::desired::Devices;

impl Kernel {
    /// Whether what was announced may not wait until the last look has paid off.
    pub(super) async fn judge(&mut self) -> Change {
        if self.unjudged.links && self.has_another_mtu() {
            return Change::Urgent;
        }
        match self.has_new_outlets().await {
            true => {
                tracing::info!(
                    "there is another device or address to leave by: looking at everything at once"
                );
                Change::Urgent
            }
            false => Change::Any,
        }
    }

    /// Packets of pods may leave by a device, or as an address, that the programs do not know yet. What cannot be found out
    /// waits for the next look at everything.
    async fn has_new_outlets(&mut self) -> bool {
        let (Some(cluster), Some(uplink)) = (self.cluster, &self.uplink) else {
            return false;
        };
        let by_routes = self.facts.depend_on_routes;
        if self.snat.is_none() || !self.announced.may_open_outlets(by_routes) {
            return false;
        }
        let seen = self.glance.take(self.dataplane.netlink(), cluster).await;
        seen.is_some_and(|seen| {
            let devices = Devices {
                links: &seen.links,
                addresses: &seen.addresses,
                network: cluster,
            };
            self.facts.lack_outlets(devices, uplink.index, &seen.leads)
        })
    }

    /// The uplink has another MTU than when it was last found.
    fn has_another_mtu(&self) -> bool {
        let now = |uplink: &Uplink| Some((uplink.mtu, net::mtu(&uplink.name).ok()?));
        let both = self.uplink.as_ref().and_then(now);
        both.is_some_and(|(known, now)| known != now)
    }
}
