//! Two nodes, one overlay: everything that crosses it, both ways: two of ours, two with real flanneld, one of each.

use std::net::SocketAddrV4;

use flannel_tests::lab::Options;
use flannel_tests::pair::{Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::{tcp, traceroute, udp};
use rstest::rstest;

/// Case F1 of flannel's functional tests.
#[rstest]
fn subnet_env_is_written_and_subnet_addresses_ping_each_other(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way { from, to, .. } in pair.both_ways() {
        let text = std::fs::read_to_string(from.subnet_file()).expect("subnet.env");
        let gateway = from.subnet().address(1);
        assert!(
            text.starts_with(&format!(
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={gateway}/24\nFLANNEL_MTU=1450\n"
            )),
            "{text}"
        );
        from.node()
            .ping(to.subnet().address(1))
            .bound_to(&gateway)
            .succeeds();
    }
}

#[rstest]
fn pods_ping_each_other_over_two_hops(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way { client, server, .. } in pair.both_ways() {
        let report = client.ping(server.address()).count(5).succeeds();
        assert_eq!(report.ttl, Some(62), "{}", report.text);
    }
}

#[rstest]
fn a_host_reaches_pods_of_another_node_from_its_vtep(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way { from, server, .. } in pair.both_ways() {
        let host = from.node();
        host.ping(server.address()).succeeds();
        let seen = udp::exchange(host, server, server.address(), 100);
        assert_eq!(seen.ip(), from.vtep());
        let listener = tcp::Server::on(server);
        let to = SocketAddrV4::new(server.address(), listener.port());
        assert_eq!(
            listener.exchange(host, to, 1 << 20).client.ip(),
            from.vtep()
        );
    }
}

#[rstest]
fn a_packet_of_1450_bytes_passes_and_a_longer_one_is_too_big(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        client.ping(server.address()).whole(1450).succeeds();
        let report = client.ping(server.address()).whole(1451).send();
        assert_eq!(
            (report.received, report.too_big),
            (0, Some(1450)),
            "{}",
            report.text
        );
        // A pod that does not know the overlay's MTU is told by its node.
        client.exec("ip link set eth0 mtu 1500");
        from.node()
            .exec(&format!("ip link set {} mtu 1500", client.port()));
        from.node().exec("ip link set cni0 mtu 1500");
        let report = client.ping(server.address()).whole(1451).count(1).told();
        assert_eq!(
            (report.received, report.too_big),
            (0, Some(1450)),
            "{}",
            report.text
        );
    }
}

#[rstest]
fn a_datagram_of_8_kb_arrives_in_fragments(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way { client, server, .. } in pair.both_ways() {
        let seen = udp::exchange(client, server, server.address(), 8192);
        assert_eq!(seen.ip(), client.address());
    }
}

#[rstest]
fn tcp_delivers_every_byte(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
) {
    let options = Options {
        wire,
        ..Options::default()
    };
    let pair = Pair::with(mix, options);
    for way in pair.both_ways() {
        let Way {
            from,
            client,
            server,
            ..
        } = way;
        let sent_by = from.node().address();
        let above_mtu = Capture::start(
            from.node(),
            Node::UPLINK,
            &format!("udp port 8472 and src host {sent_by} and greater 1515"),
        );
        let listener = tcp::Server::on(server);
        let to = SocketAddrV4::new(server.address(), listener.port());
        let transfer = listener.exchange(client, to, 8 << 20);
        assert_eq!(transfer.client.ip(), client.address());
        // Encapsulation keeps GSO packets whole where the wire takes them, and only there.
        match wire {
            Wire::Whole => drop(above_mtu.packets(1)),
            Wire::Segmented => above_mtu.saw_nothing(),
        }
    }
}

#[rstest]
fn traceroute_shows_both_nodes(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    for Way {
        from,
        to,
        client,
        server,
    } in pair.both_ways()
    {
        assert_eq!(
            traceroute::hops(client, server.address()),
            [
                Some(from.subnet().address(1)),
                Some(to.vtep()),
                Some(server.address())
            ]
        );
    }
}
