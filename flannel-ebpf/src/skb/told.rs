//! What a program tells the hooks behind it, in the packet itself.

use super::Skb;

/// Value of `tc_index`, which is 0 or small otherwise.
const PAST_STACK: u32 = 0x666c;
/// Others.
const TUNNELLED: u32 = 0x666e;
const TRANSLATED: u32 = 0x666d;

impl Skb {
    /// How often we made the packet arrive again. Kept in `tc_index`, which nothing else uses since
    /// tcindex and dsmark are gone (kernel 6.3), and which a redirect keeps (`skb_scrub_packet`).
    #[inline(always)]
    pub(crate) fn passes(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).tc_index }
    }

    #[inline(always)]
    pub(crate) fn set_passes(&self, passes: u32) {
        // SAFETY: as in `new`; the verifier allows this field to be written.
        unsafe { (*self.raw()).tc_index = passes };
    }

    /// For the hooks behind this one: the packet goes past the stack. Only to save them the work of finding out that it
    /// proves nothing.
    #[inline(always)]
    pub(crate) fn tell_past_stack(&self) {
        self.set_passes(PAST_STACK);
    }

    /// Whether it was told so. Taken off as well: what the node sends to another one on this machine keeps it.
    #[inline(always)]
    pub(crate) fn take_past_stack(&self) -> bool {
        let told = self.passes() == PAST_STACK;
        if told {
            self.set_passes(0);
        }
        told
    }

    /// For the hook by which it leaves: we have made this tunnel packet.
    #[inline(always)]
    pub(crate) fn tell_tunnelled(&self) {
        self.set_passes(TUNNELLED);
    }

    /// Whether it was told so. It stays until the packet arrives somewhere: another network's program may ask first, and a macvlan has its
    /// lower device send the same packet once more.
    #[inline(always)]
    pub(crate) fn is_tunnelled(&self) -> bool {
        self.passes() == TUNNELLED
    }

    /// For the hook that it arrives at once more.
    #[inline(always)]
    pub(crate) fn tell_translated(&self) {
        self.set_passes(TRANSLATED);
    }

    #[inline(always)]
    pub(crate) fn was_translated(&self) -> bool {
        self.passes() == TRANSLATED
    }
}
