//! Case F5 of flannel's functional tests: two networks on the same two hosts, an agent for each.

use std::net::Ipv4Addr;
use std::sync::Arc;

use flannel_tests::fast_path;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

/// No answer comes to what leaves by this device.
#[track_caller]
fn gets_nowhere(host: &Node, to: Ipv4Addr, device: &str) {
    let report = host.ping(to).count(1).bound_to(&device).send();
    assert_eq!(report.received, 0, "{to} out of {device}: {}", report.text);
}

#[rstest]
fn two_networks_on_the_same_hosts_do_not_disturb_each_other(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let ([red, blue], hosts) = lab.red_and_blue();
    let start = |net: &Network| {
        hosts
            .each_ref()
            .map(|host| start(kind, host.clone(), net, &[]))
    };
    let ([red1, red2], [mut blue1, blue2]) = (start(&red), start(&blue));

    let pod =
        |agent: &AnyDaemon, name| Pod::behind(agent, name, &format!("br-{}", agent.net().vni));
    let (r1, r2) = (pod(&red1, "r1"), pod(&red2, "r2"));
    let (b1, b2) = (pod(&blue1, "b1"), pod(&blue2, "b2"));
    r1.reaches(&r2);
    b1.reaches(&b2);

    let host = hosts[0].as_ref();
    for (device, reached, missed) in [
        ("flannel.1", r2.address(), b2.address()),
        ("flannel.2", b2.address(), r2.address()),
    ] {
        host.ping(reached).bound_to(&device).succeeds();
        gets_nowhere(host, missed, device);
    }
    // Past the overlay.
    gets_nowhere(host, r2.address(), Node::UPLINK);

    // What one agent does is nothing to the other network.
    let (there, back) = (
        flannel_tests::udp::Flow::start(&r1, &r2, r2.address()),
        flannel_tests::udp::Flow::start(&r2, &r1, r1.address()),
    );
    blue1.kill();
    blue1.restart();
    assert!(blue1.terminate().success());
    there.finish().assert_complete();
    back.finish().assert_complete();
    b1.ping(b2.address()).succeeds();
}

/// On one port: each sees the other's packets leave, and knows them for no pod's. The second comes while the first one forwards.
#[rstest]
fn both_may_masquerade(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let ([red, blue], hosts) = lab.red_and_blue();
    let start = |net: &Network| {
        hosts
            .each_ref()
            .map(|host| start(kind, host.clone(), net, &["--ip-masq"]))
    };
    let pod =
        |agent: &AnyDaemon, name| Pod::behind(agent, name, &format!("br-{}", agent.net().vni));
    let [red1, red2] = start(&red);
    let (r1, r2) = (pod(&red1, "r1"), pod(&red2, "r2"));
    r1.reaches(&r2);
    let [blue1, blue2] = start(&blue);
    let (b1, b2) = (pod(&blue1, "b1"), pod(&blue2, "b2"));
    b1.reaches(&b2);
    // Until then programs that have just come let pass what others may still send.
    std::thread::sleep(std::time::Duration::from_secs(6));
    for (one, two) in [(&r1, &r2), (&b1, &b2)] {
        one.ping(two.address()).succeeds();
        two.ping(one.address()).succeeds();
        flannel_tests::udp::exchange(one, two, two.address(), 8192);
    }
}

/// As flannel's own test has it: one network of each backend.
#[rstest]
fn f5_host_gw_and_vxlan_on_the_same_hosts(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let vxlan = lab.network(Network::vxlan("/vxlan/network", "10.11.0.0/16"));
    let host_gw = lab.network(Network::host_gw("/hostgw/network", "10.12.0.0/16"));
    let hosts = ["one", "two"].map(|name| Arc::new(lab.node(name)));
    let start = |net: &Network| {
        hosts
            .each_ref()
            .map(|host| start(kind, host.clone(), net, &[]))
    };
    let ([v1, v2], [h1, h2]) = (start(&vxlan), start(&host_gw));
    let (pv1, pv2) = (
        Pod::behind(&v1, "v1", "br-v"),
        Pod::behind(&v2, "v2", "br-v"),
    );
    let (ph1, ph2) = (
        Pod::behind(&h1, "h1", "br-h"),
        Pod::behind(&h2, "h2", "br-h"),
    );
    pv1.reaches(&pv2);
    ph1.reaches(&ph2);
    let host = hosts[0].as_ref();
    for (device, reached, missed) in [
        ("flannel.1", pv2.address(), ph2.address()),
        (Node::UPLINK, ph2.address(), pv2.address()),
    ] {
        host.ping(reached).bound_to(&device).succeeds();
        gets_nowhere(host, missed, device);
    }
}

/// Each on its own: counters, flows and proofs of one network say nothing about the other's.
#[test]
fn flows_of_both_networks_are_fast() {
    let lab = Lab::new();
    let ([red, blue], hosts) = lab.red_and_blue();
    let start = |net: &Network| {
        let flag = format!("--pod-bridge=br-{}", net.vni);
        hosts
            .each_ref()
            .map(|host| Agent::start_with(host.clone(), net, &[&flag]))
    };
    let networks = [start(&red), start(&blue)].map(|agents| {
        let bridge = format!("br-{}", agents[0].net().vni);
        let pods = agents
            .each_ref()
            .map(|agent| Pod::behind(agent, &bridge, &bridge));
        pods[0].reaches(&pods[1]);
        agents.iter().for_each(fast_path::hooked);
        (agents, pods)
    });
    let counted = |agents: &[Agent; 2]| {
        agents
            .each_ref()
            .map(|agent| (fast_path::sent(agent), fast_path::received(agent)))
    };
    for (n, (agents, [from, to])) in networks.iter().enumerate() {
        let (others, _) = &networks[1 - n];
        let (before, elsewhere) = (counted(agents), counted(others));
        fast_path::talk_udp(from, to).rounds(100);
        for (before, after) in before.into_iter().zip(counted(agents)) {
            assert!(
                after.0 > before.0 + 80 && after.1 > before.1 + 80,
                "{before:?} to {after:?}"
            );
        }
        assert_eq!(counted(others), elsewhere);
    }
    for ((agents, _), octet) in networks.iter().zip([11, 12]) {
        for flow in agents.iter().flat_map(fast_path::proven) {
            assert_eq!(flow["key"]["local"][1], octet, "{flow}");
        }
    }
}
