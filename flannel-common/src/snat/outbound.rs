//! A packet on its way out: as whom it leaves.

use super::entry::{Entry, KIND_LEAVE, KIND_OWN, KIND_PAIR, Key};
use super::packet::Packet;
use super::port::{Order, PROBES};
use super::table::{Slot, Table, mend};
use super::times::hold;
use super::{Endpoint, Node, Seen};

/// What happens to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outbound {
    /// It becomes this.
    Translate(Endpoint),
    Leave,
}

/// Why a packet that must not leave untranslated cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It belongs to no flow and cannot open one: a reset, an answer nobody asked for.
    NoFlow,
    /// Every port tried is taken by a live flow to the same remote port.
    Exhausted,
    /// The map has no room.
    Full,
}

/// Who sends the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Rows 5 and 6 of the table: never leaves with the source it has.
    Pod,
    /// It has our address already: the node's, or translated by the kernel. Only keeps clear of the pods' ports.
    Own,
}

/// Decides about one packet. `exempt` is asked only when the packet belongs to no flow.
///
/// # Errors
/// [`Refused`]: the packet must be dropped.
#[inline(always)]
pub fn outbound<T: Table>(
    table: &T,
    node: &Node,
    packet: &Packet,
    whose: Whose,
    exempt: impl FnOnce() -> bool,
) -> Result<Outbound, Refused> {
    match known(table, node, packet, whose, |_| ()) {
        Some(known) => Ok(known),
        None => open(table, node, packet, whose, exempt),
    }
}

/// The first half of [`outbound`], all that most packets need: a packet of a flow that is in the table. `before` sees the
/// flow's out half as this packet found it.
#[inline(always)]
pub fn known<T: Table>(
    table: &T,
    node: &Node,
    packet: &Packet,
    whose: Whose,
    before: impl FnOnce(&Entry),
) -> Option<Outbound> {
    if whose == Whose::Own && is_noted(table, node, packet) {
        return Some(Outbound::Leave);
    }
    let slot = table.find(&packet.key)?;
    before(&slot.get());
    match follow(table, node, packet, &slot) {
        Followed::On(outbound) => return Some(outbound),
        Followed::Elsewhere => {}
        Followed::Over => {
            table.remove(&packet.key);
        }
    }
    None
}

/// The second half of [`outbound`]: the first packet of a flow.
///
/// # Errors
/// [`Refused`]: the packet must be dropped, or is the node's own: see [`yield_to_node`]. After [`Refused::Exhausted`] it may be
/// asked again, up to [`ROUNDS`](super::ROUNDS) times in all, and tries other ports.
#[inline(always)]
pub fn open<T: Table>(
    table: &T,
    node: &Node,
    packet: &Packet,
    whose: Whose,
    exempt: impl FnOnce() -> bool,
) -> Result<Outbound, Refused> {
    if whose == Whose::Own {
        if note_own(table, node, packet) || !packet.may_open() {
            return Ok(Outbound::Leave);
        }
    } else if exempt() {
        return Ok(Outbound::Leave);
    } else if !packet.may_open() {
        return Err(Refused::NoFlow);
    }
    let mut to = packet.key.source();
    match claim_port(table, node, packet, &mut to) {
        None => bind(table, node, packet, to),
        Some(refused) => Err(refused),
    }
}

/// What becomes of a packet of a flow that has an entry.
enum Followed {
    On(Outbound),
    /// The entry holds, for another device: see [`Table::may_be_copied`].
    Elsewhere,
    /// It no longer holds.
    Over,
}

