//! VXLAN (RFC 7348) exactly as flannel's kernel device sends and accepts it.

use bytemuck::{Pod, Zeroable};

use crate::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_UDP, Udp, VERSION_IHL};
use crate::reason::Reason;
use crate::{Ipv4, Mac, csum, ecn};

/// The kernel's default port, which flannel's `Port: 0` means (not IANA's 4789).
pub const DEFAULT_PORT: u16 = 8472;
/// Time to live of the outer header: `IPDEFTTL`.
const TTL: u8 = 64;

/// RFC 7348 section 5: the I bit, everything else reserved and zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Vxlan {
    pub flags: [u8; 4],
    /// VNI in the upper three bytes.
    pub vni: [u8; 4],
}

/// What encapsulation puts between the outer Ethernet header and the inner IPv4 header: 50 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Outer {
    pub ip: Ip,
    pub udp: Udp,
    pub vxlan: Vxlan,
    pub eth: Eth,
}

impl Outer {
    pub const LEN: usize = size_of::<Self>();
}

/// The overhead, and the part of it behind the outer IPv4 header, as the length fields count them.
const OVERHEAD: u16 = 50;
const UDP_OVERHEAD: u16 = 30;
const _: () = assert!(Outer::LEN == OVERHEAD as usize);
const _: () = assert!(Outer::LEN - Ip::LEN == UDP_OVERHEAD as usize);
const _: () = assert!(size_of::<Vxlan>() == 8);

const FLAGS: [u8; 4] = [0x08, 0, 0, 0];

/// What the outer headers are made from.
#[derive(Debug, Clone, Copy)]
pub struct Encap {
    pub local: Ipv4,
    pub remote: Ipv4,
    /// UDP ports, network order.
    pub src_port: [u8; 2],
    pub dst_port: [u8; 2],
    pub vni: u32,
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub inner_tos: u8,
    /// IPv4 identification; DF is 0, so routers may fragment.
    pub id: [u8; 2],
    /// Total length of the inner IPv4 packet. For GSO packets the lengths are rewritten per segment.
    pub inner_len: u16,
}

/// Builds the outer headers, or `None` if the result would pass 65,535 bytes.
///
/// UDP checksum 0: legal over IPv4 (RFC 7348 section 5), accepted by every peer, and the only choice
/// that `bpf_skb_adjust_room` leaves for GSO packets.
#[inline(always)]
pub fn encapsulate(e: &Encap) -> Option<Outer> {
    let (udp_len, ip_len) = (
        e.inner_len.checked_add(UDP_OVERHEAD)?,
        e.inner_len.checked_add(OVERHEAD)?,
    );
    let mut outer = Outer {
        ip: Ip {
            version_ihl: VERSION_IHL,
            tos: ecn::encapsulate(e.inner_tos),
            total_len: ip_len.to_be_bytes(),
            id: e.id,
            fragment: [0, 0],
            ttl: TTL,
            proto: PROTO_UDP,
            check: [0, 0],
            src: e.local,
            dst: e.remote,
        },
        udp: Udp {
            src: e.src_port,
            dst: e.dst_port,
            len: udp_len.to_be_bytes(),
            check: [0, 0],
        },
        vxlan: Vxlan {
            flags: FLAGS,
            vni: (e.vni << 8).to_be_bytes(),
        },
        eth: Eth {
            dst: e.dst_mac,
            src: e.src_mac,
            ethertype: ETHERTYPE_IPV4,
        },
    };
    outer.ip.check = csum::ipv4_header(bytemuck::cast_ref(&outer.ip));
    Some(outer)
}

/// Checks the outer headers of an option-less, unfragmented UDP packet to our address and port;
/// `packet_len` is the length from the outer IPv4 header on.
///
/// # Errors
/// The reason why it is not taken: passes for what the stack or another program may still handle,
/// drops for what flannel's kernel device drops too.
#[inline(always)]
pub fn check(outer: &Outer, vni: u32, packet_len: u32) -> Result<(), Reason> {
    let total = outer.ip.total_len();
    if u32::from(total) > packet_len {
        return Err(Reason::Truncated);
    }
    if Some(u16::from_be_bytes(outer.udp.len)) != total.checked_sub(OVERHEAD - UDP_OVERHEAD) {
        return Err(Reason::LengthMismatch);
    }
    if u32::from_be_bytes(outer.vxlan.vni) >> 8 != vni {
        return Err(Reason::OtherVni);
    }
    if outer.vxlan.flags != FLAGS || outer.vxlan.vni[3] != 0 {
        return Err(Reason::BadVxlanFlags);
    }
    if outer.eth.ethertype != ETHERTYPE_IPV4 {
        return Err(Reason::NotIpv4);
    }
    Ok(())
}

/// Checks the inner IPv4 header against the room that the outer lengths leave; returns its total length.
///
/// A header that is not sane stays with the stack, which counts it where people look for it. An inner
/// length over the datagram's also marks several datagrams merged by `rx-udp-gro-forwarding`.
///
/// # Errors
/// [`Reason::NotIpv4`] or [`Reason::LengthMismatch`].
#[inline(always)]
pub fn check_inner(outer: &Outer, inner: &Ip) -> Result<u16, Reason> {
    if !inner.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    let inner_len = inner.total_len();
    let header_len = u16::from(inner.version_ihl & 0xf) * 4;
    let room = outer.ip.total_len().saturating_sub(OVERHEAD);
    if inner_len > room || inner_len < header_len {
        return Err(Reason::LengthMismatch);
    }
    Ok(inner_len)
}
