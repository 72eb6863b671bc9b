//! The way of a verified flow out of the cluster: where the stack sent it, and how long its packets may be.

use bytemuck::{Pod, Zeroable};

use crate::Ipv4;
use crate::maps::{PEER_OUTSIDE, Peer};
use crate::snat::Entry;

/// Nanoseconds after which a flow is worth a proof. To prove one request and its answer costs as much as it saves, and
/// on a network that is near they are over by then.
pub const LASTING: u64 = 20_000_000;

/// Nanoseconds without a packet one way after which the next one that way is not worth a proof. It would hold for a few packets
/// at best, and take the place of a flow that has more.
pub const PAUSE: u64 = 2_000_000_000;

/// Whether a translated flow is older than [`LASTING`]; `now` in monotonic nanoseconds.
#[inline(always)]
pub const fn lasts(half: &Entry, now: u64) -> bool {
    now.saturating_sub(half.opened) >= LASTING
}

/// Whether a packet is worth a proof: of a flow that lasts, and with no [`PAUSE`] before it. `half` as the packet found it.
#[inline(always)]
pub const fn is_worth_proof(half: &Entry, now: u64) -> bool {
    lasts(half, now) && now.saturating_sub(half.last_seen) < PAUSE
}

/// What every host must take (RFC 791 section 3.1), and no route forbids.
pub const SHORT: u16 = 576;

/// Stands in a flow in the place of its peer.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Way {
    /// Device that the stack sent it out of: the source is translated there, and only there.
    pub ifindex: u32,
    /// Whose link-layer address it was sent to: the gateway, or the destination when on-link.
    pub next_hop: Ipv4,
    /// Bytes of the longest packet that the stack let out, from the IPv4 header on, but at least [`SHORT`]. A route
    /// may have an MTU of its own, of which no look-up tells.
    pub longest: u16,
    pub pad: [u8; 4],
    /// [`PEER_OUTSIDE`], where a peer has its own.
    pub kind: u8,
    pub end: u8,
}

impl Way {
    /// Of a packet of `len` bytes.
    #[inline(always)]
    pub fn new(ifindex: u32, next_hop: Ipv4, len: u32) -> Self {
        Self {
            ifindex,
            next_hop,
            longest: u16::try_from(len).unwrap_or(u16::MAX).max(SHORT),
            pad: [0; 4],
            kind: PEER_OUTSIDE,
            end: 0,
        }
    }

    #[inline(always)]
    pub fn of(peer: &Peer) -> Option<Self> {
        (peer.kind == PEER_OUTSIDE).then(|| bytemuck::cast(*peer))
    }

    /// Together with what is known of the same way: the longest packet counts.
    #[inline(always)]
    pub fn joined(self, known: &Peer) -> Self {
        match Self::of(known) {
            Some(known) if known.ifindex == self.ifindex && known.next_hop == self.next_hop => {
                Self {
                    longest: self.longest.max(known.longest),
                    ..self
                }
            }
            _ => self,
        }
    }

    /// Whether a packet of `len` bytes may go this way without asking the stack.
    #[inline(always)]
    pub fn carries(&self, ifindex: u32, len: u32) -> bool {
        self.ifindex == ifindex && len <= u32::from(self.longest)
    }
}

impl From<Way> for Peer {
    #[inline(always)]
    fn from(way: Way) -> Self {
        bytemuck::cast(way)
    }
}

const _: () = assert!(size_of::<Way>() == size_of::<Peer>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::PEER_DIRECT;
    use crate::snat::{Endpoint, KIND_PAIR, NANOS, Seen};

    const GATEWAY: Ipv4 = [192, 168, 0, 254];

    #[test]
    fn worth_a_proof_is_what_lasts_and_does_not_pause() {
        const BEGIN: u64 = 50 * NANOS;
        let to = Endpoint {
            addr: GATEWAY,
            port: [0; 2],
        };
        let mut half = Entry::new(KIND_PAIR, to, Seen::default(), BEGIN);
        let worth = |half: &Entry, after| is_worth_proof(half, BEGIN + after);
        assert!(!worth(&half, LASTING - 1) && worth(&half, LASTING));
        assert!(worth(&half, PAUSE - 1) && !worth(&half, PAUSE));
        half.last_seen += NANOS;
        assert!(worth(&half, PAUSE), "a packet came in between");
        // Another CPU's clock may be a tick ahead.
        half.last_seen = BEGIN + 4 * NANOS;
        assert!(worth(&half, 3 * NANOS));
        assert!(lasts(&half, u64::MAX), "whenever the last packet came");
    }

    #[test]
    fn a_way_is_told_from_a_peer_by_its_kind() {
        let way = Way::new(3, GATEWAY, 1450);
        let mut peer = Peer::from(way);
        assert_eq!((peer.kind, peer.next_hop), (PEER_OUTSIDE, GATEWAY));
        assert_eq!(Way::of(&peer), Some(way));
        peer.kind = PEER_DIRECT;
        assert_eq!(Way::of(&peer), None);
    }

    #[test]
    fn what_was_longest_counts_on_the_same_way_only() {
        let known = Peer::from(Way::new(3, GATEWAY, 1450));
        assert_eq!(Way::new(3, GATEWAY, 60).joined(&known).longest, 1450);
        assert_eq!(Way::new(3, GATEWAY, 1500).joined(&known).longest, 1500);
        assert_eq!(Way::new(4, GATEWAY, 600).joined(&known).longest, 600);
        let other = Way::new(3, [192, 168, 0, 1], 600);
        assert_eq!(other.joined(&known).longest, 600);
        let peer = Peer {
            kind: PEER_DIRECT,
            ..known
        };
        assert_eq!(Way::new(3, GATEWAY, 600).joined(&peer).longest, 600);
    }

    #[test]
    fn nothing_longer_and_by_no_other_device() {
        let way = Way::new(3, GATEWAY, 1450);
        assert!(way.carries(3, 1450) && way.carries(3, 20));
        assert!(!way.carries(3, 1451));
        assert!(!way.carries(4, 20), "nobody translates there for sure");
        assert_eq!(Way::new(3, GATEWAY, 70_000).longest, u16::MAX);
        assert_eq!(Way::new(3, GATEWAY, 60).longest, SHORT);
    }
}
