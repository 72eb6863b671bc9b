//! What an operator sees: maps with names and readable addresses, drops counted by reason.

use flannel_common::maps::PEERS;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_tests::bpftool;
use flannel_tests::member::free_subnets;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use nix::sys::signal::Signal;

/// A node of ours and a kernel node that know each other, with a pod each.
struct Mixed {
    lab: Lab,
    ours: Agent,
    kernel: KernelVxlan,
    pod: Pod,
    peer: Pod,
}

impl Mixed {
    fn new() -> Self {
        let lab = Lab::new();
        let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
        let ours = Agent::start(lab.node("ours"), &net);
        let kernel = KernelVxlan::join(lab.node("kernel"), &net);
        let (pod, peer) = (Pod::on(&ours, "pod"), Pod::on(&kernel, "peer"));
        pod.reaches(&peer);
        Self {
            lab,
            ours,
            kernel,
            pod,
            peer,
        }
    }

    fn dropped(&self, reason: Reason) -> u64 {
        bpftool::count(&self.ours, Program::UplinkRx, reason)
    }
}

#[test]
fn bpftool_names_the_fields_and_shows_addresses_by_their_octets() {
    let pair = Pair::of_agents();
    let peers = bpftool::dump(&pair.one, PEERS);
    let [peer] = &peers[..] else {
        panic!("one peer, but {peers:?}");
    };
    let public_ip = peer["value"]["public_ip"].to_string();
    let octets = pair.two.node().address().octets().map(|o| o.to_string());
    assert!(
        public_ip.contains(&octets.join(",")),
        "{public_ip} for {octets:?}"
    );
    assert!(peer["value"]["vtep_mac"].is_array(), "{peer}");
}

#[test]
fn a_forged_inner_source_is_dropped_and_counted() {
    let mixed = Mixed::new();
    let before = mixed.dropped(Reason::SpoofedSource);
    // An address of another node's subnet.
    let [other] = free_subnets(mixed.ours.net(), &[&mixed.ours, &mixed.kernel]);
    let lease = r#"{"PublicIP":"172.30.0.99","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}}"#;
    mixed
        .lab
        .etcd()
        .put(&mixed.ours.net().lease_key(other), lease);
    eventually("the lease has arrived", SOON, || {
        bpftool::dump(&mixed.ours, PEERS).len() == 2
    });
    let forged = other.address(5);
    mixed
        .peer
        .exec(&format!("ip addr add {forged}/32 dev eth0"));
    let report = mixed
        .peer
        .ping(mixed.pod.address())
        .count(2)
        .bound_to(&forged)
        .send();
    assert_eq!(report.received, 0, "{}", report.text);
    assert_eq!(mixed.dropped(Reason::SpoofedSource) - before, 2);
}

#[test]
fn packets_of_a_node_without_lease_are_dropped_and_counted() {
    let mixed = Mixed::new();
    let lease = mixed.kernel.net().lease_key(mixed.kernel.subnet());
    mixed.lab.etcd().delete(&lease);
    eventually("the node's packets are dropped", SOON, || {
        let before = mixed.dropped(Reason::UnknownVtep);
        let report = mixed.peer.ping(mixed.pod.address()).count(1).send();
        report.received == 0 && mixed.dropped(Reason::UnknownVtep) > before
    });
}

#[test]
fn without_the_source_check_packets_of_a_node_without_lease_are_delivered() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let ours = Agent::start_with(lab.node("ours"), &net, &["--source-check=off"]);
    let kernel = KernelVxlan::join(lab.node("kernel"), &net);
    let (pod, peer) = (Pod::on(&ours, "pod"), Pod::on(&kernel, "peer"));
    pod.reaches(&peer);
    lab.etcd().delete(&net.lease_key(kernel.subnet()));
    eventually("the answer has no way back", SOON, || {
        (0..3).all(|_| peer.ping(pod.address()).count(1).send().received == 0)
    });
    let capture = Capture::start(ours.node(), "cni0", "icmp[icmptype] == icmp-echo");
    peer.ping(pod.address()).count(1).send();
    assert_eq!(capture.packets(1).len(), 1);
}

/// It holds its lock all the same.
#[test]
fn an_agent_that_is_stopped_is_seen_at_once() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start(lab.node("one"), &net);
    let node = agent.node_arc();
    let flags = [
        "status".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
    ];
    let said = || {
        let flags = flags.each_ref().map(String::as_str);
        let output = flannel_tests::agent::command(&*node, &flags).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    eventually("all is well", SOON, || said().0 == Some(0));
    agent.daemon_mut().process().signal(Signal::SIGSTOP);
    // A signal is delivered when the process is next to run.
    eventually("it is said", SOON, || {
        said().1.contains("the agent is stopped")
    });
    assert_eq!(said().0, Some(1));
    agent.daemon_mut().process().signal(Signal::SIGCONT);
    eventually("all is well again", SOON, || said().0 == Some(0));
}
