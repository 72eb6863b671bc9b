//! What `uplink_xdp` stripped, after GRO: to the pod if its flow is proven, else to the stack.

use core::mem::MaybeUninit;

use flannel_common::header::Eth;
use flannel_common::reason::Reason;

use crate::fast_rx::{Destination, Merged};
use crate::globals::{FLANNEL_IFINDEX, VTEP_MAC};
use crate::headers;
use crate::redirect;
use crate::skb::Skb;
use crate::tunnelled::Tunnelled;
use crate::verdict::Verdict;
use crate::{decap, deliver, fast_rx, flows};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let Some(meta) = skb.meta() else {
        return Ok(Verdict::Untouched);
    };
    let mut room = MaybeUninit::uninit();
    let inner = headers::load(skb, headers::IP, &mut room);
    let Some(inner) = inner.filter(|inner| meta.is_of(VTEP_MAC.load(), &inner.ip)) else {
        return Ok(Verdict::Untouched);
    };
    // The driver's own tag: XDP has not seen it. With an id the packet came by another network, of which no lease speaks.
    if !skb.is_ipv4_for_us() {
        return Err(Reason::UnknownVtep);
    }
    skb.untag();
    skb.set_passes(0);
    let packet = Tunnelled {
        outer_src: meta.outer_src,
        src_mac: None,
        inner,
        // What has one passes the driver as it is.
        mark: None,
    };
    if flows::enabled()
        && let Destination::Pod(target) = fast_rx::destination(skb, &packet, Merged::Already)?
    {
        return deliver::to_pod(skb, &inner.ip, &target, Reason::FastRxXdp);
    }
    // Already merged, so the pair has nothing to add: straight to where it comes out.
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    decap::address_to_stack(skb, eth.src, &inner.ip)?;
    Ok(Verdict::Taken(
        redirect::ingress(FLANNEL_IFINDEX.load()),
        Reason::DecapDirect,
    ))
}
