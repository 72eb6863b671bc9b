//! What the decisions ask of the map; the LRU map in the kernel, a model in tests.

use super::entry::{Entry, Key};
use super::{Outbound, Packet, Seen, Side, Talk, Transport, judge, place};
use crate::Ipv4;

/// Outcome of [`Table::claim`], as `bpf_map_update_elem` returns it: looking into it costs the verifier paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim(pub i32);

impl Claim {
    pub const WON: Self = Self(0);
    /// `-EEXIST`: somebody else has the key.
    pub const TAKEN: Self = Self(-17);

    #[inline(always)]
    pub const fn is_won(self) -> bool {
        self.0 == Self::WON.0
    }

    /// Neither won nor taken: the map has no room and could make none.
    #[inline(always)]
    pub const fn is_taken(self) -> bool {
        self.0 == Self::TAKEN.0
    }
}

/// An entry found. It may go away or change while it is held; nothing but what its methods say is written through it.
pub trait Slot {
    fn get(&self) -> Entry;
    /// One of [`Entry::sides`].
    fn side(&self, nth: usize) -> Side;
    fn note(&self, nth: usize, side: &Side);
    /// All of it but [`Side::asked`], which stays. The verifier of kernels before 6.7 leaves no stack to carry that along.
    fn tell(&self, nth: usize, side: &Side);
    /// One more packet.
    fn touch(&self, packet: Seen, now: u64);
    /// Something of the state that another packet showed.
    fn end(&self, shown: Seen);
    /// The first packet of a new connection in place of one that was closing.
    fn restart(&self, packet: Seen, now: u64);
}

/// The map of halves.
pub trait Table {
    type Slot: Slot;

    fn find(&self, key: &Key) -> Option<Self::Slot>;
    /// Inserts if nobody has the key: the one atomic step of the whole.
    fn claim(&self, key: &Key, entry: &Entry) -> Claim;
    /// Whether there was something to remove.
    fn remove(&self, key: &Key) -> bool;
    /// Whether the caller alone, of all that would end the flow whose in half is under `key`, may do so. If it may, it has to
    /// say when it has, by [`Table::let_go`].
    fn hold(&self, key: &Key, now: u64) -> bool;
    fn let_go(&self, key: &Key);
    fn random(&self) -> u32;
    /// Whether a flow keeps its own port where that is free, and whatever it is. Asked in each round of its search: where one of the
    /// node's sockets turned out to have that port, the next round is for another.
    fn keeps_ports(&self) -> bool {
        false
    }
    /// [`locate`] and then [`hear`]: once for all that ask, for the verifier's sake.
    fn hear(&self, packet: &Packet, slots: (&Self::Slot, &Self::Slot), reopens: u32, now: u64);
    /// See [`Times::lifetime`](super::Times::lifetime).
    fn lifetime(&self, proto: u8, seen: Seen, length: u64) -> u64;
    /// Whether flows may leave as `address` by the device of that index.
    fn is_lent(&self, device: u32, address: Ipv4) -> bool;
    /// Asked of a flow whose address the device at hand does not lend: whether it goes on by another device, and the packet may be a copy
    /// of one of its packets (a mirror's). Then it stays as it is, and whoever asked for a [known](super::known) flow decides.
    fn may_be_copied(&self, _slot: &Self::Slot, _now: u64) -> bool {
        false
    }
    /// Whether the flow of the out key `key` gives up its port to the packet at hand: see [`super::yields_port`]. `seen` is of
    /// both ways; nanoseconds from its first packet to its last, and since then.
    fn yields(&self, key: &Key, seen: Seen, length: u64, silent: u64) -> bool;
}

/// How a packet that is not part of a flow's traffic, but speaks of one, is to be translated:
/// the packet inside an ICMP error. Neither state nor time of the flow change (as in conntrack).
#[inline(always)]
pub fn find<T: Table>(table: &T, key: &Key) -> Option<Outbound> {
    let entry = table.find(key)?.get();
    Some(match entry.kind {
        super::KIND_PAIR => Outbound::Translate(entry.target()),
        _ => Outbound::Leave,
    })
}

/// Whether the other half is there and names this one; brings it back if it is gone.
#[inline(always)]
pub(super) fn mend<T: Table>(table: &T, other: &Key, expected: &Entry) -> Option<T::Slot> {
    if let Some(slot) = table.find(other) {
        return slot.get().pairs_with(expected.target()).then_some(slot);
    }
    // Another CPU may do the same at once: whoever wins, the entry must be this flow's.
    table.claim(other, expected);
    let slot = table.find(other)?;
    slot.get().pairs_with(expected.target()).then_some(slot)
}

/// Where a packet of a flow lies, before it is [heard](hear), for the verifier's sake: the two need more of the stack together than
/// there is.
#[inline(always)]
pub fn locate<S: Slot>(packet: &Packet, (slot, other): (&S, &S)) {
    let nth = packet.key.side();
    if !matches!(packet.transport, Transport::Tcp) {
        return;
    }
    let (own, theirs) = (slot.side(nth), other.side(1 - nth));
    if let Some((own, theirs, finds)) = place(own, theirs, packet.segment, packet.bits) {
        slot.note(nth, &own);
        if finds != 0 {
            other.note(1 - nth, &theirs);
        }
    }
}

/// One more packet of a flow, by the slot that knows its side, and the one that knows the other side: the same one for a note.
/// `reopens` tells whether a SYN begins another connection in place of one that was closing: 1 or 0.
#[inline(always)]
pub fn hear<S: Slot>(packet: &Packet, (slot, other): (&S, &S), reopens: u32, now: u64) {
    let nth = packet.key.side();
    let side = |bits| Seen::of_side(nth, bits);
    if !matches!(packet.transport, Transport::Tcp) {
        slot.touch(side(packet.bits), now);
        return;
    }
    let seen = Seen(slot.get().seen).and(Seen(other.get().seen));
    let reopens = reopens & seen.closing();
    let (segment, bits) = (packet.segment, packet.bits);
    let mut heard = Talk::new(slot.side(nth), other.side(1 - nth), segment, bits, reopens);
    judge(&mut heard);
    slot.note(nth, &heard.own);
    if heard.tells_other != 0 {
        other.tell(1 - nth, &heard.other);
        if heard.anew | heard.reopens != 0 {
            let both = match heard.anew {
                0 => Seen::default(),
                _ => Seen(Seen::SYN | Seen::SYN << 4),
            };
            other.restart(both, now);
            slot.restart(side(bits).and(both), now);
            return;
        }
    }
    if heard.ends_other != 0 {
        // The other side spoke when it did: its time stays.
        other.end(Seen::of_side(1 - nth, Seen::FIN));
    }
    if heard.bits != 0 {
        #[expect(clippy::cast_possible_truncation, reason = "four bits")]
        slot.touch(side(heard.bits as u8), now);
    }
}
