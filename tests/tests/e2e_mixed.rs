//! Ours beside real flanneld in one network, every backend, both ways: a cluster that is being changed over, node by node.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::pair::{Kind, Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::with_daemon::{spawn, start};
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;
use serde_json::Value;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

fn vxlan() -> Network {
    Network::vxlan(PREFIX, CIDR)
}

fn other_vni_and_port() -> Network {
    vxlan().vni(4096).port(4789)
}

fn direct_routing() -> Network {
    vxlan().direct_routing()
}

fn host_gw() -> Network {
    Network::host_gw(PREFIX, CIDR)
}

fn pair(net: Network, mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    Pair::of_daemons_in(lab, net, mix, &["--ip-masq"])
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
        assert_eq!(client.ping(to).whole(mtu).succeeds().ttl, Some(62));
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
#[case::vxlan(vxlan())]
#[case::vxlan_with_another_vni_and_port(other_vni_and_port())]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn pods_of_both_kinds_talk(
    #[case] net: Network,
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(net, mix);
    talk(&pair);
    let [one, two] = [&pair.one, &pair.two].map(|member| member.subnet_env().mtu);
    assert_eq!(one, two, "pods of both kinds have one MTU");
}

/// Peers come from leases. flanneld's device learns beside them from whom it hears; ours has no table of that kind.
#[rstest]
fn learning_changes_nothing_for_pods(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(vxlan().learning(), mix);
    talk(&pair);
    for member in [&pair.one, &pair.two] {
        let link = member.node().exec("ip -d link show dev flannel.1");
        // The contrary alone is told.
        let learns = link.contains("vxlan id") && !link.contains("nolearning");
        assert_eq!(learns, member.agent().is_none(), "{link}");
    }
}

/// A smaller MTU in the network's config holds on both kinds.
#[rstest]
fn the_mtu_of_the_config_holds(
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let config = format!(r#"{{"Network":"{CIDR}","Backend":{{"Type":"vxlan","MTU":1300}}}}"#);
    lab.etcd().put(&format!("{PREFIX}/config"), &config);
    let pair = Pair::of_daemons_in(lab, net, mix, &[]);
    for member in [&pair.one, &pair.two] {
        // The device's; what VXLAN adds comes off it.
        assert_eq!(member.subnet_env().mtu, 1250);
    }
    talk(&pair);
}

/// A lease without what is each node's own.
fn shape(lease: &str, member: &dyn Member) -> String {
    let mut shape = lease.replace(&member.node().address().to_string(), "IP");
    let value: Value = serde_json::from_str(lease).expect("JSON");
    if let Some(mac) = value["BackendData"]["VtepMAC"].as_str() {
        shape = shape.replace(mac, "MAC");
    }
    shape
}

/// To the byte, and with the same life.
#[rstest]
#[case::vxlan(vxlan())]
#[case::vxlan_with_another_vni_and_port(other_vni_and_port())]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn leases_of_both_kinds_are_equal(#[case] net: Network) {
    let pair = pair(net, Mix::OursAndFlanneld);
    let [ours, theirs] = [&pair.one, &pair.two].map(|member| {
        let key = pair.net.lease_key(member.subnet());
        let lease = pair.lab.etcd().get(&key).expect("a lease");
        let full = pair.lab.etcd().ctl(&["get", &key, "-w", "json"]);
        let full: Value = serde_json::from_str(&full).expect("JSON");
        let id = full["kvs"][0]["lease"].as_u64().expect("an etcd lease");
        let life = pair
            .lab
            .etcd()
            .ctl(&["lease", "timetolive", &format!("{id:x}")]);
        // "lease 694d77aa9e38260f granted with TTL(86400s), remaining(86399s)"
        let granted = life.split(',').next().expect("a comma").to_owned();
        let granted = granted.split_once("TTL").expect("a life").1.to_owned();
        (shape(&lease, member), granted)
    });
    assert_eq!(ours, theirs);
}

/// Whoever restarts, by whatever end, keeps its subnet, and nobody loses a packet.
#[rstest]
#[case::vxlan(vxlan())]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn restarts_of_both_kinds_lose_no_packet(
    #[case] net: Network,
    #[values(Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let mut pair = pair(net, mix);
    let subnets = [pair.one.subnet(), pair.two.subnet()];
    let flows = pair.flows();
    pair.one.kill();
    pair.one.restart();
    pair.two.kill();
    pair.two.restart();
    for member in [&mut pair.one, &mut pair.two] {
        assert!(member.terminate().success());
        member.restart();
    }
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert_nothing_lost(flows);
    assert_eq!([pair.one.subnet(), pair.two.subnet()], subnets);
}

/// To ours and back, with nothing but the end of the one and the start of the other; the control goes from flanneld to
/// flanneld. No packet is lost and every connection lives.
#[rstest]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn a_node_changes_over_and_back(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] between: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let first = RealFlanneld::start(lab.node("one"), &net);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, first, peer);
    let subnet = pair.one.subnet();
    let flows = pair.flows();
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    let mut connection = talk::Tcp::open(&server, &pair.pod1, to);
    connection.rounds(10);

    let (net, node) = (&pair.net, pair.one.stop());
    let mut second = start(between, node, net, &[]);
    assert_eq!(second.subnet(), subnet);
    connection.rounds(10);
    assert!(second.terminate().success());
    let third = RealFlanneld::start(second.node_arc(), net);
    assert_eq!(third.subnet(), subnet);
    connection.rounds(10);
    connection.close();
    pair.pod2.ping(pair.pod1.address()).succeeds();
    assert_nothing_lost(flows);
}

/// A node that leaves is forgotten, whoever is left.
#[rstest]
#[case::vxlan(vxlan())]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn a_deleted_lease_is_followed(
    #[case] net: Network,
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let mut pair = pair(net, mix);
    let lease = pair.net.lease_key(pair.two.subnet());
    // Else it would take the lease again, or end itself, as each kind does.
    pair.two.kill();
    pair.lab.etcd().delete(&lease);
    eventually("the other forgets it", SOON, || {
        let ping = || pair.pod1.ping(pair.pod2.address()).count(1).send();
        (0..3).all(|_| ping().received == 0)
    });
    // And knows it again when it comes back.
    pair.two.restart();
    pair.one.follow_leases();
    let back = Pod::on(&pair.two, "back");
    pair.pod1.reaches(&back);
}

/// The whole cluster after a power cut: everybody draws a subnet at the same moment.
#[rstest]
fn six_nodes_that_start_at_once_draw_six_subnets(
    #[values(Mix::OursAndFlanneld, Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let (odd, even) = mix.kinds();
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let mut members: Vec<AnyDaemon> = (1..=6)
        .zip([odd, even].into_iter().cycle())
        .map(|(n, kind)| spawn(kind, lab.node(&format!("n{n}")), &net, &[]))
        .collect();
    members
        .iter_mut()
        .for_each(|member| member.wait_until_ready());
    let mut subnets: Vec<_> = members.iter().map(|member| member.subnet()).collect();
    subnets.sort_unstable();
    subnets.dedup();
    assert_eq!(subnets.len(), 6);
    assert_eq!(lab.etcd().leases(&net).len(), 6);
    let pods: Vec<Pod> = members
        .iter()
        .map(|member| Pod::on(member, "pod"))
        .collect();
    for from in &pods {
        for to in &pods {
            from.reaches(to);
        }
    }
}
