//! The socket on the VXLAN port: what the program leaves to the stack arrives all the same.

use std::net::UdpSocket;
use std::ops::Range;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flannel_agent::base::mac::MacAddr;
use flannel_agent::base::options::SourceCheck;
use flannel_agent::dataplane::rescue::{Options, Rescue, RescueError, Stats};
use flannel_agent::dataplane::senders::Odd;
use flannel_agent::dataplane::view::View;
use flannel_agent::flannel::backend::Wire;
use flannel_agent::flannel::lease::LeaseAttrs;
use flannel_agent::node::net::Netlink;
use flannel_common::reason::Reason;
use flannel_tests::forger::datagram;
use flannel_tests::netns::{Netns, output};
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;
use tokio_util::sync::CancellationToken;

use crate::rig::{Agent, NETWORK, PEER_MAC, Rig, meanwhile};

fn options(rig: &Rig) -> Options {
    Options {
        port: 8472,
        wire: Wire::Vxlan { vni: 1 },
        source_check: SourceCheck::Lease,
        bpffs: rig.bpffs(),
        network: NETWORK.to_owned(),
    }
}

/// Brings the node up with its socket.
async fn start(agent: &mut Agent<'_>) -> Arc<Stats> {
    agent.converge().await;
    let net = agent.dataplane.netlink().clone();
    let rescue = Rescue::open(net, &options(agent.rig)).await.unwrap();
    let stats = rescue.stats();
    tokio::spawn(async move { rescue.run(&CancellationToken::new()).await });
    stats
}

async fn ping(from: &Arc<Netns>, arguments: &str) -> Output {
    let from = Arc::clone(from);
    let arguments = arguments.to_owned();
    meanwhile(move || {
        let mut command = from.command("ping");
        output(command.args(arguments.split_whitespace()))
    })
    .await
}

/// A peer whose way to us carries only short packets: it fragments what it encapsulates. Its kernel would
/// learn to send shorter inner packets; the lock keeps it from that.
fn fragmenting_peer(rig: &Rig, overlay_mtu: u32) -> Arc<Netns> {
    let peer = rig.kernel_peer();
    peer.run("ip route add 192.168.0.1/32 dev far0 mtu 600");
    peer.run(&format!("ip link set flannel.1 mtu {overlay_mtu}"));
    peer.run(&format!(
        "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink mtu lock {overlay_mtu}"
    ));
    peer.into()
}

#[test]
fn outer_fragments_arrive() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 1450);
    rig.agent(async |agent| {
        let stats = start(agent).await;
        let out = ping(
            &peer,
            "-c 3 -l 3 -i 15 -W 15 -s 1400 -I 10.244.2.0 10.244.1.0",
        )
        .await;
        assert!(out.status.success(), "{out:?}");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("3 received"), "{said}");
        assert_eq!(stats.delivered(), 3, "{stats:?}");
    });
}

#[test]
fn fragments_longer_than_our_mtu_are_fragmented_inside() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 9000);
    rig.agent(async |agent| {
        let stats = start(agent).await;
        let out = ping(
            &peer,
            "-c 2 -l 2 -i 15 -W 15 -M dont -s 8000 -I 10.244.2.0 10.244.1.0",
        )
        .await;
        assert!(out.status.success(), "{out:?}");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("2 received"), "{said}");
        assert_eq!(stats.delivered(), 2, "{stats:?}");
    });
}

#[test]
fn who_must_not_be_fragmented_is_told_how_long_he_may_be() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 9000);
    rig.agent(async |agent| {
        start(agent).await;
        let out = ping(&peer, "-c 1 -W 5 -M do -s 8000 -I 10.244.2.0 10.244.1.0").await;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("mtu = 1450"), "{said}");
    });
}

#[rstest]
#[case::another_peer_s("10.244.3.7")]
#[case::our_own("10.244.1.7")]
fn the_source_check_holds_here_too(#[case] forged: &str) {
    let mut rig = Rig::new();
    let mac = MacAddr([2, 0, 0, 0, 0, 3]);
    let other = LeaseAttrs::vxlan([192, 168, 0, 3].into(), 1, mac);
    rig.leases.insert("10.244.3.0/24".parse().unwrap(), other);
    let peer = fragmenting_peer(&rig, 1450);
    peer.run(&format!("ip addr add {forged}/32 dev lo"));
    rig.agent(async |agent| {
        let stats = start(agent).await;
        let out = ping(&peer, &format!("-c 1 -W 1 -s 1400 -I {forged} 10.244.1.0")).await;
        assert!(!out.status.success(), "{out:?}");
        assert_eq!(stats.delivered(), 0);
        assert_eq!(stats.dropped(Reason::SpoofedSource), 1, "{stats:?}");
    });
}

