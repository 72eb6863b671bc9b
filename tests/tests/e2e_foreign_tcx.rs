//! Programs of others at tcx that answer `TC_ACT_OK`, as monitors do: nothing behind them in the chain is run.

#![cfg(test)]

use std::net::SocketAddrV4;
use std::process::Output;

use aya::programs::LinkOrder;
use aya::programs::tc::{SchedClassifier, SchedClassifierLink, TcAttachOptions, TcAttachType};
use flannel_tests::agent::command;
use flannel_tests::fast_path::hooked_if_ours;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::stranger::{self, pin_answering};
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use flannel_tests::{no_tcx, tcp, with_daemon};
use rstest::rstest;

const OK: i32 = 0;
const PIPE: i32 = 3;
const NEXT: i32 = -1;
/// Everything the unit of systemd grants: no look at programs of others.
const ENOUGH: &str =
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all";

const BOTH: [TcAttachType; 2] = [TcAttachType::Ingress, TcAttachType::Egress];

/// Puts a program ahead of all others on both hooks of each device.
#[track_caller]
fn attach(node: &Node, name: &str, answer: i32, devices: &[&str]) -> Vec<SchedClassifierLink> {
    node.netns().enter(|| {
        let mut links = Vec::new();
        for device in devices {
            for direction in BOTH {
                // A BPF file system knows no names with a dot.
                let pin = node.bpffs().join("monitor");
                pin_answering(stranger::Kind::Tc, name, answer, &pin);
                let mut program = SchedClassifier::from_pin(&pin).expect("the program");
                std::fs::remove_file(&pin).expect("unpin");
                let options = TcAttachOptions::TcxOrder(LinkOrder::first());
                let link = program.attach_with_options(device, direction, options);
                let link = program.take_link(link.expect("attach"));
                links.push(link.expect("the link"));
            }
        }
        links
    })
}

/// Names of the programs of a hook, in their order.
fn chain(node: &Node, device: &str, direction: TcAttachType) -> Vec<String> {
    node.netns().enter(|| {
        let (_, programs) = SchedClassifier::query_tcx(device, direction).expect("the hook");
        let name = |program: &aya::programs::ProgramInfo| program.name_as_str().map(str::to_owned);
        programs.iter().filter_map(name).collect()
    })
}

/// Ours have gone before what is called so, on each hook of the devices.
#[track_caller]
fn stands_last(node: &Node, name: &str, devices: &[&str]) {
    for device in devices {
        for direction in BOTH {
            eventually("ours go first", SOON, || {
                chain(node, device, direction)
                    .last()
                    .is_some_and(|last| last == name)
            });
        }
    }
}

#[track_caller]
fn reaches_outside(pod: &Pod, outside: &Outside) {
    pod.ping(outside.address()).succeeds();
    let server = tcp::Server::on(outside);
    let to = SocketAddrV4::new(outside.address(), server.port());
    server.exchange(pod, to, 1 << 20);
}

fn join(kind: Kind, node: Node, net: &Network, flags: &[&str]) -> AnyDaemon {
    let flags = match kind {
        Kind::Ours => [&["--ip-masq"], flags].concat(),
        _ => vec!["--ip-masq"],
    };
    with_daemon::start(kind, node, net, &flags)
}

#[rstest]
#[case::vxlan(vxlan(), &[], OK)]
#[case::unknown_answer(vxlan(), &[], PIPE)]
#[case::at_the_bridge(vxlan(), &["--pod-hook=bridge"], OK)]
#[case::always(vxlan(), &["--fast-path=always"], OK)]
#[case::off(vxlan(), &["--fast-path=off"], OK)]
#[case::direct(vxlan().direct_routing(), &[], OK)]
#[case::host_gw(host_gw(), &[], OK)]
fn a_monitor_that_was_there_first(
    #[case] net: Network,
    #[case] flags: &[&str],
    #[case] answer: i32,
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let (kind, _) = mix.kinds();
    let nodes = ["one", "two"].map(|name| lab.node(name));
    let monitors = nodes
        .each_ref()
        .map(|node| attach(node, "monitor", answer, &["eth0"]));
    let [one, two] = nodes.map(|node| join(kind, node, &net, flags));
    let mut pair = Pair::of(lab, net, one, two);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    let outside = pair.lab.outside();
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &outside);
    if let Some(agent) = pair.one.agent() {
        let named = "the program monitor (id ";
        assert!(agent.log().contains(named), "{}", agent.log());
    }

    pair.one.kill();
    pair.one.restart();
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &outside);
    drop(monitors);
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &outside);
}

