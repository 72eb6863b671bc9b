//! The backend udp: among ours, and beside real flanneld, whose proxy in user space is the control.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use flannel_tests::agent::command;
use flannel_tests::fast_path::{
    agents_of, fast_both_ways, goes_on_without_its_agent, hooked, received,
};
use flannel_tests::lab::Options;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::stage::{Stage, seen};
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::{tcp, udp};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

fn pair(net: Network, mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    Pair::of_daemons_in(lab, net, mix, &["--ip-masq"])
}

fn network() -> Network {
    Network::udp(PREFIX, CIDR)
}

/// Every kind of packet, up to the MTU, in both directions, each pod seen as itself.
#[track_caller]
fn talk(pair: &Pair<AnyDaemon>) {
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        let to = server.address();
        let mtu = from.subnet_env().mtu;
        assert_eq!(mtu, 1500 - 28);
        // The tunnel is a hop at either end.
        assert_eq!(client.ping(to).whole(mtu).succeeds().ttl, Some(60));
        assert_eq!(
            client.ping(to).count(1).whole(mtu + 1).told().too_big,
            Some(mtu)
        );
        assert_eq!(
            udp::exchange(client, server, to, 8192).ip(),
            client.address()
        );
        let listener = tcp::Server::on(server);
        let seen = listener.exchange(client, SocketAddrV4::new(to, listener.port()), 4 << 20);
        assert_eq!(seen.client.ip(), client.address());
        from.node().ping(to).succeeds();
    }
}

#[rstest]
#[case::ours(network(), Mix::Ours)]
#[case::mixed(network(), Mix::OursAndFlanneld)]
#[case::mixed_by_another_port(network().port(18_285), Mix::FlanneldAndOurs)]
#[case::flanneld(network(), Mix::Flanneld)]
fn pods_of_both_kinds_talk(#[case] net: Network, #[case] mix: Mix) {
    talk(&pair(net, mix));
}

/// To the byte.
#[test]
fn leases_of_both_kinds_are_equal() {
    let pair = pair(network(), Mix::OursAndFlanneld);
    let [ours, theirs] = [&pair.one, &pair.two].map(|member| {
        let key = pair.net.lease_key(member.subnet());
        let lease = pair.lab.etcd().get(&key).expect("a lease");
        lease.replace(&member.node().address().to_string(), "IP")
    });
    assert_eq!(ours, r#"{"PublicIP":"IP","PublicIPv6":null}"#);
    assert_eq!(ours, theirs);
}

/// By whatever end. flanneld, which carries every packet itself, loses those meanwhile; it is only the peer here.
#[rstest]
fn a_restart_of_ours_loses_no_packet(#[values(Mix::Ours, Mix::OursAndFlanneld)] mix: Mix) {
    let mut pair = pair(network(), mix);
    let subnet = pair.one.subnet();
    let flows = pair.flows();
    pair.one.kill();
    pair.one.restart();
    assert!(pair.one.terminate().success());
    pair.one.restart();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert_nothing_lost(flows);
    assert_eq!(pair.one.subnet(), subnet);
}

#[test]
fn flows_are_fast_with_and_without_the_agent() {
    let mut pair = agents_of(network(), Options::default(), &[]);
    fast_both_ways(&pair, received).close();
    goes_on_without_its_agent(&mut pair);
}

/// Whose pods have addresses inside what the whole Network's route is for.
#[test]
fn doctor_has_nothing_against_a_node_with_pods() {
    let pair = pair(network(), Mix::Ours);
    let agent = pair.one.agent().unwrap();
    hooked(agent);
    let node = agent.node();
    let flags = [
        "doctor".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
        format!("--subnet-file={}", agent.subnet_file().display()),
        "--ip-masq".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = output(&mut command(node, &flags));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!said.contains("past our route"), "{said}");
    // A real one is found, once, by the route of the lease that it is in.
    let pod = pair.pod2.address();
    node.exec(&format!("ip route add {pod}/32 via 172.30.0.254"));
    let said = output(&mut command(node, &flags));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let away = format!("of the lease {}, leaves by eth0", pair.two.subnet());
    assert!(said.contains(&away), "{said}");
    assert_eq!(said.matches("past our route").count(), 1, "{said}");
}

/// The stage watches the wire for what leaves under a pod's address.
#[rstest]
fn pods_leave_as_the_node_and_reach_each_other_as_themselves(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on_net(kind, network());
    let outside = &stage.outside;
    let address = seen(&stage.pod, outside, outside.address());
    assert_eq!(address, stage.address());
    let other = stage.neighbour();
    let address = seen(&other.pod, &stage.pod, stage.pod.address());
    assert_eq!(address, other.pod.address());
}

/// In the Network, and nobody's lease.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 9);

/// flanneld's proxy answers as well, but with an address of the node's on a packet that comes in, which the kernel drops.
#[test]
fn who_sends_to_nobody_is_told() {
    let pair = pair(network(), Mix::Ours);
    let node = pair.one.node();
    let filter = "icmp[0] = 3 and icmp[1] = 0";
    let capture = Capture::inside(node, pair.pod1.netns(), "eth0", filter);
    let send = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.send_to(b"hello", (NOBODY, 5353)).expect("send");
    };
    pair.pod1.netns().enter(send);
    let seen = capture.packets(1);
    let device = pair.one.subnet().base.octets();
    assert_eq!(seen[0][26..30], device, "in the device's name");
    assert_eq!(seen[0][58..62], NOBODY.octets(), "about that datagram");
}
