//! What is no part of the cluster: a server beyond the router.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crate::host::Host;
use crate::lab::Underlay;
use crate::member::Member;
use crate::netns::Netns;

const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// The router's end of the link.
const ROUTER_DEVICE: &str = "outside";

/// A machine that is no part of the cluster.
#[derive(Debug)]
pub struct Outside {
    netns: Netns,
    underlay: Arc<Underlay>,
}

impl Outside {
    pub(crate) fn create(underlay: &Arc<Underlay>) -> Self {
        let netns = underlay.namespace("outside");
        let router = underlay.router();
        router.ip_batch(&[
            format!(
                "link add {ROUTER_DEVICE} type veth peer name eth0 netns {}",
                netns.name()
            ),
            format!("addr add {ROUTER}/24 dev {ROUTER_DEVICE}"),
            format!("link set {ROUTER_DEVICE} up"),
        ]);
        netns.ip_batch(&[
            format!("addr add {SERVER}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {ROUTER}"),
        ]);
        Self {
            netns,
            underlay: underlay.clone(),
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        SERVER
    }

    /// Its address with a port of it.
    pub fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(SERVER, port)
    }

    /// The router's address on this side.
    pub fn gateway(&self) -> Ipv4Addr {
        ROUTER
    }

    /// A further address.
    pub fn also_at(&self, address: Ipv4Addr) {
        self.exec(&format!("ip addr add {address}/24 dev eth0"));
    }

    /// Has the router lead `address` to `node`, as a cloud does with that of a load balancer.
    pub fn leads_to(&self, address: &str, node: Ipv4Addr) {
        let router = self.underlay.router();
        router.run(&format!("ip route replace {address}/32 via {node}"));
    }

    /// Lets the router pass only `mtu` bytes on towards the server, which does not know.
    pub fn narrow(&self, mtu: u32) {
        let router = self.underlay.router();
        router.run(&format!(
            "ip route replace 198.51.100.0/24 dev {ROUTER_DEVICE} src {ROUTER} mtu {mtu}"
        ));
    }

    /// Has the router hold back what `send` sends to the nodes, and send it on all at once: one packet right behind the
    /// other, as a network card hands them over.
    pub fn together(&self, send: impl FnOnce()) {
        let router = self.underlay.router();
        let bucket = |verb: &str, rate: &str| {
            router.run(&format!(
                "tc qdisc {verb} dev switch root tbf rate {rate} burst 2000 limit 1000000"
            ));
        };
        let etcd = crate::lab::ETCD;
        // A bucket that fills with a bit a second. Once it is empty, everything waits.
        bucket("add", "8bit");
        router.run(&format!("ping -q -c 4 -i 0.01 -s 450 {etcd}"));
        send();
        bucket("change", "10gbit");
        // The change alone lets nothing go; the next packet takes along what waits before it.
        router.run(&format!("ping -q -c 1 {etcd}"));
        router.run("tc qdisc del dev switch root");
    }

    /// Tells the router that `subnet` is behind `member`, as cloud networks and BGP do.
    pub fn routes_to(&self, subnet: &str, member: &(impl Member + ?Sized)) {
        let via = member.node().address();
        let router = self.underlay.router();
        router.run(&format!("ip route replace {subnet} via {via}"));
    }
}

impl Host for Outside {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}
