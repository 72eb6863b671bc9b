//! `--ip-masq`: pods reach the outside as their node, and each other as themselves.

#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use flannel_tests::netns::Netns;
use flannel_tests::outside::Outside;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::Flow;
use flannel_tests::{sweep, talk, tcp, udp};
use rstest::rstest;

/// Two nodes that masquerade, and a server that knows no pods.
struct World {
    pair: Pair<AnyDaemon>,
    outside: Outside,
}

impl World {
    fn new(mix: Mix) -> Self {
        let lab = Lab::new();
        let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
        let outside = lab.outside();
        let pair = Pair::of_daemons_in(lab, net, mix, &["--ip-masq"]);
        Self { pair, outside }
    }

    /// What leaves the first node's uplink under a pod's address.
    fn leaks(&self) -> Capture {
        let filter = format!("src net {}", self.pair.net.cidr);
        Capture::start(self.pair.one.node(), Node::UPLINK, &filter)
    }

    fn node(&self) -> IpAddr {
        self.pair.one.node().address().into()
    }

    fn outside(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.outside.address(), port)
    }
}

#[rstest]
fn pods_reach_the_outside_as_their_node(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let world = World::new(mix);
    let leaks = world.leaks();
    let pod = &world.pair.pod1;
    pod.ping(world.outside.address()).succeeds();
    for bytes in [1, 1400, 8192] {
        let seen = udp::exchange(pod, &world.outside, world.outside.address(), bytes);
        assert_eq!(seen.ip(), world.node(), "{bytes} bytes by UDP");
    }
    let server = tcp::Server::on(&world.outside);
    for bytes in [1, 4 << 20] {
        let seen = server.exchange(pod, world.outside(server.port()), bytes);
        assert_eq!(seen.client.ip(), world.node(), "{bytes} bytes by TCP");
    }
    assert_eq!(leaks.finish(), <[Vec<u8>; 0]>::default());
    let text = std::fs::read_to_string(world.pair.one.subnet_file()).unwrap();
    assert!(text.contains("FLANNEL_IPMASQ=true\n"), "{text}");
}

#[rstest]
fn pods_reach_each_other_as_themselves(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let world = World::new(mix);
    for way in world.pair.both_ways() {
        let to = way.server.address();
        let seen = udp::exchange(way.client, way.server, to, 100);
        assert_eq!(seen.ip(), way.client.address());
        let server = tcp::Server::on(way.server);
        let seen = server.exchange(way.client, SocketAddrV4::new(to, server.port()), 100_000);
        assert_eq!(seen.client.ip(), way.client.address());
    }
    // Another node is outside: its address is no pod's.
    let (two, pod) = (world.pair.two.node(), &world.pair.pod1);
    let seen = udp::exchange(pod, two, two.address(), 100);
    assert_eq!(seen.ip(), world.node());
}

#[test]
fn exempt_destinations_see_the_pod() {
    let mut world = World::new(Mix::Ours);
    let outside = Ipv4Addr::from(u32::from(world.outside.address()) & 0xffff_ff00);
    world.pair.one.terminate();
    let exempt = format!("--snat-exempt={outside}/24");
    world.pair.one.restart_with(&["--ip-masq", &exempt]);
    let way_back = format!(
        "ip route add {} via {}",
        world.pair.one.subnet(),
        world.pair.one.node().address()
    );
    world.pair.lab.router().exec(&way_back);
    let pod = &world.pair.pod1;
    let seen = udp::exchange(pod, &world.outside, world.outside.address(), 100);
    assert_eq!(seen.ip(), pod.address());
}

#[rstest]
fn connections_outlive_the_agent_and_new_ones_need_none(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let mut world = World::new(mix);
    let leaks = world.leaks();
    let server = tcp::Server::on(&world.outside);
    let to = world.outside(server.port());
    let mut talk = talk::Tcp::open(&server, &world.pair.pod1, to);
    talk.rounds(10);
    let flow = Flow::start(&world.pair.pod1, &world.outside, *to.ip());

    world.pair.one.kill();
    talk.rounds(10);
    let seen = server.exchange(&world.pair.pod1, to, 10_000);
    assert_eq!(seen.client.ip(), world.node());
    // Other constants: programs and steps are swapped under the traffic.
    let other = match mix {
        Mix::Ours => "--source-check=off",
        _ => "--ip-masq-fully-random-disable",
    };
    for flags in [&["--ip-masq"][..], &["--ip-masq", other]] {
        world.pair.one.kill();
        world.pair.one.restart_with(flags);
        talk.rounds(10);
        server.exchange(&world.pair.pod1, to, 10_000);
    }
    flow.finish().assert_complete();
    talk.close();
    if mix == Mix::Ours {
        // flanneld takes its rules away and writes them anew at each start, and meanwhile pods leave as themselves.
        assert_eq!(leaks.finish(), <[Vec<u8>; 0]>::default());
    }
}

/// A network card that comes later, say towards a storage that knows only its own link.
#[rstest]
fn pods_leave_by_another_card_under_its_address(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let world = World::new(mix);
    let (node, pod) = (world.pair.one.node(), &world.pair.pod1);
    let storage = Netns::create(&sweep::unique_name());
    let (ours, its) = (
        Ipv4Addr::new(192, 168, 77, 1),
        Ipv4Addr::new(192, 168, 77, 2),
    );
    node.ip_batch(&[
        format!(
            "link add eth1 type veth peer name eth0 netns {}",
            storage.name()
        ),
        format!("addr add {ours}/24 dev eth1"),
        "link set eth1 up".to_owned(),
    ]);
    storage.ip_batch(&[
        format!("addr add {its}/24 dev eth0"),
        "link set eth0 up".to_owned(),
    ]);
    eventually("the storage answers", SOON, || {
        pod.ping(its).count(1).lossless()
    });
    let leaks = Capture::start(node, "eth1", &format!("src net {}", world.pair.net.cidr));
    pod.ping(its).succeeds();
    assert_eq!(udp::exchange(pod, &storage, its, 8192).ip(), ours);
    let server = tcp::Server::on(&storage);
    let seen = server.exchange(pod, SocketAddrV4::new(its, server.port()), 1 << 20);
    assert_eq!(seen.client.ip(), ours);
    assert_eq!(leaks.finish(), <[Vec<u8>; 0]>::default());
    let seen = udp::exchange(pod, &world.outside, world.outside.address(), 100);
    assert_eq!(seen.ip(), world.node(), "the uplink's as before");
    if let Some(agent) = world.pair.one.agent() {
        // One may come just when the agent looks at everything anyhow.
        let mut cards = 2..;
        eventually("the agent does not wait when there is one", SOON, || {
            let n = cards.next().unwrap();
            node.ip_batch(&[
                format!("link add eth{n} type veth peer name peer{n}"),
                format!("addr add 192.168.{n}.1/24 dev eth{n}"),
                format!("link set eth{n} up"),
            ]);
            // Each card is one more for the agent to look at: not faster than it can.
            (0..50).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                agent.log().contains("looking at everything at once")
            })
        });
    }
}
