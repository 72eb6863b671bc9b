//! What the BPF programs and the agent share.
//!
//! Everything here is `no_std` and pure: the same function decides in the kernel and is tested on the
//! host. Addresses are byte arrays in network order, so that a map dump reads as an address and no
//! value is ever swapped twice.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod asked;
pub mod budget;
pub mod chance;
pub mod change;
pub mod cidr;
pub mod count;
pub mod crossing;
pub mod csum;
pub mod ecn;
pub mod event;
pub mod flow;
pub mod gbp;
pub mod globals;
pub mod header;
pub mod helper;
pub mod ipip;
pub mod maps;
pub mod outside;
pub mod program;
pub mod reason;
pub mod snat;
pub mod source;
pub mod source_port;
pub mod stats;
pub mod tick;
pub mod transport;
pub mod udp;
pub mod unfit;
pub mod vxlan;
pub mod xdp;

/// An IPv4 address, network order.
pub type Ipv4 = [u8; 4];
/// An Ethernet address.
pub type Mac = [u8; 6];
