//! Decapsulation: outer headers off, congestion mark merged, frame addressed to `flannel.<VNI>`.

use flannel_common::Mac;
use flannel_common::csum;
use flannel_common::ecn;
use flannel_common::header::{Eth, Ip};
use flannel_common::reason::Reason;
use flannel_common::vxlan::Outer;

use crate::globals::VTEP_MAC;
use crate::skb::Skb;

const INNER_IP: usize = Eth::LEN + Outer::LEN;
const TOS: usize = 1;
const CHECK: usize = 10;

#[repr(C)]
#[derive(Clone, Copy)]
struct Macs {
    dst: Mac,
    src: Mac,
}

/// Strips the outer headers. The inner destination MAC is replaced by ours, whatever it was: the VNI has
/// said that the frame is for us, and a MAC that systemd changed must not cost a packet.
#[inline(always)]
pub(crate) fn strip(skb: &Skb, outer: &Outer, inner: &Ip) -> Result<(), Reason> {
    merge_ecn(skb, outer.ip.tos, inner)?;
    skb.shrink().map_err(|_| Reason::DecapRefused)?;
    let macs = Macs {
        dst: VTEP_MAC.load(),
        src: outer.eth.src,
    };
    skb.store(0, &macs).map_err(|_| Reason::Mangled)
}

/// The new TOS and its checksum change cancel out, so `CHECKSUM_COMPLETE` stays true.
#[inline(always)]
fn merge_ecn(skb: &Skb, outer_tos: u8, inner: &Ip) -> Result<(), Reason> {
    let bits = match ecn::decapsulate(outer_tos, inner.tos) {
        ecn::Decap::Keep => return Ok(()),
        ecn::Decap::Drop => return Err(Reason::EcnCe),
        ecn::Decap::Set(bits) => bits,
    };
    let tos = (inner.tos & !ecn::MASK) | bits;
    let check = csum::replace(
        inner.check,
        [inner.version_ihl, inner.tos],
        [inner.version_ihl, tos],
    );
    skb.store(INNER_IP + TOS, &tos)
        .map_err(|_| Reason::DecapRefused)?;
    skb.store(INNER_IP + CHECK, &check)
        .map_err(|_| Reason::Mangled)
}