/// Peers send to the address that the lease names; the node's others are for pods who make tunnel packets themselves.
#[test]
fn what_comes_to_another_address_of_the_node_is_refused() {
    let rig = Rig::new();
    rig.netns.run("ip addr add 192.168.0.77/24 dev eth0");
    let peer = fragmenting_peer(&rig, 1450);
    let socket = peer.enter(|| UdpSocket::bind("192.168.0.2:0")).unwrap();
    let inner = datagram(
        [PEER_MAC.0, [2, 0, 0, 0, 0, 1]],
        "10.244.2.9:1000".parse().unwrap(),
        "10.244.1.9:2000".parse().unwrap(),
    );
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
    rig.agent(async |agent| {
        let stats = start(agent).await;
        socket.send_to(&payload, "192.168.0.77:8472").unwrap();
        meanwhile(move || {
            eventually("it is refused", SOON, || {
                stats.dropped(Reason::PodTunnel) == 1
            });
            assert_eq!(stats.delivered(), 0, "{stats:?}");
        })
        .await;
    });
}

/// A peer with a shorter subnet says nothing about the length of ours.
#[test]
fn our_own_subnet_is_known_among_subnets_of_other_lengths() {
    let mut rig = Rig::new();
    let mac = MacAddr([2, 0, 0, 0, 0, 3]);
    let other = LeaseAttrs::vxlan([192, 168, 0, 3].into(), 1, mac);
    rig.leases.insert("10.244.0.0/28".parse().unwrap(), other);
    let peer = fragmenting_peer(&rig, 1450);
    peer.run("ip addr add 10.244.1.77/32 dev lo");
    rig.agent(async |agent| {
        let stats = start(agent).await;
        ping(&peer, "-c 1 -W 1 -s 1400 -I 10.244.1.77 10.244.1.0").await;
        assert_eq!(stats.delivered(), 0, "{stats:?}");
        assert_eq!(stats.dropped(Reason::SpoofedSource), 1, "{stats:?}");
    });
}

/// A node with several addresses, known by its VTEP MAC.
#[test]
fn fragments_of_a_peer_that_sends_from_another_address_than_its_lease_says() {
    let mut rig = Rig::new();
    let lease = LeaseAttrs::vxlan([192, 168, 0, 22].into(), 1, PEER_MAC);
    rig.leases.insert("10.244.2.0/24".parse().unwrap(), lease);
    let peer = fragmenting_peer(&rig, 1450);
    rig.agent(async |agent| {
        let stats = start(agent).await;
        ping(&peer, "-c 1 -W 1 -s 1400 -I 10.244.2.0 10.244.1.0").await;
        assert_eq!(stats.delivered(), 1, "{stats:?}");
        let bpffs = agent.rig.bpffs();
        let view = View::open(&bpffs, None).unwrap();
        let [odd] = &Odd::read(&view).unwrap()[..] else {
            panic!("{:?}", Odd::read(&view));
        };
        assert_eq!(odd.from.octets(), [192, 168, 0, 2]);
        let lease = odd.lease.map(|(_, public_ip)| public_ip.octets());
        assert_eq!((lease, odd.dropped), (Some([192, 168, 0, 22]), None));
    });
}

/// A client of the Network whose packets a node passes on: flannel's own example is a Network of 10.0.0.0/8.
#[test]
fn a_source_that_nobody_leases_may_come_from_any_peer() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 1450);
    peer.run("ip addr add 10.244.250.5/32 dev lo");
    rig.agent(async |agent| {
        let stats = start(agent).await;
        ping(&peer, "-c 1 -W 1 -s 1400 -I 10.244.250.5 10.244.1.0").await;
        assert_eq!(stats.delivered(), 1, "{stats:?}");
    });
}

#[test]
fn a_network_that_is_not_on_this_node_is_dropped_and_counted() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 1450);
    peer.run("ip link del flannel.1");
    for line in [
        "ip link add flannel.9 address 02:00:00:00:00:02 type vxlan id 9 local 192.168.0.2 \
         dstport 8472 nolearning",
        "ip link set flannel.9 up",
        "ip addr add 10.9.0.1/24 dev flannel.9",
        "ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:01 nud permanent dev flannel.9",
        "bridge fdb replace 02:00:00:00:00:01 dev flannel.9 dst 192.168.0.1 self permanent",
    ] {
        peer.run(line);
    }
    rig.agent(async |agent| {
        let stats = start(agent).await;
        ping(&peer, "-c 1 -W 1 -s 1400 10.9.0.2").await;
        assert_eq!(stats.dropped(Reason::OtherVni), 1, "{stats:?}");
    });
}

/// So many within a second shut the agent's socket to what is like them.
const UNTIL_SHUT: u32 = 100;

