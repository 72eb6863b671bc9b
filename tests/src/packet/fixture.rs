//! The object under test, loaded once per test into maps nobody else sees.

use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable as _;
use flannel_agent::base::options::Gro;
use flannel_agent::dataplane::Wire;
use flannel_agent::dataplane::verifier::patiently;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::globals;
use flannel_common::maps::{self, PEER_DIRECT, PEER_VXLAN, Peer, Vtep};
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{Times, places};
use flannel_common::source::{CHECK_LEASE, Sender, SenderKey};
use flannel_common::stats::{Count, Counters};
use flannel_common::vxlan::{Constant, Template};
use flannel_common::{Ipv4, Mac, cidr, ipip, udp};

use super::cpu;
use super::world::{BRIDGE, UPLINK};
use crate::netns::Netns;

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

#[derive(Debug)]
pub struct Fixture {
    pub(super) ebpf: Ebpf,
    wire: u8,
    names: Vec<&'static str>,
    pub(super) steps: Option<Map>,
    /// Holds the listener's program.
    pub(super) teller: Option<Map>,
    /// See [`Node::load_among_peers`].
    pub(super) among_peers: Option<Netns>,
}

/// One packet through one program.
#[derive(Debug, Clone, Default)]
pub struct Run<'a> {
    pub packet: &'a [u8],
    /// Segment size of a GSO packet; 0 for one packet.
    pub gso_size: u32,
    pub mark: u32,
    pub priority: u32,
    /// Device the packet came by, of this network namespace; 0: the node sends it.
    pub came_by: u32,
    /// Device whose hook it is at; 0: the loopback device.
    pub device: u32,
}

#[derive(Debug)]
pub struct Outcome {
    pub action: i32,
    pub packet: Vec<u8>,
    pub mark: u32,
    pub priority: u32,
    pub nanos_per_packet: u128,
}

