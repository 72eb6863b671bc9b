//! The backend ipip at the uplink. Others have packets of this protocol as well, between other addresses or the same ones: a tunnel of
//! the operator's, another network's. Those go on untouched.

use core::mem::MaybeUninit;

use bytemuck::{Pod, Zeroable};
use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_IPIP, VERSION_IHL};
use flannel_common::ipip;
use flannel_common::reason::Reason;

use crate::fast_rx::{Destination, Merged};
use crate::globals::{self, FLANNEL_IFINDEX, GRO_IFINDEX, SOURCE_CHECK, SUBNET, SUBNET_MASK};
use crate::headers::{self, Packet, SHORT_L4};
use crate::maps::VTEPS;
use crate::redirect;
use crate::skb::Skb;
use crate::tunnelled::{Tunnelled, check_source};
use crate::uplink_rx::is_for_pair;
use crate::verdict::Verdict;
use crate::{decap, deliver, fast_rx, flows, ours, peers};

/// From the outer IPv4 header on.
#[repr(C, align(4))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Front {
    outer: Ip,
    inner: Packet,
}

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_ipv4_for_us() || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Front { outer, inner } = load(skb, &mut room);
    if outer.proto != PROTO_IPIP || !globals::is_vtep(outer.dst) || !outer.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    // The kernel puts it together, or takes the options off, for the agent's socket.
    if outer.is_fragment() || outer.version_ihl != VERSION_IHL {
        return match (is_peer(outer.src), outer.is_fragment()) {
            (false, _) => Ok(Verdict::Untouched),
            (true, true) => Err(Reason::OuterFragment),
            (true, false) => Err(Reason::OuterOptions),
        };
    }
    if !is_ours(outer, &inner.ip) {
        return Ok(Verdict::Untouched);
    }
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    // As in `uplink_rx`.
    if eth.ethertype != ETHERTYPE_IPV4 {
        return Ok(Verdict::Untouched);
    }
    ipip::check(outer, &inner.ip, skb.len().wrapping_sub(Eth::LEN as u32))?;
    skb.untag();
    skb.set_passes(0);
    let packet = Tunnelled {
        outer_src: outer.src,
        // There is none: a peer is known by its address alone.
        src_mac: Some(&[0; 6]),
        inner,
        mark: None,
    };

    ours::check(skb)?;
    let destination = match flows::enabled() {
        false => check_source(&packet).map(|()| Destination::Stack),
        true => fast_rx::destination(skb, &packet, Merged::NotYet),
    };
    if let Ok(Destination::Pod(target)) = destination {
        let ip = strip(skb, outer.tos, &inner.ip)?;
        return deliver::to_pod(skb, &ip, &target, Reason::FastRx);
    }
    let at_once = matches!(destination?, Destination::StackAtOnce);
    let ip = strip(skb, outer.tos, &inner.ip)?;
    decap::address_to_stack(skb, eth.src, &ip)?;
    Ok(if !at_once && is_for_pair(skb, inner) {
        Verdict::Taken(redirect::out(GRO_IFINDEX.load()), Reason::DecapGro)
    } else {
        Verdict::Taken(
            redirect::ingress(FLANNEL_IFINDEX.load()),
            Reason::DecapDirect,
        )
    })
}

/// What the packet does not have is zero.
#[inline(always)]
fn load<'a>(skb: &Skb, room: &'a mut MaybeUninit<Front>) -> &'a Front {
    const INNER_L4: usize = headers::IP + 2 * Ip::LEN;
    let (front, whole) = skb.read(headers::IP, room);
    if !whole {
        if skb.read_first::<{ 2 * Ip::LEN }, _>(headers::IP, front) {
            skb.read_first::<SHORT_L4, _>(INNER_L4, &mut front.inner.l4);
        } else {
            skb.read_first::<{ Ip::LEN }, _>(headers::IP, front);
        }
    }
    front
}

#[inline(always)]
fn is_peer(outer: Ipv4) -> bool {
    VTEPS.get_ptr(outer).is_some()
}

#[inline(always)]
fn is_ours(outer: &Ip, inner: &Ip) -> bool {
    ipip::is_ours(
        is_peer(outer.src),
        cidr::contains(SUBNET.load(), SUBNET_MASK.load(), inner.dst),
        SOURCE_CHECK.load(),
        || peers::of(inner.src).is_some_and(|peer| peer.public_ip == outer.src),
    )
}

/// Takes the outer header off. Returns the IPv4 header that the packet goes on with: it still has to be written.
#[inline(always)]
fn strip(skb: &Skb, outer_tos: u8, inner: &Ip) -> Result<Ip, Reason> {
    let ip = decap::merged(outer_tos, inner)?;
    skb.shrink_ipip().map_err(|_| Reason::DecapRefused)?;
    Ok(ip)
}
