//! The backend udp behind the stack: what it routed to the overlay goes to the peer as the payload of a datagram.
//!
//! flanneld reads from a socket what its peers send, and a socket finishes no checksum, nor does a wire that is none (veth, virtio). So
//! every packet crosses the pair, whose near end offers to do neither checksums nor segments: what comes out at the far end is done.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use flannel_common::cidr;
use flannel_common::crossing::Change;
use flannel_common::header::{Eth, Ip, PROTO_UDP};
use flannel_common::maps::{PEER_STACK, Peer, ROUTED};
use flannel_common::reason::Reason;
use flannel_common::udp::{self, Varying};

use crate::encap::{At, Encapsulate};
use crate::globals::{self, FLANNEL_IFINDEX, OUTER_TEMPLATE, VTEP_MAC, VXLAN_PORT};
use crate::headers::{self, Macs, Packet};
use crate::overlay_tx::{note_passed, routed};
use crate::random;
use crate::redirect;
use crate::route::{self, Outer};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{asked, peers};

/// On the way out of the device: proves the flow, and no more.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if skb.take_past_stack() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    if let Some(packet) = headers::load(skb, headers::IP, &mut room)
        && let Some(peer) = peers::of(packet.ip.dst)
        && peer.kind != PEER_STACK
    {
        note_passed(skb, packet, peer, || ROUTED);
    }
    Ok(Verdict::Untouched)
}

/// At the far end.
#[inline(always)]
pub(crate) fn run_last(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    let mut room = MaybeUninit::uninit();
    let packet: &Packet = headers::load(skb, headers::IP, &mut room).ok_or(Reason::Truncated)?;
    if !packet.ip.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    if cidr::is_not_unicast(packet.ip.dst) {
        return Err(Reason::NotUnicast);
    }
    let peer = match peers::of(packet.ip.dst) {
        Some(peer) => peer,
        None => match routed(skb, packet) {
            Ok(peer) => peer,
            // As flannel's proxy, the agent tells the sender, if it is there to see it.
            Err(reason) => return Ok(Verdict::Taken(TC_ACT_UNSPEC, reason)),
        },
    };
    if peer.kind == PEER_STACK || asked::is_turn(peer.public_ip, asked::ASK_OUT) {
        return Err(Reason::ByStack);
    }
    encapsulate(skb, peer, &udp::hop(&packet.ip)?)
}

const NO_MARK: u32 = 0;

#[inline(always)]
fn encapsulate(skb: &Skb, peer: &Peer, ip: &Ip) -> Result<Verdict, Reason> {
    let len = skb.len().wrapping_sub(Eth::LEN as u32);
    let outer = udp::fill(
        &OUTER_TEMPLATE.load(),
        &Varying {
            remote: peer.public_ip,
            inner: *ip,
            id: random::ip_id(),
            inner_len: u16::try_from(len).map_err(|_| Reason::UnhandledTx)?,
        },
    )
    .ok_or(Reason::UnhandledTx)?;
    if skb.is_gso() {
        return Err(Reason::UnhandledTx);
    }
    skb.grow_bare().map_err(|_| Reason::UnhandledTx)?;
    skb.store(Eth::LEN, &outer).map_err(|_| Reason::Mangled)?;
    if globals::masquerades() {
        skb.tell_tunnelled();
    }
    // A datagram of flannel's proxy has none, whatever is in it.
    skb.set_mark(NO_MARK);
    let port = VXLAN_PORT.load().to_be_bytes();
    let to = Outer {
        to: peer.public_ip,
        proto: PROTO_UDP,
        ports: [port, port],
        by_mark: false,
    };
    Ok(Verdict::Taken(route::send(skb, &to)?, Reason::Encap))
}

/// A packet that skips the stack.
pub(crate) struct Udp;

impl Encapsulate for Udp {
    const HAS_DIRECT: bool = false;

    /// It goes where the stack would have sent it, whoever it is for.
    #[inline(always)]
    fn send(
        skb: &Skb,
        _peer: &Peer,
        ip: &Ip,
        _at: At,
        class: Option<&Change>,
        reason: Reason,
    ) -> Result<Verdict, Reason> {
        if let Some(class) = class {
            skb.set_class(class.mark, class.priority);
        }
        let mac = VTEP_MAC.load();
        headers::rewrite(skb, Macs { dst: mac, src: mac }, ip)?;
        skb.tell_past_stack();
        let action = redirect::out(FLANNEL_IFINDEX.load());
        Ok(Verdict::Taken(action, reason))
    }
}
