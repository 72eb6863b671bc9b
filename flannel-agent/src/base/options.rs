//! What an operator can choose, as words: every floor may know them, none has to know the command line.

use std::fmt;
use std::net::Ipv4Addr;

use clap::ValueEnum;
use flannel_common::{globals, source, transport};
use regex::Regex;
use serde::Serialize;

/// What the operator said about the interface towards the other nodes.
#[derive(Debug, Clone, Default)]
pub struct UplinkChoice {
    /// Names or addresses, in order of preference.
    pub interfaces: Vec<String>,
    pub regexes: Vec<Regex>,
    pub can_reach: Option<Ipv4Addr>,
    pub public_ip: Option<Ipv4Addr>,
}

impl UplinkChoice {
    /// Whether `--iface` or `--iface-regex` is about the device of that name.
    #[must_use]
    pub fn names(&self, device: &str) -> bool {
        self.interfaces.iter().any(|name| name == device)
            || self.regexes.iter().any(|regex| regex.is_match(device))
    }
}

/// `--tunnel-firewall`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelFirewall {
    Past,
    Ask,
}

/// `--source-check`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceCheck {
    Lease,
    Strict,
    Off,
}

impl SourceCheck {
    /// Value of [`flannel_common::globals::SOURCE_CHECK`].
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Lease => source::CHECK_LEASE,
            Self::Strict => source::CHECK_STRICT,
            Self::Off => source::CHECK_OFF,
        }
    }
}

/// `--remote-authorize`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Authorize {
    #[default]
    None,
    PublicIp,
}

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

/// Text that never reaches a log or `Debug` output.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "***" })
    }
}

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

/// What makes GRO merge them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Gro {
    /// A second pass, behind our decapsulation: the pair of devices
    #[default]
    Pair,
    /// The first pass, at the uplink: a kernel vxlan device without a VNI makes it know the port
    Anchor,
    /// Nothing
    None,
}

impl Gro {
    /// Value of [`flannel_common::globals::PAIR_MTU`].
    #[must_use]
    pub const fn pair_mtu(self, overlay_mtu: u32) -> u32 {
        match self {
            Self::Pair => overlay_mtu,
            Self::Anchor | Self::None => 0,
        }
    }

    /// Value of [`flannel_common::globals::BULK_LEN`].
    #[must_use]
    pub const fn bulk_len(self, overlay_mtu: u32) -> u32 {
        match self {
            Self::Pair => transport::bulk_len(overlay_mtu),
            Self::Anchor | Self::None => u32::MAX,
        }
    }
}

impl fmt::Display for Gro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = self.to_possible_value();
        f.write_str(flag.as_ref().map_or("", |flag| flag.get_name()))
    }
}
