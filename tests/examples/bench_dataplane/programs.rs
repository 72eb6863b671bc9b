//! Nanoseconds a packet of each program on its own, by `BPF_PROG_TEST_RUN`.
//!
//! A program that changes the packet sees the changed one when the kernel repeats the run. So each run is a
//! call of its own, and the cost of the call (that of a frame which the program leaves alone) is taken off.

use flannel_common::globals::FAST_PATH_OFF;
use flannel_common::program::Program;
use flannel_tests::packet::outside::{Plain, SYN, US};
use flannel_tests::packet::world::{UPLINK, ask, here, reply};
use flannel_tests::packet::{Fixture, Inner, Node, Outcome, Run, vxlan};
use serde::{Deserialize, Serialize};

use crate::stats::quantile;

pub(crate) const TITLE: &str = "programs on their own, ns a packet";

const RUNS: usize = 4_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) program: String,
    /// The path through it.
    pub(crate) what: String,
    pub(crate) nanos: f64,
}

pub(crate) fn measure() -> Vec<Cost> {
    let mut costs = tunnel();
    costs.extend(through_the_stack());
    // It moves its thread into a namespace.
    costs.extend(std::thread::scope(|scope| {
        scope
            .spawn(without_tunnel)
            .join()
            .expect("a bench of programs")
    }));
    costs.extend(translated());
    costs.extend(past_the_stack());
    costs
}

/// To and from a peer by VXLAN.
fn tunnel() -> Vec<Cost> {
    use Program::{OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx, UplinkXdp, XdpRx};
    let mut node = Node::default().load();
    // Both directions of a UDP and a TCP flow through the stack: from then on they are fast.
    for make in [Inner::udp, Inner::tcp] {
        node.run(PodTx, &make(&Inner::from_pod()));
        node.run(OverlayTx, &make(&Inner::outbound()));
        node.run(UplinkRx, &vxlan(&make(&Inner::inbound())));
        node.run(OverlayRx, &make(&Inner::inbound()));
        node.run(PodRx, &make(&Inner::to_pod()));
    }
    let bulk = Inner {
        payload: 1400,
        ..Inner::inbound()
    };
    let unknown = Inner {
        src: [10, 244, 1, 99],
        ..Inner::from_pod()
    };
    let inbound = Inner::inbound();
    let mut bench = Bench::new(&mut node);
    bench.add(PodTx, "not proven, to the stack", &unknown.udp());
    bench.add(OverlayTx, "encapsulate", &Inner::outbound().udp());
    bench.add(PodTx, "proven, encapsulate", &Inner::from_pod().udp());
    bench.add(UplinkRx, "proven, decapsulate", &vxlan(&inbound.udp()));
    bench.add(PodRx, "note", &Inner::to_pod().udp());
    bench.add(PodTx, "TCP: proven, encapsulate", &Inner::from_pod().tcp());
    bench.add(UplinkRx, "TCP: proven, decapsulate", &vxlan(&inbound.tcp()));
    bench.node.run(UplinkRx, &vxlan(&bulk.tcp()));
    bench.add(UplinkRx, "TCP: bulk, to GRO", &vxlan(&bulk.tcp()));
    bench.add(OverlayRx, "proven, bulk", &bulk.tcp());
    bench.add(UplinkXdp, "decapsulate", &vxlan(&inbound.tcp()));
    bench.add(XdpRx, "not marked by uplink_xdp", &inbound.tcp());
    bench.costs
}

/// `--fast-path=off`.
fn through_the_stack() -> Vec<Cost> {
    let mut node = Node {
        fast_path: FAST_PATH_OFF,
        ..Node::default()
    }
    .load();
    let mut bench = Bench::new(&mut node);
    let encapsulated = vxlan(&Inner::inbound().udp());
    bench.add(
        Program::UplinkRx,
        "decapsulate, to the stack",
        &encapsulated,
    );
    bench.costs
}

