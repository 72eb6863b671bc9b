//! What came through the tunnel, and whether it may.

use flannel_common::reason::Reason;
use flannel_common::source::Claim;
use flannel_common::{Ipv4, Mac};

use crate::headers::Packet;
use crate::senders;

/// A packet that came through the tunnel.
pub(crate) struct Tunnelled<'a> {
    pub(crate) outer_src: Ipv4,
    /// Source of the inner Ethernet header; `None`: the source was checked before.
    pub(crate) src_mac: Option<&'a Mac>,
    pub(crate) inner: &'a Packet,
}

#[inline(always)]
pub(crate) fn check_source(packet: &Tunnelled<'_>) -> Result<(), Reason> {
    let Some(mac) = packet.src_mac else {
        return Ok(());
    };
    senders::check(&Claim {
        outer: packet.outer_src,
        inner: packet.inner.ip.src,
        mac: *mac,
    })
}
