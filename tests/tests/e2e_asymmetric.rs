//! Tunnel packets that come in by another device than answers leave by: no program waits for them there, the agent's
//! socket gets them as their sender left them to a device, unfinished and uncut.

#![cfg(test)]

use flannel_tests::cold::{First, forget_everybody};
use flannel_tests::pair::{Mix, Pair, join};
use flannel_tests::prelude::*;
use flannel_tests::ways::{carries_everything, vxlan};
use flannel_tests::{tcp, udp};
use rstest::rstest;

/// What a device leaves to its driver.
#[derive(Debug, Clone, Copy)]
enum Device {
    /// As a veth is made: checksums and cutting up.
    Whole,
    /// Checksums.
    Segmented,
    /// Nothing: all is done before.
    Plain,
}

impl Device {
    fn set(self, node: &Node) {
        let off = match self {
            Self::Whole => return,
            Self::Segmented => {
                "tso off gso off gro off tx-udp-segmentation off tx-udp_tnl-segmentation off \
                 tx-udp_tnl-csum-segmentation off"
            }
            Self::Plain => "tx off tso off gso off gro off tx-udp_tnl-segmentation off",
        };
        node.exec(&format!("ethtool -K eth1 {off}"));
    }
}

/// A second link between the nodes, by which the second one sends to the first, and nothing comes back.
fn second_link(one: &Node, two: &Node, device: Device) {
    one.exec(&format!(
        "ip link add eth1 type veth peer name eth1 netns {}",
        two.netns().name()
    ));
    for (node, address) in [(one, "203.0.113.1"), (two, "203.0.113.2")] {
        node.exec(&format!("ip addr add {address}/24 dev eth1"));
        node.exec("ip link set eth1 up");
        device.set(node);
    }
    // Until the kernel has noticed the carrier, the device drops what it is given.
    for node in [one, two] {
        eventually("the second link is up", SOON, || {
            node.exec("ip -br link show dev eth1").contains(" UP ")
        });
    }
}

#[rstest]
fn by_another_device_than_the_answers(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(Device::Whole, Device::Segmented, Device::Plain)] device: Device,
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let (one, two) = mix.kinds();
    let one = join(one, lab.node("one"), &net);
    let two = join(two, lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    let (one, two) = (pair.one.node(), pair.two.node());
    second_link(one, two, device);
    let before = received(one);
    two.exec(&format!(
        "ip route add {}/32 via 203.0.113.1 dev eth1",
        one.address()
    ));
    eventually("packets come by the second link", SOON, || {
        let report = pair.pod2.ping(pair.pod1.address()).count(1).send();
        report.received == 1 && received(one) > before
    });
    for first in [First::Datagram, First::Connection, First::LongDatagram] {
        for way in pair.both_ways() {
            let forget = || {
                for pod in [&pair.pod1, &pair.pod2] {
                    forget_everybody(pod);
                }
                for node in [one, two] {
                    forget_everybody(node.netns());
                }
            };
            first.reaches(forget, way.client, way.server);
        }
    }
    carries_everything(&pair);
    // A stream in the direction that comes in there.
    let server = tcp::Server::on(&pair.pod1);
    let to = std::net::SocketAddrV4::new(pair.pod1.address(), server.port());
    server.exchange(&pair.pod2, to, 4 << 20);
    // The node as one end.
    udp::exchange(one, &pair.pod2, pair.pod2.address(), 100);
    let server = tcp::Server::on(&pair.pod2);
    let to = std::net::SocketAddrV4::new(pair.pod2.address(), server.port());
    server.exchange(one, to, 1 << 16);
}

/// Packets that came by the second link.
fn received(node: &Node) -> u64 {
    let devices = node.exec("cat /proc/net/dev");
    let mut lines = devices.lines().map(str::split_whitespace);
    let mut device =
        lines.find_map(|mut words| words.next().filter(|name| *name == "eth1:").map(|_| words));
    // Bytes, packets.
    let count = device.as_mut().and_then(|words| words.nth(1));
    count.and_then(|count| count.parse().ok()).expect("a count")
}
