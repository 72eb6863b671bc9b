//! Which way the stack sends a packet.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup, bpf_fib_lookup__bindgen_ty_1,
    bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
    bpf_fib_lookup__bindgen_ty_5,
};
use flannel_common::flow::FlowKey;
use flannel_common::header::Eth;
use flannel_common::{Ipv4, Mac};

use crate::skb::Skb;

const AF_INET: u8 = 2;

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
    let found = skb.look_up_route(&mut params);
    let leads_here = params.ifindex == skb.ifindex() && params.family == AF_INET;
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || !leads_here || !same(params.dmac, eth.dst) {
        return None;
    }
    // SAFETY: all of the union was written above; the helper puts the next hop in its first word.
    Some(unsafe { params.__bindgen_anon_4.ipv4_dst }.to_ne_bytes())
}

/// Without a call of `memcmp`.
#[inline(always)]
fn same(a: Mac, b: Mac) -> bool {
    let head = |mac: Mac| u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]);
    let tail = |mac: Mac| u16::from_ne_bytes([mac[4], mac[5]]);
    head(a) == head(b) && tail(a) == tail(b)
}
