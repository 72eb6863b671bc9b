//! Room for the headers of a tunnel: made in front of a packet, and taken away again.

use aya_ebpf::bindings::{
    BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
    BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::bpf_f_adj_room_encap_l2;
use aya_ebpf::helpers::{bpf_csum_level, bpf_skb_change_head};
use flannel_common::header::{Eth, Ip};
use flannel_common::reason::Reason;
use flannel_common::udp;
use flannel_common::vxlan::Outer;

use super::{Refused, Skb};

const EALREADY: i64 = 114;

/// Keep the MSS (pods already subtract the overhead) and the inner checksum state.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
/// Tell the kernel what is being put in front, so that GSO and checksum offload know the inner packet.
const ROOM_ENCAP: u64 = ROOM
    | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
        as u64
    | bpf_f_adj_room_encap_l2(Eth::LEN as u64);

/// The same for an IPv4 header alone.
const ROOM_IPIP: u64 = ROOM | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64;

impl Skb {
    /// Makes room in front of everything, filled with zeros, which becomes the link-layer header.
    #[inline(always)]
    pub(crate) fn grow_front(&self, by: usize) -> Result<(), Refused> {
        // SAFETY: a plain helper call with the live context; nothing keeps a pointer into the packet.
        match unsafe { bpf_skb_change_head(self.raw(), by as u32, 0) } {
            0 => Ok(()),
            _ => Err(Refused),
        }
    }

    /// Makes room for [`Outer`] behind the Ethernet header.
    ///
    /// A packet that is already encapsulated (a pod's own tunnel) is refused with `EALREADY`, because
    /// an skb has one set of inner offsets. One packet on the wire needs none of them: plain room will do.
    #[inline(always)]
    pub(crate) fn grow(&self) -> Result<(), Refused> {
        match self.adjust(Outer::LEN as i32, ROOM_ENCAP) {
            Err(e) if e == -EALREADY && !self.is_gso() => {
                self.adjust(Outer::LEN as i32, ROOM).map_err(|_| Refused)
            }
            other => other.map_err(|_| Refused),
        }
    }

    /// Removes [`Outer`] from behind the Ethernet header.
    ///
    /// Together with the csum_level call this is what the kernel's tunnel receive does: the outer
    /// checksum is used up, an inner one that hardware vouched for stays vouched for.
    #[inline(always)]
    pub(crate) fn shrink(&self) -> Result<(), Refused> {
        self.adjust(-(Outer::LEN as i32), ROOM)
            .map_err(|_| Refused)?;
        // SAFETY: a plain helper call with the live context. Its error only says that there was no
        // hardware verdict to lower.
        unsafe { bpf_csum_level(self.raw(), u64::from(BPF_CSUM_LEVEL_DEC)) };
        Ok(())
    }

    /// As [`Self::grow`], for an IPv4 header.
    #[inline(always)]
    pub(crate) fn grow_ipip(&self) -> Result<(), Refused> {
        match self.adjust(Ip::LEN as i32, ROOM_IPIP) {
            Err(e) if e == -EALREADY && !self.is_gso() => {
                self.adjust(Ip::LEN as i32, ROOM).map_err(|_| Refused)
            }
            other => other.map_err(|_| Refused),
        }
    }

    /// Removes an IPv4 header from behind the Ethernet header. It has no checksum that hardware might have looked at besides the
    /// inner one.
    #[inline(always)]
    pub(crate) fn shrink_ipip(&self) -> Result<(), Refused> {
        self.adjust(-(Ip::LEN as i32), ROOM).map_err(|_| Refused)
    }

    /// Makes room for [`udp::Outer`] behind the Ethernet header, in front of one packet, whose checksums are done: nobody has to
    /// know that there is one inside.
    #[inline(always)]
    pub(crate) fn grow_bare(&self) -> Result<(), Refused> {
        self.adjust(udp::Outer::LEN as i32, ROOM)
            .map_err(|_| Refused)
    }

    /// Removes [`udp::Outer`] from behind the Ethernet header, and `arrived` comes behind that.
    ///
    /// The inner header's front goes along and is put back. A datagram that a socket has sent, on a wire that is none (veth,
    /// virtio), leaves its outer checksum to a device yet to come. Nobody may write that any more: the kernel drops the order
    /// if what is taken off reaches behind the UDP header's place in the frame that is left (`__skb_postpull_rcsum`), which is
    /// 34 bytes.
    #[inline(always)]
    pub(crate) fn shrink_bare(&self, inner: &Ip) -> Result<(), Reason> {
        const BACK: usize = 8;
        const { assert!(udp::Outer::LEN + BACK > Eth::LEN + Ip::LEN) };
        let off = (udp::Outer::LEN + BACK) as i32;
        self.adjust(-off, ROOM).map_err(|_| Reason::DecapRefused)?;
        self.adjust(BACK as i32, ROOM)
            .map_err(|_| Reason::Mangled)?;
        let [a, b, _, _, _]: [u32; Ip::LEN / 4] = bytemuck::must_cast(*inner);
        // What hardware has summed up has to have them again.
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        let stored = self.ctx.skb.store(Eth::LEN, &[a, b], flags);
        stored.map_err(|_| Reason::Mangled)?;
        // SAFETY: as in `shrink`.
        unsafe { bpf_csum_level(self.raw(), u64::from(BPF_CSUM_LEVEL_DEC)) };
        Ok(())
    }

    #[inline(always)]
    fn adjust(&self, by: i32, flags: u64) -> Result<(), i64> {
        self.ctx.skb.adjust_room(by, BPF_ADJ_ROOM_MAC, flags)
    }
}
