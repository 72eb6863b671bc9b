//! The maps. Names and layouts are those of [`flannel_common::maps`].

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::btf_maps::{PerfEventArray, RingBuf};
use aya_ebpf::macros::btf_map;
use flannel_common::asked::Asked;
use flannel_common::crossing::{Crossing, SLOTS};
use flannel_common::event::{Event, Filter, Listen};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::maps::{
    EVENTS_BYTES, MAX_ENDING, MAX_EXEMPT, MAX_FRAGMENTS, MAX_LENT, MAX_OUTLETS, MAX_SNAT, MAX_YOUNG,
};
use flannel_common::maps::{MAX_FLOWS, MAX_PEERS, MAX_SENDERS, MAX_UNFIT, Peer, Vtep};
use flannel_common::program::Program;
use flannel_common::snat;
use flannel_common::source::{Sender, SenderKey};
use flannel_common::stats::Counters;
use flannel_common::{Ipv4, Mac};

use crate::snat_packet::Work;

#[btf_map(name = "fl_peers")]
pub(crate) static PEERS: LpmTrie<Ipv4, Peer, MAX_PEERS> = LpmTrie::new();

/// Not preallocated: a small cluster does not pay for 65,536 nodes.
#[btf_map(name = "fl_vteps")]
pub(crate) static VTEPS: HashMap<Ipv4, Vtep, MAX_PEERS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map(name = "fl_macs")]
pub(crate) static MACS: HashMap<Mac, Vtep, MAX_PEERS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map(name = "fl_senders")]
pub(crate) static SENDERS: LruHashMap<SenderKey, Sender, MAX_SENDERS> = LruHashMap::new();

#[btf_map(name = "fl_asked")]
pub(crate) static ASKED: LruHashMap<Ipv4, Asked, MAX_SENDERS> = LruHashMap::new();

#[btf_map(name = "fl_stats")]
pub(crate) static STATS: PerCpuArray<Counters, { Program::SLOTS }> = PerCpuArray::new();

#[btf_map(name = "fl_flows")]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, MAX_FLOWS> = LruHashMap::new();

#[btf_map(name = "fl_epoch")]
pub(crate) static EPOCH: Array<u32, 1> = Array::new();

#[btf_map(name = "fl_slot")]
pub(crate) static SLOT: PerCpuArray<Crossing, SLOTS> = PerCpuArray::new();

#[btf_map(name = "fl_unfit")]
pub(crate) static UNFIT: HashMap<u32, u32, MAX_UNFIT, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map(name = "fl_snat")]
pub(crate) static SNAT: LruHashMap<snat::Key, snat::Entry, MAX_SNAT> = LruHashMap::new();

#[btf_map(name = "fl_ending")]
pub(crate) static ENDING: HashMap<snat::Key, u64, MAX_ENDING, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map(name = "fl_young")]
pub(crate) static YOUNG: Array<snat::Place, MAX_YOUNG> = Array::new();

#[btf_map(name = "fl_shares")]
pub(crate) static SHARES: Array<snat::Share, { snat::SHARES }> = Array::new();

#[btf_map(name = "fl_lasting")]
pub(crate) static LASTING: Array<snat::Lasting, { snat::SHARES }> = Array::new();

#[btf_map(name = "fl_times")]
pub(crate) static TIMES: Array<snat::Times, 1> = Array::new();

#[btf_map(name = "fl_frags")]
pub(crate) static FRAGMENTS: LruHashMap<snat::FragmentKey, snat::Fragment, MAX_FRAGMENTS> =
    LruHashMap::new();

#[btf_map(name = "fl_snat_steps")]
pub(crate) static SNAT_STEPS: ProgramArray<{ Program::STEP_SLOTS }> = ProgramArray::new();

#[btf_map(name = "fl_snat_work")]
pub(crate) static SNAT_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

#[btf_map(name = "fl_nomasq")]
pub(crate) static EXEMPT: LpmTrie<Ipv4, u8, MAX_EXEMPT> = LpmTrie::new();

#[btf_map(name = "fl_outlets")]
pub(crate) static OUTLETS: HashMap<
    u32,
    snat::Choices,
    MAX_OUTLETS,
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

#[btf_map(name = "fl_lent")]
pub(crate) static LENT: HashMap<snat::Lent, u32, MAX_LENT, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map(name = "fl_events")]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

#[btf_map(name = "fl_listen")]
pub(crate) static LISTEN: Array<Listen, 1> = Array::new();

#[btf_map(name = "fl_filter")]
pub(crate) static FILTER: Array<Filter, 1> = Array::new();

#[btf_map(name = "fl_teller")]
pub(crate) static TELLER: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "fl_capture")]
pub(crate) static CAPTURE: PerfEventArray = PerfEventArray::new();

#[btf_map(name = "fl_lost")]
pub(crate) static LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
