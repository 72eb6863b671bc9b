//! Everything that touches BPF: the object, its maps, its programs and where they are attached – and on
//! top of that the whole dataplane of a node, kept equal to what is wanted.

mod alive;
mod anchors;
mod bpf;
mod bpffs;
pub(crate) mod captured;
mod carry;
mod clsact;
mod definition;
mod encap;
mod error;
pub(crate) mod events;
mod hooks;
mod maps;
mod object;
mod outlet_maps;
mod preview;
pub(crate) mod probe;
mod programs;
mod reconcile;
mod rehearsal;
mod requirements;
mod shadow;
mod snat;
mod snat_maps;
mod snat_shares;
mod strays;
mod teller;
pub(crate) mod unfit;
pub mod view;
mod wire;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

pub(crate) use bpf::Bpf;
pub(crate) use clsact::MadeQdiscs;
pub(crate) use definition::ReplacedMap;
pub use error::DataplaneError;
pub use hooks::AttachMode;
pub(crate) use hooks::Target;
pub(crate) use maps::Sources;
pub(crate) use preview::Preview;
pub use reconcile::{ReconcileError, Report};
pub(crate) use rehearsal::{About, Outcome, Rehearsal};
pub(crate) use requirements::{JIT, OLDEST_KERNEL};
pub use snat::{SnatTable, Swept, clock};
pub use wire::Wire;

use crate::actual::{Actual, PeerMaps};
use crate::desired::{Desired, Node, Routes};
use crate::net::{Direction, Filter, Link, NetError, Netlink};
use crate::node_sysctls::NodeSysctls;

/// What a dataplane is made from; the rest is [`Desired`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the BPF file system is, or shall be, mounted.
    pub bpffs: PathBuf,
    /// Name of the network; see [`crate::mark::network_name`].
    pub network: String,
    /// Instead of the built-in object.
    pub ebpf_object: Option<PathBuf>,
    pub attach: AttachMode,
    /// Where the agents of this node remember its sysctls; see [`NodeSysctls`].
    pub state_dir: PathBuf,
    /// Size of the flow table.
    pub flow_entries: u32,
    /// Size of the table of source NAT; `None`: nothing is translated.
    pub snat_entries: Option<u32>,
}

/// So many peers are served. One place stays free: before Linux 6.13 a full trie refuses new values of its own keys, too
/// (commit 532d6b36b2bf).
pub const ROOM: usize = flannel_common::maps::MAX_PEERS - 1;

/// This node's dataplane. Dropping it leaves everything in place that forwards.
#[derive(Debug)]
pub struct Dataplane {
    net: Netlink,
    bpf: Bpf,
    shared: NodeSysctls,
    /// What the last full reconcile wanted, and what the maps hold since: lease changes are compared
    /// with this and not with the kernel.
    mirror: Option<Mirror>,
    /// Name of the device of ours that the last full reconcile left in place.
    serves: Option<String>,
    /// Failures and ignored leases that were logged; the same again is no news.
    said: BTreeSet<String>,
    ignored: BTreeMap<Ipv4Net, String>,
}

#[derive(Debug)]
struct Mirror {
    node: Node,
    peers: PeerMaps,
    routes: Routes,
}

