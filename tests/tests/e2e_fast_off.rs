//! The fast path ends under running connections: conntrack did not see most of what they sent, and minds TCP's windows again.

#![cfg(test)]

use flannel_tests::fast_path::{gets_fast, hooked_if_ours, ours, talk_tcp};
use flannel_tests::netns::run;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::real_flanneld::RealFlanneld;
use flannel_tests::with_daemon::start;
use flannel_tests::{cleanup, talk, tcp};
use rstest::rstest;

const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
const MASQ: &[&str] = &["--ip-masq"];

fn two_of(kind: Kind, net: Network, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| start(kind, lab.node(name), &net, flags));
    Pair::of(lab, net, one, two)
}

/// Two connections between pods that were fast, on a node that drops what conntrack calls INVALID, as kube-proxy's rule does.
#[track_caller]
fn fast_ones(pair: &Pair<AnyDaemon>) -> Vec<talk::Tcp> {
    for daemon in [&pair.one, &pair.two] {
        hooked_if_ours(daemon);
    }
    pair.one
        .exec("iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP");
    let mut talks = vec![
        talk_tcp(&pair.pod1, &pair.pod2),
        talk_tcp(&pair.pod2, &pair.pod1),
    ];
    for talk in &mut talks {
        gets_fast(&ours(pair), |rounds| talk.rounds(rounds));
    }
    talks
}

#[rstest]
fn what_was_fast_goes_on_where_it_is_switched_off(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(
        Network::vxlan("/coreos.com/network", "10.244.0.0/16"),
        Network::host_gw("/coreos.com/network", "10.244.0.0/16"),
        Network::udp("/coreos.com/network", "10.244.0.0/16")
    )]
    net: Network,
) {
    let mut pair = two_of(kind, net, MASQ);
    let mut talks = fast_ones(&pair);
    let outside = pair.lab.outside();
    let server = tcp::Server::on(&outside);
    let mut out = talk::Tcp::open(&server, &pair.pod1, outside.at(server.port()));
    out.outlast();
    out.rounds(200);
    talks.push(out);

    match kind {
        Kind::Ours => pair.one.restart_with(&["--ip-masq", "--fast-path=off"]),
        _ => pair.one.restart(),
    }
    eventually("conntrack minds windows", SOON, || {
        pair.one.exec(&format!("sysctl -n {LIBERAL}")).trim() == "0"
    });
    for talk in &mut talks {
        talk.rounds(200);
    }
    // And those that begin now it knows as ever.
    talk_tcp(&pair.pod1, &pair.pod2).rounds(200);
}

/// As docs/migration.md has it for the backends whose device flanneld does not take over, and for whoever wants nothing left.
#[rstest]
fn what_was_fast_goes_on_behind_a_cleanup(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(
        Network::vxlan("/coreos.com/network", "10.244.0.0/16"),
        Network::host_gw("/coreos.com/network", "10.244.0.0/16"),
        Network::udp("/coreos.com/network", "10.244.0.0/16")
    )]
    net: Network,
) {
    let mut pair = two_of(kind, net, &[]);
    let mut talks = fast_ones(&pair);
    assert!(pair.one.terminate().success());
    if let Some(agent) = pair.one.agent() {
        run(&mut cleanup::command(agent));
        assert_eq!(agent.exec(&format!("sysctl -n {LIBERAL}")).trim(), "0");
    }
    let back = RealFlanneld::start(pair.one.node_arc(), &pair.net);
    back.follow_leases();
    for talk in &mut talks {
        talk.rounds(200);
    }
}
