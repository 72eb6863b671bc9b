//! The part of the wanted state that no peer changes: devices, address, constants, hooks.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::globals::WIRE_VXLAN;
use flannel_common::program::Program;
use flannel_common::snat::Times;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::fast_path::Ways;
use super::{Anchor, DesiredError, Inputs, Outlets, Ports, SourceNat, WireGuard, gro, wireguard};
use crate::base::mac::MacAddr;
use crate::base::options::{FastPath, Gro, Mode, Xdp};
use crate::dataplane::outlets::Sources;
use crate::dataplane::{Attachment, Globals, Places};
use crate::flannel::backend::{Routed, Wire};
use crate::node::mark;
use crate::node::net::{Direction, Policies};
use crate::node::node_sysctls::Wishes;
use crate::node::snat_ports::{PortChoice, PortRange};

/// The pair carries whatever the tunnel brings; only `flannel.<VNI>` has the overlay's MTU.
const GRO_MTU: u32 = 65_535;

/// `IFNAMSIZ` without the terminating zero.
const NAME_MAX: usize = 15;

/// More receive queues than this help nobody; each costs a NAPI instance.
const QUEUES_MAX: u32 = 64;

/// The devices, and everything about them that does not depend on a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Name in pin folders and aliases.
    pub network: String,
    /// Tells our clsact filters from those of other networks on this node: the VNI, where there is one.
    pub tag: u32,
    /// Name of the uplink.
    #[serde(skip)]
    pub uplink: String,
    /// `None`: no tunnel of ours.
    pub pair: Option<Pair>,
    /// The kernel's.
    pub wireguard: Option<WireGuard>,
    /// `None`: the UDP port is held by a socket of the agent, or by somebody else's device.
    pub anchor: Option<Anchor>,
    /// `<subnet>.0/32`, the source of what this node itself sends through the tunnel.
    pub address: Ipv4Net,
    /// The cluster's Network: no other address of it may be on the device.
    pub overlay: Ipv4Net,
    /// Paths below `/proc/sys` and values. Not essential: without them things are only less tidy.
    pub sysctls: BTreeMap<String, String>,
    /// Sysctls of the whole node, given back when the network leaves it.
    pub shared_sysctls: Wishes,
    /// Per device, offloads by ethtool's names. Not essential: they decide speed.
    pub features: BTreeMap<String, BTreeMap<String, bool>>,
    pub globals: Globals,
    /// In the order in which they are put up.
    pub attachments: Vec<Attachment>,
    /// All that may be attached: a pod can come at any time.
    #[serde(skip)]
    pub programs: BTreeSet<Program>,
    pub pod_ports: Ports,
    /// `None`: off.
    pub snat: Option<SourceNat>,
    /// How long translated flows live; `None`: there are none.
    #[serde(skip)]
    pub snat_times: Option<Times>,
    /// Devices where source NAT is done, by ifindex, with the addresses there.
    pub outlets: BTreeMap<u32, Sources>,
    /// Another number means that flows were proven under other routes. 0: none are.
    #[serde(skip)]
    pub ways: u32,
    pub xdp: Xdp,
    /// Another set of them means that flows were proven under other policies of IPsec.
    #[serde(skip)]
    pub policies: Policies,
}

impl Node {
    /// What the dataplane has to know to find the programs.
    pub(crate) fn places(&self) -> Places<'_> {
        Places {
            network: &self.network,
            tag: self.tag,
            attachments: &self.attachments,
        }
    }

    /// Whether a device may go at any time, with nothing amiss: pods' ports, their bridge, devices besides the uplink.
    #[must_use]
    pub fn may_go(&self, device: &str) -> bool {
        let is_pair = |pair: &Pair| device == pair.name || device == pair.gro_name;
        let is_wireguard = |wanted: &WireGuard| device == wanted.name;
        device != self.uplink
            && !self.pair.as_ref().is_some_and(is_pair)
            && !self.wireguard.as_ref().is_some_and(is_wireguard)
    }

    /// Whether tunnel and routes lead to peers without this program. Somebody else's qdisc on one device is no reason to leave the
    /// others without programs.
    #[must_use]
    pub fn can_spare(&self, at: &Attachment) -> bool {
        let is_anchor = |anchor: &Anchor| anchor.name == at.device;
        let at_uplink = at.device == self.uplink;
        let elsewhere = self.may_go(&at.device) && !self.anchor.as_ref().is_some_and(is_anchor);
        let is_direct = matches!(at.program, Program::DirectTx | Program::DirectRx);
        at.program.is_xdp()
            || elsewhere
            || at_uplink && (is_direct || SourceNat::is_on_devices(at.program))
    }
}

