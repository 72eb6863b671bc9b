//! A node as flanneld makes it: kernel vxlan device, and a neighbour, an FDB entry and a route per peer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::flanneld::Flanneld;
use crate::host::{Host, batch};
use crate::member::Member;
use crate::netns::output;
use crate::network::{Network, Subnet};
use crate::node::Node;

/// What VXLAN over IPv4 adds to a packet.
const OVERHEAD: u32 = 50;

/// Address and MAC of a peer's tunnel end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vtep {
    public_ip: Ipv4Addr,
    mac: String,
}

/// A node with real flannel's dataplane. Follows leases when told to ([`Member::follow_leases`]).
#[derive(Debug)]
pub struct KernelVxlan {
    flanneld: Flanneld,
    own: RefCell<Vtep>,
    peers: RefCell<BTreeMap<Subnet, Vtep>>,
}

impl KernelVxlan {
    /// Makes the device, writes the lease for the first free subnet and `subnet.env`.
    pub fn join(node: impl Into<Arc<Node>>, net: &Network) -> Self {
        Self::start(Flanneld::on(node.into(), net))
    }

    /// The same with a subnet that the node had before.
    pub fn with_subnet(node: impl Into<Arc<Node>>, net: &Network, subnet: Subnet) -> Self {
        Self::start(Flanneld::with_subnet(node.into(), net, subnet))
    }

    fn start(flanneld: Flanneld) -> Self {
        let address = flanneld.node.address();
        let own = Vtep {
            public_ip: address,
            mac: mac_of(address),
        };
        let member = Self {
            flanneld,
            own: own.into(),
            peers: RefCell::default(),
        };
        member.create_device();
        member.write_lease();
        let mtu = member.node().uplink_mtu() - OVERHEAD;
        member.flanneld.write_subnet_env(mtu);
        member.follow_leases();
        member
    }

    /// MAC of its device.
    pub fn mac(&self) -> String {
        self.own.borrow().mac.clone()
    }

    /// Gives the device another MAC, as after a reboot, and says so in the lease.
    pub fn change_mac(&self, mac: &str) {
        let dev = self.net().device();
        self.node()
            .exec(&format!("ip link set {dev} address {mac}"));
        mac.clone_into(&mut self.own.borrow_mut().mac);
        self.write_lease();
        // The kernel forgot the neighbours with the address (NETDEV_CHANGEADDR).
        self.peers.take();
        self.follow_leases();
    }

    /// Moves the tunnel end to another address of the underlay and says so in the lease.
    pub fn change_address(&self, address: Ipv4Addr) {
        let uplink = Node::UPLINK;
        self.node()
            .ip_batch(&[format!("addr add {address}/24 dev {uplink}")]);
        self.move_to(address);
    }

    /// Moves the tunnel end to an address that the node has already, on whatever device.
    pub fn move_to(&self, address: Ipv4Addr) {
        let dev = self.net().device();
        self.node()
            .ip_batch(&[format!("link set {dev} type vxlan local {address}")]);
        self.own.borrow_mut().public_ip = address;
        self.write_lease();
    }

    /// Ends flanneld: everything stays as it is on the node, as flanneld leaves it.
    pub fn stop(self) -> Arc<Node> {
        self.flanneld.node
    }

    /// What flanneld gives to the kernel, attribute by attribute.
    fn create_device(&self) {
        let Flanneld { node, net, subnet } = &self.flanneld;
        let dev = net.device();
        let Vtep { public_ip, mac } = self.own.borrow().clone();
        node.ip_batch(&[
            format!(
                "link add {dev} address {mac} mtu {} type vxlan id {} local {public_ip} dev {} dstport {} nolearning",
                node.uplink_mtu() - OVERHEAD,
                net.vni,
                Node::UPLINK,
                net.port
            ),
            format!("link set {dev} up"),
            format!("addr add {}/32 dev {dev}", subnet.base),
        ]);
    }

    fn write_lease(&self) {
        let Vtep { public_ip, mac } = self.own.borrow().clone();
        let vni = self.net().vni;
        let value = format!(
            r#"{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":{vni},"VtepMAC":"{mac}"}}}}"#
        );
        self.flanneld.put_lease(&value);
    }

    fn add(&self, subnet: Subnet, peer: &Vtep) {
        let (dev, Vtep { public_ip, mac }) = (self.net().device(), peer);
        let base = subnet.base;
        self.node().ip_batch(&[format!(
            "neigh replace {base} lladdr {mac} nud permanent dev {dev}"
        )]);
        bridge(
            self.node(),
            format!("fdb replace {mac} dev {dev} dst {public_ip} self permanent"),
        );
        self.node().ip_batch(&[format!(
            "route replace {subnet} via {base} dev {dev} onlink"
        )]);
    }

    fn remove(&self, subnet: Subnet, peer: &Vtep) {
        let (dev, Vtep { public_ip, mac }) = (self.net().device(), peer);
        let base = subnet.base;
        self.node().ip_batch(&[
            format!("neigh del {base} dev {dev}"),
            format!("route del {subnet} via {base} dev {dev} onlink"),
        ]);
        bridge(
            self.node(),
            format!("fdb del {mac} dev {dev} dst {public_ip} self"),
        );
    }
}

impl Member for KernelVxlan {
    fn node(&self) -> &Node {
        &self.flanneld.node
    }

    fn net(&self) -> &Network {
        &self.flanneld.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.flanneld.subnet_file()
    }

    fn follow_leases(&self) {
        let wanted: BTreeMap<Subnet, Vtep> = self
            .flanneld
            .peers("vxlan")
            .filter_map(|(subnet, lease)| Some((subnet, vtep(&lease)?)))
            .collect();
        let known = self.peers.replace(wanted.clone());
        for (subnet, peer) in known.iter().filter(|(s, p)| wanted.get(s) != Some(p)) {
            self.remove(*subnet, peer);
        }
        for (subnet, peer) in wanted.iter().filter(|(s, p)| known.get(s) != Some(p)) {
            self.add(*subnet, peer);
        }
    }
}

impl Host for KernelVxlan {
    fn netns(&self) -> &crate::netns::Netns {
        self.node().netns()
    }
}

/// Reads a peer's lease; flanneld ignores damaged ones.
fn vtep(lease: &serde_json::Value) -> Option<Vtep> {
    Some(Vtep {
        public_ip: lease["PublicIP"].as_str()?.parse().ok()?,
        mac: lease["BackendData"]["VtepMAC"].as_str()?.to_owned(),
    })
}

fn bridge(node: &Node, line: String) {
    batch(&mut node.command("bridge -batch -"), &[line]);
}

/// A locally administered unicast MAC, as flanneld draws one; here it follows from the address.
fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("c6:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// MAC of a member's flannel device, as the kernel has it.
pub fn mac(member: &(impl Member + ?Sized)) -> String {
    let device = member.net().device();
    let link = member
        .node()
        .exec(&format!("ip -brief link show dev {device}"));
    let mac = link.split_whitespace().nth(2).expect("a MAC");
    mac.to_owned()
}

/// Whether a device is a kernel vxlan device; for tests that there is none.
pub fn is_kernel_vxlan(host: &(impl Host + ?Sized), device: &str) -> bool {
    let output = output(&mut host.command(&format!("ip -d link show dev {device} type vxlan")));
    !output.stdout.is_empty()
}
