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

    /// Lets the router pass only `mtu` bytes on towards the server, which does not know.
    pub fn narrow(&self, mtu: u32) {
        let router = self.underlay.router();
        router.run(&format!(
            "ip route replace 198.51.100.0/24 dev {ROUTER_DEVICE} src {ROUTER} mtu {mtu}"
        ));
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