/// `flannel.<VNI>` and `flgro.<VNI>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub name: String,
    pub gro_name: String,
    /// Where a kernel vxlan device is put while its successor takes over.
    pub aside_name: String,
    pub mac: MacAddr,
    /// Must differ from `mac`: frames that the stack sends carry `mac` as destination (ARP is off),
    /// and with it the far end would take them for its own.
    pub gro_mac: MacAddr,
    pub mtu: u32,
    pub gro_mtu: u32,
    pub alias: String,
    pub queues: u32,
}

pub(super) fn node(inputs: &Inputs<'_>) -> Result<Node, DesiredError> {
    let overlay = inputs.config.network;
    let backend = &inputs.config.backend;
    let mtu = backend.mtu(inputs.facts.underlay.mtu(inputs.uplink));
    let wire = backend.tunnel().map(|tunnel| tunnel.wire);
    let vni = wire.and_then(Wire::vni);
    let pair = wire.map(|wire| pair(inputs, wire, mtu)).transpose()?;
    let wireguard = wireguard::device(inputs, mtu);
    let port = backend.udp_port().unwrap_or(0);
    let gbp = backend.tunnel().is_some_and(|tunnel| tunnel.gbp);
    if let Some(wire) = wire {
        check_options(wire, inputs.fast_path)?;
    }
    if gbp && inputs.fast_path.gro == Gro::Anchor {
        return Err(DesiredError::AnchorWithGbp);
    }
    let direct = backend.routed() != Routed::Nobody;
    // Nothing of ours belongs on a device that only holds an address.
    let uplink = inputs.uplink.is_carrier;
    let uplink = uplink.then_some(inputs.uplink.name.as_str());
    let others = inputs.facts.underlay.others.keys().map(String::as_str);
    let carriers: Vec<&str> = uplink.into_iter().chain(others).collect();
    let by_wireguard = wireguard.as_ref().map(|wanted| wanted.name.as_str());
    // WireGuard's device has no header even before it is there.
    let is_bare = |device: &str| inputs.facts.bare.contains(device) || by_wireguard == Some(device);
    let with_frames = uplink.filter(|uplink| !is_bare(uplink));
    let mut attachments = pair
        .as_ref()
        .map_or_else(Vec::new, |pair| attachments(pair, &carriers));
    let taken = inputs.facts.port_holder.is_some();
    let wanted = |pair| Anchor::wanted(inputs.fast_path.gro, pair, port, taken);
    let anchor = pair.as_ref().and_then(wanted);
    if let Some(anchor) = &anchor {
        attachments.push(Attachment::ingress(Program::AnchorRx, &anchor.name));
    }
    let ways = Ways {
        pair: pair.as_ref(),
        // Without MAC addresses it cannot be told for whom a packet leaves: such flows are never proven.
        direct: with_frames.filter(|_| direct),
    };
    let ports = &inputs.facts.pod_ports;
    attachments.extend(inputs.fast_path.attachments(&ways, ports));
    let none = Outlets::default();
    let outlets = inputs.snat.map_or(&none, |_| &inputs.facts.outlets);
    let room = inputs.facts.room(port);
    if let Some(SourceNat {
        ports: PortChoice::Auto,
        ..
    }) = inputs.snat
        && let Some(why) = &inputs.facts.unknown_ports
    {
        return Err(DesiredError::UnknownPorts(why.clone()));
    }
    let snat_ports = match inputs.snat {
        Some(snat) => Some(snat.ports(&room)?),
        None => None,
    };
    let snat_more = inputs.snat.and_then(|snat| snat.ports.more(&room));
    if snat_ports.is_some() {
        let overlay = pair.as_ref().map(|pair| pair.name.as_str());
        attachments.extend(SourceNat::on_overlay(overlay));
        let outlets = outlets.devices.keys().map(String::as_str);
        for device in uplink.into_iter().chain(by_wireguard).chain(outlets) {
            attachments.extend(SourceNat::on_device(device, is_bare(device)));
        }
    }
    put_frames(&mut attachments, is_bare);
    let steps = inputs.snat.map_or(&[][..], |_| SourceNat::programs());
    if let (Some(uplink), Some(_)) = (with_frames, vni) {
        attachments.extend(inputs.fast_path.at_uplink(uplink));
    }
    Ok(Node {
        network: inputs.network.to_owned(),
        uplink: inputs.uplink.name.clone(),
        tag: vni.unwrap_or_else(|| mark::tag(inputs.network)),
        address: inputs.subnet.network().into(),
        overlay,
        sysctls: pair.as_ref().map(sysctls).unwrap_or_default(),
        shared_sysctls: shared_sysctls(inputs, snat_ports),
        features: pair
            .as_ref()
            .zip(wire)
            .map(|(pair, wire)| features(pair, wire))
            .unwrap_or_default(),
        globals: Globals {
            uplink_index: inputs.uplink.index,
            uplink_ip: inputs.uplink.address,
            public_ip: inputs.uplink.public_ip,
            uplink_mac: MacAddr(inputs.uplink.mac),
            vtep_mac: inputs.vtep_mac,
            wire: wire.map_or(WIRE_VXLAN, Wire::value),
            vni: vni.unwrap_or(0),
            port,
            gbp,
            network: overlay,
            subnet: inputs.subnet,
            local_ports: inputs.facts.local_ports,
            source_check: inputs.source_check,
            overlay_mtu: mtu,
            gro: inputs.fast_path.gro,
            anchor: gro::left_to(anchor.as_ref(), inputs.fast_path),
            fast_path: inputs.fast_path.mode.value(),
            pod_hook: inputs.fast_path.hook.value(),
            snat_ports,
            snat_more,
            snat_keep: inputs.snat.is_some_and(|snat| snat.keeps_ports),
        },
        programs: attachments
            .iter()
            .map(|a| a.program)
            .chain(inputs.fast_path.programs().iter().copied())
            .chain(steps.iter().copied())
            .collect(),
        attachments,
        pod_ports: inputs.facts.pod_ports.clone(),
        snat: inputs.snat.cloned(),
        snat_times: inputs.snat.map(|_| inputs.facts.times),
        ways: match inputs.fast_path.mode {
            Mode::Off => 0,
            _ => inputs.facts.others_ways,
        },
        outlets: wireguard::outlet(inputs, outlets),
        xdp: inputs.fast_path.xdp,
        policies: inputs.facts.policies.clone(),
        anchor,
        pair,
        wireguard,
    })
}

