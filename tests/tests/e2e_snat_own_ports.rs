//! Pods leave under ports that the node can do without: it goes on connecting, whatever range it connects from.

#![cfg(test)]

use std::net::{SocketAddrV4, TcpStream};

use flannel_tests::agent::{Daemon, command};
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::CLUSTER;
use flannel_tests::with_daemon::start;
use flannel_tests::{talk, tcp};
use rstest::rstest;

/// IANA's dynamic ports, as many a sysctl file has it.
const DYNAMIC: &str = "49152 65535";
const DEFAULT: &str = "32768 60999";

/// A server outside, and a node that is about to start.
struct Scene {
    outside: Outside,
    net: Network,
    lab: Lab,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let outside = lab.outside();
        let net = lab.network(Network::vxlan("/coreos.com/network", CLUSTER));
        Self { outside, net, lab }
    }

    /// A node that connects from ports of its own choice.
    fn node(&self, connects_from: &str) -> Node {
        let node = self.lab.node("one");
        connect_from(&node, connects_from);
        node
    }

    /// As many connections at once as a busy node has.
    #[track_caller]
    fn is_reached_by(&self, host: &impl Host, connections: usize) {
        let server = tcp::Server::on(&self.outside);
        let to = self.outside.at(server.port());
        let all: Vec<(TcpStream, TcpStream)> = (0..connections)
            .map(|n| {
                let stream = tcp::connect(host, to).unwrap_or_else(|e| panic!("no. {n}: {e}"));
                (stream, server.accept())
            })
            .collect();
        assert_eq!(all.len(), connections);
    }

    /// The port that a new connection of the pod leaves under.
    #[track_caller]
    fn port_of(&self, pod: &Pod) -> u16 {
        let server = tcp::Server::on(&self.outside);
        let to = self.outside.at(server.port());
        server.exchange(pod, to, 1 << 10).client.port()
    }
}

fn connect_from(node: &Node, ports: &str) {
    node.sysctl("net.ipv4.ip_local_port_range", ports);
}

fn reserved(node: &Node) -> String {
    let text = node.exec("cat /proc/sys/net/ipv4/ip_local_reserved_ports");
    text.trim().to_owned()
}

#[rstest]
#[case::dynamic(DYNAMIC, "32768-49151", 100)]
#[case::the_kernels_default(DEFAULT, "49152-65535", 100)]
#[case::wide("1024 65535", "49152-65535", 100)]
#[case::few("61000 61031", "32768-49151", 30)]
fn the_node_connects_and_so_do_its_pods(
    #[case] connects_from: &str,
    #[case] pods_from: &str,
    #[case] connections: usize,
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
) {
    let scene = Scene::new();
    let node = scene.node(connects_from);
    let mut one = start(kind, node, &scene.net, &["--ip-masq"]);
    let pod = Pod::on(&one, "pod");
    eventually("the pod reaches the server", SOON, || {
        pod.ping(scene.outside.address()).count(1).lossless()
    });
    for _ in 0..2 {
        scene.is_reached_by(one.node(), connections);
        scene.is_reached_by(&pod, 100);
        if kind == Kind::Ours {
            assert_eq!(reserved(one.node()), pods_from);
        }
        // It has to find etcd.
        one.kill();
        one.restart();
    }
}

/// The range changes under a running agent: the node has its ports as soon as that is noticed.
#[rstest]
fn the_node_gets_its_ports_back(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new();
    let one = start(kind, scene.node(DEFAULT), &scene.net, &["--ip-masq"]);
    let pod = Pod::on(&one, "pod");
    connect_from(one.node(), DYNAMIC);
    // Somebody changes anything: else it takes half a minute.
    one.node().exec("ip link add noticed type bridge");
    let server = tcp::Server::on(&scene.outside);
    let to = scene.outside.at(server.port());
    eventually("the node connects", SOON, || {
        tcp::connect(one.node(), to).is_ok()
    });
    if kind == Kind::Ours {
        assert_eq!(reserved(one.node()), "32768-49151");
        // Connections end that begin before it is through.
        eventually("the agent has gone over to others", SOON, || {
            one.log()
                .split_once("no longer 49152-65535")
                .is_some_and(|(_, then)| then.contains("node brought up to date"))
        });
        assert!((32_768..=49_151).contains(&scene.port_of(&pod)));
    }
    scene.is_reached_by(&pod, 100);
}

