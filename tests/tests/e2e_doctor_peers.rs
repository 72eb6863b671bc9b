//! `doctor` on the peers: it says that they answer through the tunnel where they do, and where they do not, which of both it is: the tunnel, or
//! the node.

#![cfg(test)]

use flannel_tests::cleanup;
use flannel_tests::doctor::{Said, ask};
use flannel_tests::netns::run;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// A node of ours, and a peer behind a router, where a firewall may be. Their pods reach each other.
struct Scene {
    one: Agent,
    two: AnyDaemon,
    pods: [Pod; 2],
    lab: Lab,
}

impl Scene {
    fn new(kind: Kind, net: Network) -> Self {
        let lab = Lab::new();
        let node = lab.node_behind_router("two");
        Self::with(lab, kind, net, node)
    }

    fn on_one_link(kind: Kind, net: Network) -> Self {
        let lab = Lab::new();
        let node = lab.node("two");
        Self::with(lab, kind, net, node)
    }

    fn with(lab: Lab, kind: Kind, net: Network, node: Node) -> Self {
        let net = lab.network(net);
        let one = Agent::start(lab.node("one"), &net);
        let two = start(kind, node, &net, &[]);
        one.follow_leases();
        two.follow_leases();
        let pods = [Pod::on(&one, "pod1"), Pod::on(&two, "pod2")];
        let scene = Self {
            one,
            two,
            pods,
            lab,
        };
        scene.is_connected();
        scene
    }

    fn is_connected(&self) {
        let [pod1, pod2] = &self.pods;
        pod1.reaches(pod2);
        pod2.reaches(pod1);
    }

    /// A rule of the firewall between both.
    fn between(&self, rule: &str) {
        self.lab.router().exec(&format!("iptables {rule}"));
    }

    /// Once the agent has done what it saw last.
    #[track_caller]
    fn is_well(&self) -> Said {
        eventually_some("all is well", SOON, || {
            let said = ask(&self.one, &[]);
            (said.trouble().is_empty() && said.status == Some(0)).then_some(said)
        })
    }

    /// The one trouble that there is.
    #[track_caller]
    fn trouble(&self) -> String {
        let said = ask(&self.one, &[]);
        assert_eq!(said.status, Some(1), "{said:#?}");
        let trouble = said.trouble();
        assert_eq!(trouble.len(), 1, "{said:#?}");
        assert!(!said.is_fine("through the tunnel"), "{said:#?}");
        trouble[0].to_owned()
    }

    fn peer(&self) -> String {
        let (subnet, node) = (self.two.subnet(), self.two.node());
        format!("{subnet} at {}", node.address())
    }
}

/// flanneld's device has the address that is asked, as ours has.
#[rstest]
#[case::vxlan(Network::vxlan(PREFIX, CIDR))]
#[case::udp(Network::udp(PREFIX, CIDR))]
fn peers_that_answer_through_the_tunnel_are_counted(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    answers_through_the_tunnel(kind, net);
}

#[rstest]
#[case::ours(Kind::Ours)]
fn so_they_are_with_ipip(#[case] kind: Kind) {
    answers_through_the_tunnel(kind, Network::ipip(PREFIX, CIDR));
}

/// flanneld's has a device of the kernel's.
#[rstest]
#[case::ours(Kind::Ours)]
#[case::flanneld(Kind::Flanneld)]
#[ignore = "needs ipip: cargo xtask test --kernel 6.12"]
fn so_they_are_with_ipip_of_either_kind(#[case] kind: Kind) {
    answers_through_the_tunnel(kind, Network::ipip(PREFIX, CIDR));
}

