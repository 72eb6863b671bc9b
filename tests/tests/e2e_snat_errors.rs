//! What a node, or a rule on it, says about packets that were never translated: it arrives as with flannel's rules,
//! through the tunnel, without one, and outside.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::member::AnyMember;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::refusal::{
    CLOSED, DOORS, assert_closed, assert_guarded, guard, refused, unreachable,
};
use flannel_tests::stage::CLUSTER;
use flannel_tests::{flannel_rules, traceroute};
use rstest::rstest;

/// Who does flannel's work, and how nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Tunnel,
    TunnelOfFlannel,
    /// The first node is ours, the second flannel's.
    TunnelOfBoth,
    HostGw,
    HostGwOfFlannel,
    /// A tunnel that neighbours do not need.
    Direct,
    Udp,
    /// Real flanneld.
    UdpOfFlannel,
}

impl Stand {
    fn pair(self) -> Pair {
        let lab = Lab::new();
        let vxlan = Network::vxlan("/coreos.com/network", CLUSTER);
        let net = lab.network(match self {
            Self::Tunnel | Self::TunnelOfFlannel | Self::TunnelOfBoth => vxlan,
            Self::Direct => vxlan.direct_routing(),
            Self::HostGw | Self::HostGwOfFlannel => {
                Network::host_gw("/coreos.com/network", CLUSTER)
            }
            Self::Udp | Self::UdpOfFlannel => Network::udp("/coreos.com/network", CLUSTER),
        });
        let ours =
            |node: Node| -> AnyMember { Box::new(Agent::start_with(node, &net, &["--ip-masq"])) };
        let flannels = |node: Node| -> AnyMember {
            let member: AnyMember = match self {
                Self::HostGwOfFlannel => Box::new(KernelHostGw::join(node, &net)),
                Self::UdpOfFlannel => {
                    return Box::new(RealFlanneld::start_with(node, &net, &["--ip-masq"]));
                }
                _ => Box::new(KernelVxlan::join(node, &net)),
            };
            flannel_rules::install(&member, Iptables::Nft);
            member
        };
        let nodes = (talkative(lab.node("one")), talkative(lab.node("two")));
        let (one, two) = match self {
            Self::TunnelOfFlannel | Self::HostGwOfFlannel | Self::UdpOfFlannel => {
                (flannels(nodes.0), flannels(nodes.1))
            }
            Self::TunnelOfBoth => (ours(nodes.0), flannels(nodes.1)),
            _ => (ours(nodes.0), ours(nodes.1)),
        };
        Pair::of(lab, net, one, two)
    }

    /// Hops between two nodes of which nobody hears: flanneld's proxy at either end.
    fn silent(self) -> u8 {
        match self {
            Self::Udp | Self::UdpOfFlannel => 2,
            _ => 0,
        }
    }

    /// As whom a node speaks to pods of another.
    fn voice(self, member: &dyn Member) -> Ipv4Addr {
        match self {
            Self::Tunnel
            | Self::TunnelOfFlannel
            | Self::TunnelOfBoth
            | Self::Udp
            | Self::UdpOfFlannel => member.vtep(),
            Self::HostGw | Self::HostGwOfFlannel | Self::Direct => member.node().address(),
        }
    }
}

/// As many errors as there is reason for: a test gives more in a second than the kernel lets out (`icmp_ratelimit`).
fn talkative(node: Node) -> Node {
    node.sysctl("net.ipv4.icmp_ratelimit", 0);
    node
}

/// An address of the node's subnet that no pod has.
fn unused(member: &dyn Member) -> Ipv4Addr {
    member.subnet().address(200)
}

#[rstest]
fn a_pod_hears_what_another_node_says(
    #[values(
        Stand::TunnelOfFlannel,
        Stand::HostGwOfFlannel,
        Stand::Tunnel,
        Stand::TunnelOfBoth,
        Stand::HostGw,
        Stand::Direct,
        Stand::Udp,
        Stand::UdpOfFlannel
    )]
    stand: Stand,
) {
    let pair = stand.pair();
    for way in pair.both_ways() {
        let (pod, server) = (way.client, way.server.address());
        let voice = stand.voice(way.to);
        let bridge = way.from.subnet().address(1);
        let hops = [bridge, voice, server].map(Some);
        assert_eq!(
            traceroute::hops_around(pod, server, 1, stand.silent()),
            hops
        );
        assert_eq!(unreachable(pod, unused(way.to)), Some(voice));
        // The node's own addresses in the cluster, and the pod.
        assert_closed(pod, way.to.subnet().address(1));
        assert_closed(pod, server);
        if !matches!(stand, Stand::HostGw | Stand::HostGwOfFlannel) {
            assert_closed(pod, way.to.vtep());
        }
        guard(way.to.node(), server);
        assert_guarded(pod, server);
    }
}

