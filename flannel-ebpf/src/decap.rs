//! Decapsulation: outer headers off, congestion mark merged.

use flannel_common::Mac;
use flannel_common::ecn;
use flannel_common::header::Ip;
use flannel_common::reason::Reason;

use crate::globals::VTEP_MAC;
use crate::headers::{self, Macs};
use crate::skb::Skb;

/// The inner header with the outer congestion mark merged in.
#[inline(always)]
pub(crate) fn merged(outer_tos: u8, inner: &Ip) -> Result<Ip, Reason> {
    let mut ip = *inner;
    match ecn::decapsulate(outer_tos, inner.tos) {
        ecn::Decap::Keep => {}
        ecn::Decap::Drop => return Err(Reason::EcnCe),
        ecn::Decap::Set(bits) => ecn::set(&mut ip, bits),
    }
    Ok(ip)
}

/// Strips the outer headers. Returns the IPv4 header that the packet goes on with: it still has to be written.
#[inline(always)]
pub(crate) fn strip(skb: &Skb, outer_tos: u8, inner: &Ip) -> Result<Ip, Reason> {
    let ip = merged(outer_tos, inner)?;
    skb.shrink().map_err(|_| Reason::DecapRefused)?;
    Ok(ip)
}

/// Addresses a stripped frame to `flannel.<VNI>`, whatever its inner destination MAC was: the VNI has said
/// that it is for us, and a MAC that systemd changed must not cost a packet. The source stays the peer's.
#[inline(always)]
pub(crate) fn address_to_stack(skb: &Skb, src: Mac, ip: &Ip) -> Result<(), Reason> {
    let dst = VTEP_MAC.load();
    headers::rewrite(skb, Macs { dst, src }, ip)
}
