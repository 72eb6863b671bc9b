//! What a frame is to the stack: its protocol, its VLAN tags, whom it is addressed to.

use aya_ebpf::helpers::{bpf_skb_change_type, bpf_skb_vlan_pop};
use flannel_common::header::{ETHERTYPE_IPV4, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Eth};

use super::Skb;

/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// `linux/if_vlan.h`.
const VLAN_VID_MASK: u32 = 0xfff;

impl Skb {
    /// Whether the frame carries IPv4 and no VLAN tag, neither in the frame nor beside it.
    #[inline(always)]
    pub(crate) fn is_ipv4(&self) -> bool {
        self.carries_ipv4() && !self.is_tagged()
    }

    /// The same for a frame that comes in, where the VLAN id 0 is none: such a tag carries a priority and nothing else, and
    /// the kernel ignores it (`__netif_receive_skb_core`, which puts a tag beside the frame before the programs run).
    #[inline(always)]
    pub(crate) fn is_ipv4_for_us(&self) -> bool {
        self.carries_ipv4() && (!self.is_tagged() || self.vlan_id() == 0)
    }

    /// Takes the tag off that [`Self::is_ipv4_for_us`] has let pass: who takes the frame past the kernel's receive path does
    /// its work.
    #[inline(always)]
    pub(crate) fn untag(&self) {
        if self.is_tagged() {
            // SAFETY: a plain helper call with the live context; nothing keeps a pointer into the packet. It cannot fail for a
            // tag that lies beside the frame (`skb_vlan_pop`).
            unsafe { bpf_skb_vlan_pop(self.raw()) };
        }
    }

    #[inline(always)]
    pub(crate) fn carries_ipv4(&self) -> bool {
        const IPV4: u32 = u16::from_ne_bytes(ETHERTYPE_IPV4) as u32;
        // SAFETY: as in `new`.
        let protocol = unsafe { (*self.raw()).protocol };
        protocol == IPV4
    }

    /// Whether a tag without an id lies behind another. The kernel takes any number of those off (`__netif_receive_skb_core`), and
    /// none has a use for anybody but who hides something behind it.
    #[inline(always)]
    pub(crate) fn has_nested_priority(&self) -> bool {
        // SAFETY: as in `new`.
        let protocol = unsafe { (*self.raw()).protocol };
        let [vlan, service] =
            [ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN].map(|tag| u32::from(u16::from_ne_bytes(tag)));
        if protocol != vlan && protocol != service {
            return false;
        }
        let tag = self.load::<[u8; 2]>(Eth::LEN).map(u16::from_be_bytes);
        tag.is_some_and(|tag| u32::from(tag) & VLAN_VID_MASK == 0)
    }

    #[inline(always)]
    fn is_tagged(&self) -> bool {
        // SAFETY: as in `new`.
        let vlan = unsafe { (*self.raw()).vlan_present };
        vlan != 0
    }

    #[inline(always)]
    fn vlan_id(&self) -> u32 {
        // SAFETY: as in `new`.
        let tag = unsafe { (*self.raw()).vlan_tci };
        tag & VLAN_VID_MASK
    }

    /// Whether the frame was addressed to this host.
    #[inline(always)]
    pub(crate) fn is_for_host(&self) -> bool {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).pkt_type == PACKET_HOST }
    }

    /// Keeps the stack from taking the frame (`ip_rcv` drops what is for another host), while programs behind this one, and a
    /// redirect, still may.
    #[inline(always)]
    pub(crate) fn hide_from_stack(&self) {
        // SAFETY: a plain helper call with the live context. A frame that arrives has one of the types that it takes.
        unsafe { bpf_skb_change_type(self.raw(), PACKET_OTHERHOST) };
    }

    /// The contrary.
    #[inline(always)]
    pub(crate) fn show_to_stack(&self) {
        // SAFETY: as in `hide_from_stack`.
        unsafe { bpf_skb_change_type(self.raw(), PACKET_HOST) };
    }
}
