//! Uplinks of kinds that not every kernel has: VPNs and tunnels without a link-layer header, VLANs, bonds.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::host::Host as _;
use crate::lab::Lab;
use crate::netns::{Netns, run};
use crate::network::Network;
use crate::node::Node;
use crate::pair::{Kind, Mix, Pair};
use crate::with_daemon::{AnyDaemon, start};

/// The device, whatever its kind.
pub const UPLINK: &str = "up0";
/// Told to the daemon.
pub const IFACE: &str = "--iface=up0";

/// What the uplink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// No link-layer header, and an address that is no MAC.
    WireGuard,
    Ipip,
    Gre,
    /// 802.1Q, with a priority in each tag.
    Vlan,
    /// Two cables to the switch, of which one is used.
    Bond,
    /// The same, and what leaves by it has a priority tag (VLAN id 0).
    TaggedBond,
    VlanOnBond,
}

/// The cables of a bond.
pub const CABLES: [char; 2] = ['a', 'b'];
/// A bond below another device.
const BELOW: &str = "below0";

/// One end of a link to be.
#[derive(Debug, Clone, Copy)]
struct End<'a> {
    netns: &'a Netns,
    /// Its address on the switch, and the device there.
    underlay: Ipv4Addr,
    device: &'a str,
}

/// The address of the `n`-th end of a link.
pub const fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, n)
}

/// Two nodes with a pod each that reach each other by such devices. `flags` are for ours alone.
pub fn pair(net: Network, device: Device, mix: Mix, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| lab.node(name));
    connect(&lab, device, [End::of(&one), End::of(&two)]);
    let (a, b) = mix.kinds();
    let member = |kind, node| {
        let more = if kind == Kind::Ours { flags } else { &[] };
        start(kind, node, &net, &[&[IFACE], more].concat())
    };
    let (one, two) = (member(a, one), member(b, two));
    Pair::of(lab, net, one, two)
}

/// The device that has a node's address where no uplink has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    Loopback,
    Dummy,
}

impl Elsewhere {
    fn name(self) -> &'static str {
        match self {
            Self::Loopback => "lo",
            Self::Dummy => "dummy0",
        }
    }

    fn add(self, node: &Node) {
        if self == Self::Dummy {
            let name = self.name();
            node.ip_batch(&[
                format!("link add {name} type dummy"),
                format!("link set {name} up"),
            ]);
        }
    }
}

/// The same with the nodes' addresses on such a device; the link has others, of its own.
pub fn pair_elsewhere(net: Network, device: Device, on: Elsewhere, mix: Mix) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    let nodes = ["one", "two"].map(|name| lab.node(name));
    connect(&lab, device, [End::of(&nodes[0]), End::of(&nodes[1])]);
    let inner = |n: u8| Ipv4Addr::new(10, 255, 0, n);
    for (node, [own, other]) in nodes.iter().zip([[1, 2], [2, 1]]) {
        on.add(node);
        node.exec(&format!("ip addr add {}/32 dev {}", inner(own), on.name()));
        node.exec(&format!(
            "ip route add {}/32 via {} dev {UPLINK} src {}",
            inner(other),
            address(other),
            inner(own)
        ));
    }
    let (a, b) = mix.kinds();
    let [one, two] = nodes;
    let iface = format!("--iface={}", on.name());
    let [one, two] = [(a, one), (b, two)].map(|(kind, node)| start(kind, node, &net, &[&iface]));
    Pair::of(lab, net, one, two)
}

/// A node whose default route leads to the router by such a device.
pub fn behind(lab: &Lab, device: Device) -> Node {
    let node = lab.node("one");
    let router = End {
        netns: lab.router(),
        underlay: Ipv4Addr::new(172, 30, 0, 254),
        device: "switch",
    };
    connect(lab, device, [End::of(&node), router]);
    node.exec(&format!(
        "ip route replace default via {} dev {UPLINK}",
        address(2)
    ));
    node
}

impl<'a> End<'a> {
    fn of(node: &'a Node) -> Self {
        Self {
            netns: node.netns(),
            underlay: node.address(),
            device: Node::UPLINK,
        }
    }
}