/// What is for VXLAN packets alone.
fn check_options(wire: Wire, fast_path: &FastPath) -> Result<(), DesiredError> {
    let (given, fix) = match (wire, fast_path.gro, fast_path.xdp) {
        (Wire::Vxlan { .. }, ..) => return Ok(()),
        (_, Gro::Anchor, _) => ("--gro=anchor", "--gro=pair"),
        (_, _, Xdp::On) => ("--xdp=on", "--xdp=auto"),
        _ => return Ok(()),
    };
    Err(DesiredError::OnlyWithVxlan {
        given,
        backend: wire.backend(),
        fix,
    })
}

fn pair(inputs: &Inputs<'_>, wire: Wire, mtu: u32) -> Result<Pair, DesiredError> {
    let [name, gro_name, aside_name] = match wire {
        Wire::Udp => mark::udp_pair(inputs.facts.udp_number),
        _ => [
            mark::device(wire),
            mark::gro_device(wire),
            mark::aside_device(wire),
        ],
    };
    let pair = Pair {
        name,
        gro_name,
        aside_name,
        mac: inputs.vtep_mac,
        gro_mac: other_mac(inputs.vtep_mac),
        mtu,
        gro_mtu: GRO_MTU,
        alias: mark::alias(inputs.network),
        queues: inputs.facts.cpus.clamp(1, QUEUES_MAX),
    };
    match wire {
        Wire::Vxlan { vni } if pair.name.len() > NAME_MAX => Err(DesiredError::VniTooLong(vni))?,
        _ => {}
    }
    Ok(pair)
}