impl Dataplane {
    /// Checks rights and kernel, finds (or mounts) bpffs, and opens the object. Changes nothing else. Has to
    /// run inside a tokio runtime, in the node's network namespace.
    ///
    /// # Errors
    /// A missing capability, a kernel that is too old, no bpffs, an object that cannot be read.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        requirements::check_capabilities()?;
        requirements::check_kernel()?;
        Self::of(Bpf::open(options)?, options)
    }

    fn of(bpf: Bpf, options: &Options) -> Result<Self, DataplaneError> {
        Ok(Self {
            bpf,
            net: Netlink::open()?,
            shared: NodeSysctls::new(&options.state_dir, &options.network),
            mirror: None,
            serves: None,
            said: BTreeSet::new(),
            ignored: BTreeMap::new(),
        })
    }

    /// The connection to the kernel's network configuration.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.net
    }

    /// Whether programs are clsact filters here.
    #[must_use]
    pub fn attaches_filters(&self) -> bool {
        self.bpf.attaches_filters()
    }

    /// This network's part of the sysctls that the node's agents share.
    #[must_use]
    pub fn sysctls(&self) -> &NodeSysctls {
        &self.shared
    }

    /// Leaves out the peers for which there is no room, rather than to stop at the first; whoever is served stays.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn fit(&self, desired: Desired) -> Result<Desired, DataplaneError> {
        if desired.peers.table.len() <= ROOM {
            return Ok(desired);
        }
        let held = match &self.mirror {
            Some(mirror) => mirror.peers.table.keys().copied().collect(),
            None => self.bpf.peers()?.table.into_keys().collect::<BTreeSet<_>>(),
        };
        Ok(desired.within(ROOM, |subnet| held.contains(subnet)))
    }

    /// What the kernel holds, compared with what `desired` is about.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn actual(&self, desired: &Desired) -> Result<Actual, DataplaneError> {
        crate::observe::observe(&self.net, &self.bpf, &self.shared, &desired.node).await
    }
}

/// Whether an agent of the network runs.
pub(crate) fn is_looked_after(bpffs: &Path, network: &str) -> bool {
    // Without the folder there is nobody to hold it.
    alive::is_held(bpffs::Pins::of(bpffs, network).root()).unwrap_or(false)
}

/// Whether anything of a network is pinned.
pub(crate) fn has_pins(bpffs: &Path, network: &str) -> bool {
    bpffs::Pins::of(bpffs, network).root().exists()
}

/// Whether another network has a program at an anchor. `tags`: see [`crate::desired::Node::tag`].
///
/// # Errors
/// If the kernel does not list filters.
pub(crate) async fn is_shared(
    net: &Netlink,
    anchor: &Link,
    (bpffs, network): (&Path, &str),
    tags: &[u32],
) -> Result<bool, NetError> {
    anchors::is_shared(net, anchor, &bpffs::Pins::of(bpffs, network), tags).await
}

/// Removes all pins of a network: its programs run nowhere any more, its maps are gone.
///
/// # Errors
/// If one cannot be removed.
pub(crate) fn remove_pins(bpffs: &Path, network: &str) -> Result<(), DataplaneError> {
    bpffs::Pins::of(bpffs, network).remove_all()
}

/// Whether one hook of `device` has clsact filters of ours, of `vni`.
///
/// # Errors
/// If the kernel does not list them.
pub(crate) async fn has_filters(
    net: &Netlink,
    device: &Link,
    direction: Direction,
    vni: u32,
) -> Result<bool, DataplaneError> {
    let filters = net.filters(device.index, direction).await?;
    Ok(filters.iter().any(|filter| hooks::is_ours(filter, vni)))
}

/// Removes our clsact filters of `vni` from one hook of `device`.
///
/// # Errors
/// If the kernel does not list or remove them.
pub(crate) async fn remove_filters(
    net: &Netlink,
    device: &Link,
    direction: Direction,
    vni: u32,
) -> Result<(), DataplaneError> {
    for filter in net.filters(device.index, direction).await? {
        if hooks::is_ours(&filter, vni) {
            hooks::remove_filter(&device.name, direction, filter.handle).map_err(|error| {
                DataplaneError::attach(format!("{} ({direction})", device.name), error)
            })?;
        }
    }
    Ok(())
}

/// Whether the filters of a device are this network's, whose tags are given: all of them, of any kind.
pub(crate) async fn are_all_ours(
    net: &Netlink,
    device: &Link,
    tags: &[u32],
) -> Result<bool, NetError> {
    for direction in [Direction::Ingress, Direction::Egress] {
        let filters = net.filters_of_any_kind(device.index, direction).await?;
        let ours = |filter: &Filter| tags.iter().any(|tag| hooks::is_ours(filter, *tag));
        if !filters.iter().all(ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// CPUs that can run at once; one, if the kernel does not say.
#[must_use]
pub fn online_cpus() -> u32 {
    let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len());
    u32::try_from(cpus).unwrap_or(u32::MAX)
}
