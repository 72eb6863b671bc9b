//! Devices with several addresses: a flow leaves as the one that fits its next hop, as MASQUERADE has it
//! (`inet_select_addr`), and ends when that address goes.

#![cfg(test)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

use flannel_tests::netns::Netns;
use flannel_tests::network::Backend;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::sockopt::whole_only;
use flannel_tests::stage::CLUSTER;
use flannel_tests::with_daemon::{AnyDaemon, start};
use flannel_tests::{fast_path, sweep, talk, tcp, traceroute, udp};
use rstest::rstest;

/// The node's second subnet, which nobody routes to.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const SHOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 200);
/// The router's address there.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// Nobody listens there.
const CLOSED: u16 = 9;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER)
}

fn host_gw() -> Network {
    Network {
        backend: Backend::HostGw,
        ..vxlan()
    }
}

/// A node with a pod, a server beyond the router, and a shop on the switch that knows only the second subnet.
struct Scene {
    pod: Pod,
    one: AnyDaemon,
    shop: Node,
    outside: Outside,
    lab: Lab,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        Self::with(kind, vxlan(), &[])
    }

    fn with(kind: Kind, net: Network, flags: &[&str]) -> Self {
        let lab = Lab::new();
        let net = lab.network(net);
        let outside = lab.outside();
        let shop = lab.node("shop");
        shop.ip_batch(&[
            "addr flush dev eth0".to_owned(),
            format!("addr add {SHOP}/24 dev eth0"),
        ]);
        let node = lab.node("one");
        node.exec(&format!("ip addr add {SECOND}/24 dev eth0"));
        let flags = [&["--ip-masq"], flags].concat();
        let one = start(kind, node, &net, &flags);
        let pod = Pod::on(&one, "pod");
        eventually("the pod reaches the server", SOON, || {
            pod.ping(outside.address()).count(1).lossless()
        });
        Self {
            pod,
            one,
            shop,
            outside,
            lab,
        }
    }

    fn first(&self) -> Ipv4Addr {
        self.one.node().address()
    }

    fn node(&self, line: &str) {
        self.one.node().exec(line);
    }

    /// As whom a new flow of the pod leaves for the server beyond the router.
    #[track_caller]
    fn seen_outside(&self) -> Ipv4Addr {
        seen_by(&self.pod, &self.outside, self.outside.address())
    }

    #[track_caller]
    fn seen_by_the_shop(&self) -> Ipv4Addr {
        seen_by(&self.pod, &self.shop, SHOP)
    }

    /// As [`seen_by`], but nothing may arrive at all yet.
    fn may_be_seen_by(&self, host: &impl Host, at: Ipv4Addr) -> Option<Ipv4Addr> {
        let server = udp::Server::on(host);
        let to = (at, server.port());
        let server = server.into_socket();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let client = udp::Server::on(&self.pod).into_socket();
        client.send_to(b"who am I?", to).ok()?;
        let (_, from) = uninterrupted(|| server.recv_from(&mut [0; 16])).ok()?;
        match from.ip() {
            std::net::IpAddr::V4(seen) => Some(seen),
            std::net::IpAddr::V6(_) => None,
        }
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_millis(300);

#[track_caller]
fn seen_by(pod: &Pod, host: &impl Host, at: Ipv4Addr) -> Ipv4Addr {
    let seen = udp::exchange(pod, host, at, 100).ip();
    match seen {
        std::net::IpAddr::V4(seen) => seen,
        std::net::IpAddr::V6(_) => panic!("{seen}"),
    }
}

fn peer_of(stream: &TcpStream) -> std::net::IpAddr {
    stream.peer_addr().unwrap().ip()
}

/// Pings, datagrams in one piece and in fragments, a transfer, and a conversation that is worth a fast path.
#[track_caller]
fn talks(pod: &Pod, host: &impl Host, at: Ipv4Addr, seen: Ipv4Addr) {
    pod.ping(at).succeeds();
    for bytes in [100, 8192] {
        assert_eq!(udp::exchange(pod, host, at, bytes).ip(), seen, "{bytes}");
    }
    let server = tcp::Server::on(host);
    let to = SocketAddrV4::new(at, server.port());
    assert_eq!(server.exchange(pod, to, 1 << 20).client.ip(), seen);
    let mut talk = talk::Tcp::open(&server, pod, to);
    talk.outlast();
    talk.rounds(50);
    talk.close();
}

#[rstest]
#[case::flanneld(Kind::Flanneld, vxlan(), &[])]
#[case::flanneld_host_gw(Kind::Flanneld, host_gw(), &[])]
#[case::ours(Kind::Ours, vxlan(), &[])]
#[case::host_gw(Kind::Ours, host_gw(), &[])]
#[case::always(Kind::Ours, vxlan(), &["--fast-path=always"])]
#[case::off(Kind::Ours, vxlan(), &["--fast-path=off"])]
#[case::hook(Kind::Ours, vxlan(), &["--pod-hook=bridge"])]
fn a_neighbour_sees_the_address_of_his_subnet(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
) {
    let scene = Scene::with(kind, net, flags);
    talks(&scene.pod, &scene.shop, SHOP, SECOND);
    talks(
        &scene.pod,
        &scene.outside,
        scene.outside.address(),
        scene.first(),
    );
}

/// What skips the stack leaves as the same.
#[test]
fn proven_flows_keep_their_address() {
    let scene = Scene::new(Kind::Ours);
    let agent = scene.one.agent().unwrap();
    let server = tcp::Server::on(&scene.shop);
    let to = SocketAddrV4::new(SHOP, server.port());
    let mut talk = talk::Tcp::open(&server, &scene.pod, to);
    let before = fast_path::sent(agent);
    eventually("its packets skip the stack", SOON, || {
        talk.outlast();
        fast_path::sent(agent) > before + 10
    });
    talk.rounds(100);
    assert_eq!(*talk.seen().ip(), SECOND);
    // As whom its packets come there past the stack, too.
    let filter = format!("tcp and dst host {SHOP} and dst port {}", to.port());
    let came = Capture::inside(scene.one.node(), scene.shop.netns(), "eth0", &filter);
    let before = fast_path::sent(agent);
    talk.rounds(100);
    assert!(fast_path::sent(agent) > before + 80);
    // Behind the Ethernet header and twelve bytes of IPv4's.
    let sources = came
        .finish()
        .into_iter()
        .map(|packet| packet[26..30].to_vec());
    assert_eq!(
        sources.collect::<BTreeSet<_>>(),
        [SECOND.octets().to_vec()].into()
    );
}

/// Both ways, and about what was translated to either address.
#[rstest]
fn errors_find_their_flows(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind);
    let pod = &scene.pod;
    for (host, at) in [
        (scene.shop.netns(), SHOP),
        (scene.outside.netns(), scene.outside.address()),
    ] {
        let socket = udp::Server::on(pod).into_socket();
        socket.connect((at, CLOSED)).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = uninterrupted(|| socket.recv(&mut [0; 16])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        let refused = tcp::connect(pod, SocketAddrV4::new(at, CLOSED)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");

        // The pod's own.
        let server = udp::Server::on(&HostOf(host));
        let port = server.port();
        let server = server.into_socket();
        let client = udp::Server::on(pod).into_socket();
        client.send_to(b"hello", (at, port)).unwrap();
        let (_, seen) = uninterrupted(|| server.recv_from(&mut [0; 16])).unwrap();
        whole_only(&server);
        eventually("the server is told the MTU of the pod's link", SOON, || {
            let sent = server.send_to(&[0; 1460], seen);
            sent.is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE))
        });
        drop(client);
        server.connect(seen).unwrap();
        eventually("the server is told that the port is closed", SOON, || {
            server
                .send(b"still there?")
                .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
        });
    }
    let hops = traceroute::hops(pod, SHOP);
    assert_eq!(hops, [Some(scene.one.subnet().address(1)), Some(SHOP)]);
}