#[inline(always)]
fn follow<T: Table>(table: &T, node: &Node, packet: &Packet, slot: &T::Slot) -> Followed {
    let entry = slot.get();
    if entry.kind == KIND_LEAVE {
        // A SYN is no reply, whatever came in on these ports before, unless that goes on.
        if packet.is_syn() && !Seen(entry.seen).goes_on()
            || node.now.saturating_sub(entry.last_seen) > alone(table, packet.key.proto, &entry)
        {
            return Followed::Over;
        }
        table.hear(packet, (slot, slot), 0, node.now);
        return Followed::On(Outbound::Leave);
    }
    let other = packet.key.reply_to(entry.target());
    if entry.addr != node.local && !table.is_lent(node.device, entry.addr) {
        if table.may_be_copied(slot, node.now) {
            return Followed::Elsewhere;
        }
        // The device's address went away, or the route leads to another device: replies to the old address may be lost, and
        // the kernel's NAT forgets such a flow as well (`masq_inet_event`, `nf_nat_oif_changed`).
        forget(table, &other, packet.key.source());
        return Followed::Over;
    }
    let Some(back) = mend(table, &other, &entry.mirrored(packet.key.source())) else {
        return Followed::Over;
    };
    table.hear(packet, (slot, &back), 1, node.now);
    Followed::On(Outbound::Translate(entry.target()))
}

/// How long an entry lives by what it says itself.
#[inline(always)]
fn alone<T: Table>(table: &T, proto: u8, entry: &Entry) -> u64 {
    table.lifetime(proto, Seen(entry.seen), entry.length())
}

/// Removes a half if it still belongs to `flow`.
#[inline(always)]
pub(super) fn forget<T: Table>(table: &T, half: &Key, flow: Endpoint) {
    if let Some(slot) = table.find(half)
        && slot.get().pairs_with(flow)
    {
        table.remove(half);
    }
}

/// Whether the node is known to use this address and port itself.
#[inline(always)]
fn is_noted<T: Table>(table: &T, node: &Node, packet: &Packet) -> bool {
    let Some(slot) = table.find(&packet.note()) else {
        return false;
    };
    if slot.get().kind != KIND_OWN {
        return false;
    }
    table.hear(packet, (&slot, &slot), 1, node.now);
    true
}

/// Notes that the node uses this address and port; `false` if a pod's flow has them already.
#[inline(always)]
fn note_own<T: Table>(table: &T, node: &Node, packet: &Packet) -> bool {
    if !packet.is_worth_noting() {
        return true;
    }
    let key = packet.note();
    let seen = Seen::out(packet.shows());
    let entry = Entry::new(KIND_OWN, packet.key.source(), seen, node.now).sent(packet);
    if !table.claim(&key, &entry).is_taken() {
        return true;
    }
    if packet.transport.has_free_port() {
        // Noted by another CPU meanwhile, perhaps: what this packet says is said again.
        let known = table.find(&key);
        return known.is_some_and(|slot| slot.get().kind == KIND_OWN);
    }
    // The node cannot be given another port.
    yield_to_node(table, node, packet);
    true
}

/// Takes back what [`open`] gave to the flow of this packet: the port is not free after all.
#[inline(always)]
pub fn take_back<T: Table>(table: &T, packet: &Packet, to: Endpoint) {
    forget(table, &packet.key.reply_to(to), packet.key.source());
    table.remove(&packet.key);
}

/// Ends a pod's flow whose port a packet of the node's own has, and for which [`open`] found no other: the node comes before
/// its pods. The packet leaves as it is.
#[inline(always)]
pub fn yield_to_node<T: Table>(table: &T, node: &Node, packet: &Packet) {
    let key = packet.note();
    let seen = Seen::out(packet.shows());
    table.remove(&key);
    let entry = Entry::new(KIND_OWN, packet.key.source(), seen, node.now);
    table.claim(&key, &entry.sent(packet));
}

