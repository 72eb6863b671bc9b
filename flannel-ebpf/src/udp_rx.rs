//! The backend udp at the uplink: an IPv4 packet, as it is, comes out of a datagram. No peer tells routers that they may mark the
//! outer header (ECN), so no mark is looked for there.

use core::mem::MaybeUninit;

use bytemuck::{Pod, Zeroable};
use flannel_common::header::{ETHERTYPE_IPV4, Eth, PROTO_UDP, VERSION_IHL};
use flannel_common::reason::Reason;
use flannel_common::udp::{self, Outer};

use crate::fast_rx::{Destination, Merged};
use crate::globals::{self, FLANNEL_IFINDEX, GRO_IFINDEX, VXLAN_PORT};
use crate::headers::{self, Packet};
use crate::redirect;
use crate::skb::Skb;
use crate::tunnelled::{Tunnelled, check_source};
use crate::uplink_rx::{is_for_pair, with_options};
use crate::verdict::Verdict;
use crate::{decap, deliver, fast_rx, flows, ours};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Front {
    eth: Eth,
    outer: Outer,
}

const INNER: usize = size_of::<Front>();
const NO_MARK: u32 = 0;

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_ipv4_for_us() || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let (Front { eth, outer }, whole) = skb.read(0, &mut room);
    let ip = &outer.ip;
    // As in `uplink_rx`.
    if eth.ethertype != ETHERTYPE_IPV4 {
        return Ok(Verdict::Untouched);
    }
    if !whole || ip.proto != PROTO_UDP || !globals::is_vtep(ip.dst) || !ip.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let port = VXLAN_PORT.load().to_be_bytes();
    if ip.version_ihl != VERSION_IHL {
        return with_options(skb, ip, port);
    }
    if outer.udp.dst != port {
        return Ok(Verdict::Untouched);
    }
    // The kernel puts it together for the agent's socket.
    if ip.is_fragment() {
        return Err(Reason::OuterFragment);
    }
    // Nobody sends several in one packet; if the kernel has merged them, it cuts them up for the agent's socket.
    if skb.is_gso() {
        return Err(Reason::UdpGso);
    }
    udp::check(outer, skb.len().wrapping_sub(Eth::LEN as u32))?;
    let mut room = MaybeUninit::uninit();
    let inner = headers::load_mut(skb, INNER, &mut room).ok_or(Reason::Truncated)?;
    udp::check_inner(outer, &inner.ip)?;
    skb.untag();
    skb.set_passes(0);
    inner.ip = udp::hop(&inner.ip)?;
    let inner: &Packet = inner;
    let packet = Tunnelled {
        outer_src: outer.ip.src,
        // There is none: a peer is known by its address alone.
        src_mac: Some(&[0; 6]),
        inner,
        // Nor does flannel's device take one over from the datagram.
        mark: Some(NO_MARK),
    };

    ours::check(skb)?;
    let destination = match flows::enabled() {
        false => check_source(&packet).map(|()| Destination::Stack),
        true => fast_rx::destination(skb, &packet, Merged::NotYet),
    };
    if let Ok(Destination::Pod(target)) = destination {
        skb.shrink_bare(&inner.ip)?;
        return deliver::to_pod(skb, &inner.ip, &target, Reason::FastRx);
    }
    let at_once = matches!(destination?, Destination::StackAtOnce);
    skb.shrink_bare(&inner.ip)?;
    decap::address_to_stack(skb, eth.src, &inner.ip)?;
    skb.set_mark(NO_MARK);
    Ok(if !at_once && is_for_pair(skb, inner) {
        Verdict::Taken(redirect::out(GRO_IFINDEX.load()), Reason::DecapGro)
    } else {
        Verdict::Taken(
            redirect::ingress(FLANNEL_IFINDEX.load()),
            Reason::DecapDirect,
        )
    })
}
