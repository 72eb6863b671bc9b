//! The SNAT table as a BPF map, and what of the node its decisions need.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key as Prefix;
use flannel_common::Ipv4;
use flannel_common::chance;
use flannel_common::snat::{self, Claim, Entry, Key, Node, Packet, Ports, Seen, Side, Slot, Table};

use crate::clock;
use crate::globals::{
    FLANNEL_IFINDEX, SNAT_BOTH_MAX, SNAT_BOTH_MIN, SNAT_KEEP, SNAT_MORE_MAX, SNAT_MORE_MIN,
    SNAT_PORT_MAX, SNAT_PORT_MIN,
};
use crate::maps::{ENDING, EXEMPT, SNAT, TIMES};
use crate::skb::Skb;
use crate::{outlets, snat_shares, snat_work};

pub(crate) struct Snat;

/// An entry in the map. The LRU may give its memory to another flow at any time; what is read through it
/// is believed only when the other half says the same.
pub(crate) struct Held(*mut Entry);

impl Slot for Held {
    #[inline(always)]
    fn get(&self) -> Entry {
        // SAFETY: from a look-up in this program run, so the memory is a value of the map.
        unsafe { *self.0 }
    }

    #[inline(always)]
    fn side(&self, nth: usize) -> Side {
        // SAFETY: as in `get`.
        unsafe { (*self.0).sides[nth] }
    }

    #[inline(always)]
    fn note(&self, nth: usize, side: &Side) {
        // SAFETY: as in `touch`. A busy connection changes it with each packet.
        unsafe { (*self.0).sides[nth] = *side };
    }

    #[inline(always)]
    fn tell(&self, nth: usize, side: &Side) {
        // SAFETY: as in `get`.
        let sides = unsafe { &mut (*self.0).sides };
        sides[nth].end = side.end;
        sides[nth].next = side.next;
        sides[nth].marks = side.marks;
    }

    #[inline(always)]
    fn end(&self, shown: Seen) {
        let seen = Seen(self.get().seen).and(shown).0;
        // SAFETY: as in `touch`.
        unsafe { (*self.0).seen = seen };
    }

    #[inline(always)]
    fn touch(&self, packet: Seen, now: u64) {
        let entry = self.get();
        let seen = Seen(entry.seen).then(packet).0;
        // Unchanged words are not written, so that the CPUs of a busy flow share the cache line.
        if seen != entry.seen {
            // SAFETY: as in `get`. Two CPUs may write at once; a lost bit costs a time-out, no packet.
            unsafe { (*self.0).seen = seen };
        }
        if now != entry.last_seen {
            // SAFETY: as above.
            unsafe { (*self.0).last_seen = now };
        }
    }

    #[inline(always)]
    fn restart(&self, packet: Seen, now: u64) {
        // SAFETY: as in `touch`.
        unsafe { (*self.0).seen = packet.0 };
        // SAFETY: as in `touch`.
        unsafe { (*self.0).last_seen = now };
    }
}

impl Table for Snat {
    type Slot = Held;

    #[inline(always)]
    fn find(&self, key: &Key) -> Option<Held> {
        SNAT.get_ptr_mut(key).map(Held)
    }

    #[inline(always)]
    fn keeps_ports(&self) -> bool {
        SNAT_KEEP.load() != 0 && snat_work::get().is_some_and(|work| work.rounds == 0)
    }

    #[inline(always)]
    fn claim(&self, key: &Key, entry: &Entry) -> Claim {
        Claim(
            SNAT.insert(key, entry, u64::from(BPF_NOEXIST))
                .err()
                .unwrap_or(0),
        )
    }

    #[inline(always)]
    fn remove(&self, key: &Key) -> bool {
        SNAT.remove(key).is_ok()
    }

