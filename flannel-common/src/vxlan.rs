//! VXLAN (RFC 7348) exactly as flannel's kernel device sends and accepts it.

use bytemuck::{Pod, Zeroable};

use crate::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_UDP, Udp, VERSION_IHL};
use crate::reason::Reason;
use crate::{Ipv4, Mac, csum, ecn, gbp};

/// The kernel's default port, which flannel's `Port: 0` means (not IANA's 4789).
pub const DEFAULT_PORT: u16 = 8472;
/// Time to live of the outer header: `IPDEFTTL`.
pub(crate) const TTL: u8 = 64;

/// RFC 7348 section 5.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Vxlan {
    pub flags: [u8; 4],
    /// VNI in the upper three bytes.
    pub vni: [u8; 4],
}

impl Vxlan {
    /// What flags and reserved bits tell of the packet's mark: nothing, unless with GBP there is a group.
    ///
    /// # Errors
    /// [`Reason::BadVxlanFlags`] for what flannel's kernel device drops.
    #[inline(always)]
    pub fn mark(&self, gbp: bool) -> Result<Option<u32>, Reason> {
        let mark = match gbp {
            true => gbp::mark(self.flags)?,
            false if self.flags != FLAGS => return Err(Reason::BadVxlanFlags),
            false => None,
        };
        if self.vni[3] != 0 {
            return Err(Reason::BadVxlanFlags);
        }
        Ok(mark)
    }
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

/// What is the same in every packet that a node encapsulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constant {
    pub local: Ipv4,
    /// UDP destination port, host order.
    pub port: u16,
    pub vni: u32,
    pub vtep_mac: Mac,
}

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy)]
pub struct Varying {
    pub remote: Ipv4,
    /// UDP source port, network order.
    pub src_port: [u8; 2],
    pub dst_mac: Mac,
    /// The inner header as it is to leave.
    pub inner: Ip,
    /// IPv4 identification; DF is 0, so routers may fragment.
    pub id: [u8; 2],
    /// Total length of the inner IPv4 packet. For GSO packets the lengths are rewritten per segment.
    pub inner_len: u16,
}

/// [`Outer`] as the words a CPU likes to copy: the headers built once, with holes where [`Varying`] goes.
/// Byte order in memory is that of the wire.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Template(pub [u64; 7]);

/// Bytes of a [`Template`] that go on the wire.
const _: () = assert!(size_of::<Template>() - Outer::LEN == 6);
// The words below are put together in memory order.
const _: () = assert!(cfg!(target_endian = "little"));

impl Template {
    /// The headers of this node. Not in the packet path: the agent builds them once.
    pub fn new(constant: &Constant) -> Self {
        let outer = Outer {
            ip: Ip {
                version_ihl: VERSION_IHL,
                ttl: TTL,
                proto: PROTO_UDP,
                src: constant.local,
                ..Ip::zeroed()
            },
            udp: Udp {
                dst: constant.port.to_be_bytes(),
                ..Udp::zeroed()
            },
            vxlan: Vxlan {
                flags: FLAGS,
                vni: (constant.vni << 8).to_be_bytes(),
            },
            eth: Eth {
                src: constant.vtep_mac,
                ethertype: ETHERTYPE_IPV4,
                ..Eth::zeroed()
            },
        };
        let mut bytes = [0u8; size_of::<Self>()];
        bytes[..Outer::LEN].copy_from_slice(bytemuck::bytes_of(&outer));
        Self(bytemuck::cast(bytes))
    }

    /// Fills the holes and puts the front of the inner IPv4 header behind, so that one write does it all.
    /// `None` if the result would pass 65,535 bytes.
    ///
    /// UDP checksum 0: legal over IPv4 (RFC 7348 section 5), accepted by every peer, and the only choice
    /// that `bpf_skb_adjust_room` leaves for GSO packets.
    #[inline(always)]
    pub fn fill(&self, v: &Varying) -> Option<OuterBytes> {
        let udp_len = v.inner_len.checked_add(UDP_OVERHEAD)?;
        let ip_len = v.inner_len.checked_add(OVERHEAD)?;
        let remote = u64::from(u32::from_ne_bytes(v.remote));
        let [m0, m1, m2, m3, m4, m5] = v.dst_mac;

        let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11] = v.inner.front();
        let (i0, i1) = ([f0, f1, f2, f3], [f4, f5]);
        let (i2, i3) = ([f6, f7], [f8, f9, f10, f11]);