/// It changes while nobody is there; the next agent has to get to etcd.
#[rstest]
fn an_agent_starts_though_an_earlier_one_took_all_ports(
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
    #[values(&["--ip-masq"], &[])] flags: &[&str],
) {
    let scene = Scene::new();
    let mut one = start(kind, scene.node(DEFAULT), &scene.net, &["--ip-masq"]);
    one.kill();
    connect_from(one.node(), DYNAMIC);
    one.restart_with(flags);
    scene.is_reached_by(one.node(), 100);
}

/// Connections of pods go on over a restart, though a fresh start would take other ports.
#[test]
fn what_is_in_use_stays_in_use() {
    let scene = Scene::new();
    let mut one = Agent::start_with(scene.node(DYNAMIC), &scene.net, &["--ip-masq"]);
    let pod = Pod::on(&one, "pod");
    let server = tcp::Server::on(&scene.outside);
    let to = scene.outside.at(server.port());
    let mut talk = talk::Tcp::open(&server, &pod, to);
    talk.rounds(10);
    connect_from(one.node(), DEFAULT);
    one.kill();
    one.restart();
    talk.rounds(10);
    assert_eq!(reserved(one.node()), "32768-49151");
    scene.is_reached_by(one.node(), 100);
}

#[test]
fn what_an_operator_gives_is_refused_if_the_node_cannot_live_with_it() {
    let scene = Scene::new();
    let node = scene.node(DYNAMIC);
    let all = "--snat-ports=49152-65535";
    let mut daemon = Daemon::spawn(&node, &scene.net, &["--ip-masq", all]);
    assert_eq!(daemon.process().wait(SOON).code(), Some(1));
    let log = daemon.log();
    for part in [all, "0 of the 16384 ports", "--snat-ports=32768-49151"] {
        assert!(log.contains(part), "{part} is not in:\n{log}");
    }
    assert_eq!(reserved(&node), "");
    // Less is given as it is asked for.
    let some = "--snat-ports=49152-57343";
    let one = Agent::start_with(node, &scene.net, &["--ip-masq", some]);
    scene.is_reached_by(one.node(), 100);
    assert_eq!(reserved(one.node()), "49152-57343");
    // And used on, if that changes: but it is said.
    connect_from(one.node(), "50000 51000");
    one.node().exec("ip link add noticed type bridge");
    eventually("the agent says so", SOON, || {
        one.log().contains("0 of the 1001 ports")
    });
    assert_eq!(reserved(one.node()), "49152-57343");
}

/// Before the first start, and later.
#[test]
fn doctor_says_which_ports_pods_leave_under() {
    let scene = Scene::new();
    let node = scene.node(DYNAMIC);
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let doctor = |flags: &[&str]| {
        let all = [&["doctor", &bpffs, &state, &etcd][..], flags].concat();
        let output = output(&mut command(&node, &all));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = doctor(&["--pre", "--ip-masq"]);
    let chosen = "source NAT from ports 32768-49151 on eth0: the node itself connects from 49152";
    assert!(said.contains(chosen), "{said}");
    let said = doctor(&["--pre", "--ip-masq", "--snat-ports=49152-65535"]);
    assert!(
        said.contains("leaves the node 0 of its own 16384"),
        "{said}"
    );
    assert!(said.contains("give --snat-ports=32768-49151"), "{said}");
}

/// Each of two networks on a node has ports of its own, and the node keeps enough. (Two flanneld overwrite each other's
/// chain of masquerade rules: no control.)
#[test]
fn two_networks_share_a_node() {
    let lab = Lab::new();
    let outside = lab.outside();
    let ([red, blue], [host, _]) = lab.red_and_blue();
    let mut members = [red, blue].map(|net| Agent::start_with(host.clone(), &net, &["--ip-masq"]));
    let pods = members
        .each_ref()
        .map(|m| Pod::behind(m, &m.net().device(), &format!("br-{}", m.net().vni)));
    let server = tcp::Server::on(&outside);
    let to: SocketAddrV4 = outside.at(server.port());
    for _ in 0..2 {
        let mut talks: Vec<_> = (0..20)
            .flat_map(|_| pods.each_ref())
            .map(|pod| talk::Tcp::open(&server, pod, to))
            .collect();
        let node = tcp::connect(&*host, to).unwrap();
        let seen = server.accept();
        assert_eq!(seen.peer_addr().unwrap(), node.local_addr().unwrap());
        for member in &mut members {
            member.kill();
            member.restart();
        }
        for talk in &mut talks {
            talk.rounds(3);
        }
        assert_eq!(reserved(&host), "13616-29999,49152-65535");
    }
}
