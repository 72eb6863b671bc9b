//! Source NAT at devices without a link-layer header (tun, and what looks like it: tailscale, WireGuard).

#![cfg(test)]

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};

use flannel_tests::bare::{IFACE, TUN, address, behind, connect};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::tuntap;
use flannel_tests::ways::{host_gw, vxlan};
use flannel_tests::with_daemon::start;
use flannel_tests::{tcp, traceroute, udp};
use rstest::rstest;

const MASQUERADE: &str = "--ip-masq";

/// What gets out at the other end of the link under a pod's address.
fn leaks(lab: &Lab, node: &Node, net: &Network) -> Capture {
    Capture::inside(node, lab.router(), TUN, &format!("src net {}", net.cidr))
}

/// Datagrams whole and in fragments, streams, pings, and what is said about packets that went wrong.
#[track_caller]
fn serves(pod: &Pod, outside: &Outside) {
    let to = outside.address();
    pod.ping(to).succeeds();
    for bytes in [1, 1200, 8192] {
        let seen = udp::exchange(pod, outside, to, bytes);
        assert_eq!(seen.ip(), address(1), "{bytes} bytes by UDP");
    }
    let server = tcp::Server::on(outside);
    for bytes in [1, 4 << 20] {
        let seen = server.exchange(pod, SocketAddrV4::new(to, server.port()), bytes);
        assert_eq!(seen.client.ip(), address(1), "{bytes} bytes by TCP");
    }
    // A hop beyond the link says that it is one, and the server that a port is closed.
    let hops = traceroute::hops(pod, to);
    assert!(
        hops.contains(&Some(address(2))) && hops.contains(&Some(to)),
        "hops to {to}: {hops:?}"
    );
    let socket = pod.netns().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect((to, 9)).unwrap();
    socket.send(b"is anybody there?").unwrap();
    let error = uninterrupted(|| socket.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "a closed port: {error}"
    );
}

#[rstest]
fn by_the_uplink(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), host_gw())] net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let outside = lab.outside();
    let (node, _link) = behind(&lab);
    let member = start(kind, node, &net, &[IFACE, MASQUERADE]);
    let pod = Pod::on(&member, "pod");
    let leaks = leaks(&lab, member.node(), &net);
    serves(&pod, &outside);
    leaks.saw_nothing();
}

/// New connections, too, and the ones that run.
#[rstest]
#[case::always("--fast-path=always")]
#[case::off("--fast-path=off")]
#[case::bridge("--pod-hook=bridge")]
fn with_a_dead_agent(#[case] flag: &str) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let (node, _link) = behind(&lab);
    let mut agent = Agent::start_with(node, &net, &[IFACE, MASQUERADE, flag]);
    let pod = Pod::on(&agent, "pod");
    let leaks = leaks(&lab, agent.node(), &net);
    agent.kill();
    serves(&pod, &outside);
    leaks.saw_nothing();
}

/// What a pod says about a packet that it does not want carries its address inside.
#[rstest]
fn an_error_from_a_pod_leaves_as_the_node(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let (node, _link) = behind(&lab);
    let member = start(kind, node, &net, &[IFACE, MASQUERADE]);
    let pod = Pod::on(&member, "pod");
    let leaks = leaks(&lab, member.node(), &net);
    let server = outside
        .netns()
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let port = server.local_addr().unwrap().port();
    let client = pod.netns().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.send_to(b"hello", (outside.address(), port)).unwrap();
    let (_, from) = uninterrupted(|| server.recv_from(&mut [0; 16])).unwrap();
    assert_eq!(from.ip(), address(1));
    drop(client);
    server.connect(from).unwrap();
    server.send(b"too late").unwrap();
    let error = uninterrupted(|| server.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    leaks.saw_nothing();
}

/// A VPN that comes beside the uplink, while the agent runs; and comes again.
#[rstest]
fn by_a_device_that_comes_later(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let member = start(kind, lab.node("one"), &net, &[MASQUERADE]);
    let pod = Pod::on(&member, "pod");
    for _ in 0..2 {
        let _link = join_vpn(&lab, &member);
        let leaks = leaks(&lab, member.node(), &net);
        member.exec(&format!(
            "ip route add {} via {} dev {TUN}",
            outside.address(),
            address(2)
        ));
        serves(&pod, &outside);
        leaks.saw_nothing();
    }
}

/// The link, once packets by it are translated.
fn join_vpn(lab: &Lab, member: &AnyDaemon) -> tuntap::Link {
    let link = connect(member.node().netns(), lab.router());
    if member.agent().is_some() {
        let pins = member.node().bpffs();
        eventually("programs sit at the device", SOON, || {
            let found = member.exec(&format!("find {} -name uplink_tx_ip-*", pins.display()));
            // "7: tun0: <…"
            let link = member.exec(&format!("ip -o link show {TUN}"));
            let index = link.split(':').next().unwrap_or_default();
            found.lines().any(|pin| pin.ends_with(&format!("-{index}")))
        });
    }
    link
}

/// The rule that served such a device goes, and its work is done.
#[rstest]
#[case::as_the_uplink(&[IFACE, MASQUERADE])]
#[case::beside_it(&[MASQUERADE])]
fn the_takeover_leaves_no_gap(#[case] flags: &[&str]) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let (node, _link) = behind(&lab);
    let flanneld = RealFlanneld::start_with(node, &net, flags);
    let pod = Pod::on(&flanneld, "pod");
    serves(&pod, &outside);
    let node = flanneld.stop();
    let leaks = leaks(&lab, &node, &net);
    let agent = Agent::start_with(node, &net, flags);
    eventually("flanneld's rules are gone", SOON, || {
        !agent.exec("iptables -t nat -S").contains("FLANNEL-POSTRTG")
    });
    serves(&pod, &outside);
    leaks.saw_nothing();
}