impl Fixture {
    pub fn peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4, vtep_mac: Mac) {
        let peer = Peer {
            public_ip,
            next_hop: public_ip,
            vtep_mac,
            kind: PEER_VXLAN,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
        let map = self.ebpf.map_mut(maps::VTEPS).unwrap();
        HashMap::<_, Ipv4, Wire<Vtep>>::try_from(map)
            .unwrap()
            .insert(public_ip, Wire(Vtep { leases: 1 }), 0)
            .unwrap();
        let map = self.ebpf.map_mut(maps::MACS).unwrap();
        HashMap::<_, Mac, Wire<Vtep>>::try_from(map)
            .unwrap()
            .insert(vtep_mac, Wire(Vtep { leases: 1 }), 0)
            .unwrap();
    }

    /// A peer to which the routing table has the way.
    pub fn routed_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let peer = Peer {
            public_ip,
            next_hop: maps::ROUTED,
            vtep_mac: [2, 0, 0, 0, 0, 9],
            kind: PEER_VXLAN,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
    }

    /// A peer that is reached without a tunnel.
    pub fn direct_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let peer = Peer {
            public_ip,
            next_hop: public_ip,
            vtep_mac: [0; 6],
            kind: PEER_DIRECT,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
    }

    fn insert_peer(&mut self, subnet: Ipv4, len: u32, peer: Peer) {
        let map = self.ebpf.map_mut(maps::PEERS).unwrap();
        LpmTrie::<_, Ipv4, Wire<Peer>>::try_from(map)
            .unwrap()
            .insert(&Key::new(len, subnet), Wire(peer), 0)
            .unwrap();
    }

    pub fn remove_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let map = self.ebpf.map_mut(maps::PEERS).unwrap();
        let mut peers = LpmTrie::<_, Ipv4, Wire<Peer>>::try_from(map).unwrap();
        let Wire(peer) = peers.get(&Key::new(len, subnet), 0).unwrap();
        peers.remove(&Key::new(len, subnet)).unwrap();
        // What needs no tunnel has none.
        if peer.vtep_mac != [0; 6] {
            let map = self.ebpf.map_mut(maps::MACS).unwrap();
            HashMap::<_, Mac, Wire<Vtep>>::try_from(map)
                .unwrap()
                .remove(&peer.vtep_mac)
                .unwrap();
        }
        let map = self.ebpf.map_mut(maps::VTEPS).unwrap();
        HashMap::<_, Ipv4, Wire<Vtep>>::try_from(map)
            .unwrap()
            .remove(&public_ip)
            .unwrap();
    }

    /// The loaded program at the driver.
    pub fn xdp(&mut self) -> &mut Xdp {
        let name = Program::UplinkXdp.name();
        let xdp: &mut Xdp = self.ebpf.program_mut(name).unwrap().try_into().unwrap();
        if !self.names.contains(&name) {
            patiently(|| xdp.load()).expect("the verifier accepts the program");
            self.names.push(name);
        }
        xdp
    }

    /// One frame through `uplink_xdp`. An `Outcome` whose action is an XDP action.
    pub fn run_xdp(&mut self, packet: &[u8]) -> Outcome {
        let mut out = vec![0u8; packet.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let result = self.xdp().test_run(options).expect("test run");
        out.truncate(result.data_size_out as usize);
        Outcome {
            action: result.return_value.cast_signed(),
            packet: out,
            mark: 0,
            priority: 0,
            nanos_per_packet: result.duration.as_nanos(),
        }
    }

    pub fn program(&mut self, program: Program) -> &mut SchedClassifier {
        let classifier: &mut SchedClassifier = self
            .ebpf
            .program_mut(program.symbol(self.wire))
            .unwrap()
            .try_into()
            .unwrap();
        if !self.names.contains(&program.name()) {
            patiently(|| classifier.load()).expect("the verifier accepts the program");
            self.names.push(program.name());
        }
        classifier
    }

    /// Has programs loaded ahead of their first run: what the first of them writes down is old after a second, and the verifier may
    /// take as long for the next.
    pub fn prepare(&mut self, programs: &[Program]) {
        for program in programs {
            self.program(*program);
        }
    }

    /// A packet at the hook of `program`. At a pod's port it is one that came by the tunnel.
    pub fn run(&mut self, program: Program, packet: &[u8]) -> Outcome {
        let (came_by, device) = match program {
            Program::PodRx => (Node::FLANNEL, 0),
            Program::DirectTx if self.among_peers.is_some() => (BRIDGE, UPLINK),
            _ => (0, 0),
        };
        self.run_with(
            program,
            &Run {
                packet,
                came_by,
                device,
                ..Run::default()
            },
        )
    }

    pub fn run_with(&mut self, program: Program, run: &Run<'_>) -> Outcome {
        self.repeat(program, run, 1)
    }

    /// Runs the program `repeat` times on the packet; only the first sees it unchanged.
    pub fn repeat(&mut self, program: Program, run: &Run<'_>, repeat: u32) -> Outcome {
        // Room for headers in front and for the longest packet a test run takes.
        let mut out = vec![0u8; run.packet.len() + 256];
        let ctx = context(run);
        let mut ctx_out = vec![0u8; ctx.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(run.packet);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&ctx);
        options.ctx_out = Some(&mut ctx_out);
        options.repeat = repeat;
        let result = self
            .program(program)
            .test_run(options)
            .unwrap_or_else(|e| panic!("test run of {} bytes: {e:?}", run.packet.len()));
        out.truncate(result.data_size_out as usize);
        let field = |at: usize| u32::from_ne_bytes(ctx_out[at..at + 4].try_into().unwrap());
        Outcome {
            action: result.return_value.cast_signed(),
            packet: out,
            mark: field(MARK),
            priority: field(PRIORITY),
            nanos_per_packet: result.duration.as_nanos(),
        }
    }

    /// The sum of one counter over all CPUs.
    pub fn count(&self, program: Program, reason: Reason) -> Count {
        let map = self.ebpf.map(maps::STATS).unwrap();
        let map = PerCpuArray::<_, Wire<Counters>>::try_from(map).unwrap();
        let values = map.get(&(program as u32), 0).unwrap();
        values.iter().fold(Count::zeroed(), |sum, Wire(counters)| {
            let count = counters.get(reason);
            Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
            }
        })
    }

    /// Whose tunnel packets came from where no lease says.
    pub fn senders(&self) -> Vec<(SenderKey, Sender)> {
        let map = self.ebpf.map(maps::SENDERS).unwrap();
        HashMap::<_, Wire<SenderKey>, Wire<Sender>>::try_from(map)
            .unwrap()
            .iter()
            .map(|entry| entry.unwrap())
            .map(|(Wire(key), Wire(sender))| (key, sender))
            .collect()
    }

    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let map =
            HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(self.ebpf.map(maps::FLOWS).unwrap());
        map.unwrap().get(&Wire(*key), 0).ok().map(|Wire(flow)| flow)
    }

    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map =
            HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(self.ebpf.map(maps::FLOWS).unwrap());
        map.unwrap()
            .iter()
            .map(|entry| entry.unwrap())
            .map(|(Wire(k), Wire(v))| (k, v))
            .collect()
    }

    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) {
        let map = self.ebpf.map_mut(maps::FLOWS).unwrap();
        let mut map = HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(map).unwrap();
        map.insert(Wire(*key), Wire(*flow), 0).unwrap();
    }

    /// The reasons that were counted, with their packets.
    pub fn counted(&self, program: Program) -> Vec<(Reason, u64)> {
        Reason::ALL
            .iter()
            .map(|reason| (*reason, self.count(program, *reason).packets))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }
}

/// Offsets in `struct __sk_buff` (`linux/bpf.h`).
const CTX_LEN: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const GSO_SEGS: usize = 164;
const GSO_SIZE: usize = 176;

fn context(run: &Run<'_>) -> Vec<u8> {
    let mut ctx = vec![0u8; CTX_LEN];
    let mut set = |at: usize, value: u32| ctx[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    set(MARK, run.mark);
    set(PRIORITY, run.priority);
    set(INGRESS_IFINDEX, run.came_by);
    set(IFINDEX, run.device);
    if run.gso_size > 0 {
        let payload = u32::try_from(run.packet.len()).unwrap();
        set(GSO_SIZE, run.gso_size);
        set(GSO_SEGS, payload.div_ceil(run.gso_size));
    }
    ctx
}
