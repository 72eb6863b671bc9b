//! What came through the tunnel, and whether it may.

use flannel_common::reason::Reason;
use flannel_common::source::Claim;
use flannel_common::{Ipv4, Mac};

use crate::headers::Packet;
use crate::senders;
use crate::skb::Skb;

/// A packet that came through the tunnel.
pub(crate) struct Tunnelled<'a> {
    pub(crate) outer_src: Ipv4,
    /// Source of the inner Ethernet header; `None`: the source was checked before.
    pub(crate) src_mac: Option<&'a Mac>,
    pub(crate) inner: &'a Packet,
    /// What its sender says with GBP.
    pub(crate) mark: Option<u32>,
}

impl Tunnelled<'_> {
    /// With which it enters the stack.
    #[inline(always)]
    pub(crate) fn mark(&self, skb: &Skb) -> u32 {
        match self.mark {
            Some(mark) => mark,
            None => skb.mark(),
        }
    }
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
