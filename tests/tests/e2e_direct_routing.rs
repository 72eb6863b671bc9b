//! DirectRouting of the vxlan backend: no tunnel to neighbours, decided anew when routes change.

use flannel_tests::pair::{Kind, join};
use flannel_tests::prelude::*;
use rstest::rstest;

fn lab() -> (Lab, Network) {
    let lab = Lab::new();
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16").direct_routing();
    let net = lab.network(net);
    (lab, net)
}

/// Which way packets to `pod` take from `node`: the kernel's word for it.
fn way(node: &impl Host, pod: &Pod) -> String {
    let answer = node.try_exec(&format!("ip route get {}", pod.address()));
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

/// Without a tunnel to a neighbour. (A default route leads out of the same device, by another gateway.)
fn goes_to(node: &impl Host, pod: &Pod, neighbour: &Node) {
    goes_by(node, pod, &format!("via {} dev eth0", neighbour.address()));
}

fn goes_by(node: &impl Host, pod: &Pod, words: &str) {
    eventually(format!("{} goes {words}", pod.address()), SOON, || {
        way(node, pod).contains(words)
    });
}

#[rstest]
fn neighbours_without_tunnel_and_others_with_one(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = join(kind, lab.node("one"), &net);
    let two = join(kind, lab.node("two"), &net);
    let far = join(kind, lab.node_behind_router("far"), &net);
    let pods = [&one, &two, &far].map(|member| Pod::on(member, "pod"));
    let tunnel = Capture::start(one.node(), Node::UPLINK, "udp port 8472");
    let [pod1, pod2, pod3] = &pods;
    goes_to(one.node(), pod2, two.node());
    goes_to(two.node(), pod1, one.node());
    pod1.reaches(pod2);
    pod2.reaches(pod1);
    assert_eq!(tunnel.finish().len(), 0, "neighbours use the tunnel");

    goes_by(one.node(), pod3, "dev flannel.1");
    let tunnel = Capture::start(one.node(), Node::UPLINK, "udp port 8472");
    pod1.reaches(pod3);
    pod3.reaches(pod1);
    // Nobody gets through the router without the tunnel.
    tunnel.packets(1);
    // Both kinds of peers hold pods of one MTU.
    assert_eq!(one.subnet_env().mtu, 1450);
    pod1.ping(pod2.address()).whole(1450).succeeds();
    pod1.ping(pod3.address()).whole(1450).succeeds();
}

#[test]
fn a_route_event_decides_anew() {
    let (lab, net) = lab();
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let (pod1, pod2) = (Pod::on(&one, "pod"), Pod::on(&two, "pod"));
    let neighbour = two.node().address();
    goes_to(&one, &pod2, two.node());
    goes_to(&two, &pod1, one.node());
    pod1.reaches(&pod2);

    let _router = lab.router();
    one.exec(&format!("ip route add {neighbour}/32 via 172.30.0.254"));
    goes_by(&one, &pod2, "dev flannel.1");
    pod1.reaches(&pod2);

    one.exec(&format!("ip route del {neighbour}/32"));
    goes_to(&one, &pod2, two.node());
    pod1.reaches(&pod2);
}

#[test]
fn lost_direct_routes_come_back() {
    let (lab, net) = lab();
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let (pod1, pod2) = (Pod::on(&one, "pod"), Pod::on(&two, "pod"));
    goes_to(&one, &pod2, two.node());
    one.exec(&format!("ip route del {}", two.subnet()));
    goes_to(&one, &pod2, two.node());
    one.exec("ip link set eth0 down");
    one.exec("ip link set eth0 up");
    goes_to(&one, &pod2, two.node());
    pod1.reaches(&pod2);
}