    #[inline(always)]
    fn hold(&self, key: &Key, now: u64) -> bool {
        ENDING.insert(key, now, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn let_go(&self, key: &Key) {
        let _ = ENDING.remove(key);
    }

    /// `packet` is [`Work::packet`](crate::snat_work::Work::packet).
    #[inline(always)]
    fn hear(&self, _: &Packet, (slot, other): (&Held, &Held), reopens: u32, now: u64) {
        locate_packet(slot.0, other.0);
        hear_packet(slot.0, other.0, reopens, now);
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        snat_work::get().map_or(0, |work| chance::of_round(work.chance, work.rounds))
    }

    #[inline(always)]
    fn lifetime(&self, proto: u8, seen: Seen, length: u64) -> u64 {
        lives_for(u32::from_ne_bytes([proto, seen.0, 0, 0]), length)
    }

    #[inline(always)]
    fn is_lent(&self, device: u32, address: Ipv4) -> bool {
        outlets::is_lent(device, address)
    }

    #[inline(always)]
    fn may_be_copied(&self, slot: &Held, now: u64) -> bool {
        goes_on_elsewhere(slot.0, now) != 0
    }

    #[inline(always)]
    fn yields(&self, key: &Key, seen: Seen, length: u64, silent: u64) -> bool {
        let what = u32::from_ne_bytes([key.proto, seen.0, 0, 0]);
        snat_shares::gives_up_port(u32::from_ne_bytes(key.src), what, length, silent) != 0
    }
}

/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hear_packet(slot: *mut Entry, other: *mut Entry, reopens: u32, now: u64) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    if slot.is_null() || other.is_null() {
        return 0;
    }
    snat::hear(&work.packet, (&Held(slot), &Held(other)), reopens, now);
    1
}

/// Whether the flow's address is still some device's; then [`Work`](crate::snat_work::Work) says so, and as whom it leaves.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn goes_on_elsewhere(slot: *mut Entry, now: u64) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    if slot.is_null() {
        return 0;
    }
    let entry = Held(slot).get();
    work.elsewhere = outlets::is_lent(0, entry.addr);
    work.silent = now.saturating_sub(entry.last_seen);
    work.to = entry.target();
    work.elsewhere.into()
}

/// Nanoseconds; `what` has protocol and what was seen. Nothing that every packet of a translated flow asks for.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lives_for(what: u32, length: u64) -> u64 {
    let [proto, seen, ..] = what.to_ne_bytes();
    // An array always has its element.
    TIMES
        .get(0)
        .map_or(0, |times| times.lifetime(proto, Seen(seen), length))
}

/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn locate_packet(slot: *mut Entry, other: *mut Entry) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    if slot.is_null() || other.is_null() {
        return 0;
    }
    snat::locate(&work.packet, (&Held(slot), &Held(other)));
    1
}

/// Whether pods keep their address towards `addr`.
#[inline(always)]
pub(crate) fn is_exempt(addr: Ipv4) -> bool {
    EXEMPT.get(&Prefix::new(32, addr)).is_some()
}

#[inline(always)]
pub(crate) fn ports() -> Ports {
    Ports {
        min: SNAT_PORT_MIN.load(),
        max: SNAT_PORT_MAX.load(),
    }
}

#[inline(always)]
fn more_ports() -> Ports {
    Ports {
        min: SNAT_MORE_MIN.load(),
        max: SNAT_MORE_MAX.load(),
    }
}

/// In a round of a flow's search. On the overlay's device there are no more: few flows are translated there, to the nodes' own addresses.
#[inline(always)]
pub(crate) fn ports_of(round: u32, device: u32) -> Ports {
    if device == FLANNEL_IFINDEX.load() {
        return ports();
    }
    ports().or(more_ports(), round)
}

/// Whether a pod's flow may have the port, on a device that is not the overlay's.
#[inline(always)]
pub(crate) fn may_have(port: [u8; 2]) -> bool {
    may_have_port(u16::from_ne_bytes(port).into()) != 0
}

/// A global function, as [`check_sender`](crate::senders::check_sender) is one: what follows is one path, whichever range it is in.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn may_have_port(port: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "it was one")]
    let port = (port as u16).to_ne_bytes();
    u32::from(ports_of_both().has(port) || more_ports().has(port))
}

/// Those that a pod's flow and a later one of the node itself may have both: not [`more_ports`], which its sockets do not draw from
/// and of which those of the node's servers are not given away.
#[inline(always)]
pub(crate) fn ports_of_both() -> Ports {
    Ports {
        min: SNAT_BOTH_MIN.load(),
        max: SNAT_BOTH_MAX.load(),
    }
}

#[inline(always)]
pub(crate) fn node(skb: &Skb, local: Ipv4) -> Node {
    Node {
        local,
        device: skb.ifindex(),
        ports: ports(),
        now: clock::coarse_ns(),
    }
}
