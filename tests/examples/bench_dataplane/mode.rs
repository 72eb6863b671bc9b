//! The dataplanes that are compared.

use clap::ValueEnum;
use flannel_tests::prelude::Wire;
use serde::{Deserialize, Serialize};

use crate::plan::Condition;
use crate::topology::Beside;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Host to host, no overlay, no pods, no rules
    Bare,
    /// flannel: kernel vxlan device and its iptables rules
    Kernel,
    /// flannel: host-gw routes and its iptables rules
    KernelHostGw,
    /// ours with the defaults
    Verified,
    /// ours with the defaults, of the build that `--before` names
    Before,
    /// ours, hooks on the bridge instead of its ports
    Bridge,
    /// ours without proof
    Always,
    /// ours, everything through the stack
    Off,
    /// ours with the host-gw backend
    HostGw,
    /// ours with --xdp=on
    Xdp,
    /// ours with --gro=anchor
    Anchor,
    /// ours with the backend udp
    Udp,
    /// flannel: real flanneld's backend udp, its proxy in user space
    FlanneldUdp,
}

impl Mode {
    /// All that one build can show: not [`Mode::Before`].
    pub(crate) const ALL: [Self; 12] = [
        Self::Bare,
        Self::Kernel,
        Self::KernelHostGw,
        Self::Verified,
        Self::Bridge,
        Self::Always,
        Self::Off,
        Self::HostGw,
        Self::Xdp,
        Self::Anchor,
        Self::Udp,
        Self::FlanneldUdp,
    ];
    /// What others are compared with, and what the goals are for.
    pub(crate) const JUDGED: [Self; 3] = [Self::Bare, Self::Kernel, Self::Verified];

    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no value is skipped");
        value.get_name().to_owned()
    }

    pub(crate) fn help(self) -> String {
        let value = self.to_possible_value().expect("no value is skipped");
        value
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// The agent's flags, for modes with an agent.
    pub(crate) fn flags(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Bare | Self::Kernel | Self::KernelHostGw | Self::FlanneldUdp => None,
            Self::Verified | Self::Before | Self::HostGw | Self::Udp => {
                Some(&["--fast-path=verified", "--pod-hook=port"])
            }
            Self::Bridge => Some(&["--fast-path=verified", "--pod-hook=bridge"]),
            Self::Always => Some(&["--fast-path=always", "--pod-hook=port"]),
            Self::Off => Some(&["--fast-path=off", "--pod-hook=port"]),
            Self::Xdp => Some(&["--fast-path=verified", "--pod-hook=port", "--xdp=on"]),
            Self::Anchor => Some(&["--fast-path=verified", "--pod-hook=port", "--gro=anchor"]),
        }
    }

    /// Those of the backend udp: one flow on one core of a usual node shows what they cost.
    pub(crate) fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::FlanneldUdp)
    }

    /// Whether it is measured under these circumstances.
    pub(crate) fn fits(self, condition: Condition) -> bool {
        // A veth whose peer runs XDP takes nothing above its MTU (`veth_xdp_set`): there is no such wire. On one of 64 KiB there is
        // nothing to merge.
        let has_wire =
            !matches!(self, Self::Xdp | Self::Anchor) || condition.wire == Wire::Segmented;
        let is_usual = condition.br_netfilter || !self.is_udp();
        has_wire && is_usual && self.is_built(condition.beside)
    }

    /// Whether it has nodes in such a lab: the way out and kube-proxy's rules are the same for many. `off` and
    /// `anchor` show what is done for flows that are never fast.
    pub(crate) fn is_built(self, beside: Beside) -> bool {
        match beside {
            Beside::Nothing => true,
            Beside::Translated => {
                Self::JUDGED.contains(&self)
                    || matches!(self, Self::Before | Self::Off | Self::Anchor)
            }
            _ => Self::JUDGED.contains(&self) || self == Self::Before,
        }
    }
}
