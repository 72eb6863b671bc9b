//! A conntrack that minds TCP's windows, and an agent that cannot tell it not to: `/proc/sys` is read-only, as in most containers.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_common::program::Program::PodTx;
use flannel_tests::fast_path::{hooked, looked_again, pinned, sent};
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::tcp;
use flannel_tests::with_daemon::start;
use rstest::rstest;

const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";

/// A wrapper for the agent: see [`Agent::start_under`].
fn read_only(node: &Node) -> String {
    let script = node.folder().join("read_only.sh");
    let text = "mount --bind /proc/sys /proc/sys\n\
                mount -o remount,bind,ro /proc/sys\n\
                exec \"$@\"\n";
    std::fs::write(&script, text).expect("write to the node's folder");
    format!("unshare --mount bash -e {}", script.display())
}

/// The same as a container has it that shares the node's network and is given the host's `/proc/sys/net` beside.
fn with_the_hosts_beside(node: &Node) -> String {
    let script = node.folder().join("host_beside.sh");
    let root = node.folder().join("root");
    // All that is there, and one folder that is not: a root of its own.
    let text = format!(
        "mkdir -p {root}\n\
         mount -t tmpfs tmpfs {root}\n\
         for path in /*; do\n\
             if [ -L \"$path\" ]; then cp -P \"$path\" {root}/; continue; fi\n\
             [ -d \"$path\" ] || continue\n\
             mkdir {root}\"$path\"\n\
             mount --rbind \"$path\" {root}\"$path\"\n\
         done\n\
         mkdir -p {root}/host/proc/sys/net\n\
         mount --bind /proc/sys/net {root}/host/proc/sys/net\n\
         mount --bind /proc/sys {root}/proc/sys\n\
         mount -o remount,bind,ro {root}/proc/sys\n\
         exec chroot {root} \"$@\"\n",
        root = root.display()
    );
    std::fs::write(&script, text).expect("write to the node's folder");
    format!("unshare --mount bash -e {}", script.display())
}

fn join(kind: Kind, node: Node, net: &Network) -> AnyDaemon {
    match kind {
        Kind::Ours => Box::new(Agent::start_under(&read_only(&node), node, net, &[])),
        _ => start(kind, node, net, &[]),
    }
}

/// More than any window, which a strict conntrack has to have seen all of.
#[track_caller]
fn streams<D: Member>(pair: &Pair<D>) {
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    server.exchange(&pair.pod1, to, 4 << 20);
}

#[rstest]
fn a_rule_that_drops_what_is_invalid_breaks_nothing(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(
        Network::vxlan("/coreos.com/network", "10.244.0.0/16"),
        Network::host_gw("/coreos.com/network", "10.244.0.0/16")
    )]
    net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| join(kind, lab.node(name), &net));
    let pair = Pair::of(lab, net, one, two);
    for daemon in [&pair.one, &pair.two] {
        daemon.exec("iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP");
    }
    streams(&pair);
    let Some(agent) = pair.one.agent() else {
        return;
    };
    assert!(
        agent.log().contains("so no flow is fast"),
        "{}",
        agent.log()
    );
    looked_again(agent);
    assert_eq!(pinned(agent, PodTx), <[String; 0]>::default());
    assert!(!agent.log().contains("attach pod_tx"), "{}", agent.log());

    // Whoever may changes it, and the agent looks at the node.
    for daemon in [&pair.one, &pair.two] {
        daemon.exec(&format!("sysctl -qw {LIBERAL}=1"));
        daemon.exec("ip link add spare type veth peer name spare-peer");
        hooked(daemon.agent().expect("ours"));
    }
    streams(&pair);
    assert!(sent(agent) > 0);
}

/// The mount that the shipped manifest has.
#[test]
fn a_container_with_the_hosts_sysctls_has_fast_flows() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        node.exec(&format!("sysctl -qw {LIBERAL}=0"));
        Agent::start_under(&with_the_hosts_beside(&node), node, &net, &[])
    });
    for agent in [&one, &two] {
        assert!(!agent.log().contains("no flow is fast"), "{}", agent.log());
        assert_eq!(
            agent.node().exec(&format!("sysctl -n {LIBERAL}")).trim(),
            "1"
        );
    }
    let pair = Pair::of(lab, net, one, two);
    for agent in [&pair.one, &pair.two] {
        hooked(agent);
    }
    streams(&pair);
    assert!(sent(&pair.one) > 0);
}
