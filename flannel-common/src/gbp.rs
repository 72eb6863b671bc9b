//! Group based policy in the VXLAN header (draft-smith-vxlan-group-policy), as a kernel vxlan device with `gbp` has it:
//! netfilter's mark of a packet goes along, as far as there is room for it.

use crate::reason::Reason;

/// The I bit, which every header has.
const VNI: u32 = 1 << 27;
/// The G bit: a group follows.
const GROUP: u32 = 1 << 31;
/// Bits of the mark that go along, at the places they have in the flags: the policy's id, "policy applied", "do not learn"
/// (`VXLAN_GBP_MASK`).
pub const CARRIED: u32 = 0xffff | 1 << 19 | 1 << 22;
/// What such a device looks at besides the VNI: of these bits none is reserved (`VXLAN_GBP_USED_BITS`).
const USED: u32 = GROUP | 0x00ff_ffff;

/// The flags of a packet with this mark. Without a mark there is no group; of a mark with none of the bits that go along the
/// group is 0 (`vxlan_build_gbp_hdr`).
#[inline(always)]
#[must_use]
pub const fn flags(mark: u32) -> [u8; 4] {
    let group = if mark == 0 { 0 } else { GROUP | mark & CARRIED };
    (VNI | group).to_be_bytes()
}

/// The mark that flags tell, `None` if there is no group: then the packet keeps the outer one's (`vxlan_parse_gbp_hdr`).
///
/// # Errors
/// [`Reason::BadVxlanFlags`] for bits that are reserved with GBP, too.
#[inline(always)]
pub const fn mark(flags: [u8; 4]) -> Result<Option<u32>, Reason> {
    let flags = u32::from_be_bytes(flags);
    if flags & !USED != VNI {
        return Err(Reason::BadVxlanFlags);
    }
    if flags & GROUP == 0 {
        return Ok(None);
    }
    Ok(Some(flags & CARRIED))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn to_the_bit() {
        assert_eq!(flags(0), [0x08, 0, 0, 0]);
        assert_eq!(flags(0x1234), [0x88, 0, 0x12, 0x34]);
        assert_eq!(flags(0xffff_ffff), [0x88, 0x48, 0xff, 0xff]);
        assert_eq!(flags(0x0100_0000), [0x88, 0, 0, 0], "none of it goes along");
        assert_eq!(mark([0x88, 0x48, 0x12, 0x34]), Ok(Some(0x0048_1234)));
        assert_eq!(mark([0x88, 0xff, 0, 7]), Ok(Some(0x0048_0007)));
        assert_eq!(mark([0x88, 0, 0, 0]), Ok(Some(0)));
        assert_eq!(mark([0x08, 0, 0, 0]), Ok(None));
        assert_eq!(mark([0x08, 0x48, 0x12, 0x34]), Ok(None), "no group");
    }

    #[test]
    fn what_gbp_does_not_use_is_refused() {
        for bit in [1, 2, 4, 0x10, 0x20, 0x40] {
            for first in [0x08, 0x88] {
                assert_eq!(mark([first | bit, 0, 0, 7]), Err(Reason::BadVxlanFlags));
            }
        }
        assert_eq!(mark([0x80, 0, 0, 7]), Err(Reason::BadVxlanFlags), "no VNI");
    }

    proptest! {
        #[test]
        fn what_goes_along_arrives(sent in 1_u32..) {
            prop_assert_eq!(mark(flags(sent)), Ok(Some(sent & CARRIED)));
        }
    }
}
