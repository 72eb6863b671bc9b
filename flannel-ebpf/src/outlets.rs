//! Whom flows leave as by a device: see [`flannel_common::snat::Choices`].

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use flannel_common::Ipv4;
use flannel_common::header::Eth;
use flannel_common::snat::{Choices, Lent};

use crate::globals::{UPLINK_IFINDEX, uplink_ip};
use crate::maps::{LENT, OUTLETS};
use crate::route::{self, Forwarded};
use crate::skb::Skb;
use crate::snat_work::Work;

/// Whom most packets that leave by the device at hand are from, or will be. A device that nobody knows (yet) lets nothing
/// out under a pod's address.
#[inline(always)]
pub(crate) fn usual(skb: &Skb) -> Ipv4 {
    let uplink = uplink_ip();
    let index = skb.ifindex();
    if index == UPLINK_IFINDEX.load() {
        return uplink;
    }
    choices(index).map_or(uplink, Choices::first)
}

/// Whom a new flow leaves as that nothing is known of: as MASQUERADE would have it.
#[inline(always)]
pub(crate) fn fitting(skb: &Skb, work: &Work) -> Ipv4 {
    let ip = &work.ip;
    let [src, dst] = [ip.src, ip.dst].map(u32::from_ne_bytes);
    match source_by_next_hop(skb.raw(), src, dst, ip.tos, ip.proto) {
        UNKNOWN => work.node.local,
        address => address.to_ne_bytes(),
    }
}

/// No address of a device.
const UNKNOWN: u32 = 0;

/// [`UNKNOWN`] for a device that is no outlet. Addresses as four bytes of memory.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_by_next_hop(
    ctx: *mut __sk_buff,
    src: u32,
    dst: u32,
    tos: u8,
    proto: u8,
) -> u32 {
    let skb = Skb::new(TcContext::new(ctx));
    let Some(choices) = choices(skb.ifindex()) else {
        return UNKNOWN;
    };
    let address = match choices.are_several() {
        true => {
            let [src, dst] = [src, dst].map(u32::to_ne_bytes);
            let forwarded = Forwarded {
                src,
                dst,
                tos,
                proto,
            };
            choices.towards(route::gateway(&skb, &forwarded))
        }
        false => choices.first(),
    };
    u32::from_ne_bytes(address)
}

/// Whether flows may leave as `address` by the device of that index; 0: by any.
#[inline(always)]
pub(crate) fn is_lent(ifindex: u32, address: Ipv4) -> bool {
    address_is_lent(ifindex, u32::from_ne_bytes(address)) != 0
}

/// A global function like the other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn address_is_lent(ifindex: u32, address: u32) -> u32 {
    let address = address.to_ne_bytes();
    u32::from(LENT.get_ptr(Lent { ifindex, address }).is_some())
}

/// Whether netfilter sees what arrives by the device before we do.
#[inline(always)]
pub(crate) fn is_tracked(ifindex: u32) -> bool {
    choices(ifindex).is_some_and(|choices| choices.tracked != 0)
}

/// Whether the frame at hand was sent by another host that shares the device at hand: from another MAC than its own.
#[inline(always)]
pub(crate) fn is_of_another(skb: &Skb) -> bool {
    skb.missing() == 0 && sent_by_another(skb.raw()) != 0
}

/// A global function like the others.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sent_by_another(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb::new(TcContext::new(ctx));
    let Some(choices) = choices(skb.ifindex()) else {
        return 0;
    };
    let eth: Option<Eth> = skb.load(0);
    u32::from(eth.is_some_and(|eth| choices.is_of_another(eth.src)))
}

#[inline(always)]
fn choices(index: u32) -> Option<&'static Choices> {
    // SAFETY: the agent replaces entries, it does not change them; a replaced one is not freed while a program
    // runs (RCU).
    unsafe { OUTLETS.get(index) }
}
