//! A conntrack that is told to forget soon sees few packets of a fast flow: it must not have forgotten it by the next one.

#![cfg(test)]

use std::thread::sleep;
use std::time::Duration;

use flannel_tests::fast_path::to;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::wait::uninterrupted;
use flannel_tests::with_daemon::start;
use rstest::rstest;

/// Seconds. Longer than a machine stands still, and as long as a proof is not renewed.
const SOON_FORGOTTEN: u32 = 5;

const STEP: Duration = Duration::from_millis(200);

/// For longer than a proof lasts.
const DATAGRAMS: u32 = 100;

/// Of what comes to the pod, rules let through only answers, as policies do.
#[rstest]
fn a_stream_of_answers_goes_on(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values("udp_timeout", "udp_timeout_stream")] lowered: &str,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        let key = format!("net.netfilter.nf_conntrack_{lowered}");
        node.sysctl(&key, SOON_FORGOTTEN);
        start(kind, node, &net, &[])
    });
    let pair = Pair::of(lab, net, one, two);
    let pod = pair.pod1.address();
    for rule in [
        format!("-d {pod} -p udp -j DROP"),
        format!("-d {pod} -p udp -m conntrack --ctstate ESTABLISHED -j ACCEPT"),
    ] {
        pair.one.exec(&format!("iptables-nft -I FORWARD {rule}"));
    }
    let server = udp::Server::on(&pair.pod2);
    let address = to(&pair.pod2, server.port());
    let (server, client) = (
        server.into_socket(),
        udp::Server::on(&pair.pod1).into_socket(),
    );
    client.send_to(b"?", address).unwrap();
    let (_, asker) = uninterrupted(|| server.recv_from(&mut [0; 4])).unwrap();
    for number in 0..DATAGRAMS {
        server.send_to(&number.to_be_bytes(), asker).unwrap();
        let mut answer = [0; 4];
        let came = uninterrupted(|| client.recv(&mut answer));
        came.unwrap_or_else(|e| panic!("number {number}: {e}"));
        assert_eq!(u32::from_be_bytes(answer), number);
        sleep(STEP);
    }
    let Some(agent) = pair.one.agent() else {
        return;
    };
    let said = format!("so no flow is fast: net.netfilter.nf_conntrack_{lowered} is 5");
    assert!(agent.log().contains(&said), "{}", agent.log());
}
