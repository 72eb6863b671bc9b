//! Network interfaces.

use flannel_common::Mac;
use futures_util::TryStreamExt;
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use nix::errno::Errno;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use super::error::{NetError, Outcome, errno, outcome};
use super::{Netlink, error};

/// What the kernel says about one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Kind,
    /// The Ethernet address; `None` for devices whose address has another length.
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// The longest IPv4 packet, bytes, that the stack hands it to be cut into segments (`gso_ipv4_max_size`). `None`: a kernel before 6.3,
    /// which makes none over 64 KiB.
    pub gso_max: Option<u32>,
    /// `ip link set DEV alias …`: where our devices carry their mark.
    pub alias: Option<String>,
    /// Administratively up.
    pub up: bool,
    /// Up and with carrier: packets sent now can leave.
    pub running: bool,
    pub noarp: bool,
    pub loopback: bool,
    pub ethernet: bool,
    /// Packets come and go by it without a link-layer header: tun, WireGuard, ipip, gre (`dev_is_mac_header_xmit`).
    pub bare: bool,
    /// ifindex of the other end of a veth pair, if that end is in this network namespace.
    pub peer: Option<u32>,
    /// Id of the XDP program on it, whoever's.
    pub xdp_program: Option<u32>,
    /// ifindex of the bridge (or other device) that this one is a port of.
    pub controller: Option<u32>,
    /// ifindex of the device in this network namespace that this one is on: a VLAN's, a macvlan's.
    pub lower: Option<u32>,
    /// As a port of a bridge: in a state in which that forwards nothing by it.
    pub blocked: bool,
}

/// The driver behind an interface, as far as we care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Veth,
    Vxlan {
        vni: Option<u32>,
        /// UDP port.
        port: Option<u16>,
        /// ifindex of the device that it is bound to, and goes with.
        lower: Option<u32>,
    },
    Other(String),
    /// Hardware, or anything else that names no kind.
    Plain,
}

/// [`Kind::Other`] of IPv4 in IPv4.
pub const KIND_IPIP: &str = "ipip";

impl Kind {
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        matches!(self, Self::Other(kind) if kind == "bridge")
    }
}

/// The pair to create, with its MACs from the first moment: systemd's MACAddressPolicy gives another
/// one only to a device that came without. (An alias cannot be given at creation.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethPair<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_mtu: u32,
    /// Queues in each direction. One queue is one NAPI instance: one CPU at a time.
    pub queues: u32,
}

impl Link {
    /// A device as flanneld makes for a backend whose place a pair takes.
    #[must_use]
    pub fn is_kernel_tunnel(&self) -> bool {
        match &self.kind {
            Kind::Vxlan { .. } => true,
            Kind::Other(kind) => kind == KIND_IPIP,
            Kind::Veth | Kind::Plain => false,
        }
    }

    /// Whether our programs know its packets.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.ethernet || self.bare
    }
}

impl Netlink {
    /// Every interface of this network namespace.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn links(&self) -> Result<Vec<Link>, NetError> {
        let _turn = self.turn_to_dump().await;
        let dump = self.handle().link().get().execute();
        let links = dump.map_ok(|message| Link::from(&message)).try_collect();
        self.in_time(links)
            .await
            .map_err(|e| NetError::netlink("list the network interfaces", &e))
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// Any refusal but "no such device".
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetError> {
        let request = self.handle().link().get().match_name(name);
        self.one_link(request, || format!("look up the interface {name}"))
            .await
    }

    /// The interface of that index, if there is one.
    ///
    /// # Errors
    /// Any refusal but "no such device".
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NetError> {
        let request = self.handle().link().get().match_index(index);
        self.one_link(request, || format!("look up the interface #{index}"))
            .await
    }