/// Plugs a cable of the `n`-th end's bond in, or pulls it.
pub fn set_cable(lab: &Lab, n: u8, cable: char, on: bool) {
    let state = if on { "up" } else { "down" };
    lab.underlay
        .switch
        .exec(&format!("ip link set bond{n}{cable} {state}"));
}

/// Gives both ends the device; they are [`address`] 1 and 2 on it.
fn connect(lab: &Lab, device: Device, [a, b]: [End<'_>; 2]) {
    for (n, own, other) in [(1, a, b), (2, b, a)] {
        let (underlay, remote) = (own.underlay, other.underlay);
        match device {
            Device::Bond | Device::TaggedBond => bond(lab, n, own.netns, UPLINK),
            Device::VlanOnBond => bond(lab, n, own.netns, BELOW),
            _ => {}
        }
        let vlan = |below| {
            format!("link add {UPLINK} link {below} type vlan id 7 egress-qos-map 0:5 1:5 6:5")
        };
        let add = match device {
            Device::WireGuard => Some(format!("link add {UPLINK} type wireguard")),
            Device::Ipip => Some(format!(
                "link add {UPLINK} type ipip local {underlay} remote {remote}"
            )),
            Device::Gre => Some(format!(
                "link add {UPLINK} type gre local {underlay} remote {remote}"
            )),
            Device::Vlan => Some(vlan(own.device)),
            Device::VlanOnBond => Some(vlan(BELOW)),
            Device::Bond | Device::TaggedBond => None,
        };
        let address = [
            format!("addr add {}/24 dev {UPLINK}", address(n)),
            format!("link set {UPLINK} up"),
        ];
        let all: Vec<String> = add.into_iter().chain(address).collect();
        own.netns.ip_batch(&all);
        // Of `all` and the device's own the larger counts, and a device that is new here takes the machine's.
        own.netns
            .sysctl(&format!("net.ipv4.conf.{UPLINK}.rp_filter"), 0);
        if device == Device::TaggedBond {
            for cable in CABLES {
                own.netns
                    .exec(&format!("tc qdisc add dev cable{cable} clsact"));
                own.netns.exec(&format!(
                    "tc filter add dev cable{cable} egress matchall action vlan push id 0 priority 5"
                ));
            }
        }
    }
    if device == Device::WireGuard {
        know_each_other(lab.folder(), [a, b]);
    }
}

/// A bond of two cables to the switch, of which the first is used.
fn bond(lab: &Lab, n: u8, netns: &Netns, name: &str) {
    let mut far = Vec::new();
    let mut near = vec![format!(
        "link add {name} type bond mode active-backup miimon 20"
    )];
    for cable in CABLES {
        far.push(format!(
            "link add bond{n}{cable} type veth peer name cable{cable} netns {}",
            netns.name()
        ));
        far.push(format!("link set bond{n}{cable} master switch up"));
        near.push(format!("link set cable{cable} master {name}"));
    }
    near.push(format!("link set {name} up"));
    lab.underlay.switch.ip_batch(&far);
    netns.ip_batch(&near);
}

/// Keys for both, and who is where. `wg` takes a private key from a file alone.
fn know_each_other(folder: &Path, ends: [End<'_>; 2]) {
    let keys = [1, 2].map(|n| {
        let file = folder.join(format!("wireguard-{n}"));
        let key = ends[0].netns.run("wg genkey");
        fs::write(&file, &key).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut public = std::process::Command::new("bash");
        public.args(["-c", "wg pubkey < \"$1\"", "bash"]).arg(&file);
        (file, run(&mut public).trim().to_owned())
    });
    for (own, other) in [(0, 1), (1, 0)] {
        let (file, _) = &keys[own];
        let (_, public) = &keys[other];
        ends[own].netns.run(&format!(
            "wg set {UPLINK} listen-port 51820 private-key {} peer {public} \
             allowed-ips 0.0.0.0/0 endpoint {}:51820",
            file.display(),
            ends[other].underlay
        ));
    }
}
