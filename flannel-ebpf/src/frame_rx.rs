//! What arrives at a device without Ethernet header (tun, WireGuard, ipip, gre) gets an empty one, for the programs behind.

use core::mem::MaybeUninit;

use flannel_common::header::{ETHERTYPE_IPV4, Eth, PROTO_IPIP, PROTO_UDP};

use crate::skb::Skb;
use crate::{globals, headers};

/// Leaves everything as it is that is no concern of theirs, and what has a header: another network's program was here before.
///
/// Whoever takes the packet next, the stack included, skips the header by `mac_len`, which the helper sets (`tcx_run`,
/// `cls_bpf_classify`).
#[inline(always)]
pub(crate) fn run(skb: &Skb) {
    if !skb.carries_ipv4() || !skb.is_for_host() {
        return;
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, 0, &mut room) else {
        return;
    };
    let ip = &packet.ip;
    let tunnels = match globals::is_ipip() {
        true => PROTO_IPIP,
        false => PROTO_UDP,
    };
    let concerns = globals::masquerades() || ip.proto == tunnels && globals::is_vtep(ip.dst);
    if ip.is_ipv4() && concerns && skb.grow_front(Eth::LEN).is_ok() {
        let _ = skb.store(Eth::LEN - ETHERTYPE_IPV4.len(), &ETHERTYPE_IPV4);
    }
}
