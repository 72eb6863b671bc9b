//! Encapsulation: room, outer headers, redirect to the device that leads to the peer.

use flannel_common::crossing::Change;
use flannel_common::header::{Eth, Ip, PROTO_UDP};
use flannel_common::maps::{Peer, ROUTED};
use flannel_common::reason::Reason;
use flannel_common::source_port;
use flannel_common::vxlan::Varying;

use crate::globals::{self, OUTER_TEMPLATE, PORT_MAX, PORT_MIN, UPLINK_IFINDEX, VXLAN_PORT};
use crate::random;
use crate::redirect;
use crate::route::{self, Outer};
use crate::skb::Skb;
use crate::verdict::Verdict;

/// Whether a packet may have a route by now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Ahead of the stack. The way is the one that the agent looked up, if it found one for all packets without a mark.
    Pod,
    /// Behind it: the packet still has the route to the overlay, with which the kernel would send it if it had to wait for
    /// a neighbour (`neigh_update`, `dst_neigh_lookup_skb`). The way is looked up, as for a kernel vxlan device's.
    Stack,
}

/// How a tunnel's programs send. Each tunnel has programs of its own, from one text.
pub(crate) trait Encapsulate {
    /// Whether routes lead to peers by their own addresses, as flannel makes them.
    const BY_ADDRESS: bool = false;
    /// Whether some peers may be reached without it.
    const HAS_DIRECT: bool = true;

    /// Sends an IPv4 frame to `peer`, with `ip` as its header up to the checksum, counting `reason`. `class`: with the mark and class of
    /// that, which it gets once nothing can be refused any more: what is refused takes the stack, as it came.
    fn send(
        skb: &Skb,
        peer: &Peer,
        ip: &Ip,
        at: At,
        class: Option<&Change>,
        reason: Reason,
    ) -> Result<Verdict, Reason>;
}

pub(crate) struct Vxlan;

impl Encapsulate for Vxlan {
    #[inline(always)]
    fn send(
        skb: &Skb,
        peer: &Peer,
        ip: &Ip,
        at: At,
        class: Option<&Change>,
        reason: Reason,
    ) -> Result<Verdict, Reason> {
        send(skb, peer, ip, at, class, reason)
    }
}

/// Encapsulates an IPv4 frame, with `ip` as its header up to the checksum, and sends it to `peer`, counting `reason`.
/// The outer packet keeps the inner one's mark and traffic class, for filters and classes at the uplink, as with the kernel's
/// device.
#[inline(always)]
fn send(
    skb: &Skb,
    peer: &Peer,
    ip: &Ip,
    at: At,
    class: Option<&Change>,
    reason: Reason,
) -> Result<Verdict, Reason> {
    let src_port = source_port::from_hash(skb.flow_hash(), PORT_MIN.load(), PORT_MAX.load());
    let mut outer = OUTER_TEMPLATE
        .load()
        .fill(&Varying {
            remote: peer.public_ip,
            src_port,
            dst_mac: peer.vtep_mac,
            inner: *ip,
            id: random::ip_id(),
            inner_len: inner_len(skb)?,
        })
        .ok_or(Reason::EncapRefused)?;
    // Behind the stack it is the packet's own, ahead of it the one that the stack was seen to give such packets.
    if globals::gbp() {
        outer.carry(class.map_or_else(|| skb.mark(), |class| class.mark));
    }

    skb.grow().map_err(|_| Reason::EncapRefused)?;
    if let Some(class) = class {
        skb.set_class(class.mark, class.priority);
    }
    skb.store(Eth::LEN, outer.bytes())
        .map_err(|_| Reason::Mangled)?;
    if globals::masquerades() {
        skb.tell_tunnelled();
    }
    let action = match at {
        // Marks may be routed by.
        At::Pod if peer.next_hop != ROUTED && skb.mark() == 0 => {
            redirect::to_neighbour(UPLINK_IFINDEX.load(), peer.next_hop)
        }
        _ => route::send(
            skb,
            &Outer {
                to: peer.public_ip,
                proto: PROTO_UDP,
                ports: [src_port, VXLAN_PORT.load().to_be_bytes()],
                by_mark: true,
            },
        )?,
    };
    Ok(Verdict::Taken(action, reason))
}

#[inline(always)]
fn inner_len(skb: &Skb) -> Result<u16, Reason> {
    let len = skb.len().wrapping_sub(Eth::LEN as u32);
    u16::try_from(len).map_err(|_| Reason::EncapRefused)
}
