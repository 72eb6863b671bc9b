//! `cargo xtask bench control-plane`: a real etcd full of leases, a real agent, and how long it takes
//! until they are in the map; a real server, with as many clients, and how long until they all have heard; and, if asked for, a real
//! kube-apiserver full of Nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "as in the tests' library: what fails here is to fail loudly"
)]

mod cluster;
mod kube;
mod measure;
mod peers;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use flannel_tests::prelude::*;
use flannel_tests::supervise;

use cluster::Cluster;
use report::Report;

/// Control plane: leases in etcd to entries in the map
#[derive(Debug, Parser)]
struct Options {
    /// Leases of other nodes
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    leases: u32,
    /// Agents started from nothing, each on a node of its own; 0: none
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// Leases changed one after the other
    #[arg(long, default_value_t = 200)]
    changes: u32,
    /// Clients of one server; 0: no server
    #[arg(long, default_value_t = 5000)]
    clients: usize,
    /// Nodes of a Kubernetes API server, for agents that follow those; 0: none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    nodes: u32,
    /// Where the numbers go as JSON
    #[arg(long, default_value = "bench-results/control-plane.json")]
    out: PathBuf,
    /// Fail when a goal is missed
    #[arg(long)]
    enforce: bool,
}

fn main() -> ExitCode {
    // Before the child is started, so that a wrong flag is reported once.
    let options = Options::parse();
    supervise::run(|| bench(&options))
}

fn bench(options: &Options) -> ExitCode {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.0.0.0/8"));
    let writer = lab.node("writer");
    println!("writing {} leases to etcd", options.leases);
    let cluster = Cluster::write(&writer, &net, options.leases);

    let mut report = Report::new(options.leases);
    if options.starts > 0 {
        follow(options, &lab, &net, &cluster, &mut report);
    }
    if options.clients > 0 {
        println!("serving {} clients", options.clients);
        let served = server::serve(&writer, &cluster, options.clients);
        report.add_server(&served);
    }
    if options.nodes > 0 {
        println!("writing {} Nodes", options.nodes);
        report.add_kube(&kube::follow(&lab, options.nodes, options.starts.max(1)));
    }
    report.print();
    report.write(&options.out);
    if options.enforce && !report.goals_met() {
        eprintln!("a goal is missed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// An agent that follows all leases.
fn follow(options: &Options, lab: &Lab, net: &Network, cluster: &Cluster<'_>, report: &mut Report) {
    println!("starting {} agents, one after the other", options.starts);
    let mut starts = Vec::new();
    let mut last = None;
    for n in 0..options.starts {
        // One at a time: the one before would compete for the processor.
        drop(last.take());
        let (took, agent) = measure::start(
            lab.node(&format!("node{n}")),
            net,
            cluster.leases() + n,
            &[],
        );
        starts.push(took);
        last = Some(agent);
    }
    let mut agent = last.expect("at least one start");

    println!("changing {} leases, one after the other", options.changes);
    let before = measure::processor_time(&mut agent);
    let changes = measure::changes(cluster, &agent, options.changes);
    let work = measure::processor_time(&mut agent).saturating_sub(before) / options.changes.max(1);
    let memory = measure::peak_memory(agent.process());
    report.add_agent(&starts, &changes, work, memory);
}
