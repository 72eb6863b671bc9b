//! Keeps the kernel's routes equal to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Change, Direct, destinations, plan};
use crate::config::NetworkConfig;
use crate::lease::Leases;
use crate::net::{NetError, Netlink, Outcome};
use crate::uplink::Uplink;

/// Remembers what was said, so that the same is not said again.
#[derive(Debug, Default)]
pub struct Keeper {
    said: BTreeSet<String>,
    ignored: BTreeMap<Ipv4Net, String>,
}

impl Keeper {
    /// Looks at the kernel's routes and repairs what differs. Returns the number of changes. A route
    /// that the kernel refuses (its gateway is not on the link, say) is logged, and tried again with the
    /// next call.
    ///
    /// # Errors
    /// If the kernel does not list its routes.
    pub async fn reconcile(
        &mut self,
        net: &Netlink,
        config: &NetworkConfig,
        own: Ipv4Net,
        leases: &Leases,
        uplink: &Uplink,
    ) -> Result<usize, NetError> {
        let on_link = on_link(net, destinations(config, leases)).await;
        let wanted = Direct::new(config, own, leases, uplink, &on_link);
        self.name_ignored(&wanted);
        let mut said = BTreeSet::new();
        let mut done = 0;
        for change in plan(&wanted, &net.routes().await?) {
            match apply(net, &change).await {
                Ok(()) => {
                    tracing::info!("{change}");
                    done += 1;
                }
                Err(problem) => {
                    let text = format!("cannot {change}{problem}");
                    if !self.said.contains(&text) {
                        tracing::warn!("{text}");
                    }
                    said.insert(text);
                }
            }
        }
        self.said = said;
        Ok(done)
    }

    fn name_ignored(&mut self, wanted: &Direct) {
        for (subnet, why) in &wanted.ignored {
            if self.ignored.get(subnet) != Some(why) {
                tracing::warn!("the lease of {subnet} is ignored: {why}");
            }
        }
        self.ignored.clone_from(&wanted.ignored);
    }
}

async fn apply(net: &Netlink, change: &Change) -> Result<(), String> {
    let outcome = match change {
        Change::Set {
            destination,
            hop,
            replace,
        } => {
            net.add_route_via(*destination, hop.via, hop.index, *replace)
                .await
        }
        Change::Remove { destination, hop } => {
            net.remove_route_via(*destination, hop.via, hop.index).await
        }
        Change::Leave { .. } => return Err(String::new()),
    };
    match outcome {
        // Somebody was faster: the next look sees what it is.
        Ok(Outcome::Exists) => Err(": another route came first".to_owned()),
        Ok(Outcome::Done | Outcome::Missing) => Ok(()),
        Err(error) => Err(format!(": {error}")),
    }
}

/// The interface of each address that the kernel reaches without a gateway. Asked without naming an
/// interface: with one, the kernel takes what it has no route to for a neighbour (`ip_route_output_key`).
pub(crate) async fn on_link(
    net: &Netlink,
    addresses: BTreeSet<Ipv4Addr>,
) -> BTreeMap<Ipv4Addr, u32> {
    if addresses.is_empty() {
        return BTreeMap::new();
    }
    let hops = net.next_hops(addresses, None).await;
    hops.into_iter()
        .filter(|(address, hop)| hop.via == *address && !hop.local)
        .map(|(address, hop)| (address, hop.index))
        .collect()
}
