//! A pod's address is another pod's while the agent is dead: nobody tells the programs, and the pod gets its packets all
//! the same.

#![cfg(test)]

use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_tests::fast_path::{fast_udp, pair_of};
use flannel_tests::lab::Options;
use flannel_tests::netns::Netns;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::{sweep, udp};
use rstest::rstest;

/// A proof lasts 15 seconds.
const FORGOTTEN: Duration = Duration::from_secs(40);

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// A pod of the runtime's making at `address`, on a port of its own.
fn heir(node: &Node, gateway: Ipv4Addr, address: Ipv4Addr) -> Netns {
    let heir = Netns::create(&format!("{}-heir", sweep::unique_name()));
    let name = heir.name();
    node.ip_batch(&[
        format!("link add heir type veth peer name eth0 netns {name}"),
        "link set heir master cni0 up".to_owned(),
    ]);
    heir.run(&format!("ip addr add {address}/24 dev eth0"));
    heir.run("ip link set eth0 up");
    heir.run(&format!("ip route add default via {gateway}"));
    // Announces itself, as the CNI plugin does.
    heir.run(&format!("ping -c 1 -W 15 {gateway}"));
    heir
}

/// `None`: the control.
type Flags = Option<&'static [&'static str]>;

#[rstest]
fn a_pod_that_inherits_an_address_while_the_agent_is_dead(
    #[values(
        Some(&["--fast-path=always"][..]),
        Some(&["--fast-path=always", "--pod-hook=bridge"][..]),
        Some(&["--fast-path=verified"][..]),
        None
    )]
    flags: Flags,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    inherits(flags, net);
}

/// With flanneld nothing arrives without it: it carries every packet itself.
#[rstest]
fn and_with_udp(
    #[values(&["--fast-path=always"], &["--fast-path=verified"])] flags: &'static [&'static str],
) {
    let net = Network::udp("/coreos.com/network", "10.244.0.0/16");
    inherits(Some(flags), net);
}

#[track_caller]
fn inherits(flags: Flags, net: Network) {
    let kind = flags.map_or(Kind::Flanneld, |_| Kind::Ours);
    let mut pair = pair_of(kind, net, Options::default(), flags.unwrap_or_default());
    let talk = fast_udp(&pair);
    let [_, port] = talk.ports();
    pair.two.kill();
    let gateway = Ipv4Addr::from(u32::from(pair.two.vtep()) + 1);
    let address = pair.pod2.address();
    pair.pod2.delete(&pair.two);
    let heir = heir(pair.two.node(), gateway, address);
    // The same flow, to whoever has the address now.
    let talk = talk.moved_to(udp::Server::on_port(&heir, port));
    eventually("the pod gets every packet", FORGOTTEN, || {
        (0..50).all(|_| talk.round())
    });
    talk.rounds(50);
}

/// It is on another node by then, and the operator's own route leads there.
#[rstest]
fn a_pod_of_another_node_inherits_an_address_while_the_agent_is_dead(
    #[values(
        Some(&["--fast-path=always"][..]),
        Some(&["--fast-path=always", "--pod-hook=bridge"][..]),
        Some(&["--fast-path=verified"][..]),
        None
    )]
    flags: Flags,
    #[values(vxlan().direct_routing(), host_gw())] net: Network,
) {
    let kind = flags.map_or(Kind::Flanneld, |_| Kind::Ours);
    let mut pair = pair_of(kind, net, Options::default(), flags.unwrap_or_default());
    let talk = fast_udp(&pair);
    let [_, port] = talk.ports();
    pair.one.kill();
    let address = pair.pod2.address();
    pair.pod2.delete(&pair.two);
    let three = pair.lab.node("three");
    three.ip_batch(&[
        format!("addr add {address}/32 dev lo"),
        format!(
            "route add {} via {} src {address}",
            pair.one.subnet(),
            pair.one.node().address()
        ),
    ]);
    pair.one.exec(&format!(
        "ip route add {address}/32 via {}",
        three.address()
    ));
    let talk = talk.moved_to(udp::Server::on_port(&three, port));
    eventually("the pod gets every packet", FORGOTTEN, || {
        (0..50).all(|_| talk.round())
    });
    talk.rounds(50);
}