/// Claims a port for a new flow: its in half is in the table afterwards.
///
/// A function of its own, and its result in `to`, for the verifier's sake: no caller's state is multiplied by the loop.
#[inline(always)]
fn claim_port<T: Table>(
    table: &T,
    node: &Node,
    packet: &Packet,
    to: &mut Endpoint,
) -> Option<Refused> {
    let entry = Entry::new(KIND_PAIR, packet.key.source(), Seen::default(), node.now);
    let mut order = Order::new(packet.transport, node.ports, table.random());
    to.addr = node.local;
    to.port = packet.key.src_port;
    // Never the pod's choice, unless the operator wants it: it would get what comes for whoever else has that port.
    if packet.transport.has_port_range() && !table.keeps_ports() {
        to.port = order.next();
    }
    let mut half = packet.key.reply_to(*to);
    let mut claim = table.claim(&half, &entry);
    let mut tries = if packet.transport.has_free_port() {
        PROBES
    } else {
        0
    };
    while claim.is_taken() && tries > 0 {
        tries -= 1;
        half.dst_port = order.next();
        claim = table.claim(&half, &entry);
    }
    to.port = half.dst_port;
    if claim.is_won() {
        None
    } else if !claim.is_taken() {
        Some(Refused::Full)
    } else if take_over(table, node, &half, &entry) {
        None
    } else {
        Some(Refused::Exhausted)
    }
}

/// Takes a key from a flow that is closed or has outlived its time, or that was the packet's own before its
/// other half was lost. With the agent away nobody sweeps, and the range fills with the dead.
#[inline(always)]
fn take_over<T: Table>(table: &T, node: &Node, key: &Key, entry: &Entry) -> bool {
    // Two CPUs, or one and the agent's sweep, that found the same dead flow would remove one the other's claim: then two
    // flows leave under one port, and the replies to both find one.
    if !table.hold(key, node.now) {
        return false;
    }
    let taken = replace(table, node, key, entry);
    table.let_go(key);
    taken
}

#[inline(always)]
fn replace<T: Table>(table: &T, node: &Node, key: &Key, entry: &Entry) -> bool {
    let Some(slot) = table.find(key) else {
        return table.claim(key, entry).is_won();
    };
    let held = slot.get();
    if held.pairs_with(entry.target()) {
        return true;
    }
    let (mut seen, mut last_seen) = (Seen(held.seen), held.last_seen);
    let out = key.sent_by(held.target());
    if held.kind == KIND_PAIR
        && let Some(slot) = table.find(&out)
    {
        let half = slot.get();
        seen = seen.and(Seen(half.seen));
        last_seen = last_seen.max(half.last_seen);
    }
    let silent = node.now.saturating_sub(last_seen);
    let length = last_seen.saturating_sub(held.opened);
    let lifetime = table.lifetime(key.proto, seen, length);
    if silent <= hold(key.proto, seen, lifetime)
        && (held.kind != KIND_PAIR || !table.yields(&out, seen, length, silent))
    {
        return false;
    }
    // The claim decides if the LRU, too, took it meanwhile, and another came.
    if !table.remove(key) {
        return false;
    }
    if held.kind == KIND_PAIR {
        forget(table, &out, key.destination());
    }
    table.claim(key, entry).is_won()
}

/// Adds the out half to a claimed in half.
#[inline(always)]
fn bind<T: Table>(
    table: &T,
    node: &Node,
    packet: &Packet,
    to: Endpoint,
) -> Result<Outbound, Refused> {
    let entry = Entry::new(KIND_PAIR, to, Seen::out(packet.shows()), node.now).sent(packet);
    let claim = table.claim(&packet.key, &entry);
    if claim.is_won() {
        return Ok(Outbound::Translate(to));
    }
    let half = packet.key.reply_to(to);
    let Some(slot) = table.find(&packet.key) else {
        table.remove(&half);
        return Err(Refused::Full);
    };
    // Another CPU had a packet of the same new flow: its choice counts.
    let theirs = slot.get();
    if !theirs.pairs_with(to) {
        table.remove(&half);
    }
    Ok(match theirs.kind {
        KIND_PAIR => Outbound::Translate(theirs.target()),
        _ => Outbound::Leave,
    })
}
