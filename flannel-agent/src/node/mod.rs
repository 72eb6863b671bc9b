//! This host, but for BPF: links, addresses, routes, sysctls, the firewall, and what of them is ours.

pub mod blackhole;
pub mod conntrack;
pub mod direct;
pub mod flanneld_masq;
pub mod forward_rules;
pub mod iptables;
pub mod mark;
pub mod net;
pub mod node_sysctls;
pub mod path_mtu;
pub mod ping;
pub mod pod_bridge;
pub mod snat_ports;
pub mod uplink;
pub mod wireguard;
