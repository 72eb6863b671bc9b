//! Peers whose packets come from another address than the PublicIP of their lease: nodes with several addresses, nodes behind
//! NAT. And strangers, who must not be taken for one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::sync::Arc;
use std::time::Duration;

use flannel_tests::iptables::Iptables;
use flannel_tests::member::AnyMember;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, join};
use flannel_tests::prelude::*;
use flannel_tests::{agent, fast_path, tcp, with_daemon};
use rstest::rstest;

/// The second address of the node `two`, its PublicIP.
const PUBLIC: &str = "172.30.0.22";

fn network() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

/// A member that sends from its first address and is sent to at its second.
fn multihomed(kind: Kind, lab: &Lab, net: &Network, flags: &[&str]) -> AnyMember {
    let node = lab.node("two");
    let sends_from = node.address();
    node.exec(&format!("ip addr add {PUBLIC}/24 dev eth0"));
    match kind {
        Kind::Ours | Kind::Flanneld => {
            let iface = format!("--iface={sends_from}");
            let public = format!("--public-ip={PUBLIC}");
            let flags = [&[iface.as_str(), public.as_str()], flags].concat();
            Box::new(with_daemon::start(kind, node, net, &flags))
        }
        Kind::Kernel => {
            let member = KernelVxlan::join(node, net);
            let lease = format!(
                r#"{{"PublicIP":"{PUBLIC}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
                member.mac()
            );
            lab.etcd().put(&net.lease_key(member.subnet()), &lease);
            Box::new(member)
        }
    }
}

/// Both ways, small and large, the node as well as its pods, and longer than a proof lasts to be made.
#[track_caller]
fn talk(one: &AnyMember, two: &AnyMember) -> (Pod, Pod) {
    one.follow_leases();
    two.follow_leases();
    let (pod1, pod2) = (Pod::on(one, "pod1"), Pod::on(two, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    for (client, server) in [(&pod1, &pod2), (&pod2, &pod1)] {
        let listener = tcp::Server::on(server);
        let to = (server.address(), listener.port()).into();
        let to: std::net::SocketAddr = to;
        let std::net::SocketAddr::V4(to) = to else {
            panic!("{to}");
        };
        listener.exchange(client, to, 1 << 20);
        fast_path::talk_udp(client, server).rounds(50);
        client.ping(server.address()).whole(1450).succeeds();
    }
    one.node().ping(pod2.address()).succeeds();
    two.node().ping(pod1.address()).succeeds();
    (pod1, pod2)
}

#[rstest]
fn a_node_that_sends_from_another_address_than_its_public_ip(
    #[values(Kind::Ours, Kind::Flanneld)] one: Kind,
    #[values(Kind::Ours, Kind::Flanneld, Kind::Kernel)] two: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(network());
    let one = join(one, lab.node("one"), &net);
    let two = multihomed(two, &lab, &net, &[]);
    talk(&one, &two);
}

#[rstest]
fn with_every_kind_of_fast_path(
    #[values(
        "--fast-path=always",
        "--fast-path=off",
        "--pod-hook=bridge",
        "--xdp=on"
    )]
    flag: &str,
) {
    let lab = Lab::new();
    let net = lab.network(network());
    let one: AnyMember = Box::new(Agent::start_with(lab.node("one"), &net, &[flag]));
    let two = multihomed(Kind::Ours, &lab, &net, &[flag]);
    talk(&one, &two);
}

/// The node as the inner source: an address that nobody leases.
#[rstest]
fn what_such_a_node_sends_as_itself(#[values(Kind::Ours, Kind::Flanneld)] one: Kind) {
    let lab = Lab::new();
    let net = lab.network(network());
    let one = join(one, lab.node("one"), &net);
    let two = multihomed(Kind::Kernel, &lab, &net, &[]);
    let (pod1, _) = talk(&one, &two);
    let address = two.node().address();
    two.node()
        .ping(pod1.address())
        .bound_to(&address)
        .succeeds();
}

