//! Anti-spoofing: who may bring which inner source through the tunnel.
//!
//! flannel takes a tunnel packet from anybody. Here its outer source has to be the address of the lease that its inner source
//! belongs to – or the frame has to carry that lease's VTEP MAC as its source, as flannel's device writes it: a node with
//! several addresses, or behind NAT, sends from another than its PublicIP. The MAC is drawn by chance and known to whoever
//! reads the leases or the wire; pods see neither.

use bytemuck::{Pod, Zeroable};

use crate::maps::Peer;
use crate::reason::Reason;
use crate::{Ipv4, Mac};

/// Values of [`crate::globals::SOURCE_CHECK`]: anybody may send anything.
pub const CHECK_OFF: u8 = 0;
/// By the address of a lease or by its VTEP MAC.
pub const CHECK_LEASE: u8 = 1;
/// By the address alone.
pub const CHECK_STRICT: u8 = 2;

/// What a tunnel packet says about where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub outer: Ipv4,
    pub inner: Ipv4,
    /// Source of the inner Ethernet header.
    pub mac: Mac,
}

/// How it was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Address,
    /// The outer source is not the lease's address.
    VtepMac,
}

/// The maps, as far as they are asked.
pub trait Leases {
    /// The lease that covers an address.
    fn owner(&self, inner: Ipv4) -> Option<Peer>;
    /// Whether any lease covers an address.
    fn is_pod(&self, outer: Ipv4) -> bool {
        self.owner(outer).is_some()
    }
    /// Whether an address is of this node's own subnet.
    fn is_ours(&self, inner: Ipv4) -> bool;
    /// Whether any lease has this outer address.
    fn has_address(&self, outer: Ipv4) -> bool;
    /// Whether any lease has this VTEP MAC.
    fn has_mac(&self, mac: Mac) -> bool;
}

impl Claim {
    /// What nobody leases (a node's own address, a client that a node forwards for), inside the Network or outside, may
    /// come from any peer.
    ///
    /// # Errors
    /// [`Reason::SpoofedSource`] from a peer's address, [`Reason::UnknownVtep`] from any other.
    #[inline(always)]
    pub fn check(&self, leases: &impl Leases, mode: u8) -> Result<Proof, Reason> {
        match self.judge(leases, mode) {
            // No node sends from the address of a pod, and a pod may know a MAC.
            Ok(Proof::VtepMac)
                if leases.is_pod(self.outer)
                    || leases.is_ours(self.outer)
                    || is_martian(self.outer) =>
            {
                Err(Reason::UnknownVtep)
            }
            outcome => outcome,
        }
    }

    #[inline(always)]
    fn judge(&self, leases: &impl Leases, mode: u8) -> Result<Proof, Reason> {
        let known = leases.has_address(self.outer);
        // Nobody else speaks for our pods, not by a lease around our subnet either.
        if leases.is_ours(self.inner) {
            return Err(unproven(known));
        }
        let owner = leases.owner(self.inner);
        if let Some(peer) = &owner
            && peer.public_ip == self.outer
        {
            return Ok(Proof::Address);
        }
        let of_nobody = owner.is_none();
        if of_nobody && known {
            return Ok(Proof::Address);
        }
        if mode == CHECK_LEASE && self.mac != [0; 6] {
            let proven = match &owner {
                Some(peer) => peer.vtep_mac == self.mac,
                None => of_nobody && leases.has_mac(self.mac),
            };
            if proven {
                return Ok(Proof::VtepMac);
            }
        }
        Err(unproven(known))
    }
}

/// Sources that the kernel takes from no wire (`ip_route_input_slow` in net/ipv4/route.c): this network, loopback, multicast,
/// broadcast.
#[inline(always)]
pub const fn is_martian(source: Ipv4) -> bool {
    matches!(source, [0 | 127 | 224..=239, ..] | [255, 255, 255, 255])
}

#[inline(always)]
const fn unproven(known: bool) -> Reason {
    match known {
        true => Reason::SpoofedSource,
        false => Reason::UnknownVtep,
    }
}

/// Key of [`crate::maps::SENDERS`]: an outer source that is not the address of the lease that its packets claim.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct SenderKey {
    pub outer: Ipv4,
    /// Number of the [`Reason`] why it was dropped; [`TAKEN`]: it was not.
    pub reason: u8,
    pub pad: [u8; 3],
}

/// [`SenderKey::reason`] of packets that were taken, by their MAC.
pub const TAKEN: u8 = 0xff;

/// What came from there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Sender {
    pub packets: u64,
    /// When the last one came, in nanoseconds of the monotonic clock.
    pub last: u64,
    /// Inner source address of the last one.
    pub inner: Ipv4,
    /// Source of its inner Ethernet header.
    pub mac: Mac,
    pub pad: [u8; 6],
}

impl SenderKey {
    #[inline(always)]
    pub const fn of(claim: &Claim, outcome: Result<Proof, Reason>) -> Option<Self> {
        let reason = match outcome {
            Ok(Proof::Address) => return None,
            Ok(Proof::VtepMac) => TAKEN,
            Err(reason) => reason as u8,
        };
        Some(Self {
            outer: claim.outer,
            reason,
            pad: [0; 3],
        })
    }
}