        let [w0, w1, w2, w3, w4, w5, w6] = self.0;
        let mut w = [w0, w1, w2, w3, w4, w5, w6, 0];
        w[0] |= u64::from(ecn::encapsulate(v.inner.tos)) << 8
            | u64::from(ip_len.to_be()) << 16
            | u64::from(u16::from_ne_bytes(v.id)) << 32;
        w[2] |= remote | u64::from(u16::from_ne_bytes(v.src_port)) << 32;
        w[3] |= u64::from(udp_len.to_be());
        w[4] |= u64::from(u32::from_ne_bytes([m0, m1, m2, m3])) << 32;
        w[5] |= u64::from(u16::from_ne_bytes([m4, m5]));
        w[6] |= u64::from(u32::from_ne_bytes(i0)) << 16 | u64::from(u16::from_ne_bytes(i1)) << 48;
        w[7] = u64::from(u16::from_ne_bytes(i2)) | u64::from(u32::from_ne_bytes(i3)) << 16;
        // The ones' complement sum does not care about byte order (RFC 1071 section 2).
        let sum = words(w[0]) + words(w[1]) + words(remote);
        w[1] |= u64::from(!csum::fold(sum)) << 16;
        Some(OuterBytes(w))
    }
}

/// Sum of the four 16-bit words.
#[inline(always)]
pub(crate) const fn words(w: u64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "four 16-bit words make at most 18 bits"
    )]
    let sum = ((w & 0xffff) + (w >> 16 & 0xffff) + (w >> 32 & 0xffff) + (w >> 48)) as u32;
    sum
}

/// Finished headers: [`Outer`], then [`Ip::front`] of the inner packet.
#[derive(Debug, Clone, Copy)]
pub struct OuterBytes([u64; 8]);

impl OuterBytes {
    pub const LEN: usize = Outer::LEN + Ip::FRONT;

    /// With GBP: the packet's mark goes along.
    #[inline(always)]
    pub const fn carry(&mut self, mark: u32) {
        self.0[3] |= (u32::from_ne_bytes(gbp::flags(mark)) as u64) << 32;
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        let all: &[u8; size_of::<Self>()] = bytemuck::cast_ref(&self.0);
        // The longer array always has this prefix.
        match all.first_chunk() {
            Some(wire) => wire,
            None => &[0; Self::LEN],
        }
    }
}

const _: () = assert!(size_of::<OuterBytes>() - OuterBytes::LEN == 2);

/// Checks the outer headers of an option-less, unfragmented UDP packet to our address and port;
/// `packet_len` is the length from the outer IPv4 header on. Returns the mark that the sender gave the packet, if with GBP
/// there is one.
///
/// # Errors
/// The reason why it is not taken: passes for what the stack or another program may still handle,
/// drops for what flannel's kernel device drops too.
#[inline(always)]
pub fn check(outer: &Outer, vni: u32, packet_len: u32, gbp: bool) -> Result<Option<u32>, Reason> {
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
    let mark = outer.vxlan.mark(gbp)?;
    if outer.eth.ethertype != ETHERTYPE_IPV4 {
        return Err(Reason::NotIpv4);
    }
    Ok(mark)
}

/// Checks the inner IPv4 header against the room that the outer lengths leave; returns its total length.
///
/// A header that is not sane stays with the stack, which counts it where people look for it.
///
/// # Errors
/// [`Reason::NotIpv4`] or [`Reason::LengthMismatch`].
#[inline(always)]
pub fn check_inner(outer: &Outer, inner: &Ip) -> Result<u16, Reason> {
    inner.check_within(outer.ip.total_len().saturating_sub(OVERHEAD))?;
    Ok(inner.total_len())
}

