//! How much of the stack proven flows may skip, and where the programs for that sit.

use std::collections::BTreeMap;
use std::fmt;

use clap::ValueEnum;
use flannel_common::globals;
use flannel_common::program::Program;
use serde::Serialize;

use super::{Attachment, Gro, Pair};
use crate::node_sysctls::{Wish, Wishes};

/// What a flow has to show before it skips the stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// That the stack lets it through unchanged
    #[default]
    Verified,
    /// Nothing: for nodes without kube-proxy and without policy
    Always,
    /// No flow skips the stack
    Off,
}

/// Where packets of pods are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// On each port of the bridge
    #[default]
    Port,
    /// On the bridge itself
    Bridge,
}

/// Whether outer headers come off in the uplink's driver, before GRO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// No
    #[default]
    Off,
    /// If the driver can
    Auto,
    /// Yes, and it is a complaint if the driver cannot
    On,
}

/// The fast path as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FastPath {
    pub mode: Mode,
    pub hook: Hook,
    pub xdp: Xdp,
    pub gro: Gro,
    /// The bridge that pods hang on.
    pub bridge: String,
}

impl Default for FastPath {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            hook: Hook::default(),
            xdp: Xdp::default(),
            gro: Gro::default(),
            bridge: "cni0".to_owned(),
        }
    }
}

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

impl Mode {
    /// Value of [`globals::FAST_PATH`].
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Off => globals::FAST_PATH_OFF,
            Self::Verified => globals::FAST_PATH_VERIFIED,
            Self::Always => globals::FAST_PATH_ALWAYS,
        }
    }

    /// What programs were told by such a value.
    #[must_use]
    pub fn of_value(value: u8) -> Option<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|mode| mode.value() == value)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = self.to_possible_value();
        f.write_str(flag.as_ref().map_or("", |flag| flag.get_name()))
    }
}

impl Hook {
    /// Value of [`globals::POD_HOOK`].
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Port => globals::POD_HOOK_PORT,
            Self::Bridge => globals::POD_HOOK_BRIDGE,
        }
    }

    /// What programs were told by such a value.
    #[must_use]
    pub fn of_value(value: u8) -> Option<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|hook| hook.value() == value)
    }
}

impl FastPath {
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
        let liberal = ("tcp_be_liberal", "1");
        let idle = established.map(|seconds| ("tcp_timeout_unacknowledged", seconds));
        let wish = |(key, value): (&str, &str)| {
            let key = format!("net/netfilter/nf_conntrack_{key}");
            (key, Wish::Value(value.to_owned()))
        };
        [liberal].into_iter().chain(idle).map(wish).collect()
    }
}
