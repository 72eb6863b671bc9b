//! Names, keys and values of the BPF maps: the layout that agent, programs and `bpftool map dump` share.
//!
//! Names are at most 15 bytes (`BPF_OBJ_NAME_LEN`), values carry named padding only, and a layout
//! change raises [`LAYOUT_VERSION`], which is part of the pin path.

use bytemuck::{Pod, Zeroable};

use crate::{Ipv4, Mac};

/// Version of everything in this file; the pin folder is `v<LAYOUT_VERSION>`. The feature `next-layout` is a build
/// with another one, for tests of upgrades.
pub const LAYOUT_VERSION: u32 = 13 + cfg!(feature = "next-layout") as u32;

/// The first layout whose [`SNAT`] is understood; up to 9 its values are [`crate::snat::Former`]. Everything else in the maps
/// follows from the leases or is proven again; translated connections would be lost.
pub const SNAT_SINCE: u32 = 1;

/// Whether the entries of [`SNAT`] in layout `from` mean here what they mean there. Never for a later one: who
/// steps back does not know what it changed.
pub fn carries_snat(from: u32) -> bool {
    (SNAT_SINCE..LAYOUT_VERSION).contains(&from)
}

/// LPM trie: subnet of a peer → [`Peer`].
pub const PEERS: &str = "fl_peers";
/// Hash: outer address of a peer → [`Vtep`]. Packets from any other outer address are not ours.
pub const VTEPS: &str = "fl_vteps";
/// Hash: VTEP MAC → [`Vtep`]. Tells a peer that sends from another address than its PublicIP from a stranger.
pub const MACS: &str = "fl_macs";
/// LRU hash: [`crate::source::SenderKey`] → [`crate::source::Sender`], tunnel packets from where no lease says.
pub const SENDERS: &str = "fl_senders";
/// LRU hash: outer address → [`crate::asked::Asked`], what the host's firewall was asked about it.
pub const ASKED: &str = "fl_asked";
/// Per-CPU array by [`crate::program::Program`]: [`crate::stats::Counters`].
pub const STATS: &str = "fl_stats";

/// LRU hash: [`crate::flow::FlowKey`] → [`crate::flow::Flow`], the verified flows.
pub const FLOWS: &str = "fl_flows";
/// Array of one `u32`: raised by the agent to end every proof in [`FLOWS`] at once.
pub const EPOCH: &str = "fl_epoch";

/// Per-CPU array by [`crate::crossing::place`]: [`crate::crossing::Crossing`], the packets that are in the stack.
pub const SLOT: &str = "fl_slot";
/// Hash: ifindex (`u32`) → why no flow that passes that device is proven, a value of [`crate::unfit`].
pub const UNFIT: &str = "fl_unfit";

/// LRU hash: [`crate::snat::Key`] → [`crate::snat::Entry`], both ways of what leaves as the node.
pub const SNAT: &str = "fl_snat";
/// Hash: [`crate::snat::Key`] of an in half in [`SNAT`] → since when (monotonic nanoseconds) somebody is about to end its flow.
pub const ENDING: &str = "fl_ending";
/// Array: the [`crate::snat::Place`]s of young flows in [`SNAT`], of which there are [`crate::snat::places`].
pub const YOUNG: &str = "fl_young";
/// Array by [`crate::snat::share`]: [`crate::snat::Share`], whose those places are.
pub const SHARES: &str = "fl_shares";
/// Array by the same: [`crate::snat::Lasting`], what else each pod has in [`SNAT`].
pub const LASTING: &str = "fl_lasting";
/// Array of one [`crate::snat::Times`]: how long flows in [`SNAT`] live.
pub const TIMES: &str = "fl_times";
/// LRU hash: [`crate::snat::FragmentKey`] → [`crate::snat::Fragment`].
pub const FRAGMENTS: &str = "fl_frags";
/// Program array: [`crate::program::Program::STEPS`].
pub const STEPS: &str = "fl_snat_steps";
/// Per-CPU array of one: the packet at hand, from one SNAT program to the next.
pub const WORK: &str = "fl_snat_work";
/// LPM trie: destinations to which pods keep their address → 1.
pub const EXEMPT: &str = "fl_nomasq";
/// Hash: ifindex (`u32`) → [`crate::snat::Choices`], the addresses that pods' flows leave as by that device.
pub const OUTLETS: &str = "fl_outlets";
/// Hash: [`crate::snat::Lent`] → 1: the same addresses, to look them up.
pub const LENT: &str = "fl_lent";

/// Ring buffer of [`crate::event::Event`], for `flannel-agent monitor`.
pub const EVENTS: &str = "fl_events";
/// Array of one [`crate::event::Listen`].
pub const LISTEN: &str = "fl_listen";

/// Array of one [`crate::event::Filter`].
pub const FILTER: &str = "fl_filter";
/// Program array of one, [`crate::event::TELLER`], for as long as somebody listens.
pub const TELLER: &str = "fl_teller";
/// Perf event array: a buffer per CPU, for `flannel-agent capture`.
pub const CAPTURE: &str = "fl_capture";

/// Per-CPU array of one `u64`: events that found no room.
pub const LOST: &str = "fl_lost";

/// Room for two thousand events; a power of two of pages.
pub const EVENTS_BYTES: usize = 256 << 10;

