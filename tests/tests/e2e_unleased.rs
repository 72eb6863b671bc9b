//! Addresses of the Network that no node leases belong to whoever routes them today. flannel's own example is a Network of
//! 10.0.0.0/8, which holds whole companies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use flannel_tests::fast_path::talk_udp;
use flannel_tests::netns::output;
use flannel_tests::network::Backend;
use flannel_tests::pair::{Kind, Mix};
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::{self, AnyDaemon};
use flannel_tests::{agent, talk, tcp, udp};
use rstest::rstest;

/// A host of the Network's range behind the default gateway.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 244, 250, 5);

/// A member that masquerades. The flags are for ours alone.
fn join(kind: Kind, node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> AnyDaemon {
    let flags = match kind {
        Kind::Ours => flags,
        _ => &[],
    };
    with_daemon::start(kind, node, net, &[&["--ip-masq"], flags].concat())
}

/// Two members with a pod each, and [`HOST`], which the routers know.
struct Scene {
    pods: [Pod; 2],
    members: [AnyDaemon; 2],
    host: Outside,
    _lab: Lab,
}

impl Scene {
    fn new(mix: Mix, net: Network, flags: &[&str]) -> Self {
        let lab = Lab::new();
        let net = lab.network(net);
        // Nobody draws the host's own subnet.
        let config = net
            .config()
            .replacen('{', r#"{"SubnetMax":"10.244.199.0","#, 1);
        lab.etcd().put("/coreos.com/network/config", &config);
        let host = lab.outside();
        host.also_at(HOST);
        let answers_as = format!("ip route replace default via {} src {HOST}", host.gateway());
        host.exec(&answers_as);
        lab.router().run("ip route add 10.244.250.0/24 dev outside");
        let (one, two) = mix.kinds();
        let members = [(one, "one"), (two, "two")]
            .map(|(kind, name)| join(kind, lab.node(name), &net, flags));
        for member in &members {
            member.follow_leases();
            // Pods keep their addresses inside the Network, so somebody has to know where they are.
            host.routes_to(&member.subnet().to_string(), member);
        }
        let pods = [0, 1].map(|n| Pod::on(&members[n], &format!("pod{n}")));
        pods[0].reaches(&pods[1]);
        pods[1].reaches(&pods[0]);
        Self {
            pods,
            members,
            host,
            _lab: lab,
        }
    }

    #[track_caller]
    fn reaches_the_host(&self) {
        for (member, pod) in self.members.iter().zip(&self.pods) {
            let node = member.node();
            eventually("the host answers the node", SOON, || {
                node.ping(HOST).count(1).lossless()
            });
            let seen = udp::exchange(node, &self.host, HOST, 1000).ip();
            assert_eq!(seen, node.address(), "as the node");
            let seen = udp::exchange(pod, &self.host, HOST, 1000).ip();
            assert_eq!(seen, pod.address(), "pods keep theirs inside the Network");
            let server = tcp::Server::on(&self.host);
            let to = SocketAddrV4::new(HOST, server.port());
            talk::Tcp::open(&server, pod, to).outlast();
        }
    }
}

const VXLAN: fn() -> Network = || Network::vxlan("/coreos.com/network", "10.244.0.0/16");

#[rstest]
fn an_address_that_nobody_leases_is_reached_as_before(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(Backend::Vxlan, Backend::HostGw)] backend: Backend,
) {
    let net = Network { backend, ..VXLAN() };
    Scene::new(mix, net, &[]).reaches_the_host();
}

/// Whatever of ours looks at a pod's packet before the stack does.
#[rstest]
#[case::without_proof(Backend::Vxlan, &["--fast-path=always"])]
#[case::off(Backend::Vxlan, &["--fast-path=off"])]
#[case::at_the_bridge(Backend::Vxlan, &["--pod-hook=bridge"])]
#[case::without_proof_at_the_bridge(Backend::Vxlan, &["--fast-path=always", "--pod-hook=bridge"])]
#[case::direct_routing(Backend::DirectRouting, &[])]
#[case::direct_routing_without_proof(Backend::DirectRouting, &["--fast-path=always"])]
#[case::host_gw_without_proof(Backend::HostGw, &["--fast-path=always"])]
fn with_every_kind_of_fast_path(#[case] backend: Backend, #[case] flags: &[&str]) {
    let net = Network { backend, ..VXLAN() };
    Scene::new(Mix::Ours, net, flags).reaches_the_host();
}

/// What a node sends as itself to another node's pod, where nodes are inside the Network: not a leased address, so whose it
/// is says nothing about who may send it.
#[rstest]
fn a_network_that_holds_the_nodes_the_gateway_and_etcd(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values("verified", "always")] fast_path: &str,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "172.16.0.0/12"));
    // The nodes are in 172.30.0.0/24.
    let config = r#"{"Network":"172.16.0.0/12","SubnetMax":"172.29.255.0","Backend":{"Type":"vxlan","VNI":1,"Port":8472}}"#;
    lab.etcd().put("/coreos.com/network/config", config);
    let outside = lab.outside();
    let (one, two) = mix.kinds();
    let flag = format!("--fast-path={fast_path}");
    let [one, two] =
        [(one, "one"), (two, "two")].map(|(kind, name)| join(kind, lab.node(name), &net, &[&flag]));
    one.follow_leases();
    two.follow_leases();
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    for (member, pod, other) in [(&one, &pod1, &pod2), (&two, &pod2, &pod1)] {
        let node = member.node();
        node.ping(outside.address()).succeeds();
        eventually("pods reach the outside", SOON, || {
            pod.ping(outside.address()).count(1).lossless()
        });
        let etcd = Ipv4Addr::new(172, 30, 0, 1);
        node.ping(etcd).succeeds();
        // Through the tunnel as the node, and back without it.
        node.ping(other.address())
            .bound_to(&node.address())
            .succeeds();
        talk_udp(pod, other).rounds(20);
    }
}

/// Before the first start, and in words: which address, and what helps.
#[rstest]
#[case::may_be_leased("", "it works until a node leases its subnet")]
#[case::left_out(r#""SubnetMax":"172.29.255.0","#, "where no lease can cover it")]
fn doctor_names_what_a_lease_could_take_away(#[case] limits: &str, #[case] words: &str) {
    let lab = Lab::new();
    let node = lab.node("one");
    let config = format!(r#"{{"Network":"172.16.0.0/12",{limits}"Backend":{{"Type":"vxlan"}}}}"#);
    lab.etcd().put("/coreos.com/network/config", &config);
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let file = format!("--subnet-file={}/subnet.env", lab.folder().display());
    let flags = ["doctor", "--pre", "--iface=eth0", &etcd, &bpffs, &file];
    let said = output(&mut agent::command(&node, &flags)).stdout;
    let said = String::from_utf8(said).unwrap();
    for needed in [
        "this node's own address 172.30.0.11",
        "the gateway 172.30.0.254",
        "etcd 172.30.0.1",
    ] {
        let line = said
            .lines()
            .find(|line| line.contains(&format!("{needed} is inside")));
        assert!(
            line.is_some_and(|line| line.contains(words)),
            "{needed}: {said}"
        );
    }
    assert_eq!(
        said.contains("set SubnetMin and SubnetMax"),
        limits.is_empty()
    );
}
