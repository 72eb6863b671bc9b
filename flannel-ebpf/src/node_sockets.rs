//! Which ports of its addresses the node itself needs: its sockets know best, listening ones and those of the kernel
//! (WireGuard) alike.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_CURRENT_NETNS, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
};
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp};
use flannel_common::snat::{Key, Transport, take_back};

use crate::skb::Skb;
use crate::snat_table::Snat;
use crate::snat_work;

/// Whether the port that a new flow just got in [`Work::to`](crate::snat_work::Work::to) is one of the node's: then the flow has
/// it no more.
#[inline(always)]
pub(crate) fn needs_port(skb: &Skb) -> bool {
    take_from_flow(skb.raw()) != 0
}

/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_from_flow(ctx: *mut __sk_buff) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    let packet = &work.packet;
    if !packet.transport.has_port_range()
        || !has_socket(ctx, &packet.key.reply_to(work.to), packet.transport)
    {
        return 0;
    }
    take_back(&Snat, packet, work.to);
    1
}

/// Whether a socket would get the packet that arrives under this key.
#[inline(always)]
fn has_socket(ctx: *mut __sk_buff, key: &Key, transport: Transport) -> bool {
    const LEN: u32 = size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32;
    let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: u32::from_ne_bytes(key.src),
        daddr: u32::from_ne_bytes(key.dst),
        sport: u16::from_ne_bytes(key.src_port),
        dport: u16::from_ne_bytes(key.dst_port),
    };
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 },
    };
    let (at, here) = (&raw mut tuple, BPF_F_CURRENT_NETNS as u64);
    let socket = if transport == Transport::Tcp {
        // SAFETY: the helper reads LEN bytes, those of IPv4, which are written.
        let socket = unsafe { bpf_skc_lookup_tcp(ctx.cast(), at, LEN, here, 0) };
        socket.cast::<core::ffi::c_void>()
    } else {
        // SAFETY: as above.
        let socket = unsafe { bpf_sk_lookup_udp(ctx.cast(), at, LEN, here, 0) };
        socket.cast()
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: found above, and used no more.
    unsafe { bpf_sk_release(socket) };
    true
}
