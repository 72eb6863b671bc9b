//! Whose tunnel packets are taken; and a note of those that do not come from where a lease says, which the agent reads.

use flannel_common::cidr;
use flannel_common::maps::{BY_STACK, PEER_STACK, Peer};
use flannel_common::reason::Reason;
use flannel_common::source::{CHECK_OFF, Claim, Leases, Sender, SenderKey, TAKEN, is_martian};
use flannel_common::{Ipv4, Mac};

use crate::clock;
use crate::globals::{SOURCE_CHECK, SUBNET, SUBNET_MASK};
use crate::maps::{MACS, SENDERS, VTEPS};
use crate::{asked, peers};

/// The lease that covers the inner source is looked up once.
struct Maps(Option<Peer>);

impl Leases for Maps {
    #[inline(always)]
    fn owner(&self, _inner: Ipv4) -> Option<Peer> {
        self.0
    }

    #[inline(always)]
    fn is_pod(&self, outer: Ipv4) -> bool {
        is_leased(u32::from_ne_bytes(outer)) != 0
    }

    #[inline(always)]
    fn is_ours(&self, inner: Ipv4) -> bool {
        cidr::contains(SUBNET.load(), SUBNET_MASK.load(), inner)
    }

    #[inline(always)]
    fn has_address(&self, outer: Ipv4) -> bool {
        VTEPS.get_ptr(outer).is_some()
    }

    #[inline(always)]
    fn has_mac(&self, mac: Mac) -> bool {
        MACS.get_ptr(mac).is_some()
    }
}

/// Whether `--source-check` lets a packet pass that comes from the wire, and whether it is ours to take.
#[inline(always)]
pub(crate) fn check(claim: &Claim) -> Result<(), Reason> {
    check_as(claim, 0)
}

/// The same of a packet that the stack has delivered.
#[inline(always)]
pub(crate) fn check_delivered(claim: &Claim) -> Result<(), Reason> {
    check_as(claim, DELIVERED)
}

/// The same ahead of `uplink_rx`.
#[inline(always)]
pub(crate) fn check_at_driver(claim: &Claim) -> Result<(), Reason> {
    check_as(claim, AT_DRIVER)
}

/// Above the MAC.
const AT_DRIVER: u64 = 1 << 62;
const DELIVERED: u64 = 1 << 63;

#[inline(always)]
fn check_as(claim: &Claim, how: u64) -> Result<(), Reason> {
    let [a, b, c, d, e, f] = claim.mac;
    let mac = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
    let word = u32::from_ne_bytes;
    match check_sender(word(claim.outer), word(claim.inner), mac | how) {
        TAKEN => Ok(()),
        BY_STACK_REASON => Err(Reason::ByStack),
        SPOOFED => Err(Reason::SpoofedSource),
        _ => Err(Reason::UnknownVtep),
    }
}

const SPOOFED: u8 = Reason::SpoofedSource as u8;
const BY_STACK_REASON: u8 = Reason::ByStack as u8;

/// The number of the reason to drop it, or [`TAKEN`].
///
/// A global function, which the verifier looks at once and not in every state in which it is called (and which therefore
/// takes numbers); and it stands once, not in each place that checks.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn check_sender(outer: u32, inner: u32, mac: u64) -> u8 {
    let claim = claim(outer, inner, mac);
    let owner = peers::of(claim.inner).copied();
    if mac & DELIVERED == 0 && is_for_stack(claim.outer, owner.as_ref()) {
        return BY_STACK_REASON;
    }
    if SOURCE_CHECK.load() == CHECK_OFF {
        return match is_martian(claim.outer) {
            true => Reason::UnknownVtep as u8,
            false => ask(claim.outer, mac),
        };
    }
    let outcome = claim.check(&Maps(owner), SOURCE_CHECK.load());
    if let Some(key) = SenderKey::of(&claim, outcome) {
        note(outer, inner, mac, key.reason);
    }
    match outcome {
        Ok(_) => ask(claim.outer, mac),
        Err(reason) => reason as u8,
    }
}

/// Whether a packet that may be taken is to ask the host's firewall first.
#[inline(always)]
fn ask(outer: Ipv4, how: u64) -> u8 {
    if how & DELIVERED != 0 {
        asked::was_seen(outer);
        return TAKEN;
    }
    // What the driver leaves to `uplink_rx` asks there.
    let what = match how & AT_DRIVER {
        0 => asked::ASK_IN,
        _ => asked::LOOK,
    };
    match asked::is_turn(outer, what) {
        true => BY_STACK_REASON,
        false => TAKEN,
    }
}

/// Whoever claims to be such a peer has to get past the stack, wherever he sends from; so has whatever comes from there.
#[inline(always)]
fn is_for_stack(outer: Ipv4, owner: Option<&Peer>) -> bool {
    if let Some(peer) = owner {
        return peer.kind == PEER_STACK;
    }
    match VTEPS.get_ptr(outer) {
        // SAFETY: a value of the map, which lives as long as the program; one word, read whole.
        Some(vtep) => (unsafe { (*vtep).leases } & BY_STACK) != 0,
        None => false,
    }
}

/// For the same reason on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_leased(address: u32) -> u8 {
    u8::from(peers::of(address.to_ne_bytes()).is_some())
}

#[inline(always)]
fn claim(outer: u32, inner: u32, mac: u64) -> Claim {
    let [a, b, c, d, e, f, ..] = mac.to_ne_bytes();
    Claim {
        outer: outer.to_ne_bytes(),
        inner: inner.to_ne_bytes(),
        mac: [a, b, c, d, e, f],
    }
}

/// The same: it is called from each outcome.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn note(outer: u32, inner: u32, mac: u64, reason: u8) -> u8 {
    let claim = claim(outer, inner, mac);
    let key = SenderKey {
        outer: claim.outer,
        reason,
        pad: [0; 3],
    };
    let now = clock::coarse_ns();
    if let Some(known) = SENDERS.get_ptr_mut(key) {
        // SAFETY: an element of the map, which recycles but never frees it while the program runs. Another CPU may write
        // the same words: what gets lost is a count.
        let known = unsafe { &mut *known };
        *known = Sender::of(&claim, known.packets + 1, now);
        return 0;
    }
    // Full of newer ones, at worst: then nobody is named.
    let _ = SENDERS.insert(key, Sender::of(&claim, 1, now), 0);
    0
}