struct HostOf<'a>(&'a Netns);

impl Host for HostOf<'_> {
    fn netns(&self) -> &Netns {
        self.0
    }
}

/// The next hop decides, not the destination and not what the route would have the node's own sockets use (`src`).
#[rstest]
#[case::gateway("via 203.0.113.254", SECOND)]
#[case::preferred_source("via 203.0.113.254 src 172.30.0.11", SECOND)]
#[case::preferred_source_of_the_first("via 172.30.0.254 src 203.0.113.11", Ipv4Addr::UNSPECIFIED)]
#[case::on_link("dev eth0", Ipv4Addr::UNSPECIFIED)]
fn the_gateway_decides(
    #[case] way: &str,
    #[case] seen: Ipv4Addr,
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
) {
    let scene = Scene::new(kind);
    scene
        .lab
        .router()
        .run(&format!("ip addr add {GATEWAY}/24 dev switch"));
    // The router is the neighbour of everybody it has a route to.
    scene
        .lab
        .router()
        .sysctl("net.ipv4.conf.switch.proxy_arp", 1);
    let way = way.replace("172.30.0.11", &scene.first().to_string());
    let server = scene.outside.address();
    scene.node(&format!("ip route add {server} {way}"));
    let seen = match seen.is_unspecified() {
        true => scene.first(),
        false => seen,
    };
    talks(&scene.pod, &scene.outside, server, seen);
}

