//! What is true of this node, read from the kernel.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Facts, destinations};
use crate::dataplane::online_cpus;
use crate::lease::Leases;
use crate::net::{NetError, Netlink, sysctl};
use crate::uplink::Uplink;

impl Facts {
    /// Reads everything anew.
    ///
    /// # Errors
    /// If the kernel does not say which local ports it uses.
    pub async fn gather(net: &Netlink, uplink: &Uplink, leases: &Leases) -> Result<Self, NetError> {
        let mut facts = Self {
            local_ports: sysctl::local_port_range()?,
            cpus: online_cpus(),
            next_hops: BTreeMap::new(),
        };
        facts.update(net, uplink, leases).await;
        Ok(facts)
    }

    /// After a change of leases: looks up next hops that are not known yet and forgets those nobody
    /// needs. After a change of routes, [`Self::gather`] everything.
    pub async fn update(&mut self, net: &Netlink, uplink: &Uplink, leases: &Leases) {
        let wanted = destinations(leases);
        self.next_hops.retain(|ip, _| wanted.contains(ip));
        let missing: Vec<Ipv4Addr> = wanted
            .into_iter()
            .filter(|ip| !self.next_hops.contains_key(ip))
            .collect();
        self.next_hops
            .extend(net.next_hops(missing, uplink.index).await);
    }
}
