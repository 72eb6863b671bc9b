//! What goes wrong is named, with its value, and nothing that is forwarded already is lost by it.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flannel_tests::agent::{Daemon, command};
use flannel_tests::member::free_subnets;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::{self, Flow, assert_nothing_lost};
use flannel_tests::wait::eventually;
use nix::sys::signal::Signal;
use rstest::rstest;

/// Everything the container runtime of flannel's manifest grants, and the two that BPF needs.
const ENOUGH: &str =
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all";

/// An agent that cannot run ends with an error (Go's flag parser, and so ours, with 2); returns what it said.
#[track_caller]
fn refusal(daemon: Daemon) -> String {
    ends_with(1, daemon)
}

#[track_caller]
fn ends_with(code: i32, mut daemon: Daemon) -> String {
    let status = daemon.process().wait(SOON);
    let log = daemon.log();
    assert_eq!(status.code(), Some(code), "{log}");
    log
}

/// A pair whose first agent is dead, with traffic in both directions.
fn orphaned() -> (Pair<Agent>, [Flow; 2]) {
    let mut pair = Pair::of_agents();
    let flows = pair.flows();
    pair.one.kill();
    (pair, flows)
}

#[rstest]
#[case::bad_value("--etcd-endpoints=ftp://172.30.0.1:2379", "ftp://172.30.0.1:2379")]
#[case::no_such_interface("--iface=nope0", "nope0")]
#[case::interface_without_address("--iface=spare", "spare")]
#[case::public_ip_of_nobody("--public-ip=not-an-address", "not-an-address")]
#[case::not_a_bpffs("--bpffs=/etc/hostname", "/etc/hostname")]
#[case::no_bpffs("--bpffs=/nowhere/bpf", "/nowhere/bpf")]
fn a_wrong_flag_is_named(#[case] flag: &str, #[case] named: &str) {
    let (pair, flows) = orphaned();
    let node = pair.one.node();
    node.exec("ip link add spare type veth peer name spare-peer");
    node.exec("ip link set spare up");
    let log = refusal(Daemon::spawn(node, &pair.net, &[flag]));
    assert!(log.contains(named), "{named} is not in:\n{log}");
    assert_nothing_lost(flows);
}

#[test]
fn what_ends_a_start_is_in_status() {
    let (pair, flows) = orphaned();
    let node = pair.one.node();
    refusal(Daemon::spawn(node, &pair.net, &["--iface=nope0"]));
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let status = output(&mut command(node, &["status", &bpffs, &state]));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    let said = "the last agent could not bring the node up to date";
    assert!(text.contains(said) && text.contains("nope0"), "{text}");
    assert_nothing_lost(flows);
}

#[test]
fn an_unknown_flag_is_named() {
    let (pair, flows) = orphaned();
    // As Go's flag package ends a program whose command line it cannot read.
    let log = ends_with(
        2,
        Daemon::spawn(pair.one.node(), &pair.net, &["--ifcae=eth0"]),
    );
    assert!(log.contains("'--iface'"), "{log}");
    assert_nothing_lost(flows);
}

#[rstest]
#[case::bpf("bpf,-sys_admin", "CAP_BPF")]
#[case::perfmon("perfmon,-sys_admin", "CAP_PERFMON")]
#[case::net_admin("net_admin", "CAP_NET_ADMIN")]
fn a_missing_capability_is_named(#[case] dropped: &str, #[case] named: &str) {
    let (pair, flows) = orphaned();
    let wrapper = format!("setpriv --bounding-set -{dropped}");
    let log = refusal(Daemon::spawn_under(
        &wrapper,
        pair.one.node(),
        &pair.net,
        &[],
    ));
    assert!(log.contains(named), "{named} is not in:\n{log}");
    assert_nothing_lost(flows);
}

#[test]
fn four_capabilities_are_enough() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    Daemon::spawn_under(ENOUGH, &node, &net, &[]).wait_until_ready(&node);
}

/// As Go's runtime does for flanneld: each pod takes two.
#[rstest]
fn the_limit_of_open_files_is_raised(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = Arc::new(lab.node("one"));
    let wrapper = "prlimit --nofile=100:4096";
    let limit = |pid: u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the limits");
        let line = text.lines().find_map(|l| l.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next());
        soft.expect("a limit").parse().expect("a number")
    };
    let raised = match kind {
        Kind::Ours => {
            let mut daemon = Daemon::spawn_under(wrapper, &node, &net, &[]);
            daemon.wait_until_ready(&node);
            limit(daemon.process().pid())
        }
        _ => {
            let mut flanneld = RealFlanneld::spawn_under(wrapper, node, &net, &[]);
            flanneld.wait_until_ready();
            limit(flanneld.process().pid())
        }
    };
    // Go leaves one out, by which it knows its own doing.
    assert!(raised >= 4095, "{raised}");
}

