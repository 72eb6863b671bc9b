//! Another backend or VNI in the network's config: the next start takes the new way, and leaves nothing of the old one.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{talk, tcp};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// Writes another config, and starts both agents again.
fn change(pair: &mut Pair<AnyDaemon>, net: Network) {
    let net = pair.lab.network(net);
    for daemon in [&mut pair.one, &mut pair.two] {
        assert!(daemon.terminate().success());
        daemon.restart();
    }
    pair.net = net;
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}

fn talk(pair: &Pair<AnyDaemon>) -> talk::Tcp {
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    talk::Tcp::open(&server, &pair.pod1, to)
}

/// Names of pinned links, without the index.
fn pinned(agent: &Agent) -> Vec<String> {
    let folder = agent
        .node()
        .bpffs()
        .join("flannel/coreos_com_network/links");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.rsplit_once('-').unwrap().0.to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn has_device(agent: &Agent, name: &str) -> bool {
    !agent
        .try_exec(&format!("ip link show {name}"))
        .stdout
        .is_empty()
}

fn goes(pair: &Pair<AnyDaemon>, words: &str) {
    let way = pair
        .one
        .exec(&format!("ip route get {}", pair.pod2.address()));
    assert!(way.contains(words), "{way}");
}

/// The default route leads out of eth0 as well, by another gateway.
fn past_tunnels(pair: &Pair<AnyDaemon>) -> String {
    format!("via {} dev eth0", pair.two.node().address())
}

#[rstest]
fn from_vxlan_to_host_gw_and_back(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let mut pair = Pair::of_daemons(mix, &[]);
    let subnet = pair.one.subnet();
    let mut talk = talk(&pair);
    talk.rounds(20);
    goes(&pair, "dev flannel.1");

    change(&mut pair, Network::host_gw(PREFIX, CIDR));
    assert_eq!(pair.one.subnet(), subnet);
    goes(&pair, &past_tunnels(&pair));
    // flanneld leaves what it set up before.
    for agent in [&pair.one, &pair.two].into_iter().filter_map(|d| d.agent()) {
        assert!(!has_device(agent, "flannel.1") && !has_device(agent, "flgro.1"));
        assert_eq!(
            pinned(agent),
            ["direct_rx", "direct_tx", "pod_rx", "pod_tx"]
        );
        let lease = pair.lab.etcd().get(&pair.net.lease_key(agent.subnet()));
        assert!(lease.unwrap().contains("host-gw"));
    }
    talk.rounds(20);

    change(&mut pair, Network::vxlan(PREFIX, CIDR));
    assert_eq!(pair.one.subnet(), subnet);
    goes(&pair, "dev flannel.1");
    // flanneld leaves what it set up before.
    for agent in [&pair.one, &pair.two].into_iter().filter_map(|d| d.agent()) {
        let routes = agent.exec("ip route show proto 102");
        assert_eq!(routes.lines().count(), 1, "{routes}");
        let pins = pinned(agent);
        assert!(
            !pins.iter().any(|pin| pin.starts_with("direct")),
            "{pins:?}"
        );
    }
    talk.rounds(20);
    talk.close();
}

#[rstest]
#[case::udp(&["udp", "host-gw", "udp", "vxlan"])]
#[case::ipip(&["ipip", "udp", "ipip", "host-gw", "ipip", "vxlan"])]
fn to_others_and_back(#[case] backends: &[&str]) {
    let mut pair = Pair::of_daemons(Mix::Ours, &[]);
    let subnet = pair.one.subnet();
    let mut talk = talk(&pair);
    talk.rounds(20);
    for backend in backends {
        // With udp the whole Network has a route as well.
        let (net, device, routes) = match *backend {
            "udp" => (Network::udp(PREFIX, CIDR), "flannel0", 2),
            "ipip" => (Network::ipip(PREFIX, CIDR), "flannel.ipip", 1),
            "host-gw" => (Network::host_gw(PREFIX, CIDR), "eth0", 1),
            _ => (Network::vxlan(PREFIX, CIDR), "flannel.1", 1),
        };
        change(&mut pair, net);
        assert_eq!(pair.one.subnet(), subnet);
        match device {
            "eth0" => goes(&pair, &past_tunnels(&pair)),
            _ => goes(&pair, &format!("dev {device}")),
        }
        for agent in [&pair.one, &pair.two].into_iter().filter_map(|d| d.agent()) {
            for (near, far) in [
                ("flannel0", "flgro0"),
                ("flannel.ipip", "flgro.ipip"),
                ("flannel.1", "flgro.1"),
            ] {
                let is_wanted = near == device;
                assert_eq!(has_device(agent, near), is_wanted, "{near}");
                assert_eq!(has_device(agent, far), is_wanted, "{far}");
            }
            let held = agent.exec("ip route show proto 102");
            assert_eq!(held.lines().count(), routes, "{held}");
        }
        talk.rounds(20);
    }
    talk.close();
}

#[rstest]
fn to_another_vni_and_port(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let mut pair = Pair::of_daemons(mix, &[]);
    let mut talk = talk(&pair);
    talk.rounds(20);
    change(&mut pair, Network::vxlan(PREFIX, CIDR).vni(7).port(4789));
    goes(&pair, "dev flannel.7");
    // flanneld leaves what it set up before.
    for agent in [&pair.one, &pair.two].into_iter().filter_map(|d| d.agent()) {
        assert!(has_device(agent, "flannel.7") && has_device(agent, "flgro.7"));
        assert!(!has_device(agent, "flannel.1") && !has_device(agent, "flgro.1"));
        let routes = agent.exec("ip route show proto 102");
        assert_eq!(routes.lines().count(), 1, "{routes}");
    }
    talk.rounds(20);
    talk.close();
}

/// The config is read at the start: a running agent keeps to what it has read.
#[rstest]
fn a_running_agent_keeps_its_backend(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let pair = Pair::of_daemons(mix, &[]);
    pair.lab.network(Network::host_gw(PREFIX, CIDR));
    let mut talk = talk(&pair);
    talk.rounds(50);
    goes(&pair, "dev flannel.1");
    talk.close();
}
