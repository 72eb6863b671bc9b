//! Everything that touches BPF: the object, its maps, its programs and where they are attached.

mod alive;
mod anchors;
mod attachments;
mod barrier;
mod batch;
mod bpf;
mod bpffs;
pub(crate) mod by_stack;
pub(crate) mod captured;
mod carry;
pub(crate) mod chain;
mod clsact;
mod definition;
mod embedded;
mod encap;
mod error;
pub(crate) mod events;
mod globals;
mod held;
mod hooks;
mod kept;
mod loader;
mod maps;
pub(crate) mod moves;
mod object;
mod outlet_maps;
pub mod outlets;
mod peers;
mod pin;
pub(crate) mod ports;
pub(crate) mod probe;
mod programs;
mod raw;
mod rehearsal;
mod requirements;
pub mod rescue;
mod rodata;
pub mod senders;
mod shadow;
mod snat;
mod snat_maps;
mod snat_shares;
pub(crate) mod strangers;
mod strays;
pub mod sweep;
mod syscall;
mod teller;
pub(crate) mod unfit;
mod verdicts;
pub mod verifier;
pub mod view;
mod wire;
mod xdp;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

pub use alive::{Presence, ServesAlone};
pub(crate) use attachments::Places;
pub use attachments::{Attachment, Generation, Programs, Stale};
pub(crate) use bpf::Bpf;
pub(crate) use bpffs::is_mounted;
pub(crate) use clsact::MadeQdiscs;
pub(crate) use definition::ReplacedMap;
pub use error::DataplaneError;
pub use globals::{Globals, Loaded};
pub use hooks::AttachMode;
pub(crate) use hooks::Target;
pub(crate) use maps::Sources;
pub use peers::{Peer, PeerChanges, PeerMaps, ROUTED};
pub(crate) use rehearsal::{About, Outcome, Rehearsal};
pub(crate) use requirements::{
    JIT, OLDEST_KERNEL, WITHOUT_SYS_ADMIN, check_capabilities, check_kernel, lacks_sys_admin,
};
pub(crate) use shadow::{Likeness, Shadow};
pub use snat::{SnatTable, Swept};
pub use wire::Wire;

use crate::node::net::{Direction, Filter, Link, NetError, Netlink};

/// What the programs are loaded with; the rest is [`crate::reconcile::desired::Desired`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the BPF file system is, or shall be, mounted.
    pub bpffs: PathBuf,
    /// Name of the network; see [`crate::node::mark::network_name`].
    pub network: String,
    /// Instead of the built-in object.
    pub ebpf_object: Option<PathBuf>,
    pub attach: AttachMode,
    /// Where the agents of this node remember its sysctls; see [`crate::node::node_sysctls::NodeSysctls`].
    pub state_dir: PathBuf,
    /// Size of the flow table.
    pub flow_entries: u32,
    /// Size of the table of source NAT; `None`: nothing is translated.
    pub snat_entries: Option<u32>,
}

/// So many peers are served. One place stays free: before Linux 6.13 a full trie refuses new values of its own keys, too
/// (commit 532d6b36b2bf).
pub const ROOM: usize = flannel_common::maps::MAX_PEERS - 1;

/// Says that an agent of the network is here, for as long as it is held. `None` where nothing can be pinned: whoever opens the
/// dataplane hears why.
pub(crate) fn be_present(bpffs: &Path, network: &str) -> Option<Presence> {
    let pins = bpffs::Pins::open(bpffs, network).ok()?;
    Presence::of(pins.root()).ok()
}

/// What is known of a network's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Lives,
    Stopped,
    /// It has no folder here: there was none, or it has its pins in another BPF file system.
    Unknown,
}

/// Whether an agent of the network runs.
pub(crate) fn life(bpffs: &Path, network: &str) -> Life {
    match alive::is_held(bpffs::Pins::of(bpffs, network).root()) {
        Ok(false) => Life::Stopped,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Life::Unknown,
        // What cannot be asked is no reason to take anything away.
        Ok(true) | Err(_) => Life::Lives,
    }
}

/// Whether `network` has moved the pins of `former`, and has not come to its devices yet.
pub(crate) fn is_half_inherited(bpffs: &Path, network: &str, former: &str) -> bool {
    let former = bpffs::Pins::of(bpffs, former);
    bpffs::Pins::of(bpffs, network).has_taken(&former)
}

/// The programs of the pinned tcx links of all networks, this one among them.
pub(crate) fn pinned_programs(bpffs: &Path, network: &str) -> BTreeSet<u32> {
    barrier::pinned_programs(&bpffs::Pins::of(bpffs, network))
}

/// Whether anything of a network is pinned.
pub(crate) fn has_pins(bpffs: &Path, network: &str) -> bool {
    bpffs::Pins::of(bpffs, network).root().exists()
}

/// Whether another network has a program at an anchor. `tags`: see [`crate::reconcile::desired::Node::tag`].
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
    let pins = bpffs::Pins::of(bpffs, network);
    for link in pins.link_names()? {
        chain::end(&pins.link(&link))?;
    }
    pins.remove_all()
}

/// Removes the folder of all networks' pins, if nothing is in it any more.
pub(crate) fn remove_empty_folder(root: &Path) {
    // It refuses where somebody's network is in it. An empty folder more harms nobody.
    let _ = std::fs::remove_dir(root.join(bpffs::FOLDER));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_nobody_holds_says_that_an_agent_has_stopped() {
        let bpffs = tempfile::tempdir().unwrap();
        let of = || life(bpffs.path(), "other");
        assert_eq!(of(), Life::Unknown);
        let root = bpffs.path().join("flannel/other");
        std::fs::create_dir_all(&root).unwrap();
        assert_eq!(of(), Life::Stopped);
        let presence = Presence::of(&root).unwrap();
        assert_eq!(of(), Life::Lives);
        drop(presence);
        // A link to itself: what is there cannot be opened.
        std::fs::remove_dir(&root).unwrap();
        std::os::unix::fs::symlink("other", &root).unwrap();
        assert_eq!(of(), Life::Lives);
    }
}