/// Any process may bind it while there is no agent: that must not keep the node from its network.
#[test]
fn a_busy_vxlan_port_is_named_and_taken_when_it_is_free() {
    let (pair, flows) = orphaned();
    let node = pair.one.node();
    let occupied: UdpSocket = udp::Server::on_port(node, pair.net.port).into_socket();
    let mut daemon = Daemon::spawn(node, &pair.net, &[]);
    daemon.wait_until_ready(node);
    let says = |what: &str| {
        eventually(format!("{what:?} in the log"), SOON, || {
            daemon.log().contains(what)
        });
    };
    says("UDP port 8472 is held by");
    // That another hears nothing of us is no word of the firewall's: as long as it would be asked.
    let [way, _] = pair.both_ways();
    let since = Instant::now();
    let mut pings = 0;
    while pings < 400 || since.elapsed() < Duration::from_secs(4) {
        way.client.ping(way.server.address()).count(20).succeeds();
        pings += 20;
    }
    drop(occupied);
    node.exec("ip link add wake type bridge");
    says("UDP port 8472 is ours now");
    assert_nothing_lost(flows);
}

#[test]
fn a_wrong_config_is_named_and_waited_out() {
    let lab = Lab::new();
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let node = lab.node("one");
    let mut daemon = Daemon::spawn(&node, &net, &[]);
    let key = format!("{}/config", net.prefix);
    let named = |what: &str| {
        eventually(format!("{what} in the log"), SOON, || {
            daemon.log().contains(what)
        });
    };
    named(&key);
    for (config, what) in [
        ("no JSON at all", "not JSON"),
        (r#"{"Backend":{"Type":"vxlan"}}"#, "Network"),
        (
            r#"{"Network":"10.244.0.0/33","Backend":{"Type":"vxlan"}}"#,
            "10.244.0.0/33",
        ),
        (
            r#"{"Network":"10.244.0.0/16","SubnetLen":31,"Backend":{"Type":"vxlan"}}"#,
            "31",
        ),
        (
            r#"{"Network":"10.244.0.0/16","Backend":{"Type":"token-ring"}}"#,
            "token-ring",
        ),
        (
            r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}"#,
            "16777216",
        ),
    ] {
        lab.etcd().put(&key, config);
        named(what);
    }
    lab.network(net);
    daemon.wait_until_ready(&node);
}

#[test]
fn wrong_keys_and_leases_are_named_and_disturb_nobody() {
    let pair = Pair::of_agents();
    let flows = pair.flows();
    let subnets = format!("{}/subnets", pair.net.prefix);
    let [one, two, three] =
        free_subnets(&pair.net, &[&pair.one, &pair.two]).map(|free| format!("{}-24", free.base));
    let wrong = [
        ("not-a-subnet".to_owned(), "{}"),
        ("10.244.70.300-24".to_owned(), "{}"),
        (one, "no JSON"),
        (two, r#"{"PublicIP":"300.1.1.1","BackendType":"vxlan"}"#),
        (
            three,
            r#"{"PublicIP":"172.30.0.73","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"no mac"}}"#,
        ),
    ];
    for (key, value) in &wrong {
        pair.lab.etcd().put(&format!("{subnets}/{key}"), value);
    }
    for agent in [&pair.one, &pair.two] {
        for (key, _) in &wrong {
            eventually(format!("{key} in the log"), SOON, || {
                agent.log().contains(key)
            });
        }
    }
    let third = Agent::start(pair.lab.node("three"), &pair.net);
    Pod::on(&third, "pod3").reaches(&pair.pod1);
    assert_nothing_lost(flows);
}

#[test]
fn a_config_that_goes_bad_later_stops_nothing() {
    let mut pair = Pair::of_agents();
    let key = format!("{}/config", pair.net.prefix);
    pair.lab.etcd().put(&key, "broken");
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.one.kill();
    let mut daemon = pair.one.spawn_again();
    eventually("the agent names the config", SOON, || {
        daemon.log().contains(&key)
    });
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.lab.network(pair.net.clone());
    daemon.wait_until_ready(pair.one.node());
    pair.pod1.ping(pair.pod2.address()).succeeds();
}

/// The first signal ends the agent in order, which an etcd that does not answer may hold up; the second at once.
#[test]
fn a_second_signal_does_not_wait() {
    let mut pair = Pair::of_agents();
    let flows = pair.flows();
    pair.one.kill();
    // Waits for etcd before it has even read the config.
    pair.lab.etcd().freeze();
    let mut daemon = pair.one.spawn_again();
    eventually("it has started", SOON, || daemon.log().contains("starts"));
    daemon.process().signal(Signal::SIGTERM);
    daemon.process().signal(Signal::SIGTERM);
    assert_eq!(daemon.process().wait(SOON).code(), Some(0));
    pair.lab.etcd().thaw();
    assert_nothing_lost(flows);
}

#[test]
fn signals_change_what_is_logged() {
    let mut pair = Pair::of_agents();
    for (signal, level) in [
        (Signal::SIGUSR1, "-v=2"),
        (Signal::SIGUSR1, "-v=6"),
        (Signal::SIGUSR2, "-v=2"),
    ] {
        pair.one.daemon_mut().process().signal(signal);
        let said = format!("{signal}: logging as with {level}");
        eventually(&said, SOON, || pair.one.log().contains(&said));
    }
    // The agent notices every change of a link, and says so to those who ask for it.
    let before = pair.one.log().len();
    pair.one.exec("ip link add noticed type bridge");
    eventually("debug messages", SOON, || {
        pair.one.log()[before..].contains("\"DEBUG\"")
    });
}
