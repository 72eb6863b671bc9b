//! The stage of the tests of source NAT: a node that masquerades, with a pod, and a server outside; whatever the test
//! does, a sniffer watches the node's wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use flannel_common::program::Program;
use flannel_common::reason::Reason;

use crate::agent::Agent;
use crate::cold::forget_everybody;
use crate::host::Host;
use crate::lab::{Lab, Options};
use crate::member::Member;
use crate::network::{Backend, Network};
use crate::node::Node;
use crate::outside::Outside;
use crate::pair::Kind;
use crate::pod::Pod;
use crate::sniffer::Sniffer;
use crate::wait::{SOON, eventually, uninterrupted};
use crate::with_daemon::{AnyDaemon, start};
use crate::{bpftool, talk, tcp, udp};

/// The cluster's Network.
pub const CLUSTER: &str = "10.244.0.0/16";

/// One node, one pod, one server; more on demand.
#[derive(Debug)]
pub struct Stage<N = Agent> {
    /// First, so that it is the first to be dropped: everything else still stands while it judges.
    pub sniffer: Sniffer,
    pub pod: Pod,
    pub outside: Outside,
    pub node: N,
    pub net: Network,
    pub lab: Lab,
    kind: Kind,
}

/// A second node with a pod.
#[derive(Debug)]
pub struct Neighbour<N = Agent> {
    pub sniffer: Sniffer,
    pub pod: Pod,
    pub node: N,
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With more flags than `--ip-masq`.
    pub fn with(flags: &[&str]) -> Self {
        Self::built(Options::default(), flags)
    }

    /// On wires and devices of this kind.
    pub fn built(options: Options, flags: &[&str]) -> Self {
        let net = Network::vxlan("/coreos.com/network", CLUSTER);
        Self::of(net, options, flags)
    }

    /// Starts everything, waits until the pod reaches the server, and lets all forget their neighbours. `net` is of [`CLUSTER`].
    pub fn of(net: Network, options: Options, flags: &[&str]) -> Self {
        Self::build(Kind::Ours, net, options, |node, net| {
            Agent::start_with(node, net, &with_masquerading(flags))
        })
    }

    /// With its daemon under a wrapper, which may take rights from it.
    pub fn under(wrapper: &str) -> Self {
        let net = Network::vxlan("/coreos.com/network", CLUSTER);
        Self::build(Kind::Ours, net, Options::default(), |node, net| {
            Agent::start_under(wrapper, node, net, &with_masquerading(&[]))
        })
    }

    /// Another node of ours, which masquerades as well and is watched as well.
    pub fn neighbour(&self, flags: &[&str]) -> Neighbour {
        self.beside(|node, net| Agent::start_with(node, net, &with_masquerading(flags)))
    }

    /// How often a reason was counted, by any of the programs that translate.
    pub fn counted(&self, reason: Reason) -> u64 {
        counted(&self.node, reason)
    }
}

impl Stage<AnyDaemon> {
    /// Ours, or real flanneld, which masquerades by the kernel's NAT.
    pub fn on(kind: Kind) -> Self {
        Self::on_net(kind, Network::vxlan("/coreos.com/network", CLUSTER))
    }

    /// The same in a network of the test's own.
    pub fn on_net(kind: Kind, net: Network) -> Self {
        Self::build(kind, net, Options::default(), |node, net| {
            start(kind, node, net, &with_masquerading(&[]))
        })
    }

    /// With flags, as far as it is ours.
    pub fn on_with(kind: Kind, net: Network, flags: &[&str]) -> Self {
        let flags = match kind {
            Kind::Ours => flags,
            _ => &[],
        };
        Self::build(kind, net, Options::default(), |node, net| {
            start(kind, node, net, &with_masquerading(flags))
        })
    }

