//! What arrives at the uplink: VXLAN for this network is checked, decapsulated and handed inwards.

use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_UDP, Udp, VERSION_IHL};
use flannel_common::reason::Reason;
use flannel_common::vxlan::{self, Outer};

use crate::globals::{
    FLANNEL_IFINDEX, GRO_IFINDEX, OVERLAY_MTU, SOURCE_CHECK, UPLINK_IP, VNI, VXLAN_PORT,
};
use crate::skb::{self, Skb};
use crate::verdict::Verdict;
use crate::{decap, peers};

/// What decides whether a packet is VXLAN for us at all.
#[repr(C)]
#[derive(Clone, Copy)]
struct Glance {
    eth: Eth,
    ip: Ip,
    udp: Udp,
}

/// A whole VXLAN packet up to its inner IPv4 header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tunnelled {
    outer: Outer,
    inner: Ip,
}

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let Some(glance) = skb.load::<Glance>(0) else {
        return Ok(Verdict::Untouched);
    };
    if glance.eth.ethertype != ETHERTYPE_IPV4
        || glance.ip.proto != PROTO_UDP
        || glance.ip.dst != UPLINK_IP.load()
        || !glance.ip.is_ipv4()
        || !skb.is_for_host()
    {
        return Ok(Verdict::Untouched);
    }
    let udp_at = Eth::LEN + usize::from(glance.ip.version_ihl & 0xf) * 4;
    let udp = if udp_at == Eth::LEN + Ip::LEN {
        Some(glance.udp)
    } else {
        skb.load(udp_at)
    };
    if !udp.is_some_and(|udp| udp.dst == VXLAN_PORT.load().to_be_bytes()) {
        return Ok(Verdict::Untouched);
    }
    // The kernel takes options off and reassembles; the agent's socket on this port gets the result.
    if glance.ip.version_ihl != VERSION_IHL {
        return Err(Reason::OuterOptions);
    }
    if glance.ip.is_fragment() {
        return Err(Reason::OuterFragment);
    }
    decapsulate(skb)
}

#[inline(always)]
fn decapsulate(skb: &Skb) -> Result<Verdict, Reason> {
    let packet: Tunnelled = skb.load(Eth::LEN).ok_or(Reason::Truncated)?;
    let packet_len = skb.len().wrapping_sub(Eth::LEN as u32);
    vxlan::check(&packet.outer, VNI.load(), packet_len)?;
    let inner_len = vxlan::check_inner(&packet.outer, &packet.inner)?;
    if SOURCE_CHECK.load() != 0 {
        peers::may_send(packet.outer.ip.src, packet.inner.src)?;
    }
    let whole = skb.is_gso() || u32::from(inner_len) > OVERLAY_MTU.load();
    decap::strip(skb, &packet.outer, &packet.inner)?;

    Ok(if whole {
        // A GSO packet must not cross the pair, whose GRO end would cut it up; neither must a packet
        // longer than the pair's MTU, which the pair would drop and the stack will fragment.
        Verdict::Taken(
            skb::redirect_ingress(FLANNEL_IFINDEX.load()),
            Reason::DecapDirect,
        )
    } else {
        Verdict::Taken(skb::redirect(GRO_IFINDEX.load()), Reason::DecapGro)
    })
}
