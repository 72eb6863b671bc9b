//! Nodes that route: their address is on the loopback device, and two links lead to the fabric (the lab's router), as with BGP
//! to the host. What a routing daemon would do is written down by hand.

use std::net::Ipv4Addr;

use crate::agent::Agent;
use crate::host::Host;
use crate::kernel_vxlan::KernelVxlan;
use crate::lab::Lab;
use crate::member::AnyMember;
use crate::network::Network;
use crate::node::Node;
use crate::pair::{Kind, Pair};
use crate::real_flanneld::RealFlanneld;

/// Whether the links have addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Numbered,
    /// Both ends of each have only what their machine has elsewhere.
    Unnumbered,
    /// The fabric is a gateway with an IPv6 address (RFC 5549).
    OverIpv6,
}

/// The devices that lead to the fabric.
pub const DEVICES: [&str; 2] = ["eth0", "eth1"];
/// The fabric's address on unnumbered links.
const ANYCAST: &str = "169.254.0.1";
const ANYCAST6: &str = "fe80::1";

/// A node of the fabric, and the address on its loopback device.
#[derive(Debug)]
pub struct Leaf {
    pub node: Node,
    pub address: Ipv4Addr,
}

impl Leaf {
    /// The `n`-th of the lab, with links of these MTUs.
    pub fn new(lab: &Lab, n: u8, links: Links, mtus: [u32; 2]) -> Self {
        let name = ["one", "two", "three", "four"][usize::from(n)];
        let (node, router) = (lab.node(name), lab.router());
        let address = Ipv4Addr::new(10, 255, 0, n + 1);
        for key in ["all", "default"] {
            router.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), 0);
        }
        // By ports, so that the flows of one pair of nodes take both links.
        for host in [router, node.netns()] {
            host.sysctl("net.ipv4.fib_multipath_hash_policy", 1);
            host.sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", 1);
        }
        node.exec("ip link del eth0");
        node.exec(&format!("ip addr add {address}/32 dev lo"));
        let mut hops = Vec::new();
        let mut back = Vec::new();
        for (index, (device, mtu)) in DEVICES.iter().zip(mtus).enumerate() {
            let port = format!("leaf{n}{device}");
            router.ip_batch(&[format!(
                "link add {port} mtu {mtu} type veth peer name {device} mtu {mtu} netns {}",
                node.netns().name()
            )]);
            let net = 4 * (2 * u32::from(n) + u32::try_from(index).expect("small"));
            let [theirs, ours] = [1, 2]
                .map(|host| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 254, 0, 0)) + net + host));
            let address_at_router = match links {
                Links::Numbered => format!("addr add {theirs}/30 dev {port}"),
                Links::Unnumbered => format!("addr add {ANYCAST}/32 dev {port}"),
                Links::OverIpv6 => format!("addr add {ANYCAST6}/64 dev {port} nodad"),
            };
            router.ip_batch(&[address_at_router, format!("link set {port} up")]);
            if links == Links::Numbered {
                node.exec(&format!("ip addr add {ours}/30 dev {device}"));
            }
            node.exec(&format!("ip link set {device} up"));
            hops.push(match links {
                Links::Numbered => format!("nexthop via {theirs} dev {device}"),
                Links::Unnumbered => format!("nexthop via {ANYCAST} dev {device} onlink"),
                Links::OverIpv6 => format!("nexthop via inet6 {ANYCAST6} dev {device}"),
            });
            back.push(match links {
                Links::Numbered => format!("nexthop via {ours} dev {port}"),
                _ => format!("nexthop dev {port}"),
            });
        }
        node.exec(&format!(
            "ip route add 0.0.0.0/0 src {address} {}",
            hops.join(" ")
        ));
        router.exec(&format!("ip route add {address}/32 {}", back.join(" ")));
        Self { node, address }
    }

    /// Makes it a member of `net`, under the address of its loopback device.
    pub fn join(self, kind: Kind, net: &Network, flags: &[&str]) -> AnyMember {
        match kind {
            Kind::Ours => Box::new(self.agent(net, flags)),
            Kind::Flanneld => {
                let flags = [&["--iface=lo"], flags].concat();
                Box::new(RealFlanneld::start_with(self.node, net, &flags))
            }
            Kind::Kernel => {
                let member = KernelVxlan::join(self.node, net);
                member.move_to(self.address);
                Box::new(member)
            }
        }
    }

    /// The same for ours, told by `--iface=lo` unless the flags say another.
    pub fn agent(self, net: &Network, flags: &[&str]) -> Agent {
        let mut all = flags.to_vec();
        if !all.iter().any(|flag| flag.starts_with("--iface")) {
            all.push("--iface=lo");
        }
        Agent::start_with(self.node, net, &all)
    }
}

/// Two such nodes with a pod each.
pub fn pair(net: Network, kinds: (Kind, Kind), links: Links, flags: &[&str]) -> Pair {
    let lab = Lab::new();
    let net = lab.network(net);
    let leaf = |n| Leaf::new(&lab, n, links, [1500; 2]);
    let (one, two) = (leaf(0), leaf(1));
    let (one, two) = (
        one.join(kinds.0, &net, flags),
        two.join(kinds.1, &net, flags),
    );
    Pair::of(lab, net, one, two)
}

/// The same of two agents.
pub fn agents(net: Network, links: Links, flags: &[&str]) -> Pair<Agent> {
    let lab = Lab::new();
    let net = lab.network(net);
    let leaf = |n| Leaf::new(&lab, n, links, [1500; 2]);
    let (one, two) = (leaf(0), leaf(1));
    let (one, two) = (one.agent(&net, flags), two.agent(&net, flags));
    Pair::of(lab, net, one, two)
}
