//! How much of the stack proven flows may skip, and where the programs for that sit.

use std::collections::BTreeMap;

use flannel_common::program::Program;

use super::Pair;
use crate::base::options::{FastPath, Hook, Mode, Xdp};
use crate::dataplane::Attachment;
use crate::node::conntrack::UNACKNOWLEDGED;
pub(crate) use crate::node::node_sysctls::LIBERAL;
use crate::node::node_sysctls::{Wish, Wishes};

/// How packets get to peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways<'a> {
    /// `None`: no tunnel.
    pub(super) pair: Option<&'a Pair>,
    /// The uplink, if some peers may be routed to without a tunnel.
    pub(super) direct: Option<&'a str>,
}

/// The bridge's ports, and the bridge: name and ifindex. A name that comes back with another index is
/// another pod.
pub type Ports = BTreeMap<String, u32>;

impl FastPath {
    /// What of it this node can have. A strict conntrack calls most of a fast connection INVALID, and rules drop that (kube-proxy's
    /// does); one that forgets soon takes its answers for new connections, and policies drop those: then no flow is to be fast. Who asks
    /// for no proof has said that there are no such rules.
    #[must_use]
    pub(super) fn beside(&self, conntrack_is_unfit: bool) -> Self {
        let mode = match self.mode {
            Mode::Verified if conntrack_is_unfit => Mode::Off,
            mode => mode,
        };
        Self {
            mode,
            ..self.clone()
        }
    }

    /// In the order in which they are put up: nobody but `xdp_rx` knows what to do with what `uplink_xdp` has
    /// stripped.
    pub(super) fn at_uplink(&self, uplink: &str) -> Vec<Attachment> {
        let at = |program| Attachment::ingress(program, uplink);
        match self.xdp {
            Xdp::Off => Vec::new(),
            Xdp::Auto | Xdp::On => vec![at(Program::XdpRx), at(Program::UplinkXdp)],
        }
    }

    /// Programs that have to be loaded, whether or not there is a pod yet.
    pub(super) fn programs(&self) -> &'static [Program] {
        match self.mode {
            Mode::Off => &[],
            Mode::Verified if self.hook == Hook::Port => {
                &[Program::PodRx, Program::PodTx, Program::BridgeRx]
            }
            Mode::Verified | Mode::Always => &[Program::PodRx, Program::PodTx],
        }
    }

    /// Hooks, receiving first: a flow is proven only when all of them are there.
    pub(super) fn attachments(&self, ways: &Ways<'_>, ports: &Ports) -> Vec<Attachment> {
        if self.mode == Mode::Off {
            return Vec::new();
        }
        let mut all = Vec::new();
        if let Some(pair) = ways.pair {
            all.push(Attachment::ingress(Program::OverlayRx, &pair.name));
        }
        if let Some(uplink) = ways.direct {
            all.push(Attachment::ingress(Program::DirectRx, uplink));
            all.push(Attachment::egress(Program::DirectTx, uplink));
        }
        // Only what the tunnel brings is cut up there. Without proof, nothing large gets there.
        let helps = ways.pair.is_some() && self.mode == Mode::Verified && self.hook == Hook::Port;
        if helps && !ports.is_empty() {
            all.push(Attachment::egress(Program::BridgeRx, &self.bridge));
        }
        for port in ports.keys() {
            all.push(Attachment::egress(Program::PodRx, port));
            all.push(Attachment::ingress(Program::PodTx, port));
        }
        all
    }

    /// Conntrack misses most segments of a fast TCP flow. It would call the next one it sees INVALID, and kube-proxy's rule drops
    /// that. And it sees data of which it does not see the acknowledgement, which it keeps for minutes instead of days
    /// (`IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED`): `established` is for how many seconds it keeps other connections.
    pub(super) fn shared_sysctls(&self, established: Option<&str>) -> Wishes {
        if self.mode == Mode::Off {
            return Wishes::new();
        }
        let idle = established.map(|seconds| (UNACKNOWLEDGED, seconds));
        let wish = |(key, value): (&str, &str)| (key.to_owned(), Wish::Value(value.to_owned()));
        [(LIBERAL, "1")].into_iter().chain(idle).map(wish).collect()
    }
}
