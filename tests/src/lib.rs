//! The network-namespace harness: flannel nodes, pods and an etcd, each in a namespace of its own.
//!
//! ```no_run
//! use flannel_tests::prelude::*;
//!
//! let lab = Lab::new();
//! let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
//! let one = Agent::start(lab.node("one"), &net);
//! let two = KernelVxlan::join(lab.node("two"), &net);
//! let (client, server) = (Pod::on(&one, "client"), Pod::on(&two, "server"));
//! client.reaches(&server);
//! ```
//!
//! A scenario that flannel can serve is one text that runs twice, ours and the control: [`pair::Kind`] and
//! [`pair::Mix`] as `#[values]` of rstest, of which `Ours` is flannel-agent and `Flanneld` is real flanneld
//! ([`real_flanneld`]). If the control fails, the scenario is wrong. [`KernelVxlan`] and [`KernelHostGw`] are flannel's
//! dataplane without a daemon, for scenarios in which one would only be in the way.
//!
//! [`KernelVxlan`]: kernel_vxlan::KernelVxlan
//! [`KernelHostGw`]: kernel_host_gw::KernelHostGw
//!
//! Nodes start cold: the pings by which [`pair::Pair`] and [`stage::Stage`] find out that all is ready leave no neighbour entry
//! behind. [`cold`] empties the tables again in the middle of a test.
//!
//! Nothing here touches the interfaces, firewall or sysctls of the machine: every link is created
//! inside a namespace, and everything is removed on drop, also while a test panics. What a killed
//! test process leaves behind is swept by the next [`lab::Lab`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail by panicking: that is where the backtrace comes from"
)]

pub mod agent;
pub mod bandwidth;
pub mod bare;
pub mod bpftool;
pub mod bridge_port;
mod bytes;
pub mod cable;
pub mod capture;
pub mod certificate;
pub mod cleanup;
pub mod cluster_dns;
pub mod cni;
pub mod cni_plugin;
pub mod cold;
pub mod crowd;
pub mod datastore;
pub mod devices;
pub mod doctor;
pub mod etcd;
pub mod fabric;
pub mod fast_path;
pub mod fill;
pub mod flannel_rules;
mod flanneld;
pub mod forger;
pub mod free_port;
pub mod gate;
pub mod handshake;
pub mod helm;
pub mod host;
pub mod iptables;
pub mod kernel_host_gw;
pub mod kernel_vxlan;
pub mod kube_api;
pub mod kube_client;
pub mod kube_proxy;
mod kube_proxy_nft;
pub mod lab;
pub mod manifest;
pub mod member;
pub mod metrics;
pub mod mirror;
pub mod netns;
pub mod network;
pub mod no_tcx;
pub mod node;
pub mod outside;
pub mod packet;
pub mod packet_socket;
pub mod pair;
pub mod ping;
pub mod pod;
pub mod process;
pub mod raw;
pub mod real_flanneld;
pub mod refusal;
pub mod setups;
pub mod several;
pub mod snat_table;
pub mod sniffer;
pub mod sockopt;
pub mod stage;
pub mod stranger;
pub mod subnet_env;
pub mod supervise;
pub mod sweep;
pub mod talk;
pub mod tcp;
pub mod traceroute;
pub mod traces;
pub mod tuntap;
pub mod udp;
pub mod unprivileged;
pub mod vxlan_frame;
pub mod wait;
pub mod ways;
pub mod web;
pub mod with_daemon;

/// What a scenario needs.
pub mod prelude {
    pub use crate::agent::Agent;
    pub use crate::capture::Capture;
    pub use crate::host::Host;
    pub use crate::kernel_host_gw::KernelHostGw;
    pub use crate::kernel_vxlan::KernelVxlan;
    pub use crate::lab::{Lab, Wire};
    pub use crate::member::Member;
    pub use crate::network::Network;
    pub use crate::node::Node;
    pub use crate::outside::Outside;
    pub use crate::pod::Pod;
    pub use crate::real_flanneld::RealFlanneld;
    pub use crate::sniffer::Sniffer;
    pub use crate::wait::{SOON, eventually, eventually_some, uninterrupted};
    pub use crate::with_daemon::{AnyDaemon, WithDaemon};
}
