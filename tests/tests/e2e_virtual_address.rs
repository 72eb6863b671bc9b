//! A node whose address is from DHCP, and addresses that keepalived lends it for a while.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use flannel_tests::member::free_subnets;
use flannel_tests::network::Subnet;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::with_daemon;
use rstest::rstest;

/// The virtual address.
const VIP: &str = "172.30.0.100";

/// Two nodes; the address of the first will expire, as far as the kernel knows.
fn pair(mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let (one, two) = mix.kinds();
    let node = lab.node("one");
    let address = node.address();
    node.exec(&format!(
        "ip address change {address}/24 dev eth0 valid_lft 3600 preferred_lft 3600"
    ));
    let one = with_daemon::start(one, node, &net, &[]);
    let two = with_daemon::start(two, lab.node("two"), &net, &[]);
    Pair::of(lab, net, one, two)
}

/// Waits until ours has taken in all that was changed so far: the MTU comes with it. flanneld looks at nothing.
fn notice(pair: &Pair<AnyDaemon>, mtu: u32) {
    let Some(agent) = pair.one.agent() else {
        return;
    };
    agent.exec(&format!("ip link set eth0 mtu {mtu}"));
    eventually("the agent has looked at the uplink", SOON, || {
        let device = agent.exec("ip link show dev flannel.1");
        device.contains(&format!("mtu {} ", mtu - 50))
    });
}

fn public_ip(pair: &Pair<AnyDaemon>, subnet: Subnet) -> String {
    let leases = pair.lab.etcd().leases(&pair.net);
    let (_, lease) = leases.iter().find(|(of, _)| *of == subnet).unwrap();
    lease["PublicIP"].as_str().unwrap().to_owned()
}

#[rstest]
fn an_address_that_comes_and_goes_is_never_published(
    #[values(Mix::Ours, Mix::Flanneld, Mix::OursAndFlanneld, Mix::FlanneldAndOurs)] mix: Mix,
    #[values(32, 24)] length: u8,
) {
    let pair = pair(mix);
    let (node, subnet) = (pair.one.node(), pair.one.subnet());
    let own = node.address().to_string();
    for (turn, verb) in (1..).zip(["add", "del", "add"]) {
        node.exec(&format!("ip address {verb} {VIP}/{length} dev eth0"));
        notice(&pair, 1500 - turn);
        assert_eq!(public_ip(&pair, subnet), own, "{verb}");
        pair.pod1.reaches(&pair.pod2);
        pair.pod2.reaches(&pair.pod1);
    }
}

/// The other node had the virtual address when it started, and its lease says so. flanneld takes that lease: it
/// prefers the permanent address at each start.
#[rstest]
fn a_restart_with_it_takes_nobody_elses_lease(
    #[values(32, 24)] length: u8,
    #[values(false, true)] forgets: bool,
) {
    let mut pair = pair(Mix::Ours);
    let (own, subnet) = (pair.one.node().address().to_string(), pair.one.subnet());
    let [other] = free_subnets(&pair.net, &[&pair.one, &pair.two]);
    let lease = format!(
        r#"{{"PublicIP":"{VIP}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}}}"#
    );
    pair.lab.etcd().put(&pair.net.lease_key(other), &lease);
    pair.one
        .exec(&format!("ip address add {VIP}/{length} dev eth0"));
    assert!(pair.one.terminate().success());
    if forgets {
        std::fs::remove_file(pair.one.subnet_file()).unwrap();
    }
    pair.one.restart();
    assert_eq!(pair.one.subnet(), subnet);
    assert_eq!(public_ip(&pair, subnet), own);
    let theirs = pair.lab.etcd().get(&pair.net.lease_key(other));
    assert_eq!(theirs.as_deref(), Some(lease.as_str()));
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}