/// Whom MASQUERADE takes; `{n}` is the net of a second card, `192.168.n.0/24`.
#[rstest]
#[case::two_subnets(&["192.168.77.1/24", "192.168.78.1/24"], ["192.168.77.1", "192.168.78.1"])]
#[case::service_first(&["10.9.9.9/32", "192.168.77.1/24", "192.168.78.1/24"], ["192.168.77.1", "192.168.78.1"])]
#[case::deprecated(&["192.168.77.1/24 preferred_lft 0", "192.168.78.1/24 preferred_lft 0"], ["192.168.77.1", "192.168.78.1"])]
#[case::secondary(&["192.168.77.7/24", "192.168.77.1/24", "192.168.78.1/24"], ["192.168.77.7", "192.168.78.1"])]
#[case::wide_first(&["192.168.77.7/16", "192.168.78.1/24"], ["192.168.77.7", "192.168.77.7"])]
#[case::wide_last(&["192.168.78.1/24", "192.168.77.7/16"], ["192.168.77.7", "192.168.78.1"])]
#[case::link_local(&["192.168.77.3/24 scope link", "192.168.77.1/25", "192.168.78.1/24"], ["192.168.77.1", "192.168.78.1"])]
#[case::point_to_point(&["192.168.77.1/24", "192.168.79.6 peer 192.168.78.2/32"], ["192.168.77.1", "192.168.79.6"])]
fn every_device_has_its_own(
    #[case] addresses: &[&str],
    #[case] seen: [&str; 2],
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
) {
    let scene = Scene::new(kind);
    let storage = Netns::create(&sweep::unique_name());
    let node = scene.one.node();
    node.ip_batch(&[
        format!(
            "link add eth1 type veth peer name eth0 netns {}",
            storage.name()
        ),
        "link set eth1 up".to_owned(),
    ]);
    for address in addresses {
        node.exec(&format!("ip addr add {address} dev eth1"));
    }
    let storage = HostOf(&storage);
    for (net, fits) in [(77, seen[0]), (78, seen[1])] {
        let at = Ipv4Addr::new(192, 168, net, 2);
        storage.netns().ip_batch(&[
            "link set eth0 up".to_owned(),
            "addr flush dev eth0".to_owned(),
            format!("addr add {at}/24 dev eth0"),
            "route add 192.168.0.0/16 dev eth0".to_owned(),
        ]);
        // Under whom it answers shows when the agent has noticed all that was added.
        let fits: Ipv4Addr = fits.parse().unwrap();
        eventually("the storage sees who fits", SOON, || {
            scene.may_be_seen_by(&storage, at) == Some(fits)
        });
        talks(&scene.pod, &storage, at, fits);
    }
    assert_eq!(scene.seen_outside(), scene.first());
    assert_eq!(scene.seen_by_the_shop(), SECOND);
}

