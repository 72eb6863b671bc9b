//! A quick look at links and addresses, to see whether what the kernel announced is urgent.

use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::node::net::{Address, Leads, Link, NetError, Netlink};
use crate::reconcile::desired::Devices;

/// Addresses and routes may change all the time. Looking may take one part in ten of it.
const PAUSES: u32 = 9;
/// But on a busy machine nothing urgent waits longer for it than this, if looking takes no more than one part in four.
const REST: Duration = Duration::from_millis(30);
const PAUSES_AT_LEAST: u32 = 3;

#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// See [`Netlink::leads`]; only where something depends on them.
    pub(super) leads: Leads,
    with_routes: bool,
    took: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Glance {
    /// Goes on when nobody waits for it any more: the kernel refuses to list anything until it has listed all of that.
    task: Option<JoinHandle<Result<Seen, NetError>>>,
    rested: Option<Instant>,
}

impl Glance {
    /// Dropping the future loses nothing: the next call goes on. `None`: the kernel does not say.
    pub(super) async fn take(&mut self, netlink: &Netlink, cluster: Ipv4Net) -> Option<Seen> {
        let rested = self.rested;
        let look = || tokio::spawn(look(netlink.clone(), cluster, rested));
        let seen = self.task.get_or_insert_with(look).await;
        self.task = None;
        let seen = seen.ok()?.ok()?;
        // A routing daemon may change thousands of routes, of which few matter.
        let least = match seen.with_routes {
            true => PAUSES,
            false => PAUSES_AT_LEAST,
        };
        let most = REST.max(seen.took * least);
        self.rested = Some(Instant::now() + most.min(seen.took * PAUSES));
        Some(seen)
    }

    /// Nobody waits for the one under way: what it is to tell is known.
    pub(super) fn forget(&mut self) {
        self.task = None;
    }
}

async fn look(
    netlink: Netlink,
    network: Ipv4Net,
    rested: Option<Instant>,
) -> Result<Seen, NetError> {
    if let Some(rested) = rested {
        sleep_until(rested).await;
    }
    let begun = Instant::now();
    let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
    let devices = Devices {
        links: &links,
        addresses: &addresses,
        network,
    };
    let with_routes = devices.depend_on_routes();
    let leads = match with_routes {
        true => netlink.leads(network).await?,
        false => Leads::default(),
    };
    Ok(Seen {
        links,
        addresses,
        leads,
        with_routes,
        took: begun.elapsed(),
    })
}
