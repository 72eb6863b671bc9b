//! The listener's program: reports what the program before it decided, and decides the same.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use flannel_common::event::{About, DROPS_ONLY, Filter, Note, WHOLE, found, ports};
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, PROTO_IPIP};

use crate::clock;
use crate::globals;
use crate::headers::{self, Packet};
use crate::maps::{EVENTS, FILTER, LISTEN, LOST};
use crate::random;
use crate::skb::Skb;

/// In an IPv4 header.
const PROTO_AT: usize = core::mem::offset_of!(Ip, proto);

/// What somebody wants to hear, and for how long.
struct Wish {
    one_in_mask: u32,
    flags: u32,
    filter: &'static Filter,
}

/// Returns the TC action of the last note.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> i32 {
    let [note, before] = skb.notes();
    let is_bare = note
        .read()
        .is_some_and(|(program, ..)| Note::is_bare(program));
    if let Some(wish) = wish()
        && is_wanted(skb, wish.filter, is_bare)
    {
        report(skb, &wish, before);
        report(skb, &wish, note);
    }
    match note.read() {
        Some((.., action)) => i32::from(action.cast_signed()),
        None => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn wish() -> Option<Wish> {
    let listen = LISTEN.get_ptr_mut(0)?;
    // SAFETY: a value of the map, which lives as long as the program; its words are read and written whole.
    let wish = unsafe { *listen };
    if clock::exact_ns() > wish.until {
        // SAFETY: as above. A listener that comes back at this moment says so again in a second.
        unsafe { (*listen).until = 0 };
        return None;
    }
    let filter = FILTER.get_ptr(0)?;
    Some(Wish {
        one_in_mask: wish.mask,
        flags: wish.flags,
        // SAFETY: as above; a filter is written before the word that makes us look at it.
        filter: unsafe { &*filter },
    })
}

#[inline(always)]
fn is_wanted(skb: &Skb, filter: &Filter, is_bare: bool) -> bool {
    if filter.device != 0 && filter.device != skb.ifindex() {
        return false;
    }
    let asked_for_none = filter.not_asked();
    if asked_for_none == found::ALL {
        return true;
    }
    let at = if is_bare { 0 } else { Eth::LEN };
    if !is_bare && !is_ipv4(skb) {
        return false;
    }
    let (outer, ports) = look(skb, at);
    let is_tunnel = match globals::is_ipip() {
        true => is_ipip(skb, at),
        false => filter.vxlan_port != 0 && ports & 0xffff == u32::from(filter.vxlan_port),
    };
    let inner = match is_tunnel {
        true => look(skb, at + globals::overhead()).0,
        false => 0,
    };
    (asked_for_none | outer | inner) == found::ALL
}

#[inline(always)]
fn is_ipip(skb: &Skb, at: usize) -> bool {
    skb.load::<u8>(at + PROTO_AT) == Some(PROTO_IPIP)
}

/// What the header at `at` has of what is looked for; and its ports as in [`look_for`].
#[inline(always)]
fn look(skb: &Skb, at: usize) -> (u32, u32) {
    let mut room = MaybeUninit::uninit();
    let Some(Packet { ip, l4 }) = headers::load(skb, at, &mut room) else {
        return (0, 0);
    };
    let ports = match ports(ip, l4) {
        Some([src, dst]) => u32::from(src) << 16 | u32::from(dst),
        None => 0,
    };
    let word = u32::from_ne_bytes;
    (look_for(word(ip.src), word(ip.dst), ports), ports)
}

/// What of the filter is [`found`] in a header with these addresses, in network order, and these ports, source before
/// destination; 0: none.
///
/// A global function, since what it returns are numbers of which the verifier knows nothing: inlined, it would look at every
/// combination of answers.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn look_for(src: u32, dst: u32, ports: u32) -> u32 {
    let Some(filter) = FILTER.get_ptr(0) else {
        return 0;
    };
    // SAFETY: a value of the map, which lives as long as the program.
    let filter = unsafe { &*filter };
    let [src_port, dst_port] = [(ports >> 16) as u16, ports as u16];
    let ports = (ports != 0).then_some([src_port, dst_port]);
    filter.look(src.to_ne_bytes(), dst.to_ne_bytes(), ports)
}

#[inline(always)]
fn is_ipv4(skb: &Skb) -> bool {
    skb.load::<Eth>(0)
        .is_some_and(|eth| eth.ethertype == ETHERTYPE_IPV4)
}

#[inline(always)]
fn report(skb: &Skb, wish: &Wish, note: Note) {
    let Some((program, reason, action)) = note.read() else {
        return;
    };
    let is_left_out = wish.flags & DROPS_ONLY != 0 || random::number() & wish.one_in_mask != 0;
    if is_left_out && !Note::is_drop(action) {
        return;
    }
    let about = About {
        at: clock::exact_ns(),
        ifindex: skb.ifindex(),
        len: skb.len(),
        gso_size: skb.gso_size(),
        program,
        reason,
        caught: 0,
        action,
    };
    if wish.flags & WHOLE != 0 {
        skb.put_out(&about, wish.filter.snap);
    } else {
        enter(skb, about);
    }
}

#[inline(always)]
fn enter(skb: &Skb, about: About) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: this CPU's own word.
            unsafe { *lost += 1 };
        }
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: memory for one event, which is ours until it is submitted.
    let head = unsafe { &raw mut (*event).head };
    let about = About {
        caught: skb.catch(head),
        ..about
    };
    // SAFETY: as above.
    unsafe { (*event).about = about };
    entry.submit(0);
}
