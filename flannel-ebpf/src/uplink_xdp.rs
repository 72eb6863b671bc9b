//! Outer headers off at the driver, so that ordinary GRO merges the inner packets.
//!
//! Everything else stays where it was: what is not plainly ours, and every doubt, passes unchanged and
//! is handled by `uplink_rx`.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use flannel_common::ecn;
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_UDP, VERSION_IHL};
use flannel_common::reason::{Class, Reason};
use flannel_common::source::Claim;
use flannel_common::vxlan::{self, Outer};
use flannel_common::xdp::Meta;

use crate::globals::{self, UPLINK_MAC, VNI, VTEP_MAC, VXLAN_PORT, is_vtep};
use crate::xdp_frame::Frame;
use crate::{ours, senders};

/// The front of a VXLAN packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Front {
    eth: Eth,
    outer: Outer,
    inner: Ip,
}

/// The XDP action, and the reason if the packet was ours.
#[inline(always)]
pub(crate) fn run(frame: &Frame) -> (u32, Option<Reason>) {
    let Some(front) = frame.load::<Front>(0).filter(is_ours) else {
        return (XDP_PASS, None);
    };
    match decapsulate(frame, &front) {
        Ok(()) => (XDP_PASS, Some(Reason::XdpDecap)),
        Err(reason) if matches!(reason.class(), Class::Drop) => (XDP_DROP, Some(reason)),
        // `uplink_rx` sees it again and counts it.
        Err(_) => (XDP_PASS, None),
    }
}

#[inline(always)]
fn is_ours(front: &Front) -> bool {
    front.eth.ethertype == ETHERTYPE_IPV4
        && front.eth.dst == UPLINK_MAC.load()
        && front.outer.ip.version_ihl == VERSION_IHL
        && front.outer.ip.proto == PROTO_UDP
        && is_vtep(front.outer.ip.dst)
        && front.outer.udp.dst == VXLAN_PORT.load().to_be_bytes()
        && !front.outer.ip.is_fragment()
}

#[inline(always)]
fn decapsulate(frame: &Frame, front: &Front) -> Result<(), Reason> {
    let len = frame.len().wrapping_sub(Eth::LEN as u32);
    // A mark is nothing that could be set here.
    if vxlan::check(&front.outer, VNI.load(), len, globals::gbp())?.is_some() {
        return Err(Reason::DecapRefused);
    }
    vxlan::check_inner(&front.outer, &front.inner)?;
    ours::check_frame(frame)?;
    if ecn::decapsulate(front.outer.ip.tos, front.inner.tos) != ecn::Decap::Keep {
        return Err(Reason::DecapRefused);
    }
    senders::check_at_driver(&Claim {
        outer: front.outer.ip.src,
        inner: front.inner.src,
        mac: front.outer.eth.src,
    })?;
    frame.reserve_meta().ok_or(Reason::DecapRefused)?;
    frame.strip().ok_or(Reason::DecapRefused)?;
    // The stack must take the frame for its own, or `PACKET_OTHERHOST` ends it.
    let eth = Eth {
        dst: UPLINK_MAC.load(),
        src: front.outer.eth.src,
        ethertype: ETHERTYPE_IPV4,
    };
    frame.store(0, &eth).ok_or(Reason::Mangled)?;
    frame
        .write_meta(Meta::new(front.outer.ip.src, VTEP_MAC.load(), &front.inner))
        .ok_or(Reason::Mangled)
}
