//! Nanoseconds a packet of each program on its own, by `BPF_PROG_TEST_RUN`.
//!
//! A program that changes the packet sees the changed one when the kernel repeats the run. So each run is a
//! call of its own, and the cost of the call (that of a frame which the program leaves alone) is taken off.

use flannel_common::program::Program;
use flannel_tests::packet::{Fixture, Inner, Node, Run, vxlan};
use serde_json::{Value, json};

use crate::stats::quantile;

const RUNS: usize = 5_000;

#[derive(Debug)]
pub(crate) struct Cost {
    program: Program,
    what: &'static str,
    nanos: f64,
}

pub(crate) fn measure() -> Vec<Cost> {
    let mut node = Node::default().load();
    let out = Inner::from_pod().udp();
    let encapsulated = vxlan(&Inner::inbound().udp());
    let bulk = Inner {
        payload: 1400,
        ..Inner::inbound()
    };
    let unknown = Inner {
        src: [10, 244, 1, 99],
        ..Inner::from_pod()
    };
    // Both directions of a UDP and a TCP flow through the stack: from then on they are fast.
    for make in [Inner::udp, Inner::tcp] {
        node.run(Program::PodTx, &make(&Inner::from_pod()));
        node.run(Program::OverlayTx, &make(&Inner::outbound()));
        node.run(Program::UplinkRx, &vxlan(&make(&Inner::inbound())));
        node.run(Program::PodRx, &make(&Inner::to_pod()));
    }
    let mut costs = vec![
        cost(
            &mut node,
            Program::PodTx,
            "not proven, to the stack",
            &unknown.udp(),
        ),
        cost(
            &mut node,
            Program::OverlayTx,
            "encapsulate",
            &Inner::outbound().udp(),
        ),
        cost(&mut node, Program::PodTx, "proven, encapsulate", &out),
        cost(
            &mut node,
            Program::UplinkRx,
            "proven, decapsulate",
            &encapsulated,
        ),
        cost(&mut node, Program::PodRx, "note", &Inner::to_pod().udp()),
    ];
    costs.extend([
        cost(
            &mut node,
            Program::PodTx,
            "TCP: proven, encapsulate",
            &Inner::from_pod().tcp(),
        ),
        cost(
            &mut node,
            Program::UplinkRx,
            "TCP: proven, decapsulate",
            &vxlan(&Inner::inbound().tcp()),
        ),
    ]);
    node.run(Program::UplinkRx, &vxlan(&bulk.tcp()));
    costs.push(cost(
        &mut node,
        Program::UplinkRx,
        "TCP: bulk, to GRO",
        &vxlan(&bulk.tcp()),
    ));
    costs.push(cost(
        &mut node,
        Program::OverlayRx,
        "proven, bulk",
        &bulk.tcp(),
    ));
    let mut node = Node {
        fast_path: flannel_common::globals::FAST_PATH_OFF,
        ..Node::default()
    }
    .load();
    costs.push(cost(
        &mut node,
        Program::UplinkRx,
        "decapsulate, to the stack",
        &encapsulated,
    ));
    costs
}

fn cost(node: &mut Fixture, program: Program, what: &'static str, packet: &[u8]) -> Cost {
    let mut arp = packet.to_vec();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    Cost {
        program,
        what,
        nanos: typical(node, program, packet) - typical(node, program, &arp),
    }
}

fn typical(node: &mut Fixture, program: Program, packet: &[u8]) -> f64 {
    let run = Run {
        packet,
        ..Run::default()
    };
    let mut nanos: Vec<f64> = (0..RUNS)
        .map(|_| {
            let nanos = node.repeat(program, &run, 1).nanos_per_packet;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
            let nanos = nanos as f64;
            nanos
        })
        .collect();
    nanos.sort_by(f64::total_cmp);
    // What interrupts and neighbours add only ever adds: low quantiles are the program.
    quantile(&nanos, 0.25).expect("RUNS values")
}

pub(crate) fn print(costs: &[Cost]) {
    println!("\nprograms on their own, ns a packet");
    for cost in costs {
        let Cost {
            program,
            what,
            nanos,
        } = cost;
        println!("{:<14}{what:<28}{nanos:>8.0}", program.name());
    }
}

pub(crate) fn json(costs: &[Cost]) -> Value {
    let row = |c: &Cost| json!({"program": c.program.name(), "path": c.what, "ns": c.nanos});
    costs.iter().map(row).collect()
}
