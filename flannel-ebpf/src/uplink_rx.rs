//! What arrives at the uplink: VXLAN for this network is checked, decapsulated and handed inwards.

use flannel_common::header::{Eth, Ip, PROTO_UDP, Udp, VERSION_IHL};
use flannel_common::reason::Reason;
use flannel_common::vxlan::{self, Outer};
use flannel_common::{Ipv4, Mac};

use crate::fast_rx::Merged;
use crate::globals::{
    FLANNEL_IFINDEX, GRO_IFINDEX, OVERLAY_MTU, SOURCE_CHECK, UPLINK_IP, VNI, VXLAN_PORT,
};
use crate::headers::{self, Packet};
use crate::skb::{self, Skb};
use crate::verdict::Verdict;
use crate::{decap, deliver, fast_rx, flows, peers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_ipv4() || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let Some(outer) = headers::load(skb, headers::IP) else {
        return Ok(Verdict::Untouched);
    };
    if outer.ip.proto != PROTO_UDP || outer.ip.dst != UPLINK_IP.load() || !outer.ip.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let port = VXLAN_PORT.load().to_be_bytes();
    if outer.ip.version_ihl != VERSION_IHL {
        return with_options(skb, &outer.ip, port);
    }
    if [outer.l4[2], outer.l4[3]] != port {
        return Ok(Verdict::Untouched);
    }
    // The kernel reassembles; the agent's socket on this port gets the result. A follower has no port
    // and looks like any fragment.
    if outer.ip.is_fragment() {
        return Err(Reason::OuterFragment);
    }
    decapsulate(skb)
}

/// The kernel takes options off as well.
#[inline(always)]
fn with_options(skb: &Skb, ip: &Ip, port: [u8; 2]) -> Result<Verdict, Reason> {
    let at = headers::IP + usize::from(ip.version_ihl & 0xf) * 4;
    match skb.load::<Udp>(at) {
        Some(udp) if udp.dst == port => Err(Reason::OuterOptions),
        _ => Ok(Verdict::Untouched),
    }
}

/// A packet that came through the tunnel.
pub(crate) struct Tunnelled {
    pub(crate) outer_src: Ipv4,
    pub(crate) outer_tos: u8,
    pub(crate) inner: Packet,
    /// Where the inner IPv4 header lies in the frame.
    pub(crate) at: usize,
}

#[inline(always)]
fn decapsulate(skb: &Skb) -> Result<Verdict, Reason> {
    let outer: Outer = skb.load(Eth::LEN).ok_or(Reason::Truncated)?;
    let packet_len = skb.len().wrapping_sub(Eth::LEN as u32);
    vxlan::check(&outer, VNI.load(), packet_len)?;
    let inner = headers::load(skb, decap::AT).ok_or(Reason::Truncated)?;
    vxlan::check_inner(&outer, &inner.ip)?;
    let mut packet = Tunnelled {
        outer_src: outer.ip.src,
        outer_tos: outer.ip.tos,
        inner,
        at: decap::AT,
    };

    if !flows::enabled() {
        check_source(&packet)?;
    } else if let Some(target) = fast_rx::target(skb, &packet, Merged::NotYet)? {
        decap::strip(skb, packet.outer_tos, &mut packet.inner.ip)?;
        return deliver::to_pod(skb, &packet.inner.ip, &target, Reason::FastRx);
    }
    to_stack(skb, &mut packet, outer.eth.src)
}

#[inline(always)]
pub(crate) fn check_source(packet: &Tunnelled) -> Result<(), Reason> {
    if SOURCE_CHECK.load() == 0 {
        return Ok(());
    }
    peers::may_send(packet.outer_src, packet.inner.ip.src)
}

/// Through the pair, where GRO merges what belongs together. Not so a GSO packet, which the GRO end would
/// cut up, nor one longer than the pair's MTU, which the pair would drop and the stack will fragment.
#[inline(always)]
fn to_stack(skb: &Skb, packet: &mut Tunnelled, vtep: Mac) -> Result<Verdict, Reason> {
    let whole = skb.is_gso() || u32::from(packet.inner.ip.total_len()) > OVERLAY_MTU.load();
    decap::strip(skb, packet.outer_tos, &mut packet.inner.ip)?;
    decap::address_to_stack(skb, vtep)?;
    Ok(if whole {
        Verdict::Taken(
            skb::redirect_ingress(FLANNEL_IFINDEX.load()),
            Reason::DecapDirect,
        )
    } else {
        Verdict::Taken(skb::redirect(GRO_IFINDEX.load()), Reason::DecapGro)
    })
}
