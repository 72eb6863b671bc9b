//! Tunnel packets that pods make themselves. A node that translates pods would send them in its own name, and its peers would
//! believe what is in them.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use flannel_common::Ipv4;
use flannel_common::globals::WIRE_UDP;
use flannel_common::header::{Ip, PROTO_IPIP, PROTO_UDP, Udp, VERSION_IHL};
use flannel_common::reason::Reason;
use flannel_common::snat::Transport;
use flannel_common::vxlan::Vxlan;

use crate::clock;
use crate::globals::{self, FLANNEL_IFINDEX, VNI, VXLAN_PORT, WIRE};
use crate::headers::{self, Packet};
use crate::maps::VTEPS;
use crate::ours::Word;
use crate::outlets;
use crate::skb::Skb;
use crate::snat_work::Work;

/// A packet of a pod that is not for the overlay.
#[inline(always)]
pub(crate) fn check(skb: &Skb, packet: &Packet) -> Result<(), Reason> {
    match may_be_tunnel(packet) {
        false => Ok(()),
        true => check_odd(skb),
    }
}

/// Most are none, and that is seen at a glance.
#[inline(always)]
fn may_be_tunnel(packet: &Packet) -> bool {
    let ip = &packet.ip;
    if globals::is_ipip() {
        return ip.proto == PROTO_IPIP;
    }
    if ip.proto != PROTO_UDP {
        return false;
    }
    let port = [packet.l4[2], packet.l4[3]];
    ip.version_ihl != VERSION_IHL || port == VXLAN_PORT.load().to_be_bytes()
}

/// What may be one, with a VLAN tag and options or without. A tag has an id if the bridge filters VLANs and takes off that of the
/// port.
#[inline(always)]
pub(crate) fn check_odd(skb: &Skb) -> Result<(), Reason> {
    match is_odd_tunnel(skb.raw()) {
        0 => Ok(()),
        _ => Err(Reason::PodTunnel),
    }
}

/// Global as [`is_tunnel`] is, which it does not call: kernels before 6.7 count each stack in steps of 32 bytes, and three
/// would be more than 512.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_odd_tunnel(ctx: *mut __sk_buff) -> u8 {
    let skb = Skb::new(TcContext::new(ctx));
    if !skb.carries_ipv4() {
        return u8::from(skb.has_nested_priority());
    }
    let Some(ip) = skb.load::<Ip>(headers::IP) else {
        return 0;
    };
    // What follows a first fragment is nothing without it.
    if ip.fragment_offset() != 0 {
        return 0;
    }
    if globals::is_ipip() {
        return u8::from(ip.proto == PROTO_IPIP && is_node(ip.dst));
    }
    if ip.proto != PROTO_UDP {
        return 0;
    }
    let ports = headers::IP + usize::from(ip.version_ihl & 0xf) * 4;
    match skb.load::<[[u8; 2]; 2]>(ports) {
        Some([_, port]) => u8::from(is_for_node(ip.dst, u16::from_be_bytes(port))),
        None => 0,
    }
}

/// What leaves the node, in whosever name: a rule of the host's may have given a pod's packet the node's (kube-proxy does, for a Service whose
/// endpoint is a node's tunnel port).
#[inline(always)]
pub(crate) fn check_sent(skb: &Skb, packet: &Packet) -> Result<(), Reason> {
    let has_tunnel = VXLAN_PORT.load() != 0 || globals::is_ipip();
    if !has_tunnel || !may_be_tunnel(packet) {
        return Ok(());
    }
    match is_sent_tunnel(skb.raw(), skb.missing()) {
        0 => Ok(()),
        _ => Err(Reason::PodTunnel),
    }
}

/// When this load of the programs first saw a tunnel packet with their note, in nanoseconds of the coarse clock.
static FIRST_NOTED: Word = Word::new();

/// How long others may go on without: programs of a build that makes no note, while they are changed one by one, or flanneld's device
/// during a takeover. Nanoseconds.
const CHANGE: u64 = 5_000_000_000;

/// Another network's kernel device may use our port: the VNI tells. Other nodes may have us route what they send: that is in their name.
/// Where our pair is gone, somebody else serves the network.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_sent_tunnel(ctx: *mut __sk_buff, missing: u32) -> u8 {
    let skb = Skb::again(ctx, missing);
    let now = clock::coarse_ns();
    let first = FIRST_NOTED.load();
    if skb.is_tunnelled() {
        if first == 0 {
            FIRST_NOTED.store(now);
        }
        return 0;
    }
    // What the node sends itself has come by no device.
    if skb.came_by() == 0 || first == 0 || now.wrapping_sub(first) < CHANGE {
        return 0;
    }
    let Some(ip) = skb.load::<Ip>(headers::IP) else {
        return 0;
    };
    let of_pod = outlets::is_lent(0, ip.src) && VTEPS.get_ptr(ip.dst).is_some();
    if !of_pod || !skb.has_device(FLANNEL_IFINDEX.load()) {
        return 0;
    }
    if globals::is_ipip() {
        return 1;
    }
    let at = headers::IP + usize::from(ip.version_ihl & 0xf) * 4;
    let vni = (VNI.load() << 8).to_be_bytes();
    u8::from(match skb.load::<Front>(at) {
        Some(Front { udp, vxlan }) => {
            let of_network = WIRE.load() == WIRE_UDP || vxlan.vni[..3] == vni[..3];
            udp.dst == VXLAN_PORT.load().to_be_bytes() && of_network
        }
        // Cut behind the UDP header, for nobody to look behind it.
        None => ip.is_fragment(),
    })
}

/// What is behind the outer IPv4 header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Front {
    udp: Udp,
    vxlan: Vxlan,
}

/// Tunnel packets of a pod's own, which would leave in the node's name.
#[inline(always)]
pub(crate) fn check_flow(work: &Work) -> Result<(), Reason> {
    let Work { packet, ip, .. } = work;
    if packet.transport == Transport::Udp && packet.key.dst_port == VXLAN_PORT.load().to_be_bytes()
    {
        check_port(packet.key.dst, packet.key.dst_port)?;
    }
    if globals::is_ipip() && ip.proto == PROTO_IPIP {
        check_node(packet.key.dst)?;
    }
    Ok(())
}

/// The same of UDP, where the port is known.
#[inline(always)]
pub(crate) fn check_port(dst: Ipv4, port: [u8; 2]) -> Result<(), Reason> {
    match is_tunnel(u32::from_ne_bytes(dst), u16::from_be_bytes(port)) {
        0 => Ok(()),
        _ => Err(Reason::PodTunnel),
    }
}

/// The same of IPv4 in IPv4, where there is none.
#[inline(always)]
pub(crate) fn check_node(dst: Ipv4) -> Result<(), Reason> {
    match is_node(dst) {
        false => Ok(()),
        true => Err(Reason::PodTunnel),
    }
}

/// Whether peers, or we, take tunnel packets at this address and port. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_tunnel(address: u32, port: u16) -> u8 {
    u8::from(is_for_node(address.to_ne_bytes(), port))
}

#[inline(always)]
fn is_for_node(address: Ipv4, port: u16) -> bool {
    let vxlan = VXLAN_PORT.load();
    vxlan != 0 && port == vxlan && is_node(address)
}

#[inline(always)]
fn is_node(address: Ipv4) -> bool {
    globals::is_vtep(address) || VTEPS.get_ptr(address).is_some()
}
