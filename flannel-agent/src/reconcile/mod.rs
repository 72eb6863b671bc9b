//! The whole dataplane of a node, kept equal to what is wanted: observe, plan, apply, and the rounds of that.

pub mod actual;
mod apply;
pub mod desired;
mod failures;
pub(crate) mod inherit;
mod left_down;
pub mod logbook;
pub mod observe;
pub mod plan;
mod preview;
mod report;
mod round;
mod told;
mod turn;
pub mod unreached;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::Ipv4Net;

pub(crate) use preview::Preview;
pub use report::Report;
pub use round::ReconcileError;

use crate::base::key::{PrivateKey, PublicKey};
use crate::dataplane::{
    Bpf, DataplaneError, Options, PeerMaps, Presence, ROOM, ServesAlone, check_capabilities,
    check_kernel,
};
use crate::node::net::Netlink;
use crate::node::node_sysctls::NodeSysctls;
use crate::reconcile::actual::Actual;
use crate::reconcile::desired::{Desired, Node, Routes, Sealed};
use crate::reconcile::left_down::LeftDown;
use failures::Failures;
use told::Told;
use turn::Turn;

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
    /// The kernel's device that took its place.
    left_down: LeftDown,
    failures: Failures,
    /// Leases that were said to be ignored; the same again is no news.
    ignored: BTreeMap<Ipv4Net, String>,
    private_key: Option<PrivateKey>,
    told: Told,
    turn: Turn<ServesAlone>,
    /// Programs were loaded since flows under former ports were last ended.
    strays_due: bool,
}

#[derive(Debug)]
struct Mirror {
    node: Node,
    peers: PeerMaps,
    sealed: BTreeMap<PublicKey, Sealed>,
    /// Those that the kernel took.
    routes: Routes,
    /// Those that it refused.
    refused: Routes,
}

impl Dataplane {
    /// Checks rights and kernel, finds (or mounts) bpffs, and opens the object. Changes nothing else. Has to
    /// run inside a tokio runtime, in the node's network namespace.
    ///
    /// # Errors
    /// A missing capability, a kernel that is too old, no bpffs, an object that cannot be read.
    pub fn open(options: &Options) -> Result<Self, DataplaneError> {
        Self::open_for(options, None)
    }

    /// The same for somebody who was here before, and stays.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(options: &Options, present: Option<Presence>) -> Result<Self, DataplaneError> {
        check_capabilities()?;
        check_kernel()?;
        Self::of(Bpf::open(options, present)?, options)
    }

    fn of(bpf: Bpf, options: &Options) -> Result<Self, DataplaneError> {
        Ok(Self {
            bpf,
            net: Netlink::open()?,
            shared: NodeSysctls::new(&options.state_dir, &options.network),
            mirror: None,
            serves: None,
            left_down: LeftDown::default(),
            failures: Failures::default(),
            ignored: BTreeMap::new(),
            private_key: None,
            told: Told::default(),
            turn: Turn::default(),
            strays_due: false,
        })
    }

    /// The connection to the kernel's network configuration.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.net
    }

    /// The folder of the pins of maps.
    #[must_use]
    pub(crate) fn pins_of_maps(&self) -> PathBuf {
        self.bpf.pins_of_maps()
    }

    /// Whether programs are clsact filters here.
    #[must_use]
    pub fn attaches_filters(&self) -> bool {
        self.bpf.attaches_filters()
    }

    /// What the last round could not do, and went on without: in one sentence, for whoever puts it right.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.failures.complaint()
    }

    /// Leases that cannot be used, and why, as of the last round.
    #[must_use]
    pub const fn ignored(&self) -> &BTreeMap<Ipv4Net, String> {
        &self.ignored
    }

    /// This network's part of the sysctls that the node's agents share.
    #[must_use]
    pub fn sysctls(&self) -> &NodeSysctls {
        &self.shared
    }

    /// The key of the node's WireGuard device.
    pub(crate) fn know_key(&mut self, key: PrivateKey) {
        self.private_key = Some(key);
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
        let (net, bpf) = (&self.net, &self.bpf);
        let node = &desired.node;
        let mut actual = crate::reconcile::observe::observe(net, bpf, &self.shared, node).await?;
        self.told.overlay(&mut actual.wireguard);
        Ok(actual)
    }
}
