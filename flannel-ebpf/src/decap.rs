//! Decapsulation: outer headers off, congestion mark merged.

use flannel_common::Mac;
use flannel_common::csum;
use flannel_common::ecn;
use flannel_common::header::{Eth, Ip};
use flannel_common::reason::Reason;
use flannel_common::vxlan::Outer;

use crate::globals::VTEP_MAC;
use crate::headers;
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

/// Strips the outer headers. `inner` is kept equal to what stands in the packet.
#[inline(always)]
pub(crate) fn strip(skb: &Skb, outer_tos: u8, inner: &mut Ip) -> Result<(), Reason> {
    merge_ecn(skb, outer_tos, inner)?;
    skb.shrink().map_err(|_| Reason::DecapRefused)
}

/// Addresses a stripped frame to `flannel.<VNI>`, whatever its inner destination MAC was: the VNI has said
/// that it is for us, and a MAC that systemd changed must not cost a packet. The source stays the peer's.
#[inline(always)]
pub(crate) fn address_to_stack(skb: &Skb, src: Mac) -> Result<(), Reason> {
    skb.store(
        0,
        &Macs {
            dst: VTEP_MAC.load(),
            src,
        },
    )
    .map_err(|_| Reason::Mangled)
}

/// The new TOS and its checksum change cancel out, so `CHECKSUM_COMPLETE` stays true.
#[inline(always)]
fn merge_ecn(skb: &Skb, outer_tos: u8, inner: &mut Ip) -> Result<(), Reason> {
    let bits = match ecn::decapsulate(outer_tos, inner.tos) {
        ecn::Decap::Keep => return Ok(()),
        ecn::Decap::Drop => return Err(Reason::EcnCe),
        ecn::Decap::Set(bits) => bits,
    };
    let tos = (inner.tos & !ecn::MASK) | bits;
    let first = inner.version_ihl;
    inner.check = csum::replace(inner.check, [first, inner.tos], [first, tos]);
    inner.tos = tos;
    skb.store(INNER_IP + TOS, &tos)
        .map_err(|_| Reason::DecapRefused)?;
    skb.store(INNER_IP + CHECK, &inner.check)
        .map_err(|_| Reason::Mangled)
}

/// The inner packet lies here before [`strip`], and at [`headers::IP`] after it.
pub(crate) const AT: usize = INNER_IP;
const _: () = assert!(AT == headers::IP + Outer::LEN);
