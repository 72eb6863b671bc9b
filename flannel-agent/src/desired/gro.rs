//! Where packets of a TCP stream that came through the tunnel are merged.

use std::fmt;

use clap::ValueEnum;
use flannel_common::globals::{ANCHOR_FORWARDED, ANCHOR_NONE, ANCHOR_STACK};
use flannel_common::transport;
use serde::Serialize;

use super::{FastPath, Hook, Mode, Pair};
use crate::mark;
use crate::net::{Kind, Link};

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

/// The vxlan device in metadata mode that makes the kernel know the VXLAN port. Networks with one port share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Anchor {
    pub name: String,
    /// UDP port.
    pub port: u16,
    /// It goes with this device: whoever deletes our pair to make a vxlan device of his own finds the port free.
    pub lower: String,
}

impl Anchor {
    /// `taken`: another vxlan device has the port, and by that the kernel knows it.
    pub(super) fn wanted(gro: Gro, pair: &Pair, port: u16, taken: bool) -> Option<Self> {
        (gro == Gro::Anchor && !taken).then(|| Self {
            name: mark::anchor_device(port),
            port,
            lower: pair.name.clone(),
        })
    }
}

/// Value of [`flannel_common::globals::ANCHOR`]. What is for pods stays with us where `bridge_rx` takes it past the bridge.
pub(super) fn left_to(anchor: Option<&Anchor>, fast_path: &FastPath) -> u8 {
    match (anchor, fast_path.mode, fast_path.hook) {
        (None, ..) => ANCHOR_NONE,
        (Some(_), Mode::Verified, Hook::Port) => ANCHOR_FORWARDED,
        (Some(_), ..) => ANCHOR_STACK,
    }
}

/// Whether a device is an anchor of ours. Without an alias it is one that an agent made and did not live to mark.
pub(crate) fn is_anchor(link: &Link) -> bool {
    let is_named = |port| link.name == mark::anchor_device(port);
    let marked = matches!(link.alias.as_deref(), None | Some(mark::ANCHOR));
    marked && matches!(link.kind, Kind::Vxlan { port: Some(port), .. } if is_named(port))
}

/// The vxlan device that has the port, if it is neither an anchor nor one of those that `pair` replaces.
pub(super) fn holder(links: &[Link], vni: u32, port: u16) -> Option<String> {
    let replaced = [mark::device(vni), mark::aside_device(vni)];
    let has_port =
        |link: &&Link| matches!(link.kind, Kind::Vxlan { port: Some(p), .. } if p == port);
    links
        .iter()
        .filter(has_port)
        .find(|link| link.up && !is_anchor(link) && !replaced.contains(&link.name))
        .map(|link| link.name.clone())
}