#[rstest]
fn a_monitor_that_comes_later_and_goes_first(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let pair = Pair::of_daemons(mix, &["--ip-masq"]);
    let outside = pair.lab.outside();
    hooked_if_ours(&pair.one);
    hooked_if_ours(&pair.two);
    let ours = mix == Mix::Ours;
    let devices: &[&str] = &["eth0", "flannel.1", "cni0"];
    let monitors: Vec<_> = [&pair.one, &pair.two]
        .into_iter()
        .map(|daemon| attach(daemon.node(), "monitor", OK, devices))
        .collect();
    if ours {
        for daemon in [&pair.one, &pair.two] {
            stands_last(daemon.node(), "monitor", devices);
        }
    }
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &outside);
    drop(monitors);
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &outside);
}

/// They see what ours would take from them.
#[test]
fn who_hands_packets_on_stays_in_front() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    let first = attach(&node, "polite", NEXT, &["eth0"]);
    let one = Agent::start(node, &net);
    let two = Agent::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    carries_everything(&pair);
    let node = pair.one.node();
    assert_eq!(chain(node, "eth0", TcAttachType::Ingress)[0], "polite");
    assert!(!pair.one.log().contains("ends the hook's chain"));
    drop(first);
}

/// systemd's unit does not let the agent look at programs: who they are is not known, but that they are not ours is.
#[test]
fn without_the_right_to_look() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    let monitor = attach(&node, "monitor", OK, &["eth0"]);
    let one = Agent::start_under(ENOUGH, node, &net, &["--ip-masq"]);
    let two = Agent::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    carries_everything(&pair);
    reaches_outside(&pair.pod1, &pair.lab.outside());
    // Another look at everything finds nothing to do.
    let node = pair.one.node();
    let looks = || pair.one.log().matches("attach uplink_rx").count();
    assert_eq!(looks(), 1, "{}", pair.one.log());
    node.exec("ip link add spare type veth peer name spare-peer");
    let late = attach(node, "late", OK, &["eth0"]);
    stands_last_but(node, "late");
    assert_eq!(looks(), 2, "{}", pair.one.log());
    drop((monitor, late));
}

/// Behind ours, before the first monitor.
#[track_caller]
fn stands_last_but(node: &Node, name: &str) {
    eventually("ours go first", SOON, || {
        let programs = chain(node, "eth0", TcAttachType::Ingress);
        programs.ends_with(&[name.to_owned(), "monitor".to_owned()])
    });
}

fn doctor(agent: &Agent) -> String {
    let node = agent.node();
    let flags = [
        "doctor".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
        format!("--subnet-file={}", agent.daemon().subnet_file().display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let Output { stdout, .. } = output(&mut command(node, &flags));
    String::from_utf8(stdout).expect("text")
}

/// A dead agent cannot go in front; `doctor` says who hides what from whom.
#[test]
fn doctor_says_what_is_dead() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let mut agent = Agent::start_with(lab.node("one"), &net, &["--ip-masq"]);
    agent.kill();
    let links = attach(agent.node(), "", OK, &["eth0"]);
    let said = doctor(&agent);
    let holder = std::process::id();
    let named = said.lines().find(|line| {
        line.contains("the program without a name (id ")
            && line.contains(&format!("(pid {holder})"))
            && line.contains("at ingress of eth0 may answer TC_ACT_OK")
    });
    let line = named.unwrap_or_else(|| panic!("{said}"));
    for hidden in ["uplink_rx", "uplink_snat_rx"] {
        assert!(line.contains(hidden), "{line}");
    }
    assert!(
        said.contains("at egress of eth0 may answer TC_ACT_OK"),
        "{said}"
    );
    drop(links);
    assert!(!doctor(&agent).contains("may answer TC_ACT_OK"));
}

/// Among filters, too.
#[test]
fn doctor_says_what_a_filter_hides() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    let wrapper = no_tcx::wrapper(&node);
    let agent = Agent::start_under(&wrapper, node, &net, &["--ip-masq"]);
    let node = agent.node();
    for (pin, name, answer) in [("ok", "monitor", OK), ("next", "polite", NEXT)] {
        let path = node.bpffs().join(pin);
        node.netns()
            .enter(|| pin_answering(stranger::Kind::Tc, name, answer, &path));
        node.exec(&format!(
            "tc filter add dev eth0 ingress pref 1 bpf direct-action object-pinned {}",
            path.display()
        ));
    }
    let said = doctor(&agent);
    let line = said
        .lines()
        .find(|line| line.contains("the filter monitor"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    for text in [
        "pref 1",
        "may answer TC_ACT_OK",
        "uplink_rx",
        "uplink_snat_rx",
    ] {
        assert!(line.contains(text), "{line}");
    }
    let polite = said.lines().find(|line| line.contains("the filter polite"));
    assert!(
        polite.is_some_and(|line| line.ends_with("runs before ours")),
        "{said}"
    );
}
