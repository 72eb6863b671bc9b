//! The node whose programs are tested, and the object loaded for it.

use std::path::{Path, PathBuf};

use aya::{Ebpf, EbpfLoader};
use flannel_agent::base::options::Gro;
use flannel_common::snat::{Times, places};
use flannel_common::source::CHECK_LEASE;
use flannel_common::vxlan::{Constant, Template};
use flannel_common::{Ipv4, Mac, cidr, globals, ipip, maps, udp};

use super::cpu;
use super::fixture::Fixture;

/// The node whose programs are tested; tests change a field and load.
#[derive(Debug, Clone)]
pub struct Node {
    pub uplink_ip: Ipv4,
    /// A test run's packets are on the loopback device, 1.
    pub uplink_index: u32,
    /// Of `flannel.<VNI>`, the near end of the pair.
    pub pair_index: u32,
    pub vtep_mac: Mac,
    /// A value of [`globals::WIRE`].
    pub wire: u8,
    pub vni: u32,
    pub port: u16,
    pub gbp: bool,
    pub network: (Ipv4, u8),
    pub ports: (u16, u16),
    /// A value of [`flannel_common::source`].
    pub source_check: u8,
    /// Where peers send to.
    pub public_ip: Ipv4,
    pub overlay_mtu: u32,
    pub gro: Gro,
    /// A value of [`globals::ANCHOR`].
    pub anchor: u8,
    pub fast_path: u8,
    pub pod_hook: u8,
    /// `SHOW_GAP`, ticks; 0: what is fast is fast.
    pub show_gap: u32,
    pub snat_ports: (u16, u16),
    pub snat_more: (u16, u16),
    pub snat_keep: bool,
    /// `SNAT_SECRET`: under which ports flows leave.
    pub snat_secret: [u64; 2],
    pub snat_entries: u32,
    pub snat_times: Times,
    pub flow_entries: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            uplink_ip: [192, 168, 0, 1],
            uplink_index: 1,
            pair_index: Self::FLANNEL,
            vtep_mac: [2, 0, 0, 0, 0, 1],
            wire: globals::WIRE_VXLAN,
            vni: 1,
            port: 8472,
            gbp: false,
            network: ([10, 244, 0, 0], 16),
            ports: (32768, 60999),
            source_check: CHECK_LEASE,
            public_ip: [192, 168, 0, 1],
            overlay_mtu: 1450,
            gro: Gro::Pair,
            anchor: globals::ANCHOR_NONE,
            fast_path: globals::FAST_PATH_VERIFIED,
            pod_hook: globals::POD_HOOK_PORT,
            show_gap: 0,
            snat_ports: (50_000, 50_000),
            snat_more: (0, 0),
            snat_keep: false,
            snat_secret: [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908],
            snat_entries: 8192,
            snat_times: Times::DEFAULT,
            flow_entries: 131_072,
        }
    }
}