/// Has `flood` send [`UNTIL_SHUT`] packets that are refused for `reason`, until it is known that they came within one
/// second of the agent's. Returns how many it has counted: each, and from now on no more.
async fn until_shut(stats: &Arc<Stats>, reason: Reason, flood: impl AsyncFn()) -> u64 {
    let mut sent = 0;
    loop {
        // The agent's second is over, so the next one begins with the first packet.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = Instant::now();
        flood().await;
        sent += u64::from(UNTIL_SHUT);
        let stats = Arc::clone(stats);
        let counted = move || stats.dropped(reason) == sent;
        meanwhile(move || eventually("all are counted", SOON, counted)).await;
        if begin.elapsed() < Duration::from_secs(1) {
            return sent;
        }
        // The machine stood still, or something like that. Whether it is shut is unknown: after ten seconds it is not.
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
}

/// Somebody sends VNIs at random. The agent asks the kernel once what networks there are, and soon hears of no more of it.
#[test]
fn a_flood_of_other_networks_is_kept_from_the_agent() {
    let rig = Rig::new();
    let peer = fragmenting_peer(&rig, 1450);
    let socket = peer.enter(|| UdpSocket::bind("192.168.0.2:0")).unwrap();
    let socket = Arc::new(socket);
    let inner = datagram(
        [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
        "10.244.2.9:1000".parse().unwrap(),
        "10.244.1.9:2000".parse().unwrap(),
    );
    let flood = async |vnis: Range<u32>| {
        let (socket, inner) = (Arc::clone(&socket), inner.clone());
        meanwhile(move || {
            for vni in vnis {
                let header = [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
                let payload = [header, inner.clone()].concat();
                socket.send_to(&payload, "192.168.0.1:8472").unwrap();
            }
        })
        .await;
    };
    rig.agent(async |agent| {
        let stats = start(agent).await;
        let refused = until_shut(&stats, Reason::OtherVni, async || {
            flood(5000..5000 + UNTIL_SHUT).await;
        })
        .await;
        flood(10_000..15_000).await;
        // What is of this network is delivered all the while, and came behind all that.
        let out = ping(
            &peer,
            "-c 3 -l 3 -i 15 -W 15 -s 1400 -I 10.244.2.0 10.244.1.0",
        )
        .await;
        assert!(out.status.success(), "{out:?}");
        assert_eq!(stats.delivered(), 3, "{stats:?}");
        assert_eq!(stats.dropped(Reason::OtherVni), refused, "{stats:?}");
    });
}

/// The same of packets that name our network and are refused: peers go on being heard, also such as never were.
#[rstest]
fn a_flood_of_refused_packets_is_kept_from_the_agent(#[values(true, false)] was_heard: bool) {
    let rig = Rig::new();
    rig.netns.run("ip addr add 192.168.0.77/24 dev eth0");
    let peer = fragmenting_peer(&rig, 1450);
    peer.run("ip addr add 192.168.0.3/24 dev far0");
    let socket = peer.enter(|| UdpSocket::bind("192.168.0.3:0")).unwrap();
    let inner = datagram(
        [PEER_MAC.0, [2, 0, 0, 0, 0, 1]],
        "10.244.2.9:1000".parse().unwrap(),
        "10.244.1.9:2000".parse().unwrap(),
    );
    let payload = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
    rig.agent(async |agent| {
        let stats = start(agent).await;
        if was_heard {
            let out = ping(&peer, "-c 1 -W 5 -s 1400 -I 10.244.2.0 10.244.1.0").await;
            assert!(out.status.success(), "{out:?}");
        }
        let flood = |packets: u32| {
            for _ in 0..packets {
                socket.send_to(&payload, "192.168.0.77:8472").unwrap();
            }
        };
        let refused = until_shut(&stats, Reason::PodTunnel, async || flood(UNTIL_SHUT)).await;
        flood(5_000);
        let out = ping(
            &peer,
            "-c 3 -l 3 -i 15 -W 15 -s 1400 -I 10.244.2.0 10.244.1.0",
        )
        .await;
        assert!(out.status.success(), "{out:?}");
        assert_eq!(stats.delivered(), 3 + u64::from(was_heard), "{stats:?}");
        assert_eq!(stats.dropped(Reason::PodTunnel), refused, "{stats:?}");
    });
}

#[test]
fn two_agents_share_the_port() {
    let rig = Rig::new();
    rig.agent(async |agent| {
        let open = async || {
            let net = agent.dataplane.netlink().clone();
            Rescue::open(net, &options(agent.rig)).await
        };
        let _first = open().await.unwrap();
        let _second = open().await.unwrap();
    });
}

async fn busy(rig: &Rig) -> String {
    let net = Netlink::open().unwrap();
    match Rescue::open(net, &options(rig)).await {
        Err(error @ RescueError::Busy { port: 8472, .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_vxlan_device_on_the_port_is_named() {
    let rig = Rig::new();
    rig.netns
        .run("ip link add flannel.7 type vxlan id 7 dstport 8472 local 192.168.0.1");
    rig.netns.run("ip link set flannel.7 up");
    rig.netns.block_on(async || {
        let error = busy(&rig).await;
        assert!(
            error.contains("UDP port 8472") && error.contains("flannel.7"),
            "{error}"
        );
    });
}

#[test]
fn a_process_on_the_port_is_named() {
    let rig = Rig::new();
    rig.netns.block_on(async || {
        let _socket = std::net::UdpSocket::bind("0.0.0.0:8472").unwrap();
        let error = busy(&rig).await;
        let pid = format!("(pid {})", std::process::id());
        assert!(error.contains(&pid), "{error}");
    });
}
