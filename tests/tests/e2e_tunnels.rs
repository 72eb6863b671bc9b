//! Packets that are tunnelled twice, or cut up on their way.

use std::net::SocketAddrV4;

use flannel_tests::pair::{Mix, Pair, Way, join};
use flannel_tests::prelude::*;
use flannel_tests::{tcp, udp};
use rstest::rstest;

/// A pod's own VXLAN, on the same port and with the same VNI as ours: nothing may take it for ours.
#[rstest]
fn vxlan_inside_pods_arrives(#[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix) {
    let pair = Pair::new(mix);
    for (n, Way { client, server, .. }) in pair.both_ways().into_iter().enumerate() {
        client.ip_batch(&[
            format!(
                "link add nested type vxlan id 1 local {} remote {} dstport 8472 dev eth0",
                client.address(),
                server.address()
            ),
            format!("addr add 192.168.9.{}/24 dev nested", n + 1),
            "link set nested up".to_owned(),
        ]);
    }
    let inner = "192.168.9.2".parse().expect("an address");
    eventually("the inner tunnel answers", SOON, || {
        pair.pod1.ping(inner).count(1).lossless()
    });
    pair.pod1.ping(inner).whole(1400).succeeds();
    let listener = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(inner, listener.port());
    listener.exchange(&pair.pod1, to, 4 << 20);
}

/// A narrow wire on the way: a router cuts the outer packets, the receiving kernel puts them together, and the agent's
/// socket delivers what is inside.
#[rstest]
fn outer_fragments_are_delivered(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let (receiver, sender) = mix.kinds();
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = join(receiver, lab.node("one"), &net);
    let two = join(sender, lab.node_behind_router("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    // The router believes that the way to the first node takes only 1000 bytes, and the outer DF is 0.
    pair.lab
        .router()
        .exec("ip route replace 172.30.0.0/24 dev switch mtu 1000");
    let fragments = Capture::start(
        pair.one.node(),
        Node::UPLINK,
        "ip[6:2] & 0x3fff != 0 and src host 172.30.12.12",
    );
    pair.pod2.ping(pair.pod1.address()).whole(1450).succeeds();
    udp::exchange(&pair.pod2, &pair.pod1, pair.pod1.address(), 8192);
    let listener = tcp::Server::on(&pair.pod1);
    let to = SocketAddrV4::new(pair.pod1.address(), listener.port());
    listener.exchange(&pair.pod2, to, 1 << 18);
    // Something was fragmented.
    fragments.packets(1);
}
