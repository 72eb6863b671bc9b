//! `--xdp`: outer headers come off in the uplink's driver. A veth has native XDP.

#![cfg(test)]

use flannel_common::program::Program::{UplinkXdp, XdpRx};
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::bpftool::count;
use flannel_tests::cleanup;
use flannel_tests::fast_path::{agents, to};
use flannel_tests::lab::Options;
use flannel_tests::netns::{output, run};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;
use serde_json::Value;

/// Id of the XDP program at a node's uplink, and whether it runs in the driver.
fn at_driver(node: &Node) -> Option<(u64, bool)> {
    let text = node.exec(&format!("ip -j link show {}", Node::UPLINK));
    let links: Value = serde_json::from_str(&text).unwrap();
    let xdp = &links[0]["xdp"];
    let id = xdp["prog"]["id"].as_u64()?;
    // linux/if_link.h: XDP_ATTACHED_DRV.
    Some((id, xdp["mode"] == 1))
}

/// Everything a pod may do.
fn exercise(pod1: &Pod, pod2: &Pod) {
    pod1.ping(pod2.address()).succeeds();
    pod1.ping(pod2.address()).whole(1450).succeeds();
    udp::exchange(pod1, pod2, pod2.address(), 1400);
    udp::exchange(pod1, pod2, pod2.address(), 8192);
    let server = tcp::Server::on(pod2);
    let address = to(pod2, server.port());
    let mut talk = talk::Tcp::open(&server, pod1, address);
    talk.rounds(100);
    talk.close();
    server.exchange(pod1, address, 8 << 20);
}

#[rstest]
fn packets_are_stripped_in_the_driver_and_arrive(
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
    #[values("--fast-path=verified", "--fast-path=off")] fast_path: &str,
) {
    let options = Options {
        wire,
        ..Options::default()
    };
    let pair = agents(options, &["--xdp=on", fast_path]);
    for agent in [&pair.one, &pair.two] {
        assert!(matches!(at_driver(agent.node()), Some((_, true))));
    }
    exercise(&pair.pod1, &pair.pod2);
    for agent in [&pair.one, &pair.two] {
        let stripped = count(agent, UplinkXdp, Reason::XdpDecap);
        let fast = count(agent, XdpRx, Reason::FastRxXdp);
        let slow = count(agent, XdpRx, Reason::DecapDirect);
        assert!(stripped > 100 && slow > 0, "{stripped}, {slow} slow");
        assert_eq!(fast > 100, fast_path == "--fast-path=verified", "{fast}");
    }
}

#[test]
fn a_peer_with_flanneld_notices_nothing() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start_with(lab.node("one"), &net, &["--xdp=on"]);
    let two = RealFlanneld::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    exercise(&pair.pod1, &pair.pod2);
    exercise(&pair.pod2, &pair.pod1);
    assert!(count(&pair.one, UplinkXdp, Reason::XdpDecap) > 100);
}

/// The new agent's program takes the place of the old one under the same link.
#[test]
fn a_restart_under_load_loses_no_packet() {
    let mut pair = agents(Options::default(), &["--xdp=on"]);
    let before = at_driver(pair.one.node());
    let flow = udp::Flow::start(&pair.pod2, &pair.pod1, pair.pod1.address());
    pair.one.kill();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.one.restart();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    flow.finish().assert_complete();
    let after = at_driver(pair.one.node());
    assert!(after.is_some() && after != before, "{before:?}, {after:?}");
}

#[test]
fn switched_off_it_is_detached_and_so_it_is_by_cleanup() {
    let mut pair = agents(Options::default(), &["--xdp=on"]);
    let links = pair
        .one
        .node()
        .bpffs()
        .join("flannel/coreos_com_network/links");
    let pins = || -> Vec<String> {
        let entries = std::fs::read_dir(&links).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("xdp")).collect()
    };
    assert_eq!(pins().len(), 2, "{:?}", pins());
    assert!(pair.one.terminate().success());
    pair.one.restart_with(&["--xdp=off"]);
    eventually("nothing at the driver", SOON, || {
        at_driver(pair.one.node()).is_none()
    });
    eventually("no pin", SOON, || pins().is_empty());
    pair.pod1.ping(pair.pod2.address()).succeeds();

    assert!(pair.two.daemon().log().contains("uplink_xdp"));
    let mut cleanup = cleanup::command(&pair.two);
    let pair = pair;
    let mut agent = pair.two;
    assert!(agent.terminate().success());
    run(&mut cleanup);
    assert_eq!(at_driver(agent.node()), None);
}

