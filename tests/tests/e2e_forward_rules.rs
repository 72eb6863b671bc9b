//! `--iptables-forward-rules`: hosts whose FORWARD chain drops, as Docker and ufw set it.

#![cfg(test)]

use flannel_agent::node::forward_rules;
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
fn pods_talk_where_forward_drops(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
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
