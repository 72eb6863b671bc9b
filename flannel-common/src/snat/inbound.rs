//! A packet that arrives: whose reply it is, or what it says about the replies to come.

use super::Seen;
use super::entry::{Entry, KIND_LEAVE, KIND_OWN, KIND_PAIR, Key};
use super::outbound::forget;
use super::packet::Packet;
use super::table::{Slot, Table, mend};

/// The half of the flow that a packet to our address belongs to, whose target it is for; `None` leaves it to the stack,
/// because the node may be meant.
#[inline(always)]
pub fn inbound<T: Table>(table: &T, now: u64, packet: &Packet) -> Option<Entry> {
    let slot = table.find(&packet.key)?;
    let entry = slot.get();
    if entry.kind == KIND_OWN {
        table.hear(packet, (&slot, &slot), 1, now);
        return None;
    }
    let out = packet.key.sent_by(entry.target());
    let mirror = entry.mirrored(packet.key.destination());
    let Some(other) = mend(table, &out, &mirror) else {
        // The flow has since got another port: what the out half says counts.
        table.remove(&packet.key);
        return None;
    };
    table.hear(packet, (&slot, &other), 0, now);
    Some(entry)
}

/// Remembers a connection that came in for an address behind us, if its replies would else be translated. `true`: it is a new
/// one, and the caller has to make room and [claim](Table::claim) its note.
#[inline(always)]
#[must_use]
pub fn note<T: Table>(table: &T, now: u64, packet: &Packet) -> bool {
    let key = packet.answer();
    if let Some(slot) = table.find(&key) {
        let entry = slot.get();
        if entry.kind == KIND_LEAVE {
            table.hear(packet, (&slot, &slot), 1, now);
            return false;
        }
        if !is_mistaken(table, &entry, packet) {
            return false;
        }
        forget(table, &key.reply_to(entry.target()), key.source());
        table.remove(&key);
        return true;
    }
    packet.may_open()
}

/// The note of such a connection: its key, and what is under it.
#[inline(always)]
pub fn came_in(now: u64, packet: &Packet) -> (Key, Entry) {
    let key = packet.answer();
    let entry = Entry::new(KIND_LEAVE, key.source(), Seen::back(packet.shows()), now);
    (key, entry.received(packet))
}

/// Whether a translated flow is in truth the replying side of a connection that came in: it began in the
/// middle, was never answered under our address, and now its other end speaks to the pod itself.
/// Happens when the LRU took the note of an idle connection and the pod spoke first.
#[inline(always)]
fn is_mistaken<T: Table>(table: &T, entry: &Entry, packet: &Packet) -> bool {
    let key = packet.answer();
    if !matches!(packet.transport, super::Transport::Tcp)
        || packet.bits & Seen::ACK == 0
        || entry.kind != KIND_PAIR
        || entry.seen & Seen::SYN != 0
    {
        return false;
    }
    table
        .find(&key.reply_to(entry.target()))
        .map(|slot| slot.get())
        .filter(|half| half.pairs_with(key.source()))
        .is_none_or(|half| Seen(half.seen).inward() == 0)
}
