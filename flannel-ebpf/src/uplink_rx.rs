//! What arrives at the uplink: VXLAN for this network is checked, decapsulated and handed inwards.

use core::mem::MaybeUninit;
use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::globals::{ANCHOR_FORWARDED, ANCHOR_STACK};
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_UDP, Udp, VERSION_IHL};
use flannel_common::reason::Reason;
use flannel_common::transport;
use flannel_common::vxlan::{self, Outer};

use crate::fast_rx::{Destination, Merged};
use crate::globals::{
    self, ANCHOR, FLANNEL_IFINDEX, GRO_IFINDEX, PAIR_MTU, SUBNET, SUBNET_MASK, VNI, VXLAN_PORT,
};
use crate::headers::{self, Front, Packet};
use crate::redirect;
use crate::skb::Skb;
use crate::tunnelled::{Tunnelled, check_source};
use crate::verdict::Verdict;
use crate::{decap, deliver, fast_rx, flows, ours};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_ipv4_for_us() || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let (front, complete) = headers::load_front(skb, &mut room);
    let Outer { ip, udp, .. } = &front.outer;
    // What `frame_rx` has left without a frame has the sender's bytes there, and behind them what would be the outer header.
    if front.eth.ethertype != ETHERTYPE_IPV4 {
        return Ok(Verdict::Untouched);
    }
    if ip.proto != PROTO_UDP || !globals::is_vtep(ip.dst) || !ip.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let port = VXLAN_PORT.load().to_be_bytes();
    if ip.version_ihl != VERSION_IHL {
        return with_options(skb, ip, port);
    }
    if udp.dst != port {
        return Ok(Verdict::Untouched);
    }
    // The kernel reassembles; the agent's socket on this port gets the result. A follower has no port
    // and looks like any fragment.
    if ip.is_fragment() {
        return Err(Reason::OuterFragment);
    }
    if !complete {
        return Err(Reason::Truncated);
    }
    decapsulate(skb, front)
}

/// The kernel takes options off as well.
#[inline(always)]
pub(crate) fn with_options(skb: &Skb, ip: &Ip, port: [u8; 2]) -> Result<Verdict, Reason> {
    let at = headers::IP + usize::from(ip.version_ihl & 0xf) * 4;
    match skb.load::<Udp>(at) {
        Some(udp) if udp.dst == port => Err(Reason::OuterOptions),
        _ => Ok(Verdict::Untouched),
    }
}

#[inline(always)]
fn decapsulate(skb: &Skb, front: &Front) -> Result<Verdict, Reason> {
    let Front { outer, inner, .. } = front;
    let packet_len = skb.len().wrapping_sub(Eth::LEN as u32);
    let mark = vxlan::check(outer, VNI.load(), packet_len, globals::gbp())?;
    vxlan::check_inner(outer, &inner.ip)?;
    if is_batch(skb.gso_size(), outer.ip.total_len(), inner.ip.total_len()) != 0 {
        return Err(Reason::LengthMismatch);
    }
    skb.untag();
    skb.set_passes(0);
    let packet = Tunnelled {
        outer_src: outer.ip.src,
        src_mac: Some(&outer.eth.src),
        inner,
        mark,
    };

    ours::check(skb)?;
    let destination = match flows::enabled() {
        false => check_source(&packet).map(|()| Destination::Stack),
        true => fast_rx::destination(skb, &packet, Merged::NotYet),
    };
    if let Ok(Destination::Pod(target)) = destination {
        let ip = decap::strip(skb, outer.ip.tos, &inner.ip)?;
        return deliver::to_pod(skb, &ip, &target, Reason::FastRx);
    }
    let at_once = matches!(destination?, Destination::StackAtOnce);
    // Stripped, it would still count as tunnelled when the pod's kernel cuts it up (`__udp_gso_segment`), and be lost.
    // Not stripped, the kernel cuts it up for the agent's socket.
    if skb.is_gso() && inner.ip.proto == PROTO_UDP {
        return Err(Reason::UdpGso);
    }
    if !at_once && is_for_anchor(inner) {
        return Err(Reason::ToAnchor);
    }
    let ip = decap::strip(skb, outer.ip.tos, &inner.ip)?;
    decap::address_to_stack(skb, outer.eth.src, &ip)?;
    if let Some(mark) = mark {
        skb.set_mark(mark);
    }
    Ok(if !at_once && is_for_pair(skb, inner) {
        Verdict::Taken(redirect::out(GRO_IFINDEX.load()), Reason::DecapGro)
    } else {
        Verdict::Taken(
            redirect::ingress(FLANNEL_IFINDEX.load()),
            Reason::DecapDirect,
        )
    })
}

/// See [`vxlan::is_batch`]. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_batch(gso_size: u32, outer: u16, inner: u16) -> u32 {
    vxlan::is_batch(gso_size, outer, inner).into()
}

/// What may merge crosses the pair. Not so a GSO packet, which the GRO end would cut up, nor one longer than the
/// pair's MTU, which the pair would drop and the stack will fragment.
#[inline(always)]
pub(crate) fn is_for_pair(skb: &Skb, packet: &Packet) -> bool {
    transport::may_merge(&packet.ip, &packet.l4)
        && !skb.is_gso()
        && u32::from(packet.ip.total_len()) <= PAIR_MTU.load()
}

/// What GRO has merged keeps the marks of a tunnel packet when we strip it ([`Skb::shrink`]). A pod's port takes it so. A bridge
/// cuts it up, and a network card that segments tunnels itself would look for headers that are gone; so where it may come to
/// either, the kernel takes the headers off, and the marks. With it goes what is not merged, lest that overtakes.
#[inline(always)]
fn is_for_anchor(packet: &Packet) -> bool {
    let whose = match ANCHOR.load() {
        ANCHOR_FORWARDED => !is_for_pod(packet.ip.dst),
        ANCHOR_STACK => true,
        _ => false,
    };
    whose && transport::may_merge(&packet.ip, &packet.l4)
}

/// Not so this node's own address, the first of its subnet: behind it may be a connection that the node forwards.
#[inline(always)]
fn is_for_pod(address: Ipv4) -> bool {
    cidr::contains(SUBNET.load(), SUBNET_MASK.load(), address)
        && u32::from_be_bytes(address) != SUBNET.load()
}
