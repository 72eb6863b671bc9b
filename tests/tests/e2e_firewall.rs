//! Firewalls that change while the agent runs, as dockerd, ufw and people change them: FORWARD drops by policy, rules are
//! flushed, there is no iptables. The control is real flanneld, whose rules are there always.

#![cfg(test)]

use std::path::PathBuf;

use flannel_agent::node::iptables::PROGRAMS;
use flannel_tests::agent::{Daemon, command, http_get, http_status};
use flannel_tests::iptables::Iptables;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::with_daemon::{AnyDaemon, start};
use rstest::rstest;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// Two nodes of a kind, with what takes the stack all the time.
fn pair(kind: Kind, network: fn() -> Network, flags: &[&str]) -> Pair<AnyDaemon> {
    let mix = match kind {
        Kind::Ours => Mix::Ours,
        _ => Mix::Flanneld,
    };
    let lab = Lab::new();
    let net = lab.network(network());
    let ours: &[&str] = match kind {
        Kind::Ours => &["--fast-path=off"],
        _ => &[],
    };
    Pair::of_daemons_in(lab, net, mix, &[ours, flags].concat())
}

fn program(kind: Iptables) -> &'static str {
    match kind {
        Iptables::Nft => "iptables-nft",
        Iptables::Legacy => "iptables-legacy",
    }
}

/// Datagrams and pings both ways.
#[track_caller]
fn talk(pair: &Pair<AnyDaemon>) {
    for way in pair.both_ways() {
        way.client.reaches(way.server);
        udp::exchange(way.client, way.server, way.server.address(), 1000);
    }
}

/// Waits for the rules, and that they are flannel's: a chain, two rules, a jump.
#[track_caller]
fn rules_come(node: &Node, program: &str) {
    eventually("the accept rules", SOON, || {
        let rules = node.exec(&format!("{program} -S"));
        rules
            .lines()
            .filter(|rule| rule.contains("FLANNEL-FWD"))
            .count()
            == 4
    });
}

#[rstest]
fn a_policy_that_becomes_drop_is_met_at_once(
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
    #[values(vxlan, host_gw)] network: fn() -> Network,
) {
    // So seldom that only the notice can be the reason.
    let seldom: &[&str] = match kind {
        Kind::Ours => &["--iptables-resync=3600"],
        _ => &[],
    };
    let pair = pair(kind, network, seldom);
    let node = pair.one.node();
    if kind == Kind::Ours {
        assert!(!node.exec("iptables-nft -S").contains("FLANNEL-FWD"));
    }
    node.exec("iptables-nft -P FORWARD DROP");
    rules_come(node, "iptables-nft");
    talk(&pair);

    // Twice, since what comes once might be the start's.
    for _ in 0..2 {
        node.exec("iptables-nft -F FORWARD");
        rules_come(node, "iptables-nft");
        talk(&pair);
    }
    node.exec("iptables-nft -F FLANNEL-FWD");
    rules_come(node, "iptables-nft");
    talk(&pair);
}

/// Of the older kind nobody tells what changed, but its lock tells when it is called. (flanneld has rules in one kind alone.)
#[test]
fn legacy_is_met_at_once_too() {
    let lab = Lab::new();
    // The first call makes the lock.
    lab.router().exec("iptables-legacy -S");
    let net = lab.network(vxlan());
    let flags = ["--fast-path=off", "--iptables-resync=3600"];
    let pair = Pair::of_daemons_in(lab, net, Mix::Ours, &flags);
    let node = pair.one.node();
    node.exec("iptables-legacy -P FORWARD DROP");
    for _ in 0..2 {
        rules_come(node, "iptables-legacy");
        talk(&pair);
        node.exec("iptables-legacy -F FORWARD");
    }
}

/// Where nobody tells anything, as in a container that has a lock of its own, somebody looks.
#[test]
fn rules_are_synchronised() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    let script = node.folder().join("own_run.sh");
    std::fs::write(&script, "mount -t tmpfs none /run && exec \"$@\"").unwrap();
    let wrapper = format!("unshare --mount sh {}", script.display());
    let flags = ["--fast-path=off", "--iptables-resync=1"];
    let agent = Agent::start_under(&wrapper, node, &net, &flags);
    for change in ["-P FORWARD DROP", "-F FORWARD"] {
        agent.exec(&format!("iptables-legacy {change}"));
        rules_come(agent.node(), "iptables-legacy");
    }
}

