//! Which way the stack sends a packet.

use aya_ebpf::bindings::{
    __sk_buff, BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    bpf_fib_lookup__bindgen_ty_1, bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3,
    bpf_fib_lookup__bindgen_ty_4, bpf_fib_lookup__bindgen_ty_5,
};
use aya_ebpf::programs::TcContext;
use flannel_common::flow::FlowKey;
use flannel_common::header::{Eth, PROTO_IPIP, PROTO_UDP};
use flannel_common::maps::ROUTED;
use flannel_common::reason::Reason;
use flannel_common::{Ipv4, Mac};

use crate::globals::{self, FLANNEL_IFINDEX, GRO_IFINDEX, UPLINK_IFINDEX, UPLINK_IP};
use crate::redirect;
use crate::skb::Skb;

const AF_INET: u8 = 2;
/// What a packet of the node itself comes by, to the routing rules (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// The mark counts as well: it is where the source MAC comes back. From kernel 6.10 on; refused by earlier ones.
const LOOK_UP_MARK: u32 = 1 << 5;
/// For a packet that has to leave by the device named.
const OUTPUT: u32 = 1 << 1;

/// An outer packet that is to be sent.
pub(crate) struct Outer {
    pub(crate) to: Ipv4,
    pub(crate) proto: u8,
    /// Source first; network order. Zero without ports.
    pub(crate) ports: [[u8; 2]; 2],
    /// Whether netfilter's mark counts: as far as the kernel's device would route by it.
    pub(crate) by_mark: bool,
}

/// Sends an encapsulated packet the way that the kernel would route it, if it were the node's own: by whatever device.
/// Returns the TC action.
///
/// A look-up of the program's own, because the kernel's (`redirect_routed`) is bound to a device, and because kernels
/// without commit 23f3770e1a53 leak the packet's own route in it. A neighbour without a valid entry leaves no choice: such a
/// packet must carry the route that it waits for.
///
/// # Errors
/// [`Reason::NoRoute`]: the kernel would not send it. Its own look-up would: bound to a device, it takes what it has no
/// route to for a neighbour (`ip_route_output_key_hash_rcu`).
#[inline(always)]
pub(crate) fn send(skb: &Skb, outer: &Outer) -> Result<i32, Reason> {
    let [[a, b], [c, d]] = outer.ports;
    let (to, ports) = (
        u32::from_ne_bytes(outer.to),
        u32::from_ne_bytes([a, b, c, d]),
    );
    match send_by(
        skb.raw(),
        to,
        ports,
        outer.proto.into(),
        outer.by_mark.into(),
    ) {
        NO_ROUTE => Err(Reason::NoRoute),
        action => Ok(action),
    }
}

/// No TC action.
const NO_ROUTE: i32 = i32::MIN;

/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_by(ctx: *mut __sk_buff, to: u32, ports: u32, proto: u32, by_mark: u32) -> i32 {
    let skb = Skb::new(TcContext::new(ctx));
    let mark = match by_mark {
        0 => 0,
        _ => skb.mark(),
    };
    let [a, b, c, d] = ports.to_ne_bytes();
    let [m0, m1, m2, m3] = mark.to_ne_bytes();
    let from = UPLINK_IP.load();
    // See `ask`.
    let mut params = bpf_fib_lookup {
        family: AF_INET,
        l4_protocol: proto as u8,
        sport: u16::from_ne_bytes([a, b]),
        dport: u16::from_ne_bytes([c, d]),
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: LOOPBACK,
        // The inner TOS does not count: a kernel vxlan device without `tos inherit` passes on its ECN bits alone.
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 {
            ipv6_src: [from; 4],
        },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: [to; 4] },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [m0, m1, m2, m3, 0, 0],
        dmac: [m0, m1, m2, m3, m0, m1],
    };
    let flags = if mark == 0 { 0 } else { LOOK_UP_MARK };
    let found = skb.look_up_route(&mut params, flags);
    let to = params.ifindex;
    // The second is about the length of the frame as it was when it was asked, and comes with an answer.
    let known = found == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || found == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED);
    let unresolved = found == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH);
    if (known || unresolved) && (to == FLANNEL_IFINDEX.load() || to == GRO_IFINDEX.load()) {
        return NO_ROUTE;
    }
    if known && params.family == AF_INET {
        // SAFETY: all of the union was written above; the helper puts the next hop in its first word.
        let next_hop = unsafe { params.__bindgen_anon_4.ipv4_dst };
        return redirect::to_neighbour(to, next_hop.to_ne_bytes());
    }
    if known || unresolved {
        return redirect::routed(to);
    }
    if (i64::from(BPF_FIB_LKUP_RET_BLACKHOLE)..=i64::from(BPF_FIB_LKUP_RET_NOT_FWDED))
        .contains(&found)
    {
        return NO_ROUTE;
    }
    // No answer: the loopback device does not forward, the route has labels, the mark is none for an old kernel.
    redirect::routed(UPLINK_IFINDEX.load())
}

