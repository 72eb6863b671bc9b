//! A pod that makes tunnel packets itself gets nothing into the network: its own node drops them, and others do not believe
//! what comes from a pod's address.

#![cfg(test)]

use std::net::{SocketAddrV4, UdpSocket};

use flannel_common::Mac;
use flannel_common::program::Program::{PodTx, SnatRoom, UplinkRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::hooked;
use flannel_tests::forger::{datagram, mac};
use flannel_tests::lab::Lab;
use flannel_tests::network::Backend;
use flannel_tests::packet_socket::PacketSocket;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::with_daemon::{AnyDaemon, start};
use rstest::rstest;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn udp_backend() -> Network {
    Network::udp("/coreos.com/network", "10.244.0.0/16")
}

fn pair(kinds: [Kind; 2], net: Network, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    let one = start(kinds[0], lab.node("one"), &net, flags);
    let two = start(kinds[1], lab.node("two"), &net, flags);
    Pair::of(lab, net, one, two)
}

/// What a node's tunnel takes for a packet from one to the other.
fn tunnelled(pair: &Pair<AnyDaemon>, from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    if pair.net.backend == Backend::Udp {
        return datagram([[0; 6]; 2], from, to)[14..].to_vec();
    }
    // All that a pod may come to know, and more.
    let macs = [&pair.one, &pair.two].map(|daemon| mac_of(daemon, "flannel.1"));
    let header = vec![8, 0, 0, 0, 0, 0, 1, 0];
    [header, datagram(macs, from, to)].concat()
}

fn mac_of(daemon: &AnyDaemon, device: &str) -> Mac {
    let shown = daemon.exec(&format!("ip -o link show dev {device}"));
    let mut words = shown.split_whitespace().skip_while(|w| *w != "link/ether");
    let bytes = words.nth(1).expect("an address").split(':');
    let bytes: Vec<u8> = bytes.map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().expect("six bytes")
}

/// MAC of a node's pod bridge.
fn bridge_mac(daemon: &AnyDaemon) -> Mac {
    mac_of(daemon, "cni0")
}

/// From pod 1 to the tunnel of the second node, 100 datagrams in the name of `from`. How many reach pod 2? It is waited for so many
/// as are to `arrive`.
#[track_caller]
fn reach(pair: &Pair<AnyDaemon>, from: SocketAddrV4, arrive: usize) -> usize {
    let node = SocketAddrV4::new(pair.two.node().address(), pair.net.port);
    reach_by(pair, from, node, arrive)
}

/// The same, sent to `node`.
#[track_caller]
fn reach_by(
    pair: &Pair<AnyDaemon>,
    from: SocketAddrV4,
    node: SocketAddrV4,
    arrive: usize,
) -> usize {
    let server = udp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    let payload = tunnelled(pair, from, to);
    let filter = format!("udp and src host {}", from.ip());
    let capture = Capture::inside(pair.two.node(), pair.pod2.netns(), "eth0", &filter);
    let socket = pair.pod1.netns().enter(|| UdpSocket::bind("0.0.0.0:0"));
    let socket = socket.expect("a socket");
    for _ in 0..100 {
        let _ = socket.send_to(&payload, node);
    }
    // Behind all of them.
    pair.pod1.ping(pair.pod2.address()).succeeds();
    capture.packets(arrive);
    capture.finish().len()
}

/// On the first node.
fn another_pod(pair: &Pair<AnyDaemon>) -> SocketAddrV4 {
    SocketAddrV4::new(pair.one.subnet().address(77), 53)
}

fn nobody() -> SocketAddrV4 {
    "192.0.2.77:53".parse().unwrap()
}

#[rstest]
#[case::masquerading(&["--ip-masq"], true)]
#[case::at_the_bridge(&["--ip-masq", "--pod-hook=bridge"], true)]
#[case::always(&["--ip-masq", "--fast-path=always"], true)]
#[case::without_the_fast_path(&["--ip-masq", "--fast-path=off"], false)]
#[case::under_its_own_address(&[], true)]
fn is_dropped_by_its_own_node(
    #[case] flags: &[&str],
    #[case] at_the_pod: bool,
    #[values(vxlan(), udp_backend())] net: Network,
) {
    let pair = pair([Kind::Ours, Kind::Ours], net, flags);
    let agent = pair.one.agent().unwrap();
    if at_the_pod {
        hooked(agent);
    }
    for from in [nobody(), another_pod(&pair)] {
        assert_eq!(reach(&pair, from, 0), 0);
    }
    let dropped = match at_the_pod {
        true => count(agent, PodTx, Reason::PodTunnel),
        // `snat_open` counts for itself.
        false => count(agent, SnatRoom, Reason::PodTunnel),
    };
    assert_eq!(
        (dropped, count(agent, UplinkTx, Reason::PodTunnel)),
        (200, 0)
    );
}

/// Whoever may make Services gives one a node's tunnel port as its endpoint, and the first node's rules do the rest: they give what pods send
/// there the node's own address (`--masquerade-all`, NodePorts, hairpins).
fn service(pair: &Pair<AnyDaemon>) -> SocketAddrV4 {
    let service: SocketAddrV4 = "10.96.0.10:4000".parse().unwrap();
    let (one, two) = (pair.one.node(), pair.two.node().address());
    let (to, port, tunnel) = (service.ip(), service.port(), pair.net.port);
    one.exec(&format!(
        "iptables -t nat -A PREROUTING -p udp -d {to} --dport {port} -j DNAT --to-destination {two}:{tunnel}"
    ));
    one.exec(&format!(
        "iptables -t nat -A POSTROUTING -p udp -s 10.244.0.0/16 --dport {tunnel} -j MASQUERADE"
    ));
    service
}

#[rstest]
#[case::flanneld_believes_it(Kind::Flanneld, 100)]
#[case::ours(Kind::Ours, 0)]
fn in_the_node_s_name_by_a_service(
    #[case] kind: Kind,
    #[case] arrive: usize,
    #[values(vxlan(), udp_backend())] net: Network,
) {
    let pair = pair([kind, kind], net, &["--ip-masq"]);
    let service = service(&pair);
    // Programs that have just come first wait for the others.
    eventually("it is known who makes tunnel packets", SOON, || {
        reach_by(&pair, nobody(), service, arrive) == arrive
    });
    let dropped = || {
        pair.one
            .agent()
            .map(|agent| count(agent, UplinkTx, Reason::PodTunnel))
    };
    let before = dropped();
    for from in [nobody(), another_pod(&pair)] {
        assert_eq!(reach_by(&pair, from, service, arrive), arrive);
    }
    assert_eq!(dropped(), before.map(|before| before + 200));
}

/// Tags that the kernel takes off hide nothing.
#[rstest]
#[case::at_the_port("--pod-hook=port")]
#[case::at_the_bridge("--pod-hook=bridge")]
fn a_tag_hides_nothing(#[case] flag: &str) {
    let pair = pair([Kind::Ours, Kind::Ours], vxlan(), &[flag]);
    let agent = pair.one.agent().unwrap();
    hooked(agent);
    let from = SocketAddrV4::new(pair.pod1.address(), 50_000);
    let to = SocketAddrV4::new(pair.two.node().address(), 8472);
    let socket = pair
        .pod1
        .netns()
        .enter(|| PacketSocket::on("eth0"))
        .unwrap();
    // 802.1Q with VLAN id 0 and priority 1, with that of a bridge's ports, and 802.1ad.
    let [priority, port, service] = [[0x81, 0, 0x20, 0], [0x81, 0, 0, 1], [0x88, 0xa8, 0, 0]];
    let stacks: [&[[u8; 4]]; 5] = [
        &[priority],
        &[port],
        &[service, priority],
        &[port, priority],
        &[service, priority, priority, priority],
    ];
    for tags in stacks {
        // Behind the Ethernet addresses.
        let mut frame = datagram([mac(&pair.pod1), bridge_mac(&pair.one)], from, to);
        frame.splice(12..12, tags.concat());
        socket.send(&frame).unwrap();
    }
    eventually("all are dropped", SOON, || {
        count(agent, PodTx, Reason::PodTunnel) == stacks.len() as u64
    });
}

/// The sender is flanneld's node, which lets its pods send what they like.
#[rstest]
fn is_not_believed_from_a_pod_s_address(#[values(vxlan(), udp_backend())] net: Network) {
    let pair = pair([Kind::Flanneld, Kind::Ours], net, &[]);
    for from in [nobody(), another_pod(&pair)] {
        assert_eq!(reach(&pair, from, 0), 0);
    }
    let agent = pair.two.agent().unwrap();
    assert_eq!(count(agent, UplinkRx, Reason::UnknownVtep), 200);
}

/// What that is worth: flannel delivers it.
#[rstest]
fn flanneld_believes_everybody(#[values(vxlan(), udp_backend())] net: Network) {
    let pair = pair([Kind::Flanneld, Kind::Flanneld], net, &["--ip-masq"]);
    assert_eq!(reach(&pair, another_pod(&pair), 100), 100);
}
