//! Two nodes joined by one cable: for measurements, where a switch made of software would cost more
//! than what is measured.

use crate::host::Host;
use crate::lab::{ETCD, Lab, Wire, segmented};
use crate::node::Node;

/// The link to etcd that takes over from the switch port.
const MANAGEMENT: &str = "mgmt0";

impl Lab {
    /// Takes both nodes off the switch and joins their uplinks directly. They keep their addresses, and reach
    /// etcd by a link of its own; nothing else is reachable any more.
    pub fn cable(&self, one: &Node, two: &Node) {
        let mtu = one.uplink_mtu();
        let uplink = Node::UPLINK;
        for node in [one, two] {
            node.exec(&format!("ip link del {uplink}"));
        }
        one.ip_batch(&[format!(
            "link add {uplink} mtu {mtu} type veth peer name {uplink} mtu {mtu} netns {}",
            two.netns().name()
        )]);
        for node in [one, two] {
            let address = node.address();
            let port = format!("mgmt{}", address.octets()[3]);
            self.underlay.switch.ip_batch(&[
                format!(
                    "link add {port} type veth peer name {MANAGEMENT} netns {}",
                    node.netns().name()
                ),
                format!("link set {port} master switch up"),
            ]);
            node.ip_batch(&[
                format!("addr add {address}/24 dev {uplink}"),
                format!("link set {uplink} up"),
                format!("link set {MANAGEMENT} up"),
                format!("route add {ETCD}/32 dev {MANAGEMENT} src {address}"),
            ]);
        }
    }
}

/// Makes a node's uplink one kind of wire or the other; both ends have to agree.
pub fn set_wire(node: &Node, wire: Wire) {
    node.exec(&match wire {
        Wire::Segmented => segmented(Node::UPLINK),
        Wire::Whole => whole(Node::UPLINK),
    });
}

/// The opposite of [`segmented`]: a veth as it is made.
fn whole(device: &str) -> String {
    format!(
        "ethtool -K {device} tso on gso on gro off tx-udp-segmentation on \
         tx-udp_tnl-segmentation on tx-udp_tnl-csum-segmentation on"
    )
}
