//! Who copies pods' packets to a collector by another device: the flows themselves leave as they did.

#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use flannel_tests::fast_path::{hooked_if_ours, sent};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::CLUSTER;
use flannel_tests::with_daemon::start;
use flannel_tests::{tcp, udp};
use rstest::rstest;

const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const COLLECTOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// More than a second, after which a flow is no busy one.
const PAUSE: Duration = Duration::from_millis(1_500);

type Copies = fn(port: &str) -> Vec<String>;

fn tee(_: &str) -> Vec<String> {
    vec![format!(
        "iptables -t mangle -A PREROUTING -i cni0 -j TEE --gateway {COLLECTOR}"
    )]
}

fn dup(_: &str) -> Vec<String> {
    vec![
        "nft add table ip copies".to_owned(),
        "nft add chain ip copies in { type filter hook prerouting priority -150 ; }".to_owned(),
        format!("nft add rule ip copies in iifname cni0 dup to {COLLECTOR} device eth1"),
    ]
}

fn mirred(port: &str) -> Vec<String> {
    vec![
        format!("tc qdisc replace dev {port} clsact"),
        format!(
            "tc filter add dev {port} ingress protocol ip prio 5 u32 match u32 0 0 action mirred egress mirror dev eth1"
        ),
    ]
}

#[rstest]
fn a_copied_flow_leaves_as_one(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(true, false)] fast: bool,
    #[values(tee, dup, mirred)] copies: Copies,
) {
    let flags: &[&str] = match kind {
        Kind::Ours if !fast => &["--ip-masq", "--fast-path=off"],
        _ => &["--ip-masq"],
    };
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", CLUSTER));
    let outside = lab.outside();
    let one = start(kind, lab.node("one"), &net, flags);
    let pod = Pod::on(&one, "pod");
    let collector = one.node().pod_namespace("collector");
    one.node().ip_batch(&[
        format!(
            "link add eth1 type veth peer name eth0 netns {}",
            collector.name()
        ),
        format!("addr add {SECOND}/24 dev eth1"),
        "link set eth1 up".to_owned(),
    ]);
    collector.ip_batch(&[
        format!("addr add {COLLECTOR}/24 dev eth0"),
        "link set eth0 up".to_owned(),
    ]);
    pod.ping(outside.address()).succeeds();
    one.node().ping(COLLECTOR).succeeds();
    if kind == Kind::Ours {
        eventually("programs at the other device", SOON, || {
            one.log().contains("uplink_tx to egress of eth1")
        });
        if fast {
            hooked_if_ours(&one);
        }
    }
    let lines = copies(pod.port());
    // Others are frames as the pod sent them, for the bridge.
    let for_the_collector = !lines.iter().any(|line| line.contains("mirred"));
    for line in lines {
        one.exec(&line);
    }
    let before = received(&collector);

    let server = udp::Server::on(&outside);
    let to = outside.at(server.port());
    // The collector takes what is for the server, to see from whom it comes.
    collector.exec(&format!("ip addr add {}/32 dev lo", outside.address()));
    let copied = udp::Server::on_port(&collector, server.port()).into_socket();
    let server = server.into_socket();
    let client: UdpSocket = udp::Server::on(&pod).into_socket();
    let mut buffer = [0; 64];
    let seen: BTreeSet<SocketAddr> = (0..40)
        .map(|n| {
            if n % 20 == 10 {
                // Flows pause, and are the same behind it.
                sleep(PAUSE);
            }
            client.send_to(&[n], to).expect("send");
            let (_, from) = uninterrupted(|| server.recv_from(&mut buffer)).expect("a datagram");
            server.send_to(&[n], from).expect("answer");
            uninterrupted(|| client.recv_from(&mut buffer)).expect("the answer");
            from
        })
        .collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let listener = tcp::Server::on(&outside);
    let seen = listener.exchange(&pod, outside.at(listener.port()), 1 << 20);
    assert_eq!(seen.client.ip(), one.node().address());
    if !for_the_collector {
        // Its port is no fast one (docs/fast-path.md).
        let after = received(&collector);
        assert!(after >= before + 40, "{before} copies, then {after}");
        return;
    }
    if let (Some(agent), true) = (one.agent(), fast) {
        assert!(sent(agent) > 0, "none of it went past the stack");
    }
    // Rules see few packets of what is fast, but the first ones.
    for _ in 0..if fast { 1 } else { 40 } {
        let (_, from) = uninterrupted(|| copied.recv_from(&mut buffer)).expect("a copy");
        let expected = match kind {
            Kind::Ours => SECOND,
            _ => pod.address(),
        };
        assert_eq!(from.ip(), expected);
    }
}

/// Packets that came to the collector.
fn received(collector: &impl Host) -> u64 {
    let devices = collector.exec("cat /proc/net/dev");
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let count = line.and_then(|line| line.split_whitespace().nth(1));
    count
        .and_then(|count| count.parse().ok())
        .expect("a number")
}