/// The next hop of a packet that is on its way out of a device, forwarded by the stack: whom the routing table names.
///
/// `None` unless it names this device, and a neighbour whose MAC the frame has: packet marks, of which the look-up knows
/// nothing, or one of several equal routes may have led it elsewhere. A gateway with an IPv6 address is none, either.
#[inline(always)]
pub(crate) fn next_hop(skb: &Skb, flow: &FlowKey, tos: u8) -> Option<Ipv4> {
    let came_by = skb.came_by();
    if came_by == 0 {
        return None;
    }
    let eth: Eth = skb.load(0)?;
    let mut params = bpf_fib_lookup {
        family: AF_INET,
        l4_protocol: flow.proto,
        sport: u16::from_ne_bytes(flow.local_port),
        dport: u16::from_ne_bytes(flow.remote_port),
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: came_by,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 {
            flowinfo: u32::from(tos).to_le(),
        },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 {
            ipv6_src: [u32::from_ne_bytes(flow.local), 0, 0, 0],
        },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 {
            ipv6_dst: [u32::from_ne_bytes(flow.remote), 0, 0, 0],
        },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    let found = skb.look_up_route(&mut params, 0);
    let leads_here = params.ifindex == skb.ifindex() && params.family == AF_INET;
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || !leads_here || !same(params.dmac, eth.dst) {
        return None;
    }
    // SAFETY: all of the union was written above; the helper puts the next hop in its first word.
    Some(unsafe { params.__bindgen_anon_4.ipv4_dst }.to_ne_bytes())
}

/// What of a packet routes may depend on.
pub(crate) struct Forwarded {
    pub(crate) src: Ipv4,
    pub(crate) dst: Ipv4,
    pub(crate) tos: u8,
    pub(crate) proto: u8,
}

/// Whom the node hands a packet on its way out of the device at hand: its gateway, or who it is for. What the kernel's NAT
/// calls the next hop (`rt_nexthop`).
///
/// Asked as for a packet that is forwarded; if that answer leads to another device (one of several equal routes, a
/// mark on a kernel without [`LOOK_UP_MARK`]), as for one that has to leave by this device.
#[inline(always)]
pub(crate) fn gateway(skb: &Skb, packet: &Forwarded) -> Ipv4 {
    let came_by = match skb.came_by() {
        0 => LOOPBACK,
        device => device,
    };
    let mark = skb.mark();
    let marked = if mark == 0 { 0 } else { LOOK_UP_MARK };
    let [src, dst] = [packet.src, packet.dst].map(u32::from_ne_bytes);
    let what = |flags: u32| u32::from_ne_bytes([packet.tos, packet.proto, flags as u8, 0]);
    let found = match gateway_by(skb.raw(), src, dst, what(marked), came_by) {
        NONE => gateway_by(skb.raw(), src, dst, what(OUTPUT), skb.ifindex()),
        found => found,
    };
    match found {
        NONE => packet.dst,
        found => found.to_ne_bytes(),
    }
}

/// The device by which the node would forward a packet, as far as can be asked: see [`gateway`]. 0: no answer.
#[inline(always)]
pub(crate) fn device(skb: &Skb, packet: &Forwarded) -> u32 {
    let came_by = match skb.came_by() {
        0 => LOOPBACK,
        device => device,
    };
    let flags = if skb.mark() == 0 { 0 } else { LOOK_UP_MARK };
    let [src, dst] = [packet.src, packet.dst].map(u32::from_ne_bytes);
    let what = u32::from_ne_bytes([packet.tos, packet.proto, flags as u8, 0]);
    device_of(way_by(skb.raw(), src, dst, what, came_by))
}

/// The next hop of a packet on its way into the stack, if the node forwards it by the uplink.
#[inline(always)]
pub(crate) fn next_hop_by_uplink(skb: &Skb, packet: &Forwarded) -> Option<Ipv4> {
    let flags = if skb.mark() == 0 { 0 } else { LOOK_UP_MARK };
    let [src, dst] = [packet.src, packet.dst].map(u32::from_ne_bytes);
    let what = u32::from_ne_bytes([packet.tos, packet.proto, flags as u8, 0]);
    let found = way_by(skb.raw(), src, dst, what, skb.ifindex());
    let by_uplink = device_of(found) == UPLINK_IFINDEX.load() && found as u32 != NONE;
    by_uplink.then_some((found as u32).to_ne_bytes())
}

/// `by`, if a tunnel packet of the node's, without a mark, still goes to the peer at `to` by the uplink and that next hop; else [`ROUTED`].
#[inline(always)]
pub(crate) fn still(skb: &Skb, to: Ipv4, by: Ipv4) -> Ipv4 {
    let proto = match globals::is_ipip() {
        true => PROTO_IPIP,
        false => PROTO_UDP,
    };
    let what = u32::from_ne_bytes([0, proto, 0, 0]);
    let [to, hop] = [to, by].map(u32::from_ne_bytes);
    let found = way_by(skb.raw(), UPLINK_IP.load(), to, what, LOOPBACK);
    let known = u64::from(UPLINK_IFINDEX.load()) << 32 | u64::from(hop);
    // Without a branch, behind which the verifier would look at all of the program once more.
    let differs = found ^ known;
    let differs = (differs | differs.wrapping_neg()) >> 63;
    (hop & (differs as u32).wrapping_sub(1)).to_ne_bytes()
}

const _: () = assert!(u32::from_ne_bytes(ROUTED) == 0);

/// Whose subnet a packet for `flannel.<VNI>` is routed through: the gateway of a route by that device, which flannel's has a
/// neighbour entry for. Whom the packet is for, if the route has none.
#[inline(always)]
pub(crate) fn overlay_gateway(skb: &Skb, packet: &Forwarded) -> Ipv4 {
    let [src, dst] = [packet.src, packet.dst].map(u32::from_ne_bytes);
    let what = u32::from_ne_bytes([packet.tos, packet.proto, OUTPUT as u8, 0]);
    match gateway_by(skb.raw(), src, dst, what, FLANNEL_IFINDEX.load()) {
        NONE => packet.dst,
        found => found.to_ne_bytes(),
    }
}

/// Whether a packet on its way out of the device at hand never came by this host's stack: nobody sent it here, and its source is
/// out there, too. Containers and virtual machines send so that share the device by macvlan or ipvlan; a
/// local process that speaks in such a one's name cannot be told from them.
#[inline(always)]
pub(crate) fn is_of_a_neighbour(skb: &Skb, packet: &Forwarded) -> bool {
    if skb.came_by() != 0 {
        return false;
    }
    let [src, dst] = [packet.src, packet.dst].map(u32::from_ne_bytes);
    let what = u32::from_ne_bytes([packet.tos, packet.proto, 0, 0]);
    gateway_by(skb.raw(), dst, src, what, LOOPBACK) != NONE
}

/// No next hop of the device at hand.
const NONE: u32 = 0;

/// The next hop by the device that is asked for; `what`: TOS, protocol and flags. Addresses as four bytes of memory.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gateway_by(ctx: *mut __sk_buff, src: u32, dst: u32, what: u32, device: u32) -> u32 {
    let skb = Skb::new(TcContext::new(ctx));
    let Some(params) = ask(&skb, src, dst, what, device) else {
        return NONE;
    };
    let [_, _, flags, _] = what.to_ne_bytes();
    let here = match u32::from(flags) & OUTPUT {
        0 => skb.ifindex(),
        _ => device,
    };
    if params.ifindex != here {
        return NONE;
    }
    if params.family != AF_INET {
        // A gateway with an IPv6 address is none to the kernel's NAT.
        return dst;
    }
    // SAFETY: all of the union was written above; the helper puts the next hop in its first word.
    unsafe { params.__bindgen_anon_4.ipv4_dst }
}