#[rstest]
#[case::ours(Kind::Ours)]
#[case::flanneld(Kind::Flanneld)]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn so_they_are_with_wireguard(#[case] kind: Kind) {
    let scene = Scene::new(kind, Network::wireguard(PREFIX, CIDR));
    let said = scene.is_well();
    let well = "1 of 1 peers answer pings through the tunnel";
    assert!(said.is_fine(well), "{said:#?}");
    scene.between("-A FORWARD -p udp --dport 51820 -j DROP");
    let said = ask(&scene.one, &[]);
    let blocked = format!("{}: UDP port 51820 is blocked", scene.peer());
    assert!(
        said.trouble().iter().any(|what| what.contains(&blocked)),
        "{said:#?}"
    );
}

#[track_caller]
fn answers_through_the_tunnel(kind: Kind, net: Network) {
    let said = Scene::new(kind, net).is_well();
    for what in [
        "1 of 1 peers answer pings through the tunnel",
        "as long as the longest tunnel packets, reach 1 of 1 peers whole",
    ] {
        assert!(said.is_fine(what), "{what}: {said:#?}");
    }
}

#[rstest]
fn a_tunnel_that_is_blocked_between_the_nodes_is_told_from_a_peer_that_is_down(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let scene = Scene::new(kind, Network::vxlan(PREFIX, CIDR));
    scene.is_well();
    let (peer, node) = (scene.peer(), scene.two.node().address());

    scene.between("-A FORWARD -p udp --dport 8472 -j DROP");
    let [pod1, pod2] = &scene.pods;
    assert_eq!(pod1.ping(pod2.address()).count(1).send().received, 0);
    let trouble = scene.trouble();
    let blocked = format!(
        "1 of 1 peers do not answer through the tunnel, though their nodes answer pings: {peer}: UDP port 8472 is blocked"
    );
    assert!(trouble.starts_with(&blocked), "{trouble}");

    scene.between(&format!("-A FORWARD -s {node} -j DROP"));
    let trouble = scene.trouble();
    let mute = format!(
        "1 of 1 peers answer no pings, neither through the tunnel nor beside it: {peer}: they are down"
    );
    assert!(trouble.starts_with(&mute), "{trouble}");

    scene.between("-F FORWARD");
    scene.is_connected();
    scene.is_well();

    // No news of its pods: the tunnel is what counts.
    scene.between(&format!("-A FORWARD -p icmp -s {node} -j DROP"));
    let said = scene.is_well();
    assert!(
        said.is_fine("1 of 1 peers answer pings through the tunnel"),
        "{said:#?}"
    );
}

/// The peer's agent is gone, with all that it had brought.
#[test]
fn a_peer_without_an_agent_is_found() {
    let mut scene = Scene::on_one_link(Kind::Ours, Network::vxlan(PREFIX, CIDR));
    scene.is_well();
    scene.two.kill();
    // What is pinned forwards on.
    let said = scene.is_well();
    assert!(
        said.is_fine("1 of 1 peers answer pings through the tunnel"),
        "{said:#?}"
    );
    let two = scene.two.agent().expect("one of ours");
    run(&mut cleanup::command(two));
    let trouble = scene.trouble();
    assert!(
        trouble.contains("or no agent runs there") && trouble.contains(&scene.peer()),
        "{trouble}"
    );
}

/// They have no tunnel's device, or none that is used.
#[rstest]
#[case::host_gw(Network::host_gw(PREFIX, CIDR))]
#[case::direct_routing(Network::vxlan(PREFIX, CIDR).direct_routing())]
fn peers_on_the_same_link_are_asked_without_a_tunnel(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let scene = Scene::on_one_link(kind, net);
    let said = scene.is_well();
    let well = "1 of 1 peers that are reached without a tunnel answer pings";
    assert!(said.is_fine(well), "{said:#?}");
    let peer = scene.peer();
    scene.two.node().exec("iptables -I OUTPUT -p icmp -j DROP");
    let trouble = scene.trouble();
    let mute = format!("1 of 1 peers that are reached without a tunnel answer no pings: {peer}");
    assert!(trouble.starts_with(&mute), "{trouble}");
}
