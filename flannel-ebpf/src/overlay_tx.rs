//! What the stack routed to the overlay: find the peer, encapsulate, send.

use flannel_common::cidr;
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip};
use flannel_common::reason::Reason;

use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{encap, peers};

/// Ethernet and IPv4 as they lie in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Headers {
    eth: Eth,
    ip: Ip,
}

/// First try, on the way out of `flannel.<VNI>`. What it passes crosses the veth pair, which segments in
/// software what this hook could not take, and comes to [`run_last`].
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let headers: Headers = skb.load(0).ok_or(Reason::Truncated)?;
    if headers.eth.ethertype != ETHERTYPE_IPV4 || !headers.ip.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    if cidr::is_not_unicast(headers.ip.dst) {
        return Err(Reason::NotUnicast);
    }
    let peer = peers::of(headers.ip.dst).ok_or(Reason::NoPeer)?;
    encap::send(skb, peer, headers.ip.tos)
}

/// Last try, at the far end of the pair: behind it there is no stack that could help.
#[inline(always)]
pub(crate) fn run_last(skb: &Skb) -> Result<Verdict, Reason> {
    run(skb).map_err(|reason| match reason {
        Reason::EncapRefused => Reason::UnhandledTx,
        other => other,
    })
}
