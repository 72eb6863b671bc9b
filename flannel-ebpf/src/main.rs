//! The TC programs of flannel-ebpf: one entry per hook, everything else in a file of its concern.
//!
//! On the host this is an empty program, so that the workspace can be linted as one.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::needless_pass_by_value,
        reason = "helpers take and return C integers: sizes of headers, ports and verdicts, all far below 2^31; and what is inlined costs nothing by value"
    )
)]

#[cfg(target_arch = "bpf")]
mod anchor_rx;
#[cfg(target_arch = "bpf")]
mod asked;
#[cfg(target_arch = "bpf")]
mod bridge_rx;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod cluster;
#[cfg(target_arch = "bpf")]
mod crossing;
#[cfg(target_arch = "bpf")]
mod decap;
#[cfg(target_arch = "bpf")]
mod deliver;
#[cfg(target_arch = "bpf")]
mod direct_rx;
#[cfg(target_arch = "bpf")]
mod direct_tx;
#[cfg(target_arch = "bpf")]
mod encap;
#[cfg(target_arch = "bpf")]
mod entry;
#[cfg(target_arch = "bpf")]
mod entry_ipip;
#[cfg(target_arch = "bpf")]
mod entry_snat;
#[cfg(target_arch = "bpf")]
mod entry_udp;
#[cfg(target_arch = "bpf")]
mod events;
#[cfg(target_arch = "bpf")]
mod fast_rx;
#[cfg(target_arch = "bpf")]
mod flows;
#[cfg(target_arch = "bpf")]
mod forged;
#[cfg(target_arch = "bpf")]
mod frame_rx;
#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod headers;
#[cfg(target_arch = "bpf")]
mod ipip_rx;
#[cfg(target_arch = "bpf")]
mod ipip_tx;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod node_sockets;
#[cfg(target_arch = "bpf")]
mod ours;
#[cfg(target_arch = "bpf")]
mod outlets;
#[cfg(target_arch = "bpf")]
mod outside_rx;
#[cfg(target_arch = "bpf")]
mod outside_tx;
#[cfg(target_arch = "bpf")]
mod overlay_rx;
#[cfg(target_arch = "bpf")]
mod overlay_tx;
#[cfg(target_arch = "bpf")]
mod peers;
#[cfg(target_arch = "bpf")]
mod pod_rx;
#[cfg(target_arch = "bpf")]
mod pod_tx;
#[cfg(target_arch = "bpf")]
mod random;
#[cfg(target_arch = "bpf")]
mod redirect;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod senders;
#[cfg(target_arch = "bpf")]
mod shown;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod snat_fragments;
#[cfg(target_arch = "bpf")]
mod snat_icmp;
#[cfg(target_arch = "bpf")]
mod snat_odd;
#[cfg(target_arch = "bpf")]
mod snat_open;
#[cfg(target_arch = "bpf")]
mod snat_packet;
#[cfg(target_arch = "bpf")]
mod snat_read;
#[cfg(target_arch = "bpf")]
mod snat_rewrite;
#[cfg(target_arch = "bpf")]
mod snat_room;
#[cfg(target_arch = "bpf")]
mod snat_rx;
#[cfg(target_arch = "bpf")]
mod snat_shares;
#[cfg(target_arch = "bpf")]
mod snat_table;
#[cfg(target_arch = "bpf")]
mod snat_tx;
#[cfg(target_arch = "bpf")]
mod snat_work;
#[cfg(target_arch = "bpf")]
mod teller;
#[cfg(target_arch = "bpf")]
mod tracked;
#[cfg(target_arch = "bpf")]
mod tunnelled;
#[cfg(target_arch = "bpf")]
mod udp_rx;
#[cfg(target_arch = "bpf")]
mod udp_tx;
#[cfg(target_arch = "bpf")]
mod uplink_rx;
#[cfg(target_arch = "bpf")]
mod uplink_xdp;
#[cfg(target_arch = "bpf")]
mod verdict;
#[cfg(target_arch = "bpf")]
mod xadd;
#[cfg(target_arch = "bpf")]
mod xdp_frame;
#[cfg(target_arch = "bpf")]
mod xdp_rx;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier rejects a program that could come here.
    loop {}
}

/// `bpf_redirect_neigh` and friends are for GPL-compatible programs only; the kernel reads this section.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
