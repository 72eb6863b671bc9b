//! Ports: as many flows as there are, none that shares, and nobody else's.

#![cfg(test)]

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddrV4;
use std::sync::{Mutex, PoisonError};

use flannel_common::reason::Reason;
use flannel_tests::crowd::Crowd;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::stage::{Stage, counted};
use rstest::rstest;

const PORT: u16 = 7000;

#[rstest]
fn ten_thousand_connections_at_once_to_one_port_share_none(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    // A crowd takes half of the files that a process may have open.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let stage = Stage::on(kind);
    let [one, two, three] = ["pod1", "pod2", "pod3"].map(|name| stage.another_pod(name));
    let clients = [&stage.pod, &one, &two, &three];
    let reflect = env!("CARGO_BIN_EXE_reflect");
    let server = (&stage.outside, reflect, stage.lab.folder());
    let crowd = Crowd::gather(server, stage.outside.at(PORT), &clients, 2_500);
    let seen = crowd.seen();
    assert_eq!(seen.len(), 10_000);
    let ports: BTreeSet<u16> = seen.iter().map(SocketAddrV4::port).collect();
    assert_eq!(ports.len(), 10_000, "two connections share a port");
    assert!(seen.iter().all(|seen| *seen.ip() == stage.address()));
    crowd.all_still_talk();
    if let Some(agent) = stage.node.agent() {
        assert!(ports.iter().all(|port| *port >= 49_152));
        assert_eq!(counted(agent, Reason::SnatExhausted), 0);
        assert_eq!(counted(agent, Reason::SnatFull), 0);
    }
}

/// Sixteen ports: all are used, the seventeenth flow is refused, and the first ones do not notice.
#[test]
fn with_no_port_left_new_flows_fail_counted_and_old_ones_live() {
    let stage = Stage::with(&["--snat-ports=50000-50015"]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut flows: Vec<Client> = (0..16).map(|_| Client::udp(&stage.pod, 0, to)).collect();
    let ports: BTreeSet<u16> = (0..)
        .zip(&mut flows)
        .map(|(n, flow)| flow.ask(n).port())
        .collect();
    assert_eq!(ports, (50_000..50_016).collect());

    let mut refused = Client::udp(&stage.pod, 0, to);
    let before = stage.counted(Reason::SnatExhausted);
    assert!(refused.try_ask(99).is_err());
    assert_eq!(stage.counted(Reason::SnatExhausted), before + 1);
    // Another protocol, and another port of the server, have ports of their own.
    assert!(Client::tcp(&stage.pod, to).unwrap().ask(98).port() >= 50_000);
    for (n, flow) in (100..).zip(&mut flows) {
        flow.ask(n);
    }

    // One falls silent for longer than answered UDP lives: its port is the next one's.
    let silent = flows.swap_remove(3);
    SnatTable::of(&stage.node).age(121, |_, port| port == silent.port());
    eventually("its port is free", SOON, || {
        let seen = refused.try_ask(200);
        seen.is_ok_and(|seen| ports.contains(&seen.port()))
    });
    for (n, flow) in (300..).zip(&mut flows) {
        flow.ask(n);
    }
}

/// What the node sends, and what the kernel's NAT sends for others, comes from the same address and often the same ports.
#[test]
fn pods_the_node_and_the_kernels_nat_never_get_each_others_answers() {
    let stage = Stage::with(&["--snat-ports=49152-49215"]);
    let node = stage.node.node();
    // A container network that has nothing to do with ours.
    let container = node.pod_namespace("container");
    node.ip_batch(&[
        format!(
            "link add docker0 type veth peer name eth0 netns {}",
            container.name()
        ),
        "addr add 192.168.77.1/24 dev docker0".to_owned(),
        "link set docker0 up".to_owned(),
    ]);
    container.ip_batch(&[
        "addr add 192.168.77.2/24 dev eth0".to_owned(),
        "link set eth0 up".to_owned(),
        "route add default via 192.168.77.1".to_owned(),
    ]);
    for proto in ["tcp", "udp"] {
        node.exec(&format!(
            "iptables-nft -t nat -A POSTROUTING -s 192.168.77.0/24 -p {proto} -j MASQUERADE --to-ports 49152-49215"
        ));
    }
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut clients = Vec::new();
    for port in 49_152..49_172 {
        // In each round somebody else is the first to have the port.
        let mut round = [
            Client::udp(&stage.pod, port, to),
            Client::udp(node, port, to),
            Client::udp(&container, port, to),
        ];
        round.rotate_left(usize::from(port) % 3);
        for client in &mut round {
            client.ask(u64::from(port));
        }
        clients.extend(round);
        clients.push(Client::tcp(&stage.pod, to).unwrap());
        clients.push(Client::tcp(node, to).unwrap());
        clients.push(Client::tcp(&container, to).unwrap());
    }
    let mut owners: HashMap<(bool, SocketAddrV4), usize> = HashMap::new();
    for round in 0..3_u64 {
        for (n, client) in clients.iter_mut().enumerate() {
            let seen = client.ask(round << 32 | n as u64);
            assert_eq!(*seen.ip(), stage.address());
            let tcp = matches!(client, Client::Tcp(_));
            let owner = *owners.entry((tcp, seen)).or_insert(n);
            assert_eq!(owner, n, "two are {seen}");
        }
    }
    assert_eq!(owners.len(), clients.len(), "nobody changed its port");
}

/// A process of the node that listens inside the range is reached as ever.
#[test]
fn who_listens_in_the_range_is_reached() {
    let stage = Stage::with(&["--snat-ports=49152-49215"]);
    let mirror = Mirror::on(stage.node.node(), 49_160);
    let to = SocketAddrV4::new(stage.address(), mirror.port());
    let server = Mirror::on(&stage.outside, PORT);
    // A pod has the same port towards the same host.
    let mut pod = Client::udp(&stage.pod, 49_160, stage.outside.at(server.port()));
    pod.ask(1);
    for number in 2..20 {
        assert_eq!(
            *Client::tcp(&stage.outside, to).unwrap().ask(number).ip(),
            stage.outside.address()
        );
        assert_eq!(
            *Client::udp(&stage.outside, 0, to).ask(number).ip(),
            stage.outside.address()
        );
        pod.ask(number);
    }
}

/// What a server sends to a listener of the node never goes to a pod: none leaves under such a port, whatever it asks for.
#[test]
fn no_pod_leaves_under_a_port_on_which_the_node_listens() {
    let stage = Stage::with(&["--snat-ports=50000-50003"]);
    let listener = Mirror::on(stage.node.node(), 50_000);
    for server in 0..12 {
        let mirror = Mirror::on(&stage.outside, PORT + server);
        let to = stage.outside.at(mirror.port());
        let mut udp = Client::udp(&stage.pod, listener.port(), to);
        let mut tcp = Client::tcp(&stage.pod, to).unwrap();
        for seen in [udp.ask(1), tcp.ask(2)] {
            assert_ne!(seen.port(), listener.port());
        }
    }
}

/// A pod does not choose the port that it leaves under.
#[rstest]
fn a_pod_gets_ports_at_random(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let kept = (0..8).filter(|nth| {
        let mirror = Mirror::on(&stage.outside, PORT + nth);
        let mut pod = Client::udp(&stage.pod, 51_820, stage.outside.at(mirror.port()));
        pod.ask(u64::from(*nth)).port() == 51_820
    });
    let kept = kept.count();
    assert!(kept <= 2, "{kept} of 8");
}