/// host-gw, DirectRouting.
fn without_tunnel() -> Vec<Cost> {
    use Program::{DirectRx, DirectTx, PodRx, PodTx};
    let mut node = Node::default().load_among_peers();
    node.direct_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    let arriving = Inner {
        dst_mac: [0; 6],
        ..Inner::inbound()
    };
    node.run(PodTx, &Inner::from_pod().udp());
    node.run(DirectTx, &Inner::outbound().udp());
    node.run(DirectRx, &arriving.udp());
    node.run(PodRx, &Inner::to_pod().udp());
    let mut bench = Bench::new(&mut node);
    bench.add(
        PodTx,
        "no tunnel: proven, to the uplink",
        &Inner::from_pod().udp(),
    );
    bench.add(DirectTx, "note", &Inner::outbound().udp());
    bench.add(DirectRx, "proven, to the pod", &arriving.udp());
    bench.costs
}

/// `--ip-masq`.
fn translated() -> Vec<Cost> {
    use Program::{OverlaySnatRx, OverlaySnatTx, UplinkSnatRx, UplinkTx};
    let mut node = Node::default().load_snat();
    let packet = Plain {
        sport: 50_000,
        ..Plain::default()
    };
    let answer = packet.from(US, 50_000).answer();
    let to_peer = Inner::outbound();
    node.run(UplinkTx, &packet.udp());
    node.run(UplinkSnatRx, &answer.udp());
    let mut bench = Bench::new(&mut node);
    bench.add(UplinkTx, "to the outside, translate", &packet.udp());
    bench.add(
        UplinkSnatRx,
        "from the outside, translate back",
        &answer.udp(),
    );
    bench.add(
        UplinkTx,
        "a tunnel packet, left alone",
        &vxlan(&to_peer.udp()),
    );
    bench.add(OverlaySnatTx, "between pods, left alone", &to_peer.udp());
    bench.add(
        OverlaySnatRx,
        "between pods, left alone",
        &Inner::inbound().udp(),
    );
    bench.add_each(UplinkTx, "first packet (with snat_open)", |n| {
        // A port of its own each time: all of them are new.
        let sport = 20_000 + u16::try_from(n).unwrap_or(0);
        Plain { sport, ..packet }.tcp(SYN)
    });
    bench.costs
}

/// The same for flows that were shown to need the stack no more.
fn past_the_stack() -> Vec<Cost> {
    use Program::{PodTx, UplinkSnatRx};
    let mut costs = Vec::new();
    here(|_, world| {
        world.verified_udp();
        let mut arriving = reply().udp();
        arriving[..6].copy_from_slice(&Node::default().vtep_mac);
        let mut bench = Bench::new(&mut world.node);
        bench.add(PodTx, "to the outside: proven", &ask().udp());
        bench.device = UPLINK;
        bench.add(UplinkSnatRx, "from the outside: proven", &arriving);
        costs = bench.costs;
    });
    costs
}

struct Bench<'a> {
    node: &'a mut Fixture,
    /// Whose hook it is; 0: the loopback device's.
    device: u32,
    costs: Vec<Cost>,
}

impl<'a> Bench<'a> {
    fn new(node: &'a mut Fixture) -> Self {
        Self {
            node,
            device: 0,
            costs: Vec::new(),
        }
    }

    fn add(&mut self, program: Program, what: &str, packet: &[u8]) {
        self.add_each(program, what, |_| packet.to_vec());
    }

    /// With a packet for each run.
    fn add_each(&mut self, program: Program, what: &str, packet: impl Fn(usize) -> Vec<u8>) {
        let mut arp = packet(0);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        let call = self.typical(program, |_| arp.clone());
        // The clock of a test run has steps of 10 ns.
        let nanos = (self.typical(program, packet) - call).max(0.0);
        self.costs.push(Cost {
            program: program.name().to_owned(),
            what: what.to_owned(),
            nanos,
        });
    }

    fn typical(&mut self, program: Program, packet: impl Fn(usize) -> Vec<u8>) -> f64 {
        let mut nanos: Vec<f64> = (0..RUNS)
            .map(|n| {
                let nanos = self.run(program, &packet(n)).nanos_per_packet;
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
                let nanos = nanos as f64;
                nanos
            })
            .collect();
        nanos.sort_by(f64::total_cmp);
        // What interrupts and neighbours add only ever adds: low quantiles are the program.
        quantile(&nanos, 0.25).expect("RUNS values")
    }

    fn run(&mut self, program: Program, packet: &[u8]) -> Outcome {
        if program.is_xdp() {
            self.node.run_xdp(packet)
        } else {
            let run = Run {
                packet,
                device: self.device,
                ..Run::default()
            };
            self.node.run_with(program, &run)
        }
    }
}
