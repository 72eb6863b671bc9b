//! Several networks on one node, whose anchor is one as long as their port is.

use std::sync::Arc;

use flannel_tests::fast_path::to;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use flannel_tests::{cleanup, no_tcx, tcp};
use rstest::rstest;

use super::{
    ANCHOR, DEVICE, carries_everything, datagrams_sent_as_one_arrive, has_anchor, lab, pair,
};

/// The device is both networks'. It goes with the pair of the one that made it, is made again for the other, and goes with that.
#[rstest]
#[case::ours(Kind::Ours, true)]
#[case::clsact(Kind::Ours, false)]
#[case::flanneld(Kind::Flanneld, true)]
fn two_networks_share_port_and_anchor(#[case] kind: Kind, #[case] tcx: bool) {
    let lab = lab(Wire::Segmented);
    let ([red, blue], hosts) = lab.red_and_blue();
    let start = |net: &Network| {
        hosts.each_ref().map(|host: &Arc<Node>| match kind {
            Kind::Ours => {
                let wrapper = if tcx {
                    String::new()
                } else {
                    no_tcx::wrapper(host)
                };
                Box::new(Agent::start_under(&wrapper, host.clone(), net, ANCHOR)) as AnyDaemon
            }
            _ => start(kind, host.clone(), net, &[]),
        })
    };
    let ([mut red1, red2], [mut blue1, blue2]) = (start(&red), start(&blue));
    let pod =
        |agent: &AnyDaemon, name| Pod::behind(agent, name, &format!("br-{}", agent.net().vni));
    let (r1, r2) = (pod(&red1, "r1"), pod(&red2, "r2"));
    let (b1, b2) = (pod(&blue1, "b1"), pod(&blue2, "b2"));
    for (one, two) in [(&r1, &r2), (&b1, &b2)] {
        one.reaches(two);
        datagrams_sent_as_one_arrive(one, two);
        let listener = tcp::Server::on(two);
        listener.exchange(one, to(two, listener.port()), 1 << 20);
    }
    let Some(agent) = red1.agent() else { return };
    assert!(has_anchor(agent));
    let mut clean = cleanup::command(agent);
    assert!(red1.terminate().success());
    flannel_tests::netns::run(&mut clean);
    let pins = hosts[0].bpffs().join("flannel");
    assert!(pins.exists(), "the other network's are there");
    eventually("the other network has it again", SOON, || {
        has_anchor(&*hosts[0])
    });
    b1.ping(b2.address()).succeeds();
    datagrams_sent_as_one_arrive(&b2, &b1);

    let mut clean = cleanup::command(blue1.agent().unwrap());
    assert!(blue1.terminate().success());
    flannel_tests::netns::run(&mut clean);
    assert!(!pins.exists(), "an empty folder is left");
    assert_eq!(hosts[0].exec("ip -br link show type vxlan"), "");
    // Not there any more, and nothing else is.
    let rest = hosts[0].exec("ip -br link show");
    assert!(!rest.contains("flan") && !rest.contains("flgro"), "{rest}");
}

/// The pair of the other VNI goes, and what goes with it.
#[test]
fn another_vni_makes_another_anchor_of_the_same_port() {
    let mut pair = pair(Kind::Ours, Wire::Segmented, ANCHOR);
    pair.lab.network(pair.net.clone().vni(7));
    for member in [&mut pair.one, &mut pair.two] {
        member.terminate();
        member.restart_with(ANCHOR);
    }
    for member in [&pair.one, &pair.two] {
        member.follow_leases();
        eventually("an anchor", SOON, || has_anchor(member));
        let link = member.exec(&format!("ip -d link show {DEVICE}"));
        assert!(link.contains("dev flannel.7"), "{link}");
    }
    pair.pod1.reaches(&pair.pod2);
    carries_everything(&pair);
}

/// Whoever starts first has the port. Who asks for something else is told, works without, and gets it once it is free.
#[test]
fn networks_of_one_port_need_the_same_way() {
    let lab = lab(Wire::Segmented);
    let ([red, blue], hosts) = lab.red_and_blue();
    let [one, two] = &hosts;
    let _red1 = Agent::start_with(one.clone(), &red, ANCHOR);
    let blue1 = Agent::start_with(one.clone(), &blue, &["--gro=pair"]);
    let said = format!("held by {DEVICE}, since another network of this node has --gro=anchor");
    eventually("it is said", SOON, || blue1.log().contains(&said));

    let mut blue2 = Agent::start(two.clone(), &blue);
    let red2 = Agent::start_with(two.clone(), &red, ANCHOR);
    let log = red2.log();
    assert!(log.contains("need the same --gro"), "{log}");
    assert!(!has_anchor(&**two));
    let pod = |agent: &Agent, name| Pod::behind(agent, name, &format!("br-{}", agent.net().vni));
    let (client, server) = (pod(&blue2, "b2"), pod(&blue1, "b1"));
    client.reaches(&server);
    let listener = tcp::Server::on(&server);
    listener.exchange(&client, to(&server, listener.port()), 1 << 20);
    assert!(blue2.terminate().success());
    // The end of a socket is not announced.
    two.exec("ip link add news type veth peer name other");
    eventually("there is an anchor", SOON, || has_anchor(&**two));
}
