//! `--iptables-forward-rules`: hosts whose FORWARD chain drops, as Docker and ufw set it.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flannel_agent::node::forward_rules;
use flannel_agent::node::iptables::{self, Tool};
use flannel_tests::agent::{Daemon, http_get, http_status};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

fn lab() -> (Lab, Network) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    (lab, net)
}

fn dropping(lab: &Lab, name: &str) -> Node {
    let node = lab.node(name);
    node.exec("iptables -P FORWARD DROP");
    node
}

fn rules(host: &impl Host) -> Vec<String> {
    let text = host.exec("iptables -S");
    let ours = text.lines().filter(|line| line.contains("FLANNEL-FWD"));
    ours.map(str::to_owned).collect()
}

#[rstest]
fn k3_pods_talk_where_forward_drops(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = start(kind, dropping(&lab, "one"), &net, &[]);
    let two = start(kind, dropping(&lab, "two"), &net, &[]);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    // New chain, two rules, jump.
    assert_eq!(rules(&one).len(), 4, "{:?}", rules(&one));
}

#[test]
fn nothing_is_added_where_forward_accepts() {
    let (lab, net) = lab();
    let one = Agent::start(lab.node("one"), &net);
    assert_eq!(rules(&one), <[&str; 0]>::default());
}

#[rstest]
fn nothing_is_added_when_not_wanted(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let flags = ["--iptables-forward-rules=false"];
    let one = start(kind, dropping(&lab, "one"), &net, &flags);
    assert_eq!(rules(&one), <[&str; 0]>::default());
}

#[test]
fn flannelds_rules_are_ours_too() {
    let (lab, net) = lab();
    let old = RealFlanneld::start(dropping(&lab, "one"), &net);
    let before = rules(&old);
    let mut new = Agent::start(old.stop(), &net);
    assert_eq!(rules(&new), before);
    new.restart();
    assert_eq!(rules(&new), before);
}

#[test]
fn two_networks_share_the_chain_and_the_last_one_removes_it() {
    let lab = Lab::new();
    let node = dropping(&lab, "one");
    let networks = ["10.11.0.0/16", "10.12.0.0/16"].map(|n| n.parse().expect("a network"));
    node.netns().block_on(async || {
        for network in networks {
            assert!(
                forward_rules::ensure(network)
                    .await
                    .expect("iptables works")
            );
            assert!(
                !forward_rules::ensure(network)
                    .await
                    .expect("iptables works")
            );
        }
    });
    assert_eq!(rules(&node).len(), 6);
    for (network, left) in networks.into_iter().zip([4, 0]) {
        node.netns().block_on(async || {
            for _ in 0..2 {
                forward_rules::remove(network)
                    .await
                    .expect("iptables works");
            }
        });
        assert_eq!(rules(&node).len(), left, "{:?}", rules(&node));
    }
}

/// An `iptables-nft` for one node that does `first`, and whatever that leaves to it. What runs the agent with it.
fn odd_tool(node: &Node, first: &str) -> String {
    let folder = node.folder().join("odd");
    std::fs::create_dir_all(&folder).expect("a folder");
    let real = ["/usr/sbin/iptables-nft", "/sbin/iptables-nft"];
    let real = real.into_iter().find(|path| Path::new(path).exists());
    let real = real.expect("iptables");
    let tool = folder.join("iptables-nft");
    let script = format!("#!/bin/sh\n{first}\nexec {real} \"$@\"\n");
    std::fs::write(&tool, script).expect("write a script");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let folders = "/usr/sbin:/usr/bin:/sbin:/bin";
    format!("env PATH={}:{folders}", folder.display())
}

/// kube-proxy has the lock, say. What cannot be looked at is not taken for gone.
#[test]
fn a_look_that_fails_adds_nothing_again() {
    let (lab, net) = lab();
    let node = dropping(&lab, "one");
    let file = |name: &str| -> PathBuf { node.folder().join(name) };
    let (busy, asked) = (file("busy"), file("asked"));
    let first = format!(
        "case \"$*\" in *'-S FLANNEL-FWD') if [ -e {} ]; then echo >> {}; \
         echo 'Another app is currently holding the xtables lock.' >&2; exit 4; fi;; esac",
        busy.display(),
        asked.display()
    );
    let wrapper = odd_tool(&node, &first);
    let one = Agent::start_under(&wrapper, node, &net, &[]);
    let (node, port) = (one.node(), one.daemon().health_port());
    assert_eq!(rules(node).len(), 4, "{:?}", rules(node));

    std::fs::write(&busy, "").expect("write a file");
    node.exec("iptables -A FORWARD -s 203.0.113.9 -j RETURN");
    eventually("it has looked, and says why it does not know", SOON, || {
        let ready = http_get(node, port, "/readyz").unwrap_or_default();
        asked.exists() && ready.contains("holding the xtables lock")
    });
    std::fs::remove_file(&busy).expect("remove a file");
    node.exec("iptables -D FORWARD -s 203.0.113.9 -j RETURN");
    eventually("it knows again", SOON, || {
        http_status(node, port, "/readyz") == Some(200)
    });
    assert_eq!(rules(node).len(), 4, "{:?}", rules(node));
}

#[test]
fn rules_that_are_there_several_times_go_as_well() {
    let (lab, _) = lab();
    let node = dropping(&lab, "one");
    let network = "10.11.0.0/16".parse().expect("a network");
    let ensure = async || {
        forward_rules::ensure(network)
            .await
            .expect("iptables works")
    };
    node.netns().block_on(async || assert!(ensure().await));
    let all = rules(&node);
    let again: Vec<_> = all.into_iter().filter(|r| r.starts_with("-A")).collect();
    let again = again.join("\n");
    node.netns().block_on(async || {
        let tool = Tool::of(iptables::Kind::Nft).await.expect("iptables");
        for _ in 0..2 {
            let script = format!("*filter\n{again}\nCOMMIT\n");
            tool.restore(&script).await.expect("iptables works");
        }
    });
    assert_eq!(rules(&node).len(), 10, "{:?}", rules(&node));
    node.netns().block_on(async || {
        let removed = forward_rules::remove(network).await;
        removed.expect("iptables works");
    });
    assert_eq!(rules(&node), <[&str; 0]>::default());
}

/// In the kernel, or because of a wrapper that waits for something.
#[test]
fn a_tool_that_never_ends_holds_up_nothing_else() {
    let (lab, net) = lab();
    let node = dropping(&lab, "one");
    let wrapper = odd_tool(&node, "case \"$*\" in *-S*) exec sleep infinity;; esac");
    let daemon = Daemon::spawn_under(&wrapper, &node, &net, &["--ip-masq"]);
    eventually("the subnet file is written", SOON * 2, || {
        daemon.subnet_env().is_some()
    });
    eventually("it says what it waits for", SOON, || {
        let ready = http_get(&node, daemon.health_port(), "/readyz").unwrap_or_default();
        ready.contains("iptables has not answered")
    });
    assert_eq!(
        http_status(&node, daemon.health_port(), "/readyz"),
        Some(503)
    );
}