/// Somebody else's program stays; when it goes, ours takes its place.
#[test]
fn a_foreign_program_is_named_and_left_alone() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start_with(lab.node("one"), &net, &["--xdp=on"]);
    let (theirs, _) = at_driver(one.node()).unwrap();
    let node = lab.node("two");
    // Any XDP program will do: this one knows only packets for the other node.
    let pin = node.bpffs().join("theirs");
    let uplink = Node::UPLINK;
    node.exec(&format!("bpftool prog pin id {theirs} {}", pin.display()));
    node.exec(&format!(
        "ip link set dev {uplink} xdpdrv pinned {}",
        pin.display()
    ));

    let two = Agent::start_with(node, &net, &["--xdp=auto"]);
    let pair = Pair::of(lab, net, one, two);
    exercise(&pair.pod1, &pair.pod2);
    let log = pair.two.log();
    let said = log.matches("another XDP program is on").count();
    assert_eq!(said, 1, "{log}");
    assert_eq!(at_driver(pair.two.node()), Some((theirs, true)));
    assert_eq!(count(&pair.two, UplinkXdp, Reason::XdpDecap), 0);

    pair.two
        .exec(&format!("ip link set dev {uplink} xdpdrv off"));
    eventually("ours takes its place", SOON, || {
        at_driver(pair.two.node()).is_some()
    });
    exercise(&pair.pod1, &pair.pod2);
    assert!(count(&pair.two, UplinkXdp, Reason::XdpDecap) > 100);
}

/// A driver has one program: the second network says so and goes on without.
#[test]
fn two_networks_on_one_uplink_do_not_disturb_each_other() {
    let lab = Lab::new();
    let ([red, blue], hosts) = lab.red_and_blue();
    let [red1, red2] = hosts
        .each_ref()
        .map(|host| Agent::start_with(host.clone(), &red, &["--xdp=on"]));
    let [blue1, blue2] = hosts
        .each_ref()
        .map(|host| Agent::start_with(host.clone(), &blue, &["--xdp=on", "--pod-bridge=br-2"]));
    let pod = |agent: &Agent, name| Pod::behind(agent, name, &format!("br-{}", agent.net().vni));
    let (r1, r2) = (pod(&red1, "r1"), pod(&red2, "r2"));
    let (b1, b2) = (pod(&blue1, "b1"), pod(&blue2, "b2"));
    r1.reaches(&r2);
    b1.reaches(&b2);
    exercise(&r1, &r2);
    exercise(&b1, &b2);
    assert!(count(&red1, UplinkXdp, Reason::XdpDecap) > 100);
    assert_eq!(count(&blue1, UplinkXdp, Reason::XdpDecap), 0);
    let log = blue1.log();
    assert!(log.contains("another XDP program is on"), "{log}");
}

/// The first node gets a packet by the tunnel and sends it on to the second as it is; the pair of devices between them keeps what the first
/// node's driver program noted.
#[test]
fn a_note_counts_at_the_node_that_made_it() {
    const SERVICE: &str = "203.0.113.12";
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let [one, two, three] =
        ["one", "two", "three"].map(|name| Agent::start_with(lab.node(name), &net, &["--xdp=on"]));
    let (pod1, pod3) = (Pod::on(&one, "pod1"), Pod::on(&three, "pod3"));
    pod3.reaches(&pod1);
    let (first, second) = (one.subnet().address(0), two.node().address());
    let node = |agent: &Agent, line: String| agent.node().exec(&line);
    node(&two, format!("ip addr add {SERVICE}/32 dev lo"));
    node(&one, format!("ip route add {SERVICE} via {second}"));
    let by_tunnel = format!("via {first} dev flannel.1 onlink");
    node(&three, format!("ip route add {SERVICE} {by_tunnel}"));
    let taken = |agent: &Agent| count(agent, XdpRx, Reason::DecapDirect);
    let before = taken(&one);
    pod3.ping(SERVICE.parse().unwrap()).succeeds();
    assert!(taken(&one) > before, "nothing was noted");
    assert_eq!(taken(&two), 0);
}

/// A page holds no frame of 9000 bytes with room in front.
#[test]
fn an_mtu_too_large_for_the_driver_is_named() {
    let options = Options {
        underlay_mtu: 9000,
        ..Options::default()
    };
    let pair = agents(options, &["--xdp=on"]);
    let log = pair.one.log();
    assert!(
        log.contains("MTU of 9000 is too large for XDP in the driver of"),
        "{log}"
    );
    let node = pair.one.node();
    assert_eq!(at_driver(node), None);
    let flags = [
        "doctor".to_owned(),
        "--xdp=on".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let doctor = output(&mut command(node, &flags));
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("not at the uplink's driver"), "{said}");
    pair.pod1.ping(pair.pod2.address()).whole(8950).succeeds();
}