/// A node has its device's address towards pods of others, or binds its uplink's: row 6.
#[rstest]
fn a_node_hears_what_another_node_says(
    #[values(
        Stand::TunnelOfFlannel,
        Stand::HostGwOfFlannel,
        Stand::Tunnel,
        Stand::TunnelOfBoth,
        Stand::HostGw,
        Stand::Direct,
        Stand::Udp,
        Stand::UdpOfFlannel
    )]
    stand: Stand,
) {
    let pair = stand.pair();
    for way in pair.both_ways() {
        let (node, server) = (way.from.node(), way.server.address());
        let voice = stand.voice(way.to);
        let hops = [voice, server].map(Some);
        assert_eq!(
            traceroute::hops_around(node, server, 0, stand.silent()),
            hops
        );
        assert_eq!(unreachable(node, unused(way.to)), Some(voice));
        assert_closed(node, server);
        guard(way.to.node(), server);
        assert_guarded(node, server);
        let to = |port| SocketAddrV4::new(server, port);
        for port in [CLOSED, DOORS[0].port, DOORS[1].port] {
            let bind = || UdpSocket::bind((node.address(), 0)).unwrap();
            let socket = node.netns().enter(bind);
            socket.set_read_timeout(Some(SOON)).unwrap();
            let told = refused(&socket, to(port));
            assert!(
                told.raw_os_error().is_some_and(|e| e != libc::EAGAIN),
                "{told}"
            );
        }
    }
}

/// The pod's own link is narrower than what leads to its node.
#[rstest]
fn a_pod_learns_the_mtu_behind_another_node(
    #[values(
        Stand::TunnelOfFlannel,
        Stand::HostGwOfFlannel,
        Stand::Tunnel,
        Stand::HostGw,
        Stand::Direct,
        Stand::Udp,
        Stand::UdpOfFlannel
    )]
    stand: Stand,
) {
    let pair = stand.pair();
    let [way, _] = pair.both_ways();
    let (node, server) = (way.to.node(), way.server.address());
    node.exec(&format!(
        "ip route replace {server}/32 dev cni0 mtu lock 1300"
    ));
    let report = way.client.ping(server).count(1).whole(1400).told();
    assert_eq!(report.too_big, Some(1300), "{}", report.text);
    way.client.ping(server).whole(1300).succeeds();
}

/// DNAT before, and who asked is a pod, a node, or outside: then the kernel masquerades as well.
#[rstest]
fn what_is_said_about_a_service_reaches_its_client(
    #[values(
        Stand::TunnelOfFlannel,
        Stand::HostGwOfFlannel,
        Stand::Tunnel,
        Stand::TunnelOfBoth,
        Stand::HostGw,
        Stand::Direct,
        Stand::Udp,
        Stand::UdpOfFlannel
    )]
    stand: Stand,
    #[values(CLOSED, DOORS[0].port)] port: u16,
) {
    let pair = stand.pair();
    let outside = pair.lab.outside();
    let [way, _] = pair.both_ways();
    let endpoint = SocketAddrV4::new(way.server.address(), port);
    let cluster_ip = Ipv4Addr::new(10, 96, 0, 10);
    let service = Service::new(cluster_ip, CLOSED, vec![endpoint]).node_port(CLOSED);
    for member in [&pair.one, &pair.two] {
        service.install(member.node(), Iptables::Nft, CLUSTER);
        flannel_rules::forward(member, Iptables::Nft);
    }
    guard(way.to.node(), way.server.address());
    assert_closed(way.client, cluster_ip);
    assert_closed(way.from.node(), cluster_ip);
    assert_closed(&outside, way.from.node().address());
}

/// Rows 4 and 6: the outside has a route to the pods, by their node or by another.
#[rstest]
fn the_outside_hears_why_it_does_not_reach_a_pod(
    #[values(
        Stand::TunnelOfFlannel,
        Stand::HostGwOfFlannel,
        Stand::Tunnel,
        Stand::HostGw,
        Stand::Direct,
        Stand::Udp,
        Stand::UdpOfFlannel
    )]
    stand: Stand,
    #[values(false, true)] by_another_node: bool,
) {
    let pair = stand.pair();
    let outside = pair.lab.outside();
    let [way, _] = pair.both_ways();
    let server = way.server.address();
    let via = if by_another_node { way.from } else { way.to };
    outside.routes_to(&way.to.subnet().to_string(), via);
    outside.ping(server).succeeds();
    // The router and the first node are before the tunnel.
    let hops = match by_another_node {
        true => traceroute::hops_around(&outside, server, 2, stand.silent()),
        false => traceroute::hops(&outside, server),
    };
    assert!(hops.iter().all(Option::is_some), "{hops:?}");
    assert_eq!(hops.last(), Some(&Some(server)));
    assert!(unreachable(&outside, unused(way.to)).is_some());
    assert_closed(&outside, server);
    guard(way.to.node(), server);
    assert_guarded(&outside, server);
}
