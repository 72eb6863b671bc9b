//! The dataplanes that are compared.

use clap::ValueEnum;

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Mode {
    /// Host to host, no overlay, no pods, no rules
    Bare,
    /// flannel: kernel vxlan device and its iptables rules
    Kernel,
    /// flannel: host-gw routes and its iptables rules
    HostGw,
    /// ours with the defaults
    Verified,
    /// ours, hooks on the bridge instead of its ports
    Bridge,
    /// ours without proof
    Always,
    /// ours, everything through the stack
    Off,
}

impl Mode {
    pub(crate) const ALL: [Self; 7] = [
        Self::Bare,
        Self::Kernel,
        Self::HostGw,
        Self::Verified,
        Self::Bridge,
        Self::Always,
        Self::Off,
    ];
    /// What others are compared with, and what the goals are for.
    pub(crate) const QUICK: [Self; 3] = [Self::Bare, Self::Kernel, Self::Verified];

    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("no value is skipped");
        value.get_name().to_owned()
    }

    /// The agent's flags, for modes with an agent.
    pub(crate) fn flags(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Bare | Self::Kernel | Self::HostGw => None,
            Self::Verified => Some(&["--fast-path=verified", "--pod-hook=port"]),
            Self::Bridge => Some(&["--fast-path=verified", "--pod-hook=bridge"]),
            Self::Always => Some(&["--fast-path=always", "--pod-hook=port"]),
            Self::Off => Some(&["--fast-path=off", "--pod-hook=port"]),
        }
    }
}