/// A packet needs both to let it pass.
#[test]
fn both_kinds_that_drop_get_the_rules_from_the_start() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = |name| {
        let node = lab.node(name);
        for kind in [Iptables::Nft, Iptables::Legacy] {
            node.exec(&format!("{} -P FORWARD DROP", program(kind)));
        }
        start(Kind::Ours, node, &net, &["--fast-path=off"])
    };
    let (one, two) = (node("one"), node("two"));
    for kind in [Iptables::Nft, Iptables::Legacy] {
        let rules = one.node().exec(&format!("{} -S", program(kind)));
        assert!(rules.contains("-j FLANNEL-FWD"), "{rules}");
    }
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
}

/// A search path with everything that the agent may call, but these.
fn path_without(node: &Node, missing: &[&str]) -> PathBuf {
    let folder = node.folder().join("path");
    std::fs::create_dir(&folder).unwrap();
    for program in PROGRAMS.iter().filter(|program| !missing.contains(program)) {
        std::os::unix::fs::symlink(format!("/usr/sbin/{program}"), folder.join(program)).unwrap();
    }
    folder
}

#[test]
fn a_node_without_iptables_says_what_is_lost_and_is_not_ready() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    node.exec("iptables-nft -P FORWARD DROP");
    let empty = path_without(&node, &PROGRAMS);
    let path = format!("env PATH={}", empty.display());
    let mut daemon = Daemon::spawn_under(&path, &node, &net, &[]);
    let said = "the policy of FORWARD (iptables-nft) is DROP";
    eventually("it is logged", SOON, || daemon.log().contains(said));
    let port = daemon.health_port();
    eventually("and the reason that the node is not ready", SOON, || {
        http_get(&node, port, "/readyz").is_some_and(|text| text.contains(said))
    });
    assert_eq!(http_status(&node, port, "/readyz"), Some(503));
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let status = output(&mut command(&node, &["status", &bpffs, &state]));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains(said), "{text}");
    assert_eq!(status.status.code(), Some(1));
    let mut doctor = command(
        &node,
        &[
            "doctor",
            &format!("--etcd-endpoints={}", node.etcd()),
            "--iface=eth0",
            &bpffs,
        ],
    );
    // The program is named by a path, and `nsenter` is not.
    let text = output(doctor.env("PATH", format!("{}:/usr/bin", empty.display()))).stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("there is no iptables-nft"), "{text}");

    // What somebody else adds is as good.
    node.exec("iptables-nft -P FORWARD ACCEPT");
    daemon.wait_until_ready(&node);
    assert_eq!(daemon.log().matches(said).count(), 1);
}

/// flanneld's own, for example.
#[test]
fn rules_that_are_there_need_no_iptables() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let old = KernelVxlan::join(lab.node("one"), &net);
    old.exec("iptables-nft -P FORWARD DROP");
    flannel_tests::flannel_rules::forward(&old, Iptables::Nft);
    let node = old.stop();
    let path = format!("env PATH={}", path_without(&node, &PROGRAMS).display());
    let agent = Agent::start_under(&path, node, &net, &[]);
    assert!(!agent.log().contains("FORWARD"), "{}", agent.log());
}

#[rstest]
#[case::iptables(Iptables::Nft, "there is no iptables-nft")]
#[case::legacy(Iptables::Legacy, "there is no iptables-legacy")]
fn masquerading_that_cannot_be_taken_over_is_said(#[case] kind: Iptables, #[case] reason: &str) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let old = KernelVxlan::join(lab.node("one"), &net);
    flannel_tests::flannel_rules::masquerade(&old, kind);
    let node = old.stop();
    let path = format!("env PATH={}", path_without(&node, &PROGRAMS).display());
    let agent = Agent::start_under(&path, node, &net, &["--ip-masq"]);
    let said = "flanneld's masquerade rules cannot be removed";
    eventually("it is logged", SOON, || {
        agent
            .log()
            .lines()
            .any(|line| line.contains(said) && line.contains(reason))
    });
    assert!(!agent.log().contains("masquerade rules removed"));
}