impl Sender {
    #[inline(always)]
    pub const fn of(claim: &Claim, packets: u64, last: u64) -> Self {
        Self {
            packets,
            last,
            inner: claim.inner,
            mac: claim.mac,
            pad: [0; 6],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::PEER_VXLAN;

    const MAC: Mac = [2, 0, 0, 0, 0, 2];
    const PUBLIC: Ipv4 = [192, 0, 2, 22];
    const ELSEWHERE: Ipv4 = [192, 0, 2, 12];
    const OTHER: Ipv4 = [192, 0, 2, 33];
    const STRANGER: Ipv4 = [192, 0, 2, 66];
    const POD: Ipv4 = [10, 244, 2, 7];

    /// Two peers: 10.244.2.0/24 at PUBLIC, and what else is of 10.244.0.0/22 at OTHER; 10.244.1.0/24 is ours.
    struct World;

    impl Leases for World {
        fn owner(&self, inner: Ipv4) -> Option<Peer> {
            let peer = |public_ip, vtep_mac| Peer {
                public_ip,
                next_hop: public_ip,
                vtep_mac,
                kind: PEER_VXLAN,
                narrow: 0,
            };
            match inner {
                [10, 244, 2, _] => Some(peer(PUBLIC, MAC)),
                [10, 244, 0..4, _] => Some(peer(OTHER, [2, 0, 0, 0, 0, 3])),
                _ => None,
            }
        }

        fn is_ours(&self, inner: Ipv4) -> bool {
            inner.starts_with(&[10, 244, 1])
        }

        fn has_address(&self, outer: Ipv4) -> bool {
            [PUBLIC, OTHER].contains(&outer)
        }

        fn has_mac(&self, mac: Mac) -> bool {
            [MAC, [2, 0, 0, 0, 0, 3]].contains(&mac)
        }
    }

    fn check(outer: Ipv4, inner: Ipv4, mac: Mac, mode: u8) -> Result<Proof, Reason> {
        Claim { outer, inner, mac }.check(&World, mode)
    }

    #[test]
    fn a_lease_around_ours_makes_nobody_speak_for_our_pods() {
        for mode in [CHECK_LEASE, CHECK_STRICT] {
            let ours = check(OTHER, [10, 244, 1, 7], [2, 0, 0, 0, 0, 3], mode);
            assert_eq!(ours, Err(Reason::SpoofedSource));
        }
    }

    #[test]
    fn by_the_address_of_the_lease_whatever_the_mac() {
        for mode in [CHECK_LEASE, CHECK_STRICT] {
            assert_eq!(check(PUBLIC, POD, [9; 6], mode), Ok(Proof::Address));
            for unleased in [PUBLIC, [10, 244, 250, 5]] {
                assert_eq!(check(OTHER, unleased, [9; 6], mode), Ok(Proof::Address));
            }
        }
    }

    #[test]
    fn by_the_mac_from_any_address() {
        for outer in [ELSEWHERE, OTHER] {
            assert_eq!(check(outer, POD, MAC, CHECK_LEASE), Ok(Proof::VtepMac));
            let strict = check(outer, POD, MAC, CHECK_STRICT);
            assert!(strict.is_err(), "{outer:?}");
        }
        let unleased = [192, 0, 2, 12];
        assert_eq!(
            check(ELSEWHERE, unleased, MAC, CHECK_LEASE),
            Ok(Proof::VtepMac)
        );
        assert_eq!(
            check(ELSEWHERE, unleased, MAC, CHECK_STRICT),
            Err(Reason::UnknownVtep)
        );
    }

    /// Pods may guess a MAC, and pods that nobody translates send from their own address.
    #[test]
    fn nobody_sends_from_a_pod_s_address() {
        for inner in [POD, PUBLIC, [10, 244, 250, 5]] {
            for mode in [CHECK_LEASE, CHECK_STRICT] {
                assert_eq!(check(POD, inner, MAC, mode), Err(Reason::UnknownVtep));
            }
        }
    }

    #[test]
    fn nobody_sends_from_what_no_wire_has() {
        for outer in [[0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            let taken = check(outer, POD, MAC, CHECK_LEASE);
            assert_eq!(taken, Err(Reason::UnknownVtep), "{outer:?}");
        }
        for outer in [
            [1, 0, 0, 1],
            [126, 0, 0, 1],
            [128, 0, 0, 1],
            [223, 0, 0, 1],
            [240, 0, 0, 1],
            [255, 255, 255, 254],
        ] {
            let taken = check(outer, POD, MAC, CHECK_LEASE);
            assert_eq!(taken, Ok(Proof::VtepMac), "{outer:?}");
        }
    }

    #[test]
    fn a_stranger_is_told_from_a_liar() {
        let other_mac = [2, 0, 0, 0, 0, 3];
        for mac in [[9; 6], [0; 6], other_mac] {
            assert_eq!(
                check(STRANGER, POD, mac, CHECK_LEASE),
                Err(Reason::UnknownVtep)
            );
            assert_eq!(
                check(OTHER, POD, mac, CHECK_LEASE),
                Err(Reason::SpoofedSource)
            );
        }
        let ours = [10, 244, 1, 7];
        assert_eq!(
            check(PUBLIC, ours, MAC, CHECK_LEASE),
            Err(Reason::SpoofedSource)
        );
        assert_eq!(
            check(STRANGER, ours, MAC, CHECK_LEASE),
            Err(Reason::UnknownVtep)
        );
        assert_eq!(
            check(STRANGER, STRANGER, [9; 6], CHECK_LEASE),
            Err(Reason::UnknownVtep)
        );
    }

    #[test]
    fn only_what_is_odd_is_noted() {
        let claim = Claim {
            outer: ELSEWHERE,
            inner: POD,
            mac: MAC,
        };
        assert_eq!(SenderKey::of(&claim, Ok(Proof::Address)), None);
        let taken = SenderKey::of(&claim, Ok(Proof::VtepMac)).unwrap();
        assert_eq!((taken.outer, taken.reason), (ELSEWHERE, TAKEN));
        let dropped = SenderKey::of(&claim, Err(Reason::UnknownVtep)).unwrap();
        assert_eq!(dropped.reason, Reason::UnknownVtep as u8);
        assert!(Reason::ALL.iter().all(|r| *r as u32 != u32::from(TAKEN)));
    }
}
