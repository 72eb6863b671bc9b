//! Uplinks of kinds that not every kernel has: WireGuard, ipip, gre, VLANs, bonds. For the tunnel and for source NAT.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};

use flannel_common::program::Program::UplinkRx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::devices::{
    CABLES, Device, Elsewhere, IFACE, UPLINK, address, behind, pair, pair_elsewhere, set_cable,
};
use flannel_tests::fast_path::{fast, hooked_if_ours, talk_tcp, was_fast};
use flannel_tests::pair::{Kind, Mix};
use flannel_tests::prelude::*;
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use flannel_tests::with_daemon::start;
use flannel_tests::{tcp, traceroute, udp};
use rstest::rstest;

#[rstest]
#[ignore = "needs WireGuard, ipip, gre, VLAN, bonding: cargo xtask test --kernel 6.12"]
fn pods_reach_each_other(
    #[values(
        Device::WireGuard,
        Device::Ipip,
        Device::Gre,
        Device::Vlan,
        Device::Bond,
        Device::TaggedBond,
        Device::VlanOnBond
    )]
    device: Device,
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(vxlan(), device, mix, &[]);
    let lease = pair.lab.etcd().get(&pair.net.lease_key(pair.one.subnet()));
    let published = format!("\"PublicIP\":\"{}\"", address(1));
    assert!(lease.unwrap().contains(&published));
    carries_everything(&pair);
}

/// With dead agents: nothing goes by their sockets.
#[rstest]
#[ignore = "needs WireGuard, ipip, gre, VLAN, bonding: cargo xtask test --kernel 6.12"]
fn the_programs_take_what_arrives(
    #[values(
        Device::WireGuard,
        Device::Ipip,
        Device::Gre,
        Device::Vlan,
        Device::Bond,
        Device::TaggedBond,
        Device::VlanOnBond
    )]
    device: Device,
) {
    let mut pair = pair(vxlan(), device, Mix::Ours, &["--ip-masq", "--xdp=auto"]);
    pair.one.kill();
    pair.two.kill();
    carries_everything(&pair);
    let taken = [Reason::DecapDirect, Reason::DecapGro, Reason::FastRx];
    for member in [&pair.one, &pair.two] {
        let agent = member.agent().unwrap();
        let counts = taken.map(|reason| count(agent, UplinkRx, reason));
        assert!(counts.iter().sum::<u64>() > 0, "{counts:?}");
    }
}

/// Datagrams whole and in fragments, streams, pings, and what is said about packets that went wrong; nothing leaves
/// under a pod's address.
#[rstest]
#[ignore = "needs WireGuard, ipip, gre, VLAN, bonding: cargo xtask test --kernel 6.12"]
fn pods_reach_the_outside(
    #[values(
        Device::WireGuard,
        Device::Ipip,
        Device::Gre,
        Device::Vlan,
        Device::Bond,
        Device::VlanOnBond
    )]
    device: Device,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let member = start(kind, behind(&lab, device), &net, &[IFACE, "--ip-masq"]);
    let pod = Pod::on(&member, "pod");
    let leaks = Capture::inside(
        member.node(),
        lab.router(),
        UPLINK,
        &format!("src net {}", net.cidr),
    );
    let to = outside.address();
    pod.ping(to).succeeds();
    for bytes in [1, 1200, 8192] {
        let seen = udp::exchange(&pod, &outside, to, bytes);
        assert_eq!(seen.ip(), address(1), "{bytes} bytes by UDP");
    }
    let server = tcp::Server::on(&outside);
    for bytes in [1, 1 << 20] {
        let seen = server.exchange(&pod, SocketAddrV4::new(to, server.port()), bytes);
        assert_eq!(seen.client.ip(), address(1), "{bytes} bytes by TCP");
    }
    let hops = traceroute::hops(&pod, to);
    assert!(
        hops.contains(&Some(address(2))) && hops.contains(&Some(to)),
        "{hops:?}"
    );
    let socket = pod.netns().enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.connect((to, 9)).unwrap();
    socket.send(b"is anybody there?").unwrap();
    let error = uninterrupted(|| socket.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    leaks.saw_nothing();
}

/// Without a tunnel, for which a device needs MAC addresses; and fast there.
#[rstest]
#[case::vlan(Device::Vlan, vxlan().direct_routing())]
#[case::bond(Device::Bond, host_gw())]
#[case::tagged_bond(Device::TaggedBond, vxlan().direct_routing())]
#[case::vlan_on_bond(Device::VlanOnBond, vxlan().direct_routing())]
#[case::vlan_on_bond_host_gw(Device::VlanOnBond, host_gw())]
#[ignore = "needs VLAN, bonding: cargo xtask test --kernel 6.12"]
fn without_a_tunnel(
    #[case] device: Device,
    #[case] net: Network,
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(net, device, mix, &[]);
    for daemon in [&pair.one, &pair.two] {
        hooked_if_ours(daemon);
    }
    carries_everything(&pair);
    let before = fast(&pair.one);
    talk_tcp(&pair.pod1, &pair.pod2).rounds(200);
    was_fast(&pair.one, before, 100);
}

/// The cable in use is pulled, and later the other: connections go on, past the stack as before.
#[rstest]
#[case::bond(Device::Bond, vxlan())]
#[case::tagged_bond(Device::TaggedBond, vxlan())]
#[case::vlan_on_bond(Device::VlanOnBond, vxlan())]
#[case::vlan_on_bond_direct(Device::VlanOnBond, vxlan().direct_routing())]
#[ignore = "needs VLAN, bonding: cargo xtask test --kernel 6.12"]
fn a_bond_goes_over_to_its_other_cable(
    #[case] device: Device,
    #[case] net: Network,
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(net, device, mix, &[]);
    for daemon in [&pair.one, &pair.two] {
        hooked_if_ours(daemon);
    }
    let mut tcp = talk_tcp(&pair.pod1, &pair.pod2);
    tcp.rounds(100);
    let [first, other] = CABLES;
    for (pulled, used) in [(first, other), (other, first)] {
        set_cable(&pair.lab, 1, used, true);
        set_cable(&pair.lab, 1, pulled, false);
        tcp.rounds(20);
        let before = fast(&pair.one);
        tcp.rounds(200);
        was_fast(&pair.one, before, 100);
    }
    carries_everything(&pair);
}

/// The node's address is elsewhere, and such devices lead to the others.
#[rstest]
#[ignore = "needs VLAN, bonding, dummy: cargo xtask test --kernel 6.12"]
fn the_address_is_on_another_device(
    #[values(Device::Vlan, Device::Bond, Device::TaggedBond, Device::VlanOnBond)] device: Device,
    #[values(Elsewhere::Loopback, Elsewhere::Dummy)] on: Elsewhere,
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    // flanneld goes by the MTU of the device that has the address.
    let pair = pair_elsewhere(vxlan().mtu(1500), device, on, mix);
    carries_everything(&pair);
    let counted = [&pair.one, &pair.two].map(|daemon| daemon.agent());
    for agent in counted.into_iter().flatten() {
        let taken = [Reason::DecapDirect, Reason::DecapGro, Reason::FastRx];
        let counts = taken.map(|reason| count(agent, UplinkRx, reason));
        assert!(counts.iter().sum::<u64>() > 0, "{counts:?}");
    }
}
