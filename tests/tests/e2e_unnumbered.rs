//! Devices without an address of their own outside the network: routed virtual machines, point-to-point links, the second leg of an
//! uplink. What pods send by them leaves as somebody else of the node (`inet_select_addr`), and what comes in by them is
//! known.

#![cfg(test)]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use flannel_tests::netns::Netns;
use flannel_tests::network::Backend;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::CLUSTER;
use flannel_tests::with_daemon::{AnyDaemon, start};
use flannel_tests::{sweep, talk, tcp, udp};
use rstest::rstest;

const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// On both ends of a link of their own.
const NEAR: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 7, 1), Ipv4Addr::new(169, 254, 7, 2)];

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER)
}

fn host_gw() -> Network {
    Network {
        backend: Backend::HostGw,
        ..vxlan()
    }
}

struct Far(Netns);

impl Host for Far {
    fn netns(&self) -> &Netns {
        &self.0
    }
}

/// A node with a pod, and somebody at the other end of `x0` who knows the node alone.
struct Scene {
    pod: Pod,
    one: AnyDaemon,
    far: Far,
    _lab: Lab,
}

impl Scene {
    fn new(kind: Kind, net: Network) -> Self {
        let lab = Lab::new();
        let net = lab.network(net);
        let one = start(kind, lab.node("one"), &net, &["--ip-masq"]);
        let pod = Pod::on(&one, "pod");
        let far = Far(Netns::create(&sweep::unique_name()));
        let scene = Self {
            pod,
            one,
            far,
            _lab: lab,
        };
        let to = scene.far.0.name().to_owned();
        scene.node(&format!("link add x0 type veth peer name eth0 netns {to}"));
        scene.node("link set x0 up");
        scene
            .far
            .0
            .ip_batch(&["link set lo up", "link set eth0 up"].map(str::to_owned));
        scene
    }

    fn node(&self, line: &str) {
        self.one.node().exec(&format!("ip {line}"));
    }

    fn far(&self, line: &str) {
        self.far.0.run(&format!("ip {line}"));
    }

    /// Whoever is at `at` hears the pod as `seen`, and the pod hears the answers, of each protocol and in fragments.
    #[track_caller]
    fn talks(&self, at: Ipv4Addr, seen: Ipv4Addr) {
        // The agent has to hear of what was made.
        eventually("the pod reaches it", SOON, || {
            self.pod.ping(at).count(1).lossless()
        });
        let (pod, far) = (&self.pod, &self.far);
        for bytes in [100, 8192] {
            assert_eq!(udp::exchange(pod, far, at, bytes).ip(), seen, "{bytes}");
        }
        let server = tcp::Server::on(far);
        let to = SocketAddrV4::new(at, server.port());
        let client = server.exchange(pod, to, 1 << 20).client.ip();
        assert_eq!(client, IpAddr::V4(seen));
        let mut talk = talk::Tcp::open(&server, pod, to);
        talk.outlast();
        talk.rounds(50);
        talk.close();
    }
}

#[rstest]
fn by_a_route_alone(
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
    #[values(vxlan(), host_gw())] net: Network,
) {
    let scene = Scene::new(kind, net);
    let own = scene.one.node().address();
    scene.far(&format!("addr add {FAR}/32 dev eth0"));
    scene.far(&format!("route add {own} dev eth0"));
    scene.node(&format!("route add {FAR} dev x0"));
    scene.talks(FAR, own);
}

/// The device is there, and known, before a route leads by it; and in a table of its own.
#[rstest]
fn by_a_route_that_comes_later(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind, vxlan());
    let inside = CLUSTER.replace(".0.0/16", ".255.1");
    scene.node(&format!("addr add {inside}/32 dev x0"));
    scene.far(&format!("addr add {FAR}/32 dev eth0"));
    scene.far(&format!("route add {inside} dev eth0"));
    scene.pod.ping(scene.one.node().address()).succeeds();
    scene.node(&format!("route add {FAR} dev x0 table 77"));
    scene.node(&format!("rule add to {FAR} lookup 77"));
    scene.talks(FAR, inside.parse().unwrap());
}

#[rstest]
fn with_an_address_of_its_link(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind, vxlan());
    let own = scene.one.node().address();
    let [near, far] = NEAR;
    scene.node(&format!("addr add {near}/30 dev x0 scope link"));
    scene.far(&format!("addr add {far}/30 dev eth0"));
    scene.far(&format!("route add {own} dev eth0"));
    scene.talks(far, own);
}

/// Nothing leaves by it, and no route leads there.
#[rstest]
fn answers_come_in_by_it(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind, vxlan());
    let ns = scene.far.0.name().to_owned();
    // Two links: what is asked comes by the one, and is answered by the other.
    scene.node(&format!("link add x1 type veth peer name eth1 netns {ns}"));
    scene.node("addr add 198.51.100.1/30 dev x1");
    scene.node("link set x1 up");
    for device in ["all", "x0", "x1"] {
        let path = format!("net.ipv4.conf.{device}.rp_filter");
        scene.one.node().netns().sysctl(&path, 0);
    }
    scene.far("link set eth1 up");
    scene.far(&format!("addr add {FAR}/32 dev lo"));
    scene.node(&format!("route add {FAR} dev x1"));
    scene.far("route add 198.51.100.1 dev eth0");
    for device in ["all", "eth0", "eth1"] {
        let path = format!("net.ipv4.conf.{device}.rp_filter");
        scene.far.0.sysctl(&path, 0);
    }
    let before = received(&scene);
    scene.talks(FAR, Ipv4Addr::new(198, 51, 100, 1));
    assert!(received(&scene) > before + 50, "nothing came by x0");
}

fn received(scene: &Scene) -> u64 {
    let devices = scene.one.node().exec("cat /proc/net/dev");
    let mut lines = devices.lines().map(str::split_whitespace);
    let x0 = lines.find_map(|mut words| words.next().filter(|name| *name == "x0:").map(|_| words));
    // Bytes, packets.
    let count = x0.expect("x0").nth(1);
    count.and_then(|count| count.parse().ok()).expect("a count")
}
