//! Ways that change while nobody follows them: the agent is dead, or the fast path asks for no proof.

#![cfg(test)]

use std::time::Duration;

use flannel_tests::fast_path::{fast_udp, pair_of};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use rstest::rstest;

/// A proof lasts 15 seconds.
const FORGOTTEN: Duration = Duration::from_secs(40);

/// `None`: the control.
type Flags = Option<&'static [&'static str]>;

fn pair(flags: Flags, net: Network) -> Pair<AnyDaemon> {
    let kind = flags.map_or(Kind::Flanneld, |_| Kind::Ours);
    pair_of(kind, net, Options::default(), flags.unwrap_or_default())
}

#[rstest]
fn a_gateway_to_a_peer_that_ends_while_the_agent_is_dead(
    #[values(
        Some(&["--fast-path=verified"][..]),
        Some(&["--fast-path=always"][..]),
        Some(&["--fast-path=always", "--pod-hook=bridge"][..]),
        None
    )]
    flags: Flags,
) {
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let mut pair = pair(flags, net);
    let gateway = pair.lab.other_gateway();
    let way = format!("{}/32 via {}", pair.two.node().address(), gateway.address);
    let by_gateway = format!("ether dst {}", gateway.mac);
    pair.one.exec(&format!("ip route add {way}"));
    let talk = fast_udp(&pair);
    let capture = Capture::start(pair.one.node(), Node::UPLINK, &by_gateway);
    talk.rounds(50);
    // What is fast goes by the gateway by now.
    capture.packets(20);
    pair.one.kill();
    pair.one.exec(&format!("ip route del {way}"));
    pair.lab.router().run("ip link set other down");
    eventually("the flow goes on", FORGOTTEN, || {
        (0..50).all(|_| talk.round())
    });
    talk.rounds(50);
}

/// What the pod is told of a packet that may not go on.
const FILTERED: &str = "icmp[0] = 3 and icmp[1] = 13";

/// Routes of the node's own, one pod's packets alone: they are forbidden, or go by another device.
#[rstest]
fn routes_are_followed_without_a_proof(
    #[values(
        Some(&["--fast-path=always"][..]),
        Some(&["--fast-path=always", "--pod-hook=bridge"][..]),
        None
    )]
    flags: Flags,
    #[values(false, true)] dead: bool,
) {
    let net = Network::host_gw("/coreos.com/network", "10.244.0.0/16");
    let mut pair = pair(flags, net);
    let talk = fast_udp(&pair);
    pair.one.node().ip_batch(&[
        "link add aside type veth peer name beside".to_owned(),
        "link set aside up".to_owned(),
        "link set beside up".to_owned(),
        "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev aside".to_owned(),
    ]);
    if dead {
        pair.one.kill();
    }
    let pod = pair.pod2.address();
    let told = Capture::inside(pair.one.node(), pair.pod1.netns(), "eth0", FILTERED);
    pair.one.exec(&format!("ip route add prohibit {pod}/32"));
    eventually("it is forbidden", FORGOTTEN, || {
        (0..3).all(|_| !talk.round())
    });
    told.packets(1);
    pair.one.exec(&format!("ip route del prohibit {pod}/32"));
    eventually("the flow goes on", FORGOTTEN, || talk.round());
    let aside = Capture::start(pair.one.node(), "beside", &format!("dst host {pod}"));
    let way = format!("{pod}/32 via 192.0.2.2 dev aside onlink");
    pair.one.exec(&format!("ip route add {way}"));
    eventually("it goes elsewhere", FORGOTTEN, || {
        (0..3).all(|_| !talk.round())
    });
    aside.packets(3);
    pair.one.exec(&format!("ip route del {way}"));
    eventually("the flow goes on", FORGOTTEN, || {
        (0..50).all(|_| talk.round())
    });
}