/// Transmit first: what arrives for us before is still handled by whoever handled it until now.
fn attachments(pair: &Pair, carriers: &[&str]) -> Vec<Attachment> {
    let mut all = vec![
        Attachment::ingress(Program::OverlayCatch, &pair.gro_name),
        Attachment::egress(Program::OverlayTx, &pair.name),
    ];
    let arrives = |device: &&str| Attachment::ingress(Program::UplinkRx, device);
    all.extend(carriers.iter().map(arrives));
    all
}

/// Ahead of the first program at a device without link-layer header, one that makes frames of what arrives.
fn put_frames(attachments: &mut Vec<Attachment>, is_bare: impl Fn(&str) -> bool) {
    let mut served = BTreeSet::new();
    for at in std::mem::take(attachments) {
        let arrives = at.direction == Direction::Ingress && is_bare(&at.device);
        if arrives && served.insert(at.device.clone()) {
            attachments.push(Attachment::ingress(Program::FrameRx, &at.device));
        }
        attachments.push(at);
    }
}

fn shared_sysctls(inputs: &Inputs<'_>, snat_ports: Option<PortRange>) -> Wishes {
    let established = inputs.facts.established.as_deref();
    let fast_path = inputs.fast_path.shared_sysctls(established);
    let snat = snat_ports.map(SourceNat::shared_sysctls);
    fast_path.into_iter().chain(snat).collect()
}

/// IPv6 autoconfiguration has no business on the pair: router solicitations and link-local addresses
/// would go into the tunnel, and a router's answer would configure the node.
fn sysctls(pair: &Pair) -> BTreeMap<String, String> {
    let ipv6 = |device: &str, key| format!("net/ipv6/conf/{device}/{key}");
    [
        (ipv6(&pair.gro_name, "disable_ipv6"), "1"),
        (ipv6(&pair.name, "accept_ra"), "0"),
        // 1: no link-local address.
        (ipv6(&pair.name, "addr_gen_mode"), "1"),
    ]
    .map(|(key, value)| (key, value.to_owned()))
    .into()
}

/// The veth driver hands packets to NAPI, where GRO merges them, only when the sending end has every kind
/// of TSO off. On the way out the device keeps plain TSO and UDP segmentation, which encapsulation can
/// carry; whatever else a socket may produce is segmented in software before it gets to the far end. With the backend udp that is
/// everything, and its checksums are summed up.
fn features(pair: &Pair, wire: Wire) -> BTreeMap<String, BTreeMap<String, bool>> {
    const FAR_OFF: [&str; 5] = [
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
        "tx-tcp-ecn-segmentation",
        "tx-tcp-mangleid-segmentation",
        "tx-tcp-accecn-segmentation",
    ];
    const NEAR_OFF: [&str; 8] = [
        "tx-udp_tnl-segmentation",
        "tx-udp_tnl-csum-segmentation",
        "tx-gre-segmentation",
        "tx-gre-csum-segmentation",
        "tx-ipxip4-segmentation",
        "tx-ipxip6-segmentation",
        "tx-sctp-segmentation",
        "tx-gso-list",
    ];
    /// Without the first the kernel switches the others off as well (`netdev_fix_features`).
    const UNFINISHED: [&str; 7] = [
        "tx-checksum-ip-generic",
        "tx-checksum-sctp",
        "tx-tcp-segmentation",
        "tx-tcp-ecn-segmentation",
        "tx-tcp-mangleid-segmentation",
        "tx-tcp6-segmentation",
        "tx-udp-segmentation",
    ];
    let off = |names: &[&str]| -> BTreeMap<String, bool> {
        names.iter().map(|n| ((*n).to_owned(), false)).collect()
    };
    let mut near = off(&NEAR_OFF);
    near.insert("rx-gro".to_owned(), true);
    if wire == Wire::Udp {
        near.extend(off(&UNFINISHED));
    }
    [
        (pair.name.clone(), near),
        (pair.gro_name.clone(), off(&FAR_OFF)),
    ]
    .into()
}

fn other_mac(MacAddr(mut mac): MacAddr) -> MacAddr {
    mac[5] ^= 1;
    MacAddr(mac)
}
