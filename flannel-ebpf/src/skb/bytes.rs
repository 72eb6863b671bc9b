//! The packet's bytes, and its transport checksum.

use aya_ebpf::helpers::bpf_skb_load_bytes;
use bytemuck::Pod;
use core::mem::MaybeUninit;
use flannel_common::event::HEAD;
use flannel_common::header::{ETHERTYPE_IPV4, Eth};
use flannel_common::xdp::Meta;

use super::{Refused, Skb};

impl Skb {
    /// What XDP left in front of the frame.
    #[inline(always)]
    pub(crate) fn meta(&self) -> Option<Meta> {
        // SAFETY: as in `new`.
        let at = unsafe { (*self.raw()).data_meta } as usize;
        if at + size_of::<Meta>() > self.ctx.data() {
            return None;
        }
        // SAFETY: inside the metadata area, as just checked, which the kernel aligns to four bytes.
        Some(unsafe { *(at as *const Meta) })
    }

    /// Copies a header at `offset` from the Ethernet header; works on paged packets too.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        self.ctx.load(offset - self.missing).ok()
    }

    /// Copies a header at `offset`. False if the packet ends before its end: then `to` is all zero.
    #[inline(always)]
    pub(crate) fn read<'a, T: Pod>(
        &self,
        offset: usize,
        to: &'a mut MaybeUninit<T>,
    ) -> (&'a mut T, bool) {
        let (len, at) = (size_of::<T>() as u32, to.as_mut_ptr().cast());
        let offset = (offset - self.missing) as u32;
        // SAFETY: the helper writes `len` bytes, all of `to`: the packet's, or zeros if it fails.
        let failed = unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, at, len) };
        // SAFETY: written above; any bytes make a T.
        (unsafe { to.assume_init_mut() }, failed == 0)
    }

    /// The same for the first `N` bytes of `to`.
    #[inline(always)]
    pub(crate) fn read_first<const N: usize, T: Pod>(&self, offset: usize, to: &mut T) -> bool {
        const { assert!(N <= size_of::<T>()) };
        let at = core::ptr::from_mut(to).cast();
        let offset = (offset - self.missing) as u32;
        // SAFETY: the helper writes N bytes, which `to` has; any bytes make a T.
        let failed = unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, at, N as u32) };
        failed == 0
    }

    /// Writes a header; the caller keeps checksums consistent.
    #[inline(always)]
    pub(crate) fn store<T>(&self, offset: usize, value: &T) -> Result<(), Refused> {
        let offset = offset - self.missing;
        self.ctx.skb.store(offset, value, 0).map_err(|_| Refused)
    }

    /// Copies as much of the packet as there is room for; returns how much. Of a packet without Ethernet header it is less,
    /// behind one that says what it carries.
    #[inline(always)]
    pub(crate) fn catch(&self, into: *mut [u8; HEAD]) -> u8 {
        let at: *mut u8 = into.cast();
        if self.missing == 0 {
            return self.copy_head::<HEAD>(at);
        }
        let header = Eth {
            dst: [0; 6],
            src: [0; 6],
            ethertype: ETHERTYPE_IPV4,
        };
        // SAFETY: HEAD is longer, and all of it is the caller's.
        unsafe { at.cast::<Eth>().write_unaligned(header) };
        const { assert!(Eth::LEN + HEAD / 2 <= HEAD) };
        // SAFETY: as above.
        Eth::LEN as u8 + self.copy_head::<{ HEAD / 2 }>(unsafe { at.add(Eth::LEN) })
    }

    /// At most `MOST` bytes, a power of two.
    #[inline(always)]
    fn copy_head<const MOST: usize>(&self, at: *mut u8) -> u8 {
        const { assert!(MOST.is_power_of_two()) };
        let len = self.ctx.len().min(MOST as u32);
        // Between 1 and MOST, which the verifier sees: it refuses a copy of nothing.
        let len = (len.wrapping_sub(1) & (MOST as u32 - 1)) + 1;
        // SAFETY: at most MOST bytes are written, for which the caller has memory; the verifier checks it.
        let failed = unsafe { bpf_skb_load_bytes(self.raw().cast(), 0, at.cast(), len) };
        if failed == 0 { len as u8 } else { 0 }
    }

    /// Takes the change of one field into a transport checksum, whatever state of offload that is in.
    ///
    /// `flags`: width of the field in bytes, and `BPF_F_*` of the helper.
    #[inline(always)]
    pub(crate) fn fix_checksum(
        &self,
        offset: usize,
        from: u32,
        to: u32,
        flags: u64,
    ) -> Result<(), Refused> {
        self.ctx
            .skb
            .l4_csum_replace(offset - self.missing, u64::from(from), u64::from(to), flags)
            .map_err(|_| Refused)
    }
}
