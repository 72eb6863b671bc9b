//! One pod opens flows to the outside as fast as it can, or an outsider forges connections to pods: connections that last
//! stay, new ones are made, and the node's own go on. The table of ours is small, so that the flood fills it many times.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::PacketBuilder;
use flannel_common::Mac;
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::forger::{Forger, datagram, mac};
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::pod::{BRIDGE, Pod};
use flannel_tests::prelude::*;
use flannel_tests::stage::{Stage, counted};
use flannel_tests::talk::Tcp;
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{tcp, udp};
use rstest::rstest;

/// Entries of our table.
const ENTRIES: &str = "--snat-entries=8192";
/// Flows of a flood.
const FLOOD: u16 = 16_384;

/// What comes from a pod, or from outside to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    Datagrams,
    Connections,
    Pings,
}

impl Flood {
    fn frame(self, macs: [Mac; 2], from: Ipv4Addr, to: Ipv4Addr, n: u16) -> Vec<u8> {
        let builder =
            PacketBuilder::ethernet2(macs[0], macs[1]).ipv4(from.octets(), to.octets(), 64);
        let mut frame = Vec::new();
        match self {
            Self::Datagrams => {
                let (from, to) = (
                    SocketAddrV4::new(from, 2_000),
                    SocketAddrV4::new(to, 20_000 + n),
                );
                return datagram(macs, from, to);
            }
            Self::Connections => {
                let builder = builder.tcp(10_000 + n, 9_000 + n % 4, 1_000, 500).syn();
                builder.write(&mut frame, &[]).expect("a SYN");
            }
            Self::Pings => {
                let builder = builder.icmpv4_echo_request(n, 1);
                builder.write(&mut frame, &[7; 8]).expect("a ping");
            }
        }
        frame
    }

    /// From a pod to the server outside, whole or in parts.
    fn by(self, pod: &Pod, stage: &Stage<AnyDaemon>) -> Forger {
        let macs = [mac(pod), bridge_mac(stage)];
        let (from, to) = (pod.address(), stage.outside.address());
        let frames = (0..FLOOD).map(|n| self.frame(macs, from, to, n));
        Forger::start(pod, frames.collect())
    }
}

fn bridge_mac(stage: &Stage<AnyDaemon>) -> Mac {
    let shown = stage
        .node
        .node()
        .exec(&format!("ip -o link show dev {BRIDGE}"));
    mac_behind(&shown, "link/ether")
}

/// Of the gateway of those outside.
fn router_mac(stage: &Stage<AnyDaemon>) -> Mac {
    let gateway = stage.outside.gateway();
    stage.outside.exec(&format!("ping -q -c 1 {gateway}"));
    mac_behind(
        &stage.outside.exec(&format!("ip neigh show {gateway}")),
        "lladdr",
    )
}

fn mac_behind(shown: &str, word: &str) -> Mac {
    let mut words = shown.split_whitespace().skip_while(|w| *w != word);
    let text = words.nth(1).expect("an Ethernet address");
    let bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"));
    bytes.collect::<Vec<_>>().try_into().expect("six bytes")
}

/// A connection to the server outside.
fn connect(server: &tcp::Server, stage: &Stage<AnyDaemon>, from: &impl Host) -> Tcp {
    let mut talk = Tcp::open(server, from, stage.outside.at(server.port()));
    talk.rounds(1);
    talk
}

#[rstest]
fn a_pod_that_floods_harms_itself_alone(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(Flood::Datagrams, Flood::Connections, Flood::Pings)] flood: Flood,
) {
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let stage = Stage::on_with(kind, net, &[ENTRIES]);
    let flooder = stage.another_pod("flooder");
    let server = tcp::Server::on(&stage.outside);
    let mut idle = [
        connect(&server, &stage, &stage.pod),
        connect(&server, &stage, &flooder),
        connect(&server, &stage, stage.node.node()),
    ];

    let forger = flood.by(&flooder, &stage);
    for _ in 0..4 {
        forger.sends(usize::from(FLOOD));
        connect(&server, &stage, &stage.pod).rounds(4);
        connect(&server, &stage, stage.node.node()).rounds(4);
        udp::exchange(&stage.pod, &stage.outside, stage.outside.address(), 100);
    }
    if let Some(agent) = stage.node.agent() {
        let shown = || {
            let bpffs = format!("--bpffs={}", agent.node().bpffs().display());
            let shown = output(&mut command(agent.node(), &["status", &bpffs]));
            String::from_utf8_lossy(&shown.stdout).into_owned()
        };
        let named = format!("flooded by {}: ", flooder.address());
        eventually("status names the pod", SOON, || shown().contains(&named));
        assert_eq!(counted(agent, Reason::SnatFull), 0);
    }
    drop(forger);
    for talk in &mut idle {
        talk.rounds(4);
    }
}

/// Who knows a way to the pods from outside: connections come in for their own addresses.
#[rstest]
fn forged_connections_to_pods_harm_nobody(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(false, true)] tunnel: bool,
) {
    let net = match tunnel {
        true => Network::vxlan("/coreos.com/network", "10.244.0.0/16"),
        false => Network::host_gw("/coreos.com/network", "10.244.0.0/16"),
    };
    let stage = Stage::on_with(kind, net, &[ENTRIES]);
    let other = stage.another_pod("other");
    let subnet = stage.node.subnet().to_string();
    stage.outside.routes_to(&subnet, &stage.node);
    // Its answers to those who know the pod.
    stage.sniffer.allow_all(stage.pod.address());
    let here = tcp::Server::on(&stage.pod);
    let to = SocketAddrV4::new(stage.pod.address(), here.port());
    let mut came_in = Tcp::open(&here, &stage.outside, to);
    came_in.rounds(1);
    let there = tcp::Server::on(&stage.outside);
    let mut goes_out = connect(&there, &stage, &other);

    // From as many addresses as there are connections.
    let macs = [mac(&stage.outside), router_mac(&stage)];
    let frames = (0..FLOOD).map(|n| {
        let [a, b] = n.to_be_bytes();
        let from = Ipv4Addr::new(203, 0, a, b);
        Flood::Connections.frame(macs, from, stage.pod.address(), n)
    });
    // Whose router knows no way back to them takes them for martians, if it minds.
    for device in ["all", "outside"] {
        let rp_filter = format!("net.ipv4.conf.{device}.rp_filter");
        stage.lab.router().sysctl(&rp_filter, 0);
    }
    let some = format!("src net 203.0.0.0/24 and dst host {}", stage.pod.address());
    let came = Capture::start(stage.node.node(), Node::UPLINK, &some);
    let forger = Forger::start(&stage.outside, frames.collect());
    for _ in 0..4 {
        forger.sends(usize::from(FLOOD));
        Tcp::open(&here, &stage.outside, to).rounds(4);
        connect(&there, &stage, &other).rounds(4);
        connect(&there, &stage, &stage.pod).rounds(4);
    }
    drop(forger);
    came.packets(20);
    came_in.rounds(4);
    goes_out.rounds(4);
}
