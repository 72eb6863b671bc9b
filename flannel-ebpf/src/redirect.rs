//! Where a packet goes on: the helpers that take it from the stack. Each returns the TC action.

use aya_ebpf::bindings::{BPF_F_INGRESS, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use flannel_common::Ipv4;

const AF_INET: u32 = 2;

/// Sends the packet out of a device, with a link-layer header for `next_hop`.
#[inline(always)]
pub(crate) fn to_neighbour(ifindex: u32, next_hop: Ipv4) -> i32 {
    // Only the first of the four is read for IPv4. Zeros for the others would be a call of `memset`.
    let ipv6_nh = [u32::from_ne_bytes(next_hop); 4];
    let mut to = bpf_redir_neigh {
        nh_family: AF_INET,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh },
    };
    // SAFETY: `to` outlives the call and its true size is passed.
    let action =
        unsafe { bpf_redirect_neigh(ifindex, &raw mut to, size_of::<bpf_redir_neigh>() as i32, 0) };
    action as i32
}

/// Sends the IPv4 packet out of a device, with a link-layer header for whom the kernel's look-up names: by mark, TOS and
/// addresses, and out of this device. The packet's own route gives way to that one.
#[inline(always)]
pub(crate) fn routed(ifindex: u32) -> i32 {
    // SAFETY: no next hop is passed, and its size is 0.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Transmits the frame as it is on a device.
#[inline(always)]
pub(crate) fn out(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Makes the frame arrive on a device, without a look at its MTU.
#[inline(always)]
pub(crate) fn ingress(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Hands the packet to the other end of a veth device in another namespace, in the same softirq.
#[inline(always)]
pub(crate) fn peer(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}
