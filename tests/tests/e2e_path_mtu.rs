//! A link between the nodes that carries less than their uplinks say: outer packets arrive in fragments.

#![cfg(test)]

use flannel_tests::agent::command;
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::tcp;
use flannel_tests::with_daemon::{AnyDaemon, start};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// What the router's links carry.
const NARROW: u32 = 1400;

/// Two nodes with a pod each, and a router between them. It forwards by routes whose MTU is locked, as a link of that MTU would make it.
struct Narrow {
    one: AnyDaemon,
    two: AnyDaemon,
    pod1: Pod,
    pod2: Pod,
    lab: Lab,
}

impl Narrow {
    fn new(kind: Kind) -> Self {
        Self::of(kind, Network::vxlan(PREFIX, CIDR))
    }

    fn of(kind: Kind, net: Network) -> Self {
        let lab = Lab::new();
        let net = lab.network(net);
        let (one, two) = (lab.node("one"), lab.node_behind_router("two"));
        for node in [&one, &two] {
            lab.router().exec(&format!(
                "ip route add {} dev {} mtu lock {NARROW}",
                node.address(),
                device_to(&lab, node)
            ));
        }
        let one = start(kind, one, &net, &[]);
        let two = start(kind, two, &net, &[]);
        one.follow_leases();
        two.follow_leases();
        let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
        pod1.reaches(&pod2);
        pod2.reaches(&pod1);
        Self {
            one,
            two,
            pod1,
            pod2,
            lab,
        }
    }
}

/// By which the router reaches a node.
fn device_to(lab: &Lab, node: &Node) -> String {
    let route = lab
        .router()
        .exec(&format!("ip route get {}", node.address()));
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).expect("a device").to_owned()
}

/// In fragments; or, where tunnel packets may not be fragmented (ipip), in shorter ones, once their senders were told.
#[rstest]
#[case::ours(Kind::Ours, Network::vxlan(PREFIX, CIDR))]
#[case::flanneld(Kind::Flanneld, Network::vxlan(PREFIX, CIDR))]
#[case::udp(Kind::Ours, Network::udp(PREFIX, CIDR))]
#[case::ipip(Kind::Ours, Network::ipip(PREFIX, CIDR))]
fn large_packets_arrive(#[case] kind: Kind, #[case] net: Network) {
    let narrow = Narrow::of(kind, net);
    for (client, server) in [(&narrow.pod1, &narrow.pod2), (&narrow.pod2, &narrow.pod1)] {
        client.ping(server.address()).whole(1450).send();
        let listener = tcp::Server::on(server);
        let to = std::net::SocketAddrV4::new(server.address(), listener.port());
        listener.exchange(client, to, 1 << 20);
    }
    drop(narrow.lab);
}

#[test]
fn fragments_are_said_and_doctor_knows_what_the_way_carries() {
    let narrow = Narrow::new(Kind::Ours);
    narrow
        .pod1
        .ping(narrow.pod2.address())
        .whole(1450)
        .succeeds();
    let (one, two) = (narrow.one.agent().unwrap(), narrow.two.agent().unwrap());
    let said = format!(
        "tunnel packets from {} arrive in fragments",
        one.node().address()
    );
    eventually("it is logged", SOON, || two.log().contains(&said));
    // 1376 bytes of payload, a multiple of eight, behind the header.
    assert!(
        two.log().contains("fragments of 1396 bytes"),
        "{}",
        two.log()
    );
    assert_eq!(two.log().matches(&said).count(), 1);

    let node = one.node();
    let output = output(&mut command(
        node,
        &[
            "doctor",
            &format!("--etcd-endpoints={}", node.etcd()),
            "--iface=eth0",
            &format!("--bpffs={}", node.bpffs().display()),
            &format!("--state-dir={}", node.state_dir().display()),
            &format!("--subnet-file={}", one.subnet_file().display()),
        ],
    ));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let way = format!("the way to {} carries {NARROW} bytes", two.node().address());
    assert!(
        text.contains(&way) && text.contains("\"MTU\":1400"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
}