    async fn one_link(
        &self,
        request: rtnetlink::LinkGetRequest,
        action: impl FnOnce() -> String,
    ) -> Result<Option<Link>, NetError> {
        match self.in_time(request.execute().try_next()).await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(e) if errno(&e) == Some(Errno::ENODEV) => Ok(None),
            Err(e) => Err(NetError::netlink(action(), &e)),
        }
    }

    /// Creates a veth pair. Both ends start down, with ARP off.
    ///
    /// # Errors
    /// [`Outcome::Exists`] is not an error; any other refusal is.
    pub async fn create_pair(&self, pair: &VethPair<'_>) -> Result<Outcome, NetError> {
        let end = |name: &str, mac: Mac, mtu: u32| {
            LinkMessageBuilder::<LinkUnspec>::default()
                .name(name)
                .address(mac.to_vec())
                .mtu(mtu)
                .arp(false)
                .append_extra_attribute(LinkAttribute::NumTxQueues(pair.queues))
                .append_extra_attribute(LinkAttribute::NumRxQueues(pair.queues))
        };
        let peer = end(pair.peer_name, pair.peer_mac, pair.peer_mtu).build();
        let message = LinkMessageBuilder::<LinkVeth>::new(pair.name, pair.peer_name)
            .address(pair.mac.to_vec())
            .mtu(pair.mtu)
            .arp(false)
            .append_extra_attribute(LinkAttribute::NumTxQueues(pair.queues))
            .append_extra_attribute(LinkAttribute::NumRxQueues(pair.queues))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        outcome(
            format!("create the veth pair {} and {}", pair.name, pair.peer_name),
            self.in_time(self.handle().link().add(message).execute())
                .await,
        )
    }

    /// Creates a vxlan device in metadata mode on a UDP port: of any VNI, and sending only what carries a tunnel key (for all
    /// else see `vxlan_xmit`). It starts down, and goes when the device `lower` does (`vxlan_handle_lowerdev_unregister`).
    ///
    /// # Errors
    /// [`Outcome::Exists`] is not an error; any other refusal is.
    pub async fn create_metadata_vxlan(
        &self,
        name: &str,
        port: u16,
        lower: u32,
    ) -> Result<Outcome, NetError> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .dev(lower)
            .port(port)
            .learning(false)
            .append_info_data(InfoVxlan::CollectMetadata(true))
            .build();
        outcome(
            format!("create the vxlan device {name} on UDP port {port}"),
            self.in_time(self.handle().link().add(message).execute())
                .await,
        )
    }

    /// Changes an interface; build the message with [`LinkUnspec`].
    async fn change(&self, action: String, message: LinkMessage) -> Result<Outcome, NetError> {
        let changed = self.handle().link().change(message).execute();
        outcome(action, self.in_time(changed).await)
    }

    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index).alias(alias).build();
        self.change(format!("set the alias of interface #{index}"), message)
            .await
    }

    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.change(
            format!("set the MTU of interface #{index} to {mtu}"),
            message,
        )
        .await
    }

    /// See [`Link::gso_max`].
    ///
    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn set_gso_max(&self, index: u32, max: u32) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(max))
            .build();
        self.change(
            format!("set gso_ipv4_max_size of interface #{index} to {max}"),
            message,
        )
        .await
    }

    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        self.change(format!("set the MAC of interface #{index}"), message)
            .await
    }

    /// Sets an interface up, without ARP.
    ///
    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn set_up_noarp(&self, index: u32) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index).arp(false).up().build();
        self.change(format!("set interface #{index} up"), message)
            .await
    }

    /// Renames an interface without taking it down.
    ///
    /// # Errors
    /// `EBUSY` before kernel 6.2, which renames only devices that are down.
    pub async fn rename(&self, index: u32, name: &str) -> Result<Outcome, NetError> {
        let message = LinkUnspec::new_with_index(index).name(name).build();
        self.change(format!("rename interface #{index} to {name}"), message)
            .await
    }

    /// Deletes an interface; a veth takes its peer along.
    ///
    /// # Errors
    /// If the kernel refuses; a vanished device is [`Outcome::Missing`].
    pub async fn delete_link(&self, index: u32) -> Result<Outcome, NetError> {
        error::outcome(
            format!("delete interface #{index}"),
            self.in_time(self.handle().link().del(index).execute())
                .await,
        )
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: Kind::Plain,
            mac: None,
            mtu: 0,
            gso_max: None,
            alias: None,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            noarp: flags.contains(LinkFlags::Noarp),
            loopback: flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            bare: is_bare(message.header.link_layer_type),
            peer: None,
            xdp_program: None,
            controller: None,
            lower: None,
            blocked: false,
        };
        let (mut lower, mut elsewhere) = (None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::GsoIpv4MaxSize(max) => link.gso_max = Some(*max),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(info) => {
                    link.kind = kind(info);
                    link.blocked = is_blocked(info);
                }
                LinkAttribute::Xdp(xdp) => link.xdp_program = xdp_program(xdp),
                _ => {}
            }
        }
        let lower = lower.filter(|_| !elsewhere);
        match link.kind {
            Kind::Veth => link.peer = lower,
            _ => link.lower = lower,
        }
        link
    }
}

const fn is_bare(layer: LinkLayerType) -> bool {
    matches!(
        layer,
        LinkLayerType::None
            | LinkLayerType::Rawip
            | LinkLayerType::Ppp
            | LinkLayerType::Tunnel
            | LinkLayerType::Tunnel6
            | LinkLayerType::Sit
            | LinkLayerType::Ipgre
            | LinkLayerType::Ip6gre
    )
}

/// `IFLA_XDP` also has the ids by mode, for devices that run several programs at once.
fn xdp_program(attributes: &[LinkXdp]) -> Option<u32> {
    attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) => Some(*id),
        _ => None,
    })
}

fn is_blocked(info: &[LinkInfo]) -> bool {
    info.iter().any(|part| match part {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => port.iter().any(|attribute| {
            matches!(attribute, InfoBridgePort::State(state) if *state != BridgePortState::Forwarding)
        }),
        _ => false,
    })
}

fn kind(info: &[LinkInfo]) -> Kind {
    let mut kind = Kind::Plain;
    let mut options: &[InfoVxlan] = &[];
    for part in info {
        match part {
            LinkInfo::Kind(InfoKind::Veth) => kind = Kind::Veth,
            LinkInfo::Kind(InfoKind::Vxlan) => {
                kind = Kind::Vxlan {
                    vni: None,
                    port: None,
                    lower: None,
                }
            }
            LinkInfo::Kind(other) => kind = Kind::Other(other.to_string()),
            LinkInfo::Data(InfoData::Vxlan(data)) => options = data,
            _ => {}
        }
    }
    if let Kind::Vxlan { vni, port, lower } = &mut kind {
        for option in options {
            match option {
                InfoVxlan::Id(id) => *vni = Some(*id),
                InfoVxlan::Port(number) => *port = Some(*number),
                InfoVxlan::Link(index) => *lower = Some(*index),
                _ => {}
            }
        }
    }
    kind
}