    /// Another node of the same kind, which masquerades as well and is watched as well.
    pub fn neighbour(&self) -> Neighbour<AnyDaemon> {
        self.beside(|node, net| start(self.kind, node, net, &with_masquerading(&[])))
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl<N: Member> Stage<N> {
    fn build(
        kind: Kind,
        net: Network,
        options: Options,
        start: impl FnOnce(Node, &Network) -> N,
    ) -> Self {
        let lab = Lab::with(options);
        let net = lab.network(net);
        let outside = lab.outside();
        let node = start(lab.node("one"), &net);
        let pod = Pod::on(&node, "pod");
        let sniffer = watch(&node, &net);
        eventually("the pod reaches the server", SOON, || {
            pod.ping(outside.address()).count(1).lossless()
        });
        for host in [
            node.node().netns(),
            pod.netns(),
            outside.netns(),
            lab.router(),
        ] {
            forget_everybody(host);
        }
        Self {
            sniffer,
            pod,
            outside,
            node,
            net,
            lab,
            kind,
        }
    }

    fn beside(&self, start: impl FnOnce(Node, &Network) -> N) -> Neighbour<N> {
        let node = start(self.lab.node("two"), &self.net);
        let pod = Pod::on(&node, "pod");
        let sniffer = watch(&node, &self.net);
        pod.reaches(&self.pod);
        self.pod.reaches(&pod);
        Neighbour { sniffer, pod, node }
    }

    /// Another pod on the node.
    pub fn another_pod(&self, name: &str) -> Pod {
        Pod::on(&self.node, name)
    }

    /// A connection from the pod to the server that has lasted long enough to be worth a proof.
    #[track_caller]
    pub fn lasting_tcp(&self) -> talk::Tcp {
        let server = tcp::Server::on(&self.outside);
        let mut talk = talk::Tcp::open(&server, &self.pod, self.outside.at(server.port()));
        talk.outlast();
        talk
    }

    /// The same with datagrams there and back.
    #[track_caller]
    pub fn lasting_udp(&self) -> talk::Udp {
        let server = udp::Server::on(&self.outside);
        let to = self.outside.at(server.port());
        let talk = talk::Udp::open(server, &self.pod, to);
        talk.outlast();
        talk
    }

    /// A socket of the pod that has sent a datagram, the server's that has received it, and from whom.
    #[track_caller]
    pub fn greeting(&self) -> (UdpSocket, UdpSocket, SocketAddrV4) {
        let server = udp::Server::on(&self.outside);
        let to = self.outside.at(server.port());
        let client = udp::Server::on(&self.pod).into_socket();
        client.send_to(b"hello", to).expect("greet");
        let server = server.into_socket();
        match uninterrupted(|| server.recv_from(&mut [0; 16])).expect("the greeting") {
            (_, SocketAddr::V4(seen)) => (client, server, seen),
            (_, SocketAddr::V6(seen)) => panic!("{seen}"),
        }
    }

    /// As whom pods leave.
    pub fn address(&self) -> Ipv4Addr {
        self.node.node().address()
    }
}

/// How often `agent` counted a reason, by any of the programs that translate.
pub fn counted(agent: &Agent, reason: Reason) -> u64 {
    [
        Program::UplinkTx,
        Program::UplinkSnatRx,
        Program::OverlaySnatTx,
        Program::OverlaySnatRx,
        Program::SnatOpen,
        Program::SnatRoom,
        Program::SnatOddTx,
        Program::SnatOddRx,
    ]
    .into_iter()
    .map(|program| bpftool::count(agent, program, reason))
    .sum()
}

/// As whom `server` sees `client`, over TCP with a megabyte each way and over UDP.
#[track_caller]
pub fn seen(client: &impl Host, server: &impl Host, at: Ipv4Addr) -> Ipv4Addr {
    let listener = tcp::Server::on(server);
    let to = SocketAddrV4::new(at, listener.port());
    let stream = listener.exchange(client, to, 1 << 20).client.ip();
    assert_eq!(stream, udp::exchange(client, server, at, 1000).ip());
    match stream {
        IpAddr::V4(address) => address,
        IpAddr::V6(other) => panic!("{other}"),
    }
}

/// Where there is no tunnel, neighbours see each other's pods on the wire.
fn watch(node: &impl Member, net: &Network) -> Sniffer {
    let sniffer = Sniffer::on(node.node(), CLUSTER);
    let tunnels = [
        Backend::Vxlan,
        Backend::Udp,
        Backend::Ipip,
        Backend::WireGuard,
    ];
    if !tunnels.contains(&net.backend) {
        sniffer.allow_between_pods();
    }
    sniffer
}

fn with_masquerading<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["--ip-masq"];
    all.extend_from_slice(flags);
    all
}