/// Default size of [`SNAT`]: two entries a flow, for as many as `nf_conntrack_max` admits by default.
pub const MAX_SNAT: usize = 524_288;
/// Default size of [`YOUNG`].
pub const MAX_YOUNG: usize = MAX_SNAT / crate::snat::ENTRIES_A_PLACE as usize;
/// Flows that are being ended at one moment: one a CPU, and the agent's.
pub const MAX_ENDING: usize = 1_024;
/// Fragmented packets at once; each speaks for at most half a minute.
pub const MAX_FRAGMENTS: usize = 16_384;
/// Strangers and peers elsewhere that are remembered.
pub const MAX_SENDERS: usize = 4_096;
/// `--snat-exempt` prefixes.
pub const MAX_EXEMPT: usize = 1_024;
/// Devices.
pub const MAX_OUTLETS: usize = 1_024;
/// Each address by its device, and by any.
pub const MAX_LENT: usize = 2 * MAX_OUTLETS * crate::snat::MAX_CHOICES;
/// Devices in [`UNFIT`]: a bridge has at most 1,024 ports.
pub const MAX_UNFIT: usize = 2_048;

/// Default size of [`FLOWS`]. Far above 128 entries a CPU, below which the LRU's per-CPU hoards starve it
/// on kernels before 6.16 (commit d4adf1c9ee77).
pub const MAX_FLOWS: usize = 131_072;

/// As many /24 subnets as a /8 holds.
pub const MAX_PEERS: usize = 65_536;

/// [`Peer::kind`]: reached by VXLAN.
pub const PEER_VXLAN: u8 = 1;
/// [`Peer::kind`]: on-link, routed without encapsulation (host-gw, DirectRouting).
pub const PEER_DIRECT: u8 = 2;
/// [`Peer::kind`]: no peer, but a [`Way`](crate::outside::Way) out of the cluster. Of a flow only, never in [`PEERS`].
pub const PEER_OUTSIDE: u8 = 3;

/// [`Peer::kind`]: reached by VXLAN, but by way of the node's own stack, both ways: its socket, OUTPUT and INPUT, IPsec.
pub const PEER_STACK: u8 = 4;

/// Bit of [`Vtep::leases`]: what comes from there is the stack's, as with [`PEER_STACK`].
pub const BY_STACK: u32 = 1 << 31;

/// [`Peer::next_hop`]: ask the routing table for each packet.
pub const ROUTED: Ipv4 = [0; 4];

/// How to reach the pods of one leased subnet.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Peer {
    /// The peer's PublicIP: outer destination.
    pub public_ip: Ipv4,
    /// Whom to ask for a link-layer address on the uplink: the gateway, or `public_ip` when on-link; or
    /// [`ROUTED`].
    pub next_hop: Ipv4,
    /// Inner destination MAC.
    pub vtep_mac: Mac,
    /// [`PEER_VXLAN`], [`PEER_DIRECT`] or [`PEER_STACK`].
    pub kind: u8,
    /// What the way to the peer carries, where that is less than the overlay's MTU: see [`Peer::carries`]. 0: the MTU.
    pub narrow: u8,
}

/// [`Peer::narrow`] counts steps of so many bytes.
const STEP: u32 = 32;

/// [`Peer::narrow`] of a way that carries inner packets of `mtu` bytes, and what it says of them: no more than that, and at most
/// 8,160 bytes.
#[must_use]
pub fn narrow(mtu: u32) -> (u8, u32) {
    let steps = u8::try_from(mtu / STEP).unwrap_or(u8::MAX).max(1);
    (steps, narrowed(steps))
}

/// Bytes of the longest inner packet, from the IPv4 header on, by a [`Peer::narrow`] other than 0.
#[must_use]
pub const fn narrowed(narrow: u8) -> u32 {
    STEP * narrow as u32
}

impl Peer {
    /// Whether the way carries an inner packet of `len` bytes, which are some. Without a branch, as the programs need it: 0 wraps.
    #[inline(always)]
    #[must_use]
    pub const fn carries(&self, len: u32) -> bool {
        len.wrapping_sub(1) / STEP <= (self.narrow as u32).wrapping_sub(1)
    }
}

/// A known outer source address, or VTEP MAC.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Vtep {
    /// Number of leases that name it, and of an address [`BY_STACK`].
    pub leases: u32,
}

const _: () = assert!(size_of::<Peer>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_way_is_never_said_to_carry_more() {
        for mtu in 32..=65_535 {
            let (steps, bytes) = narrow(mtu);
            assert!(bytes <= mtu && (mtu - bytes < 32 || bytes == 8160), "{mtu}");
            assert_eq!(narrow(bytes), (steps, bytes));
            let peer = Peer {
                narrow: steps,
                ..Peer::zeroed()
            };
            assert!(peer.carries(1) && peer.carries(bytes) && !peer.carries(bytes + 1));
        }
        let wide = Peer::zeroed();
        assert!(wide.carries(1) && wide.carries(65_535));
        assert_eq!(
            [1250, 1370, 1450].map(|mtu| narrow(mtu).1),
            [1248, 1344, 1440]
        );
    }

    #[test]
    fn translated_connections_come_from_earlier_layouts_that_had_them_alike() {
        assert!(!carries_snat(SNAT_SINCE - 1));
        assert!(!carries_snat(LAYOUT_VERSION), "those are ours already");
        assert!(
            !carries_snat(LAYOUT_VERSION + 1),
            "nobody knows what changed"
        );
        assert_eq!(carries_snat(SNAT_SINCE), SNAT_SINCE != LAYOUT_VERSION);
    }
}
