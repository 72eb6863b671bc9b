//! Case F5 of flannel's functional tests: two networks on the same two hosts, an agent for each.

use std::net::Ipv4Addr;
use std::sync::Arc;

use flannel_tests::member::AnyMember;
use flannel_tests::network::Backend;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::seen;
use flannel_tests::with_daemon::{spawn, start};
use flannel_tests::{fast_path, several};
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

/// A network of each of two backends on the same hosts: by an agent or a flanneld for each, or by one agent for both.
fn two_backends(kind: Kind, backends: [Network; 2], at_once: bool) {
    let lab = Lab::new();
    let nets = backends.map(|net| lab.network(net));
    let hosts = ["one", "two"].map(|name| Arc::new(lab.node(name)));
    let mut agents = Vec::new();
    let mut daemons = Vec::new();
    for host in &hosts {
        if at_once {
            let (several, parts) = several::serve(kind, host, "/two", &[&nets[0], &nets[1]]);
            daemons.extend(several);
            agents.push(parts);
        } else {
            let start = |net: &Network| Box::new(start(kind, host.clone(), net, &[])) as AnyMember;
            agents.push(nets.iter().map(start).collect());
        }
    }
    let mut flows = Vec::new();
    let mut pods = Vec::new();
    for (n, net) in nets.iter().enumerate() {
        let pod = |host: usize| {
            let member = &agents[host][n];
            member.follow_leases();
            let bridge = format!("br-{}", &net.prefix["/two/".len()..]);
            Pod::behind(member, &format!("p{host}{n}"), &bridge)
        };
        let (pod1, pod2) = (pod(0), pod(1));
        if net.backend == Backend::Alloc {
            continue;
        }
        pod1.reaches(&pod2);
        pod2.reaches(&pod1);
        for (from, to) in [(&pod1, &pod2), (&pod2, &pod1)] {
            assert_eq!(
                seen(from, to, to.address()),
                from.address(),
                "{}",
                net.prefix
            );
        }
        let flow = flannel_tests::udp::Flow::start(&pod1, &pod2, pod2.address());
        flows.push(flow);
        pods.push((pod1, pod2));
    }
    // Whoever ends takes nobody's way.
    for several in &mut daemons {
        assert!(several.terminate().success());
    }
    if kind == Kind::Ours {
        drop(agents);
    }
    for (pod1, pod2) in &pods {
        pod1.reaches(pod2);
    }
    for flow in flows {
        flow.finish().assert_complete();
    }
}

const RED: (&str, &str) = ("/two/red", "10.11.0.0/16");
const BLUE: (&str, &str) = ("/two/blue", "10.12.0.0/16");

fn vxlan((prefix, cidr): (&str, &str)) -> Network {
    Network::vxlan(prefix, cidr)
}

fn host_gw((prefix, cidr): (&str, &str)) -> Network {
    Network::host_gw(prefix, cidr)
}

fn udp((prefix, cidr): (&str, &str)) -> Network {
    Network::udp(prefix, cidr)
}

fn ipip((prefix, cidr): (&str, &str)) -> Network {
    Network::ipip(prefix, cidr)
}

fn alloc((prefix, cidr): (&str, &str)) -> Network {
    Network::alloc(prefix, cidr)
}

fn extension((prefix, cidr): (&str, &str)) -> Network {
    Network::extension(prefix, cidr)
}

#[rstest]
#[case::vxlan_and_udp(vxlan(RED), udp(BLUE))]
#[case::vxlan_direct_and_udp(vxlan(RED).direct_routing(), udp(BLUE))]
#[case::udp_and_host_gw(udp(RED), host_gw(BLUE))]
#[case::vxlan_and_extension(vxlan(RED), extension(BLUE))]
#[case::host_gw_and_extension(host_gw(RED), extension(BLUE))]
#[case::udp_and_alloc(udp(RED), alloc(BLUE))]
fn two_backends_on_the_same_hosts(
    #[case] red: Network,
    #[case] blue: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    two_backends(kind, [red, blue], false);
}

