//! "To go back, stop the agent and start flanneld": nothing else, as when one DaemonSet replaces another. Programs and maps of
//! ours stay on the node's other devices, and nobody runs `cleanup`.

#![cfg(test)]

use std::net::SocketAddrV4;
use std::sync::Arc;

use flannel_tests::prelude::*;
use flannel_tests::real_flanneld::RealFlanneld;
use flannel_tests::{no_tcx, talk, tcp, udp};
use rstest::rstest;

/// What serves the node between flanneld and flanneld.
#[derive(Debug, Clone, Copy)]
enum Between {
    /// The control.
    Flanneld,
    Ours(&'static [&'static str]),
    /// On a kernel without tcx.
    OnClsact,
}

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn direct_routing() -> Network {
    vxlan().direct_routing()
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// Datagrams, large and small packets of a connection, and pings, both ways.
#[track_caller]
fn talk_to_each_other(a: &Pod, b: &Pod) {
    for (client, server) in [(a, b), (b, a)] {
        let listener = tcp::Server::on(server);
        let to = SocketAddrV4::new(server.address(), listener.port());
        listener.exchange(client, to, 1 << 20);
        udp::exchange(client, server, server.address(), 1000);
        client.ping(server.address()).succeeds();
    }
}

/// A connection between two pods that has been used long enough to be proven, wherever that is possible.
fn connection(client: &Pod, server: &Pod) -> talk::Tcp {
    let listener = tcp::Server::on(server);
    let to = SocketAddrV4::new(server.address(), listener.port());
    let mut talk = talk::Tcp::open(&listener, client, to);
    talk.rounds(20);
    talk
}

#[rstest]
#[case::flanneld(Between::Flanneld)]
#[case::ours(Between::Ours(&[]))]
#[case::without_proof(Between::Ours(&["--fast-path=always"]))]
#[case::without_fast_path(Between::Ours(&["--fast-path=off"]))]
#[case::at_the_bridge(Between::Ours(&["--pod-hook=bridge"]))]
#[case::xdp(Between::Ours(&["--xdp=on"]))]
#[case::clsact(Between::OnClsact)]
fn flanneld_takes_the_node_over_again(
    #[case] between: Between,
    #[values(vxlan, direct_routing, host_gw)] network: fn() -> Network,
) {
    const MASQ: &[&str] = &["--ip-masq"];
    let lab = Lab::new();
    let net = lab.network(network());
    let outside = lab.outside();
    let peer = RealFlanneld::start_with(lab.node("two"), &net, MASQ);
    let node = lab.node("one");
    // Somebody has to track connections, as kube-proxy does: or the kernel takes those that go on for new ones.
    node.exec("iptables -A FORWARD -m conntrack --ctstate ESTABLISHED");
    let first = RealFlanneld::start_with(node, &net, MASQ);
    let subnet = first.subnet();
    let (pod1, pod2) = (Pod::on(&first, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);

    let with = |wrapper: &str, node: Arc<Node>, flags: &[&str]| {
        let all = [MASQ, flags].concat();
        let mut agent = Agent::start_under(wrapper, node, &net, &all);
        talk_to_each_other(&pod1, &pod2);
        let mut connections = vec![connection(&pod1, &pod2), connection(&pod2, &pod1)];
        let server = tcp::Server::on(&outside);
        let mut out = talk::Tcp::open(&server, &pod1, outside.at(server.port()));
        out.outlast();
        connections.push(out);
        assert!(agent.terminate().success());
        (agent.node_arc(), connections)
    };
    let (node, connections) = match between {
        Between::Flanneld => (first.stop(), Vec::new()),
        Between::Ours(flags) => with("", first.stop(), flags),
        Between::OnClsact => {
            let node = first.stop();
            let wrapper = no_tcx::wrapper(&node);
            with(&wrapper, node, &[])
        }
    };

    let back = RealFlanneld::start_with(node, &net, MASQ);
    assert_eq!(back.subnet(), subnet);
    peer.follow_leases();
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    talk_to_each_other(&pod1, &pod2);
    // Who joins now is in no map of ours.
    let late = RealFlanneld::start_with(lab.node("three"), &net, MASQ);
    back.follow_leases();
    let pod3 = Pod::on(&late, "pod3");
    pod1.reaches(&pod3);
    talk_to_each_other(&pod1, &pod3);
    // What was open is open still: between pods, and to the outside, which ours translated.
    for mut connection in connections {
        connection.rounds(20);
    }
    let seen = udp::exchange(&pod1, &outside, outside.address(), 100);
    assert_eq!(seen.ip(), back.node().address(), "by flanneld's rules");
    let server = tcp::Server::on(&outside);
    let seen = server.exchange(&pod1, outside.at(server.port()), 100_000);
    assert_eq!(seen.client.ip(), back.node().address());
}
