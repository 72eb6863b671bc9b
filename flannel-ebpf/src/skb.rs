//! The packet: every helper call and context access of the programs, behind safe functions.

mod notes;

use aya_ebpf::bindings::{
    __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
    BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup,
    bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1, bpf_tunnel_key,
};
use aya_ebpf::helpers::{
    bpf_check_mtu, bpf_csum_level, bpf_fib_lookup as bpf_fib_lookup_helper, bpf_get_hash_recalc,
    bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_redirect,
    bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_head, bpf_skb_change_type,
    bpf_skb_get_tunnel_key, bpf_skb_load_bytes, bpf_skb_vlan_pop,
};
use aya_ebpf::programs::TcContext;
use aya_ebpf::{EbpfContext, bpf_f_adj_room_encap_l2};
use bytemuck::Pod;
use core::mem::MaybeUninit;
use flannel_common::Ipv4;
use flannel_common::event::HEAD;
use flannel_common::header::{ETHERTYPE_IPV4, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Eth, Ip};
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::udp;
use flannel_common::vxlan::Outer;
use flannel_common::xdp::Meta;

use crate::maps::SNAT_STEPS;

/// Value of `tc_index`, which is 0 or small otherwise.
const PAST_STACK: u32 = 0x666c;
/// Others.
const TUNNELLED: u32 = 0x666e;
const TRANSLATED: u32 = 0x666d;
/// `PACKET_HOST` of `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;
/// `linux/if_vlan.h`.
const VLAN_VID_MASK: u32 = 0xfff;
const AF_INET: u32 = 2;
const EALREADY: i64 = 114;
pub(crate) const ENODEV: i64 = 19;

/// Keep the MSS (pods already subtract the overhead) and the inner checksum state.
const ROOM: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
/// Tell the kernel what is being put in front, so that GSO and checksum offload know the inner packet.
const ROOM_ENCAP: u64 = ROOM
    | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
        as u64
    | bpf_f_adj_room_encap_l2(Eth::LEN as u64);

/// The same for an IPv4 header alone.
const ROOM_IPIP: u64 = ROOM | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64;

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

    /// Makes room in front of everything, filled with zeros, which becomes the link-layer header.
    #[inline(always)]
    pub(crate) fn grow_front(&self, by: usize) -> Result<(), Refused> {
        // SAFETY: a plain helper call with the live context; nothing keeps a pointer into the packet.
        match unsafe { bpf_skb_change_head(self.raw(), by as u32, 0) } {
            0 => Ok(()),
            _ => Err(Refused),
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

    /// As the stack would have: mark and traffic class.
    #[inline(always)]
    pub(crate) fn set_class(&self, mark: u32, priority: u32) {
        self.ctx.set_mark(mark);
        // SAFETY: as in `new`; the verifier allows this field to be written.
        unsafe { (*self.raw()).priority = priority };
    }
}

/// A random IPv4 identification: DF is 0, so fragments of two packets must not share one.
#[inline(always)]
pub(crate) fn random_id() -> [u8; 2] {
    (random() as u16).to_be_bytes()
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Sends the packet out of a device, with a link-layer header for `next_hop`. Returns the TC action.
#[inline(always)]
pub(crate) fn redirect_to_neighbour(ifindex: u32, next_hop: Ipv4) -> i32 {
    // Only the first of the four is read for IPv4. Zeros for the others would be a call of `memset`.
    let ipv6_nh = [u32::from_ne_bytes(next_hop); 4];
    let mut to = bpf_redir_neigh {
        nh_family: AF_INET,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh },
    };
    // SAFETY: `to` outlives the call and its true size is passed.
    let action =
        unsafe { bpf_redirect_neigh(ifindex, &raw mut to, size_of::<bpf_redir_neigh>() as i32, 0) };
    action as i32
}

/// Sends the IPv4 packet out of a device, with a link-layer header for whom the kernel's look-up names: by mark, TOS and
/// addresses, and out of this device. The packet's own route gives way to that one. Returns the TC action.
#[inline(always)]
pub(crate) fn redirect_routed(ifindex: u32) -> i32 {
    // SAFETY: no next hop is passed, and its size is 0.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Transmits the frame as it is on a device.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Makes the frame arrive on a device, without a look at its MTU.
#[inline(always)]
pub(crate) fn redirect_ingress(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect(ifindex, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Hands the packet to the other end of a veth device in another namespace, in the same softirq.
#[inline(always)]
pub(crate) fn redirect_peer(ifindex: u32) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Monotonic nanoseconds at the resolution of the timer tick; cheap, and a flow counts in seconds.
#[inline(always)]
pub(crate) fn coarse_ns() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The kernel's timer ticks. The verifier puts a load in the place of the call.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_jiffies64() }
}

/// Monotonic nanoseconds.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}
