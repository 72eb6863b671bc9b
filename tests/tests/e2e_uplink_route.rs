//! The uplink that is told by the default route: that route goes for a moment, and so does the carrier.

#![cfg(test)]

use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

/// By the default route, as without `--iface`.
fn pair(kind: Kind) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let [one, two] = ["one", "two"].map(|name| start(kind, lab.node(name), &net, &["--iface="]));
    Pair::of(lab, net, one, two)
}

#[rstest]
fn a_default_route_that_is_away_changes_nothing(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let pair = pair(kind);
    let node = pair.one.node();
    let route = node.exec("ip route show default");
    node.exec("ip route del default");
    if let Some(agent) = pair.one.agent() {
        eventually("the agent has seen it", SOON, || {
            agent.log().contains("the uplink is still eth0")
        });
    }
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    node.exec(&format!("ip route add {}", route.trim()));
    if let Some(agent) = pair.one.agent() {
        eventually("and that it is back", SOON, || {
            agent.log().matches("the uplink is still eth0").count() == 2
        });
        let log = agent.log();
        for word in ["ERROR", "uplink changed", "cni0 ("] {
            assert!(!log.contains(word), "{word}: {log}");
        }
    }
    pair.pod1.reaches(&pair.pod2);
}

#[rstest]
fn a_carrier_that_comes_and_goes_is_no_other_uplink(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let pair = pair(kind);
    let node = pair.one.node();
    node.set_carrier(false);
    if let Some(agent) = pair.one.agent() {
        eventually("the agent has seen it", SOON, || {
            agent.log().contains("although its link is down")
        });
    }
    node.set_carrier(true);
    eventually("pods reach each other", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(1).lossless()
    });
    if let Some(agent) = pair.one.agent() {
        eventually("and that it is back", SOON, || {
            agent.log().matches("the uplink is still eth0").count() == 2
        });
        let log = agent.log();
        assert!(!log.contains("uplink changed"), "{log}");
    }
}
