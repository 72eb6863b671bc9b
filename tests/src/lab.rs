//! The underlay: a switch with an etcd behind it, and on demand a router, other segments and a server
//! outside the cluster.
//!
//! ```text
//!  node one ─┐                       ┌─ segment 1: nodes behind a router
//!  node two ─┤ switch ── router .254 ┤
//!  etcd .1  ─┘ 172.30.0.0/24         └─ outside 198.51.100.0/24: a server that knows no pods
//! ```

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::datastore::Datastore;
use crate::host::Host;
use crate::netns::Netns;
use crate::network::Network;
use crate::node::Node;
use crate::outside::Outside;
use crate::sweep;

pub(crate) const ETCD: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
const ROUTER: u8 = 254;
const FIRST_NODE: u8 = 11;

/// Whom a node may send what is not for its own link.
#[derive(Debug, Clone, Copy)]
pub struct Gateway {
    pub address: Ipv4Addr,
    pub mac: &'static str,
}

/// What the wires between nodes carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Packets of up to 64 KiB cross whole, as between virtual machines of one host.
    Whole,
    /// Nothing above the MTU, as on a cable: segmented before it leaves, merged by GRO on arrival.
    Segmented,
}

/// How a lab is built.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub underlay_mtu: u32,
    pub wire: Wire,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            underlay_mtu: 1500,
            wire: Wire::Whole,
        }
    }
}

/// One isolated cluster. Nodes keep what they need of it alive, so the order of drops does not matter.
#[derive(Debug)]
pub struct Lab {
    pub(crate) underlay: Arc<Underlay>,
    datastore: Datastore,
    nodes: AtomicU8,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Wires of 1500 bytes that carry GSO packets whole.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        sweep::dead_labs();
        let underlay = Arc::new(Underlay::create(options));
        let datastore = Datastore::start(underlay.switch.clone(), ETCD, underlay.folder.path());
        Self {
            underlay,
            datastore,
            nodes: AtomicU8::new(0),
        }
    }

    pub fn etcd(&self) -> &Datastore {
        &self.datastore
    }

    /// Writes the network's configuration to etcd.
    pub fn network(&self, net: Network) -> Network {
        let key = format!("{}/config", net.prefix);
        self.datastore.put(&key, &net.config());
        net
    }

    /// Two networks, red and blue, and two hosts that are to serve both.
    pub fn red_and_blue(&self) -> ([Network; 2], [Arc<Node>; 2]) {
        let red = Network::vxlan("/red/network", "10.11.0.0/16").vni(1);
        let blue = Network::vxlan("/blue/network", "10.12.0.0/16").vni(2);
        (
            [red, blue].map(|net| self.network(net)),
            ["one", "two"].map(|name| Arc::new(self.node(name))),
        )
    }

    /// A node on the switch.
    pub fn node(&self, name: &str) -> Node {
        let host = self.next_host();
        Node::create(&self.underlay, self.datastore.url(), name, 0, host)
    }

    /// A node on a segment of its own behind the router.
    pub fn node_behind_router(&self, name: &str) -> Node {
        let host = self.next_host();
        // Segment and host number are the same: one segment for each such node.
        Node::create(&self.underlay, self.datastore.url(), name, host, host)
    }

    /// The router; the default route of every node leads to it.
    pub fn router(&self) -> &Netns {
        self.underlay.router()
    }

    /// Another way to the router: its second interface on the switch, with an address and a MAC of its own.
    pub fn other_gateway(&self) -> Gateway {
        let gateway = Gateway {
            address: address(0, ROUTER - 1),
            mac: "02:00:00:00:fe:01",
        };
        let router = self.router();
        // Each interface answers for its own address only, and takes what the other would answer.
        for (key, value) in [("arp_ignore", 1), ("rp_filter", 0)] {
            router.sysctl(&format!("net.ipv4.conf.all.{key}"), value);
        }
        router.sysctl("net.ipv4.conf.default.rp_filter", 0);
        router.ip_batch(&[
            format!(
                "link add other link switch address {} type macvlan mode bridge",
                gateway.mac
            ),
            format!("addr add {}/24 dev other", gateway.address),
            "link set other up".to_owned(),
        ]);
        gateway
    }

    /// A server beyond the router, at an address outside the cluster. It has no route to any pod.
    pub fn outside(&self) -> Outside {
        Outside::create(&self.underlay)
    }

    /// For files of a test.
    pub fn folder(&self) -> &Path {
        self.underlay.folder.path()
    }

    fn next_host(&self) -> u8 {
        FIRST_NODE + self.nodes.fetch_add(1, Ordering::Relaxed)
    }
}