const fn device_of(way: u64) -> u32 {
    (way >> 32) as u32
}

/// What the routing table answers: the device, in the upper half, and the next hop, 0 if it has an IPv6 address. 0: there is no answer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn way_by(ctx: *mut __sk_buff, src: u32, dst: u32, what: u32, device: u32) -> u64 {
    let skb = Skb::new(TcContext::new(ctx));
    let Some(params) = ask(&skb, src, dst, what, device) else {
        return 0;
    };
    let next_hop = match params.family == AF_INET {
        // SAFETY: all of the union was written above; the helper puts the next hop in its first word.
        true => unsafe { params.__bindgen_anon_4.ipv4_dst },
        false => NONE,
    };
    u64::from(params.ifindex) << 32 | u64::from(next_hop)
}

#[inline(always)]
fn ask(skb: &Skb, src: u32, dst: u32, what: u32, device: u32) -> Option<bpf_fib_lookup> {
    let [tos, proto, flags, _] = what.to_ne_bytes();
    let [m0, m1, m2, m3] = skb.mark().to_ne_bytes();
    // Only the first of four words is read for IPv4, and no byte of `dmac`. Zeros for them would be a call of `memset`, a
    // frame of which kernels before 6.7, whose frames are 32 bytes at least and 512 together, have no room for.
    let mut params = bpf_fib_lookup {
        family: AF_INET,
        l4_protocol: proto,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: device,
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 {
            flowinfo: u32::from(tos).to_le(),
        },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: [src; 4] },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: [dst; 4] },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        smac: [m0, m1, m2, m3, 0, 0],
        dmac: [m0, m1, m2, m3, m0, m1],
    };
    let found = skb.look_up_route(&mut params, u32::from(flags));
    let known = found == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || found == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED)
        || found == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH);
    known.then_some(params)
}

/// Without a call of `memcmp`.
#[inline(always)]
fn same(a: Mac, b: Mac) -> bool {
    let head = |mac: Mac| u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]);
    let tail = |mac: Mac| u16::from_ne_bytes([mac[4], mac[5]]);
    head(a) == head(b) && tail(a) == tail(b)
}
