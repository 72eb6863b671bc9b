//! The packet: every helper call and context access of the programs, behind safe functions.

mod bytes;
mod kind;
mod notes;
mod room;
mod told;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, bpf_fib_lookup, bpf_tunnel_key};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_fib_lookup as bpf_fib_lookup_helper, bpf_get_hash_recalc,
    bpf_skb_get_tunnel_key,
};
use aya_ebpf::programs::TcContext;
use core::mem::MaybeUninit;
use flannel_common::Ipv4;
use flannel_common::header::Eth;
use flannel_common::program::Program;

use crate::maps::SNAT_STEPS;

pub(crate) const ENODEV: i64 = 19;

/// Why the kernel did not make room; the packet is unchanged.
pub(crate) struct Refused;

pub(crate) struct Skb {
    ctx: TcContext,
    gso_size: u32,
    /// How much of the Ethernet header the packet lacks, bytes. Offsets count from where that begins, or would.
    missing: usize,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: TcContext) -> Self {
        let raw: *mut __sk_buff = ctx.as_ptr().cast();
        // Read once, and volatile: LLVM would keep `raw + offset` in a register for later reads, and the
        // verifier allows no access through a context pointer that was added to.
        // SAFETY: the context is valid for the whole program run.
        let gso_size = unsafe { &raw const (*raw).gso_size };
        // SAFETY: as above; the verifier checks the offset.
        let gso_size = unsafe { gso_size.read_volatile() };
        Self {
            ctx,
            gso_size,
            missing: 0,
        }
    }

    /// A packet that leaves by a device without Ethernet header.
    #[inline(always)]
    pub(crate) fn without_frame(ctx: TcContext) -> Self {
        Self {
            missing: Eth::LEN,
            ..Self::new(ctx)
        }
    }

    /// In a global function: the packet of its caller, with what that lacks ([`Self::missing`]).
    #[inline(always)]
    pub(crate) fn again(ctx: *mut __sk_buff, missing: u32) -> Self {
        Self {
            missing: missing as usize,
            ..Self::new(TcContext::new(ctx))
        }
    }

    /// How much of the Ethernet header the packet lacks, bytes.
    #[inline(always)]
    pub(crate) fn missing(&self) -> u32 {
        self.missing as u32
    }

    /// The program that goes on in the place of `step`, for packets like this one.
    #[inline(always)]
    pub(crate) fn fitting(&self, step: Program) -> Program {
        match self.missing {
            0 => step,
            _ => step.without_frame(),
        }
    }

    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut __sk_buff {
        self.ctx.as_ptr().cast()
    }

    /// Length from the Ethernet header on, in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.ctx.len() + self.missing as u32
    }

    /// Payload of each segment that the packet stands for; 0: one packet.
    #[inline(always)]
    pub(crate) fn gso_size(&self) -> u32 {
        self.gso_size
    }

    #[inline(always)]
    pub(crate) fn is_gso(&self) -> bool {
        self.gso_size() != 0
    }

    /// The device whose hook runs the program.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).ifindex }
    }

    /// The device that the stack last received it on; 0 for what the node sends itself.
    #[inline(always)]
    pub(crate) fn came_by(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).ingress_ifindex }
    }

    /// Asks the routing table, with rules and neighbours. Returns `BPF_FIB_LKUP_RET_*`, or an error below 0.
    #[inline(always)]
    pub(crate) fn look_up_route(&self, params: &mut bpf_fib_lookup, flags: u32) -> i64 {
        let len = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the helper reads and writes `len` bytes, all of `params`.
        unsafe { bpf_fib_lookup_helper(self.raw().cast(), params, len, flags) }
    }

    /// Whether there is a device with this index. Packets to one that is gone would be dropped.
    #[inline(always)]
    pub(crate) fn has_device(&self, ifindex: u32) -> bool {
        let mut mtu = 0;
        // SAFETY: the helper writes one word. It finds the device first, and fits the packet or not then.
        let found = unsafe { bpf_check_mtu(self.raw().cast(), ifindex, &raw mut mtu, 0, 0) };
        found != -ENODEV
    }

    /// VNI and sender of what a kernel tunnel device in metadata mode has decapsulated; `None` for all else, and for what came
    /// by IPv6.
    #[inline(always)]
    pub(crate) fn tunnel(&self) -> Option<(u32, Ipv4)> {
        // The part that Linux 4.9 had, and no word of it unwritten.
        const LEN: u32 = core::mem::offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;
        let mut key = MaybeUninit::<[u32; LEN as usize / 4]>::uninit();
        // SAFETY: the helper writes LEN bytes, the front of `key`: the packet's, or zeros if it fails.
        let failed = unsafe { bpf_skb_get_tunnel_key(self.raw(), key.as_mut_ptr().cast(), LEN, 0) };
        if failed != 0 {
            return None;
        }
        // SAFETY: LEN bytes are all of it.
        let [vni, remote, ..] = unsafe { key.assume_init() };
        Some((vni, remote.to_be_bytes()))
    }

    /// netfilter's mark.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        self.ctx.set_mark(mark);
    }

    /// Traffic class, by which the queueing discipline of a device may choose.
    #[inline(always)]
    pub(crate) fn priority(&self) -> u32 {
        // SAFETY: as in `new`.
        unsafe { (*self.raw()).priority }
    }

    /// Goes on in a program of [`Program::STEPS`](flannel_common::program::Program::STEPS); returns only if it is not there.
    #[inline(always)]
    pub(crate) fn step(&self, step: u32) {
        // SAFETY: nothing here has a destructor that the jump could skip.
        unsafe { SNAT_STEPS.tail_call(&self.ctx, step) };
    }

    /// The flow hash, as the stack would compute it.
    #[inline(always)]
    pub(crate) fn flow_hash(&self) -> u32 {
        // SAFETY: a plain helper call with the live context.
        unsafe { bpf_get_hash_recalc(self.raw()) }
    }

    /// As the stack would have: mark and traffic class.
    #[inline(always)]
    pub(crate) fn set_class(&self, mark: u32, priority: u32) {
        self.ctx.set_mark(mark);
        // SAFETY: as in `new`; the verifier allows this field to be written.
        unsafe { (*self.raw()).priority = priority };
    }
}