/// Behind a router that translates what its nodes send; what is sent to them is routed.
#[rstest]
fn a_node_behind_nat(
    #[values(Kind::Ours, Kind::Flanneld)] one: Kind,
    #[values(Kind::Ours, Kind::Kernel)] two: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(network());
    let one = join(one, lab.node("one"), &net);
    let far = lab.node_behind_router("far");
    let source = far.address();
    let router = RouterHost(lab.router());
    router.exec("ip addr add 172.30.0.253/24 dev switch");
    Iptables::Nft.restore(
        &router,
        &[
            "*nat".to_owned(),
            format!(
                "-A POSTROUTING -s {source} -p udp --dport 8472 -j SNAT --to-source 172.30.0.253"
            ),
            "COMMIT".to_owned(),
        ],
    );
    let two = join(two, far, &net);
    talk(&one, &two);
}

struct RouterHost<'a>(&'a flannel_tests::netns::Netns);

impl Host for RouterHost<'_> {
    fn netns(&self) -> &flannel_tests::netns::Netns {
        self.0
    }
}

fn status(agent: &Agent) -> String {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let out = output(&mut agent::command(node, &["status", &bpffs, &state]));
    String::from_utf8(out.stdout).unwrap()
}

fn doctor(agent: &Agent) -> String {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let out = output(&mut agent::command(
        node,
        &["doctor", "--iface=eth0", &bpffs, &etcd],
    ));
    String::from_utf8(out.stdout).unwrap()
}

/// The agent looks every 30 seconds.
const LOOK: Duration = Duration::from_secs(65);

#[test]
fn a_counter_alone_is_silence() {
    let lab = Lab::new();
    let net = lab.network(network());
    let one = Agent::start(lab.node("one"), &net);
    let two = multihomed(Kind::Kernel, &lab, &net, &[]);
    // Somebody whose lease is gone, and whose packets still come.
    let gone = KernelVxlan::join(lab.node("gone"), &net);
    let gone_pod = Pod::on(&gone, "gone");
    two.follow_leases();
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    gone.follow_leases();
    gone_pod.reaches(&pod1);
    lab.etcd().delete(&net.lease_key(gone.subnet()));

    let (two_sends, stranger) = (two.node().address(), gone.node().address());
    let elsewhere = format!(
        "the node {PUBLIC} ({}) sends from {two_sends}: it has several addresses, or is behind NAT",
        two.subnet()
    );
    let dropped =
        format!("packets from {stranger} are dropped: no lease has this address or the MAC");
    eventually("status names both", SOON, || {
        pod2.ping(pod1.address()).count(1).succeeds();
        gone_pod.ping(pod1.address()).count(1).send();
        let said = status(&one);
        said.contains(&elsewhere) && said.contains(&dropped)
    });
    let said = doctor(&one);
    assert!(said.contains(&format!("✓ {elsewhere}")), "{said}");
    assert!(said.contains(&format!("! {dropped}")), "{said}");
    eventually("the log names both", LOOK, || {
        pod2.ping(pod1.address()).count(1).succeeds();
        gone_pod.ping(pod1.address()).count(1).send();
        let log = one.log();
        log.contains(&elsewhere) && log.contains(&dropped)
    });
    let lines = one.log();
    let times = lines.lines().filter(|line| line.contains(&dropped)).count();
    assert_eq!(times, 1, "{lines}");
}

/// Whoever wants the address checked gets it checked.
#[test]
fn strict_takes_no_mac_for_an_answer() {
    let lab = Lab::new();
    let net = lab.network(network());
    let one = Agent::start_with(lab.node("one"), &net, &["--source-check=strict"]);
    let two = multihomed(Kind::Kernel, &lab, &net, &[]);
    two.follow_leases();
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    let node: Arc<Node> = one.node_arc();
    eventually("the peer is known", SOON, || {
        node.exec(&format!("ip route get {}", pod2.address()))
            .contains("dev flannel.1")
    });
    let report = pod2.ping(pod1.address()).count(2).send();
    assert_eq!(report.received, 0, "{}", report.text);
    assert!(status(&one).contains(&format!(
        "packets from {} are dropped",
        two.node().address()
    )));
}