impl Node {
    /// Interface index of `flannel.<VNI>`, by which the stack receives what comes through the tunnel.
    pub const FLANNEL: u32 = 1;
    /// This node's own /24.
    pub const SUBNET: Ipv4 = [10, 244, 1, 0];
    /// A peer with a /24, as the agent would write it.
    pub const PEER_SUBNET: Ipv4 = [10, 244, 2, 0];
    pub const PEER_IP: Ipv4 = [192, 168, 0, 2];
    pub const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];

    /// One of a network with the backend udp.
    pub fn udp() -> Self {
        Self {
            wire: globals::WIRE_UDP,
            vni: 0,
            port: 8285,
            overlay_mtu: 1472,
            ..Self::default()
        }
    }

    /// One of a network with the backend ipip.
    pub fn ipip() -> Self {
        Self {
            wire: globals::WIRE_IPIP,
            vni: 0,
            port: 0,
            overlay_mtu: 1480,
            ..Self::default()
        }
    }

    pub fn load(&self) -> Fixture {
        // One packet is one CPU's from hook to hook; a test is not to move between them.
        cpu::stay();
        let mut fixture = Fixture {
            ebpf: self.loader(),
            wire: self.wire,
            names: Vec::new(),
            steps: None,
            teller: None,
            among_peers: None,
        };
        fixture.peer(Self::PEER_SUBNET, 24, Self::PEER_IP, Self::PEER_MAC);
        fixture.set_snat_times(&self.snat_times);
        fixture
    }

    fn loader(&self) -> Ebpf {
        let object = std::fs::read(object_path()).unwrap_or_else(|e| {
            panic!(
                "{}: {e}; run `cargo xtask build-ebpf` first",
                object_path().display()
            )
        });
        let network = u32::from_be_bytes(self.network.0);
        let mask = cidr::mask(self.network.1);
        let subnet = u32::from_be_bytes(Self::SUBNET);
        let template = match self.wire {
            globals::WIRE_UDP => udp::template(self.uplink_ip, self.port),
            globals::WIRE_IPIP => ipip::template(self.uplink_ip),
            _ => Template::new(&Constant {
                local: self.uplink_ip,
                port: self.port,
                vni: self.vni,
                vtep_mac: self.vtep_mac,
            }),
        };
        let (pair_mtu, bulk_len) = (
            self.gro.pair_mtu(self.overlay_mtu),
            self.gro.bulk_len(self.overlay_mtu),
        );
        let both = if self.snat_keep {
            (0, u16::MAX)
        } else {
            self.snat_ports
        };
        // The loopback device stands for all: that is where a test run has its packets.
        EbpfLoader::new()
            .btf(None)
            .override_global(globals::UPLINK_IFINDEX, &self.uplink_index, true)
            .override_global(globals::FLANNEL_IFINDEX, &self.pair_index, true)
            .override_global(globals::GRO_IFINDEX, &1u32, true)
            .override_global(globals::UPLINK_IP, &self.uplink_ip, true)
            .override_global(globals::OUTER_TEMPLATE, &template.0, true)
            .override_global(globals::PUBLIC_IP, &self.public_ip, true)
            .override_global(globals::UPLINK_MAC, &[0u8; 6], true)
            .override_global(globals::SUBNET, &subnet, true)
            .override_global(globals::SUBNET_MASK, &cidr::mask(24), true)
            .override_global(globals::FAST_PATH, &self.fast_path, true)
            .override_global(globals::POD_HOOK, &self.pod_hook, true)
            .override_global(globals::VTEP_MAC, &self.vtep_mac, true)
            .override_global(globals::WIRE, &self.wire, true)
            .override_global(globals::VNI, &self.vni, true)
            .override_global(globals::VXLAN_PORT, &self.port, true)
            .override_global(globals::GBP, &u8::from(self.gbp), true)
            .override_global(globals::NETWORK, &network, true)
            .override_global(globals::NETWORK_MASK, &mask, true)
            .override_global(globals::PORT_MIN, &self.ports.0, true)
            .override_global(globals::PORT_MAX, &self.ports.1, true)
            .override_global(globals::SOURCE_CHECK, &self.source_check, true)
            .override_global(globals::OVERLAY_MTU, &self.overlay_mtu, true)
            .override_global(globals::PAIR_MTU, &pair_mtu, true)
            .override_global(globals::BULK_LEN, &bulk_len, true)
            .override_global(globals::ANCHOR, &self.anchor, true)
            .override_global(globals::SHOW_GAP, &self.show_gap, true)
            .override_global(globals::SNAT_PORT_MIN, &self.snat_ports.0, true)
            .override_global(globals::SNAT_PORT_MAX, &self.snat_ports.1, true)
            .override_global(globals::SNAT_MORE_MIN, &self.snat_more.0, true)
            .override_global(globals::SNAT_MORE_MAX, &self.snat_more.1, true)
            .override_global(globals::SNAT_KEEP, &u8::from(self.snat_keep), true)
            .override_global(globals::SNAT_BOTH_MIN, &both.0, true)
            .override_global(globals::SNAT_BOTH_MAX, &both.1, true)
            .override_global(globals::SNAT_PLACES, &places(self.snat_entries), true)
            .override_global(globals::SNAT_SECRET, &self.snat_secret, true)
            .map_max_entries(maps::SNAT, self.snat_entries)
            .map_max_entries(maps::FLOWS, self.flow_entries)
            .map_max_entries(maps::YOUNG, places(self.snat_entries))
            .load(&object)
            .expect("the object loads; tests need root")
    }
}

/// Where `cargo xtask build-ebpf` puts the object.
fn object_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/flannel-ebpf")
}
