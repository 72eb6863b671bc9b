//! A frame at the driver: the XDP counterpart of [`crate::skb`].

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use aya_ebpf::programs::XdpContext;
use core::mem::MaybeUninit;
use flannel_common::vxlan::Outer;
use flannel_common::xdp::Meta;

use crate::skb::ENODEV;

pub(crate) struct Frame {
    ctx: XdpContext,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn raw(&self) -> *mut xdp_md {
        self.ctx.ctx
    }

    /// Length from the Ethernet header on, in bytes, fragments of a multi-buffer frame included.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: a plain helper call with the live context.
        unsafe { bpf_xdp_get_buff_len(self.raw()) as u32 }
    }

    /// As [`crate::skb::Skb::has_device`].
    #[inline(always)]
    pub(crate) fn has_device(&self, ifindex: u32) -> bool {
        let mut mtu = 0;
        // SAFETY: the helper writes one word.
        let found = unsafe { bpf_check_mtu(self.raw().cast(), ifindex, &raw mut mtu, 0, 0) };
        found != -ENODEV
    }

    #[inline(always)]
    pub(crate) fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let len = size_of::<T>() as u32;
        // SAFETY: the helper writes exactly `len` bytes into `value`, or fails.
        let failed = unsafe {
            bpf_xdp_load_bytes(self.raw(), offset as u32, value.as_mut_ptr().cast(), len)
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: written above; every T loaded here is plain bytes.
        Some(unsafe { value.assume_init() })
    }

    #[inline(always)]
    pub(crate) fn store<T>(&self, offset: usize, value: &T) -> Option<()> {
        let from = core::ptr::from_ref(value).cast_mut().cast();
        let len = size_of::<T>() as u32;
        // SAFETY: the helper reads exactly `len` bytes of `value`.
        let failed = unsafe { bpf_xdp_store_bytes(self.raw(), offset as u32, from, len) };
        (failed == 0).then_some(())
    }

    /// Cuts the outer headers off the front; what is left starts with the inner Ethernet header.
    #[inline(always)]
    pub(crate) fn strip(&self) -> Option<()> {
        // SAFETY: a plain helper call with the live context.
        let failed = unsafe { bpf_xdp_adjust_head(self.raw(), Outer::LEN as i32) };
        (failed == 0).then_some(())
    }

    /// Reserves room for [`Meta`] in front of the frame; fails where the driver has none.
    #[inline(always)]
    pub(crate) fn reserve_meta(&self) -> Option<()> {
        // SAFETY: a plain helper call with the live context.
        let failed = unsafe { bpf_xdp_adjust_meta(self.raw(), -(size_of::<Meta>() as i32)) };
        (failed == 0).then_some(())
    }

    #[inline(always)]
    pub(crate) fn write_meta(&self, meta: Meta) -> Option<()> {
        let at = self.ctx.metadata();
        if at + size_of::<Meta>() > self.ctx.metadata_end() {
            return None;
        }
        // SAFETY: inside the metadata area, as just checked, which the kernel aligns to four bytes.
        unsafe { (at as *mut Meta).write(meta) };
        Some(())
    }
}
