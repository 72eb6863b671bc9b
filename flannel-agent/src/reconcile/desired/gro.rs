//! Where packets of a TCP stream that came through the tunnel are merged.

use flannel_common::globals::{ANCHOR_FORWARDED, ANCHOR_NONE, ANCHOR_STACK};
use serde::Serialize;

use super::Pair;
use crate::base::options::{FastPath, Gro, Hook, Mode};
use crate::dataplane::rescue;
use crate::flannel::backend::Wire;
use crate::node::mark;
use crate::node::mark::is_anchor;
use crate::node::net::{Kind, Link};

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

/// Who else has the port, in words: a vxlan device that is neither an anchor nor one of those that the pair replaces, or, while
/// there is no anchor, a process.
pub(super) fn holder(links: &[Link], wire: Wire, port: u16) -> Option<String> {
    let replaced = [mark::device(wire), mark::aside_device(wire)];
    let has_port =
        |link: &&Link| matches!(link.kind, Kind::Vxlan { port: Some(p), .. } if p == port);
    let mut devices = links.iter().filter(has_port).filter(|link| link.up);
    if devices.clone().any(is_anchor) {
        return None;
    }
    let is_replaced = |link: &&Link| replaced.contains(&link.name);
    match devices.clone().find(|link| !is_replaced(link)) {
        Some(device) => Some(format!("the kernel vxlan device {}", device.name)),
        // Then nobody but the kernel has it.
        None if devices.any(|link| is_replaced(&link)) => None,
        None => rescue::process_on(port),
    }
}
