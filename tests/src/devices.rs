//! Uplinks of kinds that not every kernel has: VPNs and tunnels without a link-layer header.

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
}

/// One end of a link to be.
#[derive(Debug, Clone, Copy)]
struct End<'a> {
    netns: &'a Netns,
    /// Its address on the switch.
    underlay: Ipv4Addr,
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
    connect(device, lab.folder(), [End::of(&one), End::of(&two)]);
    let (a, b) = mix.kinds();
    let member = |kind, node| {
        let more = if kind == Kind::Ours { flags } else { &[] };
        start(kind, node, &net, &[&[IFACE], more].concat())
    };
    let (one, two) = (member(a, one), member(b, two));
    Pair::of(lab, net, one, two)
}

/// A node whose default route leads to the router by such a device.
pub fn behind(lab: &Lab, device: Device) -> Node {
    let node = lab.node("one");
    let router = End {
        netns: lab.router(),
        underlay: Ipv4Addr::new(172, 30, 0, 254),
    };
    connect(device, lab.folder(), [End::of(&node), router]);
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
        }
    }
}

/// Gives both ends the device; they are [`address`] 1 and 2 on it.
fn connect(device: Device, folder: &Path, [a, b]: [End<'_>; 2]) {
    for (n, own, other) in [(1, a, b), (2, b, a)] {
        let (underlay, remote) = (own.underlay, other.underlay);
        let add = match device {
            Device::WireGuard => format!("link add {UPLINK} type wireguard"),
            Device::Ipip => format!("link add {UPLINK} type ipip local {underlay} remote {remote}"),
            Device::Gre => format!("link add {UPLINK} type gre local {underlay} remote {remote}"),
        };
        own.netns.ip_batch(&[
            add,
            format!("addr add {}/24 dev {UPLINK}", address(n)),
            format!("link set {UPLINK} up"),
        ]);
        // Of `all` and the device's own the larger counts, and a device that is new here takes the machine's.
        own.netns
            .sysctl(&format!("net.ipv4.conf.{UPLINK}.rp_filter"), 0);
    }
    if device == Device::WireGuard {
        know_each_other(folder, [a, b]);
    }
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