/// Switch, router and folder: what nodes hang on.
#[derive(Debug)]
pub(crate) struct Underlay {
    name: String,
    options: Options,
    pub(crate) switch: Arc<Netns>,
    router: OnceLock<Netns>,
    pub(crate) folder: Folder,
}

impl Underlay {
    fn create(options: Options) -> Self {
        let name = sweep::unique_name();
        let folder = Folder::create(&name);
        let switch = Netns::create(&format!("{name}-switch"));
        let mtu = options.underlay_mtu;
        switch.ip_batch(&[
            // Of its own: else a bridge takes the lowest of its ports', and etcd is lost from sight when that port goes.
            "link add switch address 02:00:00:00:ff:01 type bridge forward_delay 0".to_owned(),
            format!("link set switch mtu {mtu} up"),
            format!("addr add {ETCD}/24 dev switch"),
            format!("route add default via {}", address(0, ROUTER)),
        ]);
        // A switch does not filter.
        switch.sysctl("net.bridge.bridge-nf-call-iptables", 0);
        Self {
            name,
            options,
            switch: Arc::new(switch),
            router: OnceLock::new(),
            folder,
        }
    }

    pub(crate) fn options(&self) -> Options {
        self.options
    }

    pub(crate) fn namespace(&self, name: &str) -> Netns {
        Netns::create(&format!("{}-{name}", self.name))
    }

    /// Connects `netns` by its `eth0` to segment `segment` (0 is the switch) as host `host`.
    pub(crate) fn connect(&self, netns: &Netns, segment: u8, host: u8) -> Ipv4Addr {
        let address = address(segment, host);
        let port = format!("port{host}");
        let mtu = self.options.underlay_mtu;
        let far = if segment == 0 {
            &*self.switch
        } else {
            self.router()
        };
        far.ip_batch(&[format!(
            "link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            netns.name()
        )]);
        if self.options.wire == Wire::Segmented {
            far.exec(&segmented(&port));
            netns.exec(&segmented("eth0"));
        }
        if segment == 0 {
            far.ip_batch(&[format!("link set {port} master switch up")]);
        } else {
            far.ip_batch(&[
                format!("addr add {}/24 dev {port}", self::address(segment, ROUTER)),
                format!("link set {port} up"),
            ]);
        }
        netns.ip_batch(&[
            format!("addr add {address}/24 dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", self::address(segment, ROUTER)),
        ]);
        address
    }

    pub(crate) fn router(&self) -> &Netns {
        self.router.get_or_init(|| {
            let router = self.namespace("router");
            self.switch.ip_batch(&[
                format!(
                    "link add router type veth peer name switch netns {}",
                    router.name()
                ),
                "link set router master switch up".to_owned(),
            ]);
            router.ip_batch(&[
                format!("addr add {}/24 dev switch", address(0, ROUTER)),
                "link set switch up".to_owned(),
            ]);
            router.sysctl("net.ipv4.ip_forward", 1);
            router
        })
    }
}

/// Host `host` on segment `segment`.
fn address(segment: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, segment, host)
}

/// Makes one end of a veth behave like a network card without segmentation offload: the stack
/// segments before sending. GRO on the other end merges only while this end has TSO off (`veth.c`).
pub(crate) fn segmented(device: &str) -> String {
    format!(
        "ethtool -K {device} tso off gso off gro on tx-udp-segmentation off \
         tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off"
    )
}

/// A folder below the temporary one, removed on drop with every bpffs mounted in it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    fn create(name: &str) -> Self {
        let path = sweep::folder(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("create {}: {e}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        sweep::remove_folder(&self.0);
    }
}