/// The node's own connections from the second address have ports of their own.
#[rstest]
fn the_node_and_its_pod_share_the_second_address(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind);
    let server = tcp::Server::on(&scene.shop);
    let to = SocketAddrV4::new(SHOP, server.port());
    // As many as fit beside each other; the node is not kept from choosing such a port by hand.
    for port in [50_000_u16, 60_000] {
        let own = udp::Server::on_port(scene.one.node(), port).into_socket();
        own.connect(to).unwrap();
        let shop = udp::Server::on_port(&scene.shop, to.port()).into_socket();
        own.send(b"node").unwrap();
        let (_, node) = uninterrupted(|| shop.recv_from(&mut [0; 16])).unwrap();
        let pods = udp::Server::on_port(&scene.pod, port).into_socket();
        pods.connect(to).unwrap();
        pods.send(b"pod").unwrap();
        let (_, pod) = uninterrupted(|| shop.recv_from(&mut [0; 16])).unwrap();
        assert_eq!((node.ip(), pod.ip()), (SECOND.into(), SECOND.into()));
        assert_ne!(node.port(), pod.port());
        shop.send_to(b"to the node", node).unwrap();
        shop.send_to(b"to the pod", pod).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(uninterrupted(|| own.recv(&mut bytes)).unwrap(), 11);
        assert_eq!(uninterrupted(|| pods.recv(&mut bytes)).unwrap(), 10);
    }
}

/// Connections go on with the agent gone and when it is back.
#[rstest]
fn a_restart_changes_nothing(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let mut scene = Scene::new(kind);
    let server = tcp::Server::on(&scene.shop);
    let to = SocketAddrV4::new(SHOP, server.port());
    let mut talk = talk::Tcp::open(&server, &scene.pod, to);
    talk.rounds(10);
    scene.one.kill();
    talk.rounds(10);
    assert_eq!(scene.seen_by_the_shop(), SECOND);
    scene.one.restart();
    talk.rounds(10);
    assert_eq!(scene.seen_by_the_shop(), SECOND);
    let stream = tcp::connect(&scene.pod, to).unwrap();
    assert_eq!(peer_of(&server.accept()), SECOND);
    drop(stream);
}

/// An address comes and goes. What left as it ends, as with the kernel's NAT, which forgets it (`masq_inet_event`):
/// datagrams go on as whoever fits then.
#[rstest]
fn an_address_that_goes_takes_its_flows_along(#[values(Kind::Flanneld, Kind::Ours)] kind: Kind) {
    let scene = Scene::new(kind);
    let first = scene.first();
    scene.shop.exec(&format!("ip route add {first} dev eth0"));
    let shop = udp::Server::on(&scene.shop);
    let to = SocketAddrV4::new(SHOP, shop.port());
    let shop = shop.into_socket();
    shop.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..2 {
        let client = udp::Server::on(&scene.pod).into_socket();
        client.connect(to).unwrap();
        let seen = || {
            let mut bytes = [0; 16];
            client.send(b"who am I?").ok()?;
            let (_, seen) = uninterrupted(|| shop.recv_from(&mut bytes)).ok()?;
            shop.send_to(b"you", seen).ok()?;
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            uninterrupted(|| client.recv(&mut bytes)).ok()?;
            Some(seen.ip())
        };
        assert_eq!(seen(), Some(SECOND.into()));
        scene.node(&format!("ip addr del {SECOND}/24 dev eth0"));
        scene.node("ip route add 203.0.113.0/24 dev eth0");
        eventually("the flow goes on as the first", SOON, || {
            seen() == Some(first.into())
        });
        assert_eq!(scene.may_be_seen_by(&scene.shop, SHOP), Some(first));
        scene.node("ip route del 203.0.113.0/24 dev eth0");
        scene.node(&format!("ip addr add {SECOND}/24 dev eth0"));
        eventually("new flows leave as the second", SOON, || {
            scene.may_be_seen_by(&scene.shop, SHOP) == Some(SECOND)
        });
        // What began meanwhile keeps what it has.
        assert_eq!(seen(), Some(first.into()));
    }
}
