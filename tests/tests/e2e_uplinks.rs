//! The uplink: renamed, one of several, better ones that come and go.

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::Flow;
use flannel_tests::wait::{SOON, eventually};
use flannel_tests::with_daemon::start;
use rstest::rstest;

fn by_address(node: &Node) -> String {
    format!("--iface={}", node.address())
}

fn lease_names(pair: &Pair<AnyDaemon>, address: &str) {
    let key = pair.net.lease_key(pair.one.subnet());
    eventually(format!("the lease names {address}"), SOON, || {
        let lease = pair.lab.etcd().get(&key);
        lease.is_some_and(|lease| lease.contains(&format!("\"PublicIP\":\"{address}\"")))
    });
}

fn pair(mix: Mix, flags: impl Fn(&Node) -> Vec<String>) -> Pair<AnyDaemon> {
    let (one, two) = mix.kinds();
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let flags = flags(&node);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let one = start(one, node, &net, &flags);
    let two = start(two, lab.node("two"), &net, &[]);
    Pair::of(lab, net, one, two)
}

#[rstest]
fn a_renamed_uplink_goes_on_without_a_lost_packet(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let pair = pair(mix, |node| vec![by_address(node)]);
    let subnet = pair.one.subnet();
    let flow = Flow::start(&pair.pod1, &pair.pod2, pair.pod2.address());
    pair.one.exec("ip link set eth0 name lan0");
    if let Some(agent) = pair.one.agent() {
        eventually("the agent follows the name", SOON, || {
            agent.log().contains("lan0")
        });
    }
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    flow.finish().assert_complete();
    assert_eq!(pair.one.subnet(), subnet);
}

/// The first of the list that exists: while it is missing the next one serves.
#[test]
fn a_preferred_uplink_is_taken_when_it_comes_and_left_when_it_goes() {
    let pair = pair(Mix::Ours, |node| {
        vec!["--iface=lan1".to_owned(), by_address(node)]
    });
    let address = pair.one.node().address().to_string();
    lease_names(&pair, &address);
    let subnet = pair.one.subnet();

    pair.one.node().ip_batch(&[
        "link add lan1 link eth0 type macvlan mode bridge".to_owned(),
        "addr add 172.30.0.91/24 dev lan1".to_owned(),
        "link set lan1 up".to_owned(),
    ]);
    lease_names(&pair, "172.30.0.91");
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);

    pair.one.exec("ip link del lan1");
    lease_names(&pair, &address);
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    assert_eq!(pair.one.subnet(), subnet);
}

#[test]
fn own_lease_deleted_by_hand_comes_back_the_same() {
    let pair = pair(Mix::Ours, |node| vec![by_address(node)]);
    let key = pair.net.lease_key(pair.one.subnet());
    let before = pair.lab.etcd().get(&key).expect("a lease");
    let flow = Flow::start(&pair.pod2, &pair.pod1, pair.pod1.address());
    pair.lab.etcd().delete(&key);
    eventually("the lease is back", SOON, || {
        pair.lab.etcd().get(&key).as_ref() == Some(&before)
    });
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    // The peer was told that the lease had gone; what it sent until then is lost.
    flow.finish();
}

#[rstest]
fn another_network_in_the_config_is_taken_at_the_next_start(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let mut pair = pair(mix, |node| vec![by_address(node)]);
    let other = Network::vxlan("/coreos.com/network", "10.99.0.0/16");
    pair.net = pair.lab.network(other);
    for (agent, peers) in [(&mut pair.one, 0), (&mut pair.two, 1)] {
        // The bridge is the CNI plugin's; the operator removes it with the pods.
        assert!(agent.terminate().success());
        agent.exec("ip link del cni0");
        agent.restart();
        let subnet = agent.subnet();
        assert!(subnet.to_string().starts_with("10.99."), "{subnet}");
        if mix == Mix::Flanneld {
            // It leaves the old address and route on its device.
            continue;
        }
        let addresses = agent.exec("ip -o -4 addr show dev flannel.1");
        assert_eq!(addresses.lines().count(), 1, "{addresses}");
        assert!(addresses.contains(&format!("{}/32", subnet.base)));
        eventually("routes to the new network's peers alone", SOON, || {
            let routes = agent.exec("ip route show proto 102");
            routes.lines().count() == peers && routes.lines().all(|line| line.starts_with("10.99."))
        });
    }
    let (one, two) = (Pod::on(&pair.one, "new1"), Pod::on(&pair.two, "new2"));
    one.reaches(&two);
    two.reaches(&one);
}
