//! The backend udp: among ours, and beside real flanneld, whose proxy in user space is the control.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::pair::{Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::{tcp, udp};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

fn pair(net: Network, mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    Pair::of_daemons_in(lab, net, mix, &["--ip-masq"])
}

fn network() -> Network {
    Network::udp(PREFIX, CIDR)
}

/// Every kind of packet, up to the MTU, in both directions, each pod seen as itself.
#[track_caller]
fn talk(pair: &Pair<AnyDaemon>) {
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        let to = server.address();
        let mtu = from.subnet_env().mtu;
        assert_eq!(mtu, 1500 - 28);
        // The tunnel is a hop at either end.
        assert_eq!(client.ping(to).whole(mtu).succeeds().ttl, Some(60));
        assert_eq!(
            client.ping(to).count(1).whole(mtu + 1).told().too_big,
            Some(mtu)
        );
        assert_eq!(
            udp::exchange(client, server, to, 8192).ip(),
            client.address()
        );
        let listener = tcp::Server::on(server);
        let seen = listener.exchange(client, SocketAddrV4::new(to, listener.port()), 4 << 20);
        assert_eq!(seen.client.ip(), client.address());
        from.node().ping(to).succeeds();
    }
}

#[rstest]
#[case::the_default(network())]
#[case::another_port(network().port(18_285))]
fn pods_of_both_kinds_talk(
    #[case] net: Network,
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(net, mix);
    talk(&pair);
}
