//! A pod's address, or its MAC, is another live pod's from one moment to the next, as keepalived in pods does it: a fast flow
//! follows. So it stops when the kernel is told to forward nothing.
//!
//! The agent says that it has done its part. From then on nothing may go the old way; that is looked at, and not the clock: with
//! its next renewal a flow would follow all the same.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use flannel_tests::fast_path::{fast_udp, pair_of, received};
use flannel_tests::lab::Options;
use flannel_tests::packet_socket::PacketSocket;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::udp;
use rstest::rstest;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// What the new holder of an address brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    ItsOwnMac,
    /// Of the address, as VRRP has it.
    ThatMac,
}

fn mac(host: &impl Host) -> [u8; 6] {
    let shown = host.exec("ip link show dev eth0");
    let at = shown.find("link/ether ").unwrap() + "link/ether ".len();
    let mut octets = shown[at..at + 17].split(':');
    std::array::from_fn(|_| u8::from_str_radix(octets.next().unwrap(), 16).unwrap())
}

/// Gratuitous ARP.
fn announce(host: &impl Host, address: Ipv4Addr) {
    let (mac, ip) = (mac(host), address.octets());
    let frame = [
        &[0xff; 6][..],
        &mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &ip,
        &[0; 6],
        &ip,
    ]
    .concat();
    host.netns()
        .enter(|| PacketSocket::on("eth0").unwrap().send(&frame).unwrap());
}

/// One datagram from `client`, which `server` answers.
#[track_caller]
fn round(client: &UdpSocket, server: &UdpSocket) {
    let mut bytes = [0; 8];
    client.send(b"question").unwrap();
    let (_, from) = uninterrupted(|| server.recv_from(&mut bytes)).expect("the question");
    server.send_to(b"answer", from).unwrap();
    uninterrupted(|| client.recv(&mut bytes)).expect("the answer");
}

/// Rounds until a flow takes the fast path to the pod of `daemon`, if it has one.
#[track_caller]
fn rounds(daemon: &AnyDaemon, client: &UdpSocket, server: &UdpSocket) {
    (0..10).for_each(|_| round(client, server));
    let Some(agent) = daemon.agent() else {
        return;
    };
    let before = received(agent);
    eventually("the flow is fast", SOON, || {
        (0..30).for_each(|_| round(client, server));
        received(agent) > before + 20
    });
}

/// As the kernel knows it: the MAC of an address, or the port behind which a MAC is.
fn holder_of(node: &impl Host, address: Ipv4Addr, mac: &str, with: With) -> Option<String> {
    let (command, before, after) = match with {
        With::ItsOwnMac => ("ip neigh show", format!("{address} "), "lladdr "),
        With::ThatMac => ("bridge fdb show br cni0", format!("{mac} "), "dev "),
    };
    let shown = node.exec(command);
    let line = shown
        .lines()
        .find(|line| line.starts_with(&before) && !line.contains("permanent"))?;
    let (_, rest) = line.split_once(after)?;
    rest.split(' ').next().map(str::to_owned)
}

/// How often proofs have ended for this reason.
fn ended(daemon: &AnyDaemon, why: &str) -> usize {
    let log = daemon.agent().map(Agent::log).unwrap_or_default();
    log.matches(why).count()
}

const MOVED: &str = "an address of pods has another holder: proofs of flows end";
const FORWARDS_NOTHING: &str = "net.ipv4.ip_forward was set to 0: proofs of flows end";

#[rstest]
fn an_address_that_moves_takes_its_flow_along(
    #[values(With::ItsOwnMac, With::ThatMac)] with: With,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let pair = pair_of(kind, vxlan(), Options::default(), &[]);
    let (holder, client) = (&pair.pod2, &pair.pod1);
    let heir = Pod::on(&pair.two, "heir");
    client.reaches(&heir);
    let address = holder.address();
    let gateway = Ipv4Addr::from(u32::from(pair.two.vtep()) + 1);

    let server = udp::Server::on(holder);
    let port = server.port();
    let old = server.into_socket();
    let client = udp::Server::on(client).into_socket();
    client.connect(SocketAddrV4::new(address, port)).unwrap();
    rounds(&pair.two, &client, &old);

    let before = ended(&pair.two, MOVED);
    let its = mac(holder).map(|octet| format!("{octet:02x}")).join(":");
    let held = holder_of(&pair.two, address, &its, with);
    assert!(held.is_some());
    holder.exec("ip addr flush dev eth0");
    if with == With::ThatMac {
        holder.exec("ip link set eth0 address 02:00:5e:00:01:01");
        heir.exec(&format!("ip link set eth0 address {its}"));
    }
    heir.netns().ip_batch(&[
        "addr flush dev eth0".to_owned(),
        format!("addr add {address}/24 dev eth0"),
        format!("route add default via {gateway}"),
    ]);
    let new = udp::Server::on_port(&heir, port).into_socket();
    announce(&heir, address);
    eventually("the kernel knows", SOON, || {
        let now = holder_of(&pair.two, address, &its, with);
        now.is_some() && now != held
    });
    if pair.two.agent().is_some() {
        eventually("the agent knows", SOON, || ended(&pair.two, MOVED) > before);
    }
    rounds(&pair.two, &client, &new);
    old.set_nonblocking(true).unwrap();
    let nothing = uninterrupted(|| old.recv(&mut [0; 8])).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "went the old way");
}

/// A fast flow would go on for 15 seconds.
#[rstest]
fn a_kernel_that_is_to_forward_nothing_stops_fast_flows(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let pair = pair_of(kind, vxlan(), Options::default(), &[]);
    let talk = fast_udp(&pair);
    let node = pair.two.node();
    node.sysctl("net.ipv4.ip_forward", 0);
    if pair.two.agent().is_some() {
        eventually("the agent knows", SOON, || {
            ended(&pair.two, FORWARDS_NOTHING) > 0
        });
    }
    assert!(!talk.round(), "nothing is forwarded");
    // So that the agent looks at everything.
    node.exec("ip link add nudge type veth peer name nudged");
    if pair.two.agent().is_some() {
        eventually("the agent says so", SOON, || {
            ended(&pair.two, "net.ipv4.ip_forward is 0") > 0
        });
    }
    node.sysctl("net.ipv4.ip_forward", 1);
    eventually("the flow goes on", SOON, || talk.round());
}

/// By which packets of pods come in: through the tunnel, from them, and without a tunnel.
#[rstest]
#[case::tunnel("flannel.1", vxlan())]
#[case::bridge("cni0", vxlan())]
#[case::bridge_without_tunnel("cni0", host_gw())]
#[case::uplink(Node::UPLINK, host_gw())]
fn a_device_that_is_to_forward_nothing_stops_fast_flows(
    #[case] device: &str,
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    const DEVICE: &str = "net.ipv4.conf.DEVICE.forwarding of a device is 0: proofs of flows end";

    let pair = pair_of(kind, net, Options::default(), &[]);
    let talk = fast_udp(&pair);
    let node = pair.two.node();
    let set = |value: u8| {
        node.exec(&format!(
            "sysctl -qw net/ipv4/conf/{device}/forwarding={value}"
        ));
    };
    let before = ended(&pair.two, DEVICE);
    set(0);
    if pair.two.agent().is_some() {
        eventually("the agent knows", SOON, || {
            ended(&pair.two, DEVICE) > before
        });
    }
    assert!(!talk.round(), "nothing is forwarded");
    set(1);
    eventually("the flow goes on", SOON, || talk.round());
}