/// Whether a GSO packet is several datagrams that UDP's GRO has merged (`rx-gro-list`, `rx-udp-gro-forwarding`): the inner header speaks of
/// the first alone. What a tunnel's own GRO or GSO makes has one length, inside as outside (`inet_gro_complete`, `iptunnel_xmit`). Total lengths
/// of both.
#[inline(always)]
#[must_use]
pub const fn is_batch(gso_size: u32, outer: u16, inner: u16) -> bool {
    gso_size != 0 && inner != outer.wrapping_sub(OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketHeaders, TransportHeader};
    use proptest::prelude::*;

    #[test]
    fn a_batch_is_longer_outside_than_its_first_inside() {
        assert!(is_batch(1_400, 2_900, 1_450));
        assert!(!is_batch(1_400, 2_900, 2_850), "one packet of a tunnel");
        assert!(
            !is_batch(0, 2_900, 1_450),
            "what is behind one packet is nobody's"
        );
    }

    proptest! {
        /// Against a library that is not ours: every field, and the header checksum.
        #[test]
        fn filled_template_parses_back(
            local: Ipv4, remote: Ipv4, port: u16, vni in 0u32..1 << 24, vtep_mac: Mac, dst_mac: Mac, mark: u32,
            src_port: u16, front: [u8; 12], id: [u8; 2], inner_len in 12u16..=65_485,
        ) {
            let template = Template::new(&Constant { local, port, vni, vtep_mac });
            let mut header = [0u8; 20];
            header[..12].copy_from_slice(&front);
            let inner: Ip = bytemuck::cast(header);
            let filled = template
                .fill(&Varying { remote, src_port: src_port.to_be_bytes(), dst_mac, inner, id, inner_len })
                .unwrap();
            let mut packet = filled.bytes().to_vec();
            prop_assert_eq!(&packet[50..], front);
            packet.resize(50 + usize::from(inner_len), 0);

            let parsed = PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!((ip.source, ip.destination), (local, remote));
            prop_assert_eq!((ip.time_to_live, ip.dont_fragment, ip.dscp.value()), (64, false, 0));
            prop_assert_eq!(ip.ecn.value(), ecn::encapsulate(inner.tos));
            prop_assert_eq!(ip.identification, u16::from_be_bytes(id));
            prop_assert_eq!(ip.total_len, inner_len + 50);
            let Some(TransportHeader::Udp(udp)) = parsed.transport else { panic!("not UDP") };
            prop_assert_eq!((udp.source_port, udp.destination_port), (src_port, port));
            prop_assert_eq!((udp.length, udp.checksum), (inner_len + 30, 0));

            let vni = vni.to_be_bytes();
            prop_assert_eq!(&packet[28..36], [8, 0, 0, 0, vni[1], vni[2], vni[3], 0]);
            let mut marked = filled;
            marked.carry(mark);
            prop_assert_eq!(&marked.bytes()[28..32], gbp::flags(mark));
            prop_assert_eq!(&marked.bytes()[..28], &filled.bytes()[..28]);
            prop_assert_eq!(&marked.bytes()[32..], &filled.bytes()[32..]);
            prop_assert_eq!(&packet[36..42], dst_mac);
            prop_assert_eq!(&packet[42..48], vtep_mac);
            prop_assert_eq!(&packet[48..50], [8, 0]);
        }
    }

    #[test]
    fn refuses_what_does_not_fit_a_datagram() {
        let template = Template::zeroed();
        let varying = |inner_len| Varying {
            remote: [0; 4],
            src_port: [0; 2],
            dst_mac: [0; 6],
            inner: Ip::zeroed(),
            id: [0; 2],
            inner_len,
        };
        assert!(template.fill(&varying(65_485)).is_some());
        assert!(template.fill(&varying(65_486)).is_none());
    }
}