#[rstest]
#[case::vxlan_and_udp(vxlan(RED), udp(BLUE))]
#[case::vxlan_direct_and_udp(vxlan(RED).direct_routing(), udp(BLUE))]
#[case::udp_and_host_gw(udp(RED), host_gw(BLUE))]
#[case::vxlan_and_ipip(vxlan(RED), ipip(BLUE))]
#[case::udp_and_ipip(udp(RED), ipip(BLUE))]
#[case::host_gw_and_extension(host_gw(RED), extension(BLUE))]
#[case::udp_and_alloc(udp(RED), alloc(BLUE))]
fn two_backends_of_one_agent(#[case] red: Network, #[case] blue: Network) {
    two_backends(Kind::Ours, [red, blue], true);
}

#[rstest]
#[case::vxlan_and_ipip(vxlan(RED), ipip(BLUE))]
#[case::udp_and_ipip(udp(RED), ipip(BLUE))]
#[case::ipip_and_host_gw(ipip(RED), host_gw(BLUE))]
fn ipip_beside_another_backend(#[case] red: Network, #[case] blue: Network) {
    two_backends(Kind::Ours, [red, blue], false);
}

#[rstest]
fn two_udp_with_ports_of_their_own(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    two_backends(kind, [udp(RED), udp(BLUE).port(8286)], false);
}

/// flanneld's devices are flannel0 and flannel1, whichever comes first.
#[test]
fn two_udp_of_one_agent() {
    two_backends(Kind::Ours, [udp(RED), udp(BLUE).port(8286)], true);
}

/// Each keeps its device over restarts, also when the other is away, and when it is gone the number is free.
#[test]
fn udp_devices_keep_their_numbers() {
    let lab = Lab::new();
    let [red, blue] = [udp(RED), udp(BLUE).port(8286)].map(|net| lab.network(net));
    let host = Arc::new(lab.node("one"));
    let mut red = Agent::start(host.clone(), &red);
    let mut blue = Agent::start(host.clone(), &blue);
    let alias = |device: &str| {
        let link = host.exec(&format!("ip -d link show {device}"));
        let line = link.lines().find_map(|it| it.trim().strip_prefix("alias "));
        line.map(str::to_owned)
    };
    let check = || {
        assert_eq!(alias("flannel0").as_deref(), Some("flannel-ebpf:two_red"));
        assert_eq!(alias("flannel1").as_deref(), Some("flannel-ebpf:two_blue"));
    };
    check();
    assert!(red.terminate().success() && blue.terminate().success());
    blue.restart();
    red.restart();
    check();
    host.exec("ip link del flannel0");
    eventually("it makes its device again", SOON, || {
        host.try_exec("ip link show flannel0").status.success()
    });
    eventually("it is red's", SOON, || {
        alias("flannel0").as_deref() == Some("flannel-ebpf:two_red")
    });
    check();
}

/// On one port nobody could tell whose a packet is: who comes second is told, by ours and by flanneld.
#[rstest]
fn two_udp_on_one_port(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let [red, blue] = [udp(RED), udp(BLUE)].map(|net| lab.network(net));
    let hosts = ["one", "two"].map(|name| Arc::new(lab.node(name)));
    let [red1, red2] = hosts
        .each_ref()
        .map(|host| start(kind, host.clone(), &red, &[]));
    let (pod1, pod2) = (
        Pod::behind(&red1, "r1", "br-r"),
        Pod::behind(&red2, "r2", "br-r"),
    );
    pod1.reaches(&pod2);
    let late = spawn(kind, hosts[0].clone(), &blue, &[]);
    let why = match kind {
        Kind::Ours => "UDP port 8285 is that of the network two_red on this node",
        _ => "address already in use",
    };
    eventually("it says why", SOON, || late.log().contains(why));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
}

/// Nor does a change of the port lead there.
#[rstest]
fn a_udp_network_may_not_change_to_anothers_port(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let [red, blue] = [udp(RED), udp(BLUE).port(8286)].map(|net| lab.network(net));
    let host = Arc::new(lab.node("one"));
    let _red = start(kind, host.clone(), &red, &[]);
    let mut before = start(kind, host.clone(), &blue, &[]);
    assert!(before.terminate().success());
    let blue = lab.network(udp(BLUE));
    let late = spawn(kind, host, &blue, &[]);
    let why = match kind {
        Kind::Ours => "UDP port 8285 is that of the network two_red on this node",
        _ => "address already in use",
    };
    eventually("it says why", SOON, || late.log().contains(why));
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
