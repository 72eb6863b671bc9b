//! Room for new flows: however many one pod opens, those that last are kept, and others still open theirs.
//!
//! A flow is *young* until it lasts: a TCP connection that both sides have made, anything else that both sides have kept up
//! for a while. conntrack calls such flows assured, and gives up others when its table is full (`early_drop`). Here each new
//! flow takes a [`Place`], of which there are far fewer than the table has room for. Whoever wants one looks at a few,
//! and takes one whose flow is over or lasts; else a young flow has to go, but of nobody who has fewer of them than the one
//! that comes. So a flood ends its own flows, and the table never fills with what nobody answers.

use bytemuck::{Pod, Zeroable};

use super::entry::{KIND_PAIR, Key};
use super::rule::Cluster;
use super::table::{Slot, Table};
use super::times::{KEPT_UP, hold};
use super::transport::Transport;
use super::{NANOS, Seen};
use crate::Ipv4;
use crate::tick::{Tick, ticks};

/// Entries of [`crate::maps::SHARES`].
pub const SHARES: usize = 2 * PODS as usize;

/// Pods that are told apart, by the host part of their address: as many as a /21 has.
const PODS: u32 = 2_048;

/// Entries of the table for each place: all young flows together take a quarter of it, at two entries each.
pub const ENTRIES_A_PLACE: u32 = 8;

/// Flows of one share for each place, those with a place among them: half of the table.
const ONES_A_PLACE: u32 = 2;

/// The same of all together: three quarters of it.
const ALLS_A_PLACE: u32 = 3;

/// How many places are looked at for one flow.
pub const LOOKS: u32 = 8;

/// How long what the agent has counted is believed: it walks a table of millions of entries every few minutes.
const COUNTED: Tick = ticks(600_000);

/// How many times as many young flows somebody has who gives up a port for others.
const FAR_MORE: u32 = 2;

/// How long a pod's own young flow has to be silent before its next flow takes its port.
const SILENT: u64 = NANOS;

/// One young flow.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// Its out key; all zero: nobody's.
    pub key: Key,
    /// Holder it is: see [`share`].
    pub share: u32,
}

/// What one pod has of the places.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Share {
    /// Places it has.
    pub young: u32,
    /// Young flows of it that were ended because there was no place.
    pub ended: u32,
    /// The pod that took one last.
    pub pod: Ipv4,
}

/// What one pod has in the table, as the agent has counted it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Lasting {
    /// Flows without a place, and those that have lost theirs since because they last.
    pub flows: u32,
    /// Flows with a place. Most places are of flows that are over, where there is no flood.
    pub placed: u32,
    /// With so many of both it opens no more.
    pub most: u32,
    /// When the agent has counted them; 0: never.
    pub at: Tick,
}

/// Of a table of so many entries.
#[inline(always)]
pub const fn places(entries: u32) -> u32 {
    let places = entries / ENTRIES_A_PLACE;
    if places == 0 { 1 } else { places }
}

/// How many flows one share may have: half of the table.
#[inline(always)]
pub const fn most_of_one(places: u32) -> u32 {
    places.saturating_mul(ONES_A_PLACE)
}

/// How many there may be before those who have more than others open no more: three quarters of the table, so that a flow in use is not
/// among what the LRU takes.
#[inline(always)]
pub const fn most_of_all(places: u32) -> u32 {
    places.saturating_mul(ALLS_A_PLACE)
}

/// Key in [`crate::maps::SHARES`] of a flow that has this out key, of a pod or to it. All that are no pods of this node have one.
#[inline(always)]
pub const fn share(cluster: &Cluster, pod: Ipv4, came_in: bool) -> u32 {
    let host = u32::from_be_bytes(pod) & !cluster.subnet_mask;
    let pod = if cluster.owns(pod) { host % PODS } else { 0 };
    if came_in { pod + PODS } else { pod }
}

/// Whether it is the share of one pod alone, in a subnet of up to 2,048 addresses; and whether of connections to it.
#[inline(always)]
pub const fn is_a_pods(share: u32) -> Option<bool> {
    if share.is_multiple_of(PODS) {
        None
    } else {
        Some(share >= PODS)
    }
}

/// What a flow is, for whoever wants its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    Over,
    /// Nobody has answered.
    Young,
    /// Young as well; it goes only if there is nothing else.
    Answered,
    Lasts,
}

impl Stand {
    /// `seen` of both ways together; nanoseconds from the first packet to the last, since then, and for how long the flow
    /// [lives](super::Times::lifetime) without another.
    #[inline(always)]
    pub fn of(proto: u8, seen: Seen, length: u64, silent: u64, lifetime: u64) -> Self {
        if silent > hold(proto, seen, lifetime) {
            Self::Over
        } else if lasts(proto, seen, length) {
            Self::Lasts
        } else if seen.outward() != 0 && seen.inward() != 0 {
            Self::Answered
        } else {
            Self::Young
        }
    }
}

/// Whether a flow of this age, nanoseconds from its first packet to its last, is no young one any more.
#[inline(always)]
pub const fn lasts(proto: u8, seen: Seen, length: u64) -> bool {
    let (out, back) = (seen.outward(), seen.inward());
    match Transport::of(proto) {
        // Both ways have more than the first packet of a handshake.
        Transport::Tcp => out & back & Seen::ACK != 0 && !seen.is_closed(),
        _ => out != 0 && back != 0 && length >= KEPT_UP,
    }
}

/// How the flow of an out key stands.
#[inline(always)]
pub fn stand<T: Table>(table: &T, key: &Key, now: u64) -> Stand {
    let Some(slot) = table.find(key) else {
        return Stand::Over;
    };
    let entry = slot.get();
    let (mut seen, mut last_seen) = (Seen(entry.seen), entry.last_seen);
    if entry.kind == KIND_PAIR
        && let Some(slot) = table.find(&key.reply_to(entry.target()))
    {
        let half = slot.get();
        if half.pairs_with(key.source()) {
            seen = seen.and(Seen(half.seen));
            last_seen = last_seen.max(half.last_seen);
        }
    }
    let length = last_seen.saturating_sub(entry.opened);
    let lifetime = table.lifetime(key.proto, seen, length);
    let silent = now.saturating_sub(last_seen);
    Stand::of(key.proto, seen, length, silent, lifetime)
}

/// Ends the flow of an out key, as far as it is still there and nobody else ends it.
#[inline(always)]
pub fn end<T: Table>(table: &T, key: &Key, now: u64) {
    let Some(slot) = table.find(key) else {
        return;
    };
    let entry = slot.get();
    if entry.kind == KIND_PAIR {
        let back = key.reply_to(entry.target());
        if !table.hold(&back, now) {
            return;
        }
        super::outbound::forget(table, &back, key.source());
        table.remove(key);
        table.let_go(&back);
    } else {
        table.remove(key);
    }
}

/// Whether a young flow gives up its port for another, if there is no other: to one who has far fewer of them, or, when it
/// has been silent for `silent` nanoseconds, to its own pod's next.
#[inline(always)]
pub const fn yields_port(theirs: u32, mine: u32, same: bool, silent: u64) -> bool {
    same && silent > SILENT || theirs > mine.saturating_mul(FAR_MORE)
}

/// The same of one that lasts: to its own pod's next alone, and no TCP connection does. A resolver asks the same server from
/// all of its ports again and again.
#[inline(always)]
pub const fn yields_lasting(proto: u8, same: bool, silent: u64) -> bool {
    same && silent > KEPT_UP && !matches!(Transport::of(proto), Transport::Tcp)
}

impl Lasting {
    /// Whether the pod has as much of the table as it may.
    #[inline(always)]
    pub const fn is_too_much(&self, now: Tick) -> bool {
        self.at != 0
            && now.wrapping_sub(self.at) < COUNTED
            && self.all() >= self.most
            // Went below zero: the agent counts anew.
            && self.flows < u32::MAX / 2
    }

    /// Its flows.
    #[inline(always)]
    pub const fn all(&self) -> u32 {
        self.flows.saturating_add(self.placed)
    }
}

const _: () = assert!(size_of::<Place>() == 20);

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::Times;
    use super::*;

    const CLUSTER: Cluster = Cluster {
        network: 0x0af4_0000,
        network_mask: 0xffff_0000,
        subnet: 0x0af4_0100,
        subnet_mask: 0xffff_ff00,
    };
    const S: u8 = Seen::SYN;
    const A: u8 = Seen::ACK;
    const F: u8 = Seen::FIN;
    const R: u8 = Seen::RST;

    #[test]
    fn each_pod_has_a_share_each_way_and_all_others_have_one() {
        let share = |pod, came_in| share(&CLUSTER, pod, came_in);
        assert_eq!(share([10, 244, 1, 5], false), 5);
        assert_eq!(share([10, 244, 1, 5], true), 5 + PODS);
        assert_eq!(share([10, 244, 2, 5], false), 0);
        assert_eq!(share([192, 168, 0, 1], true), PODS);
        assert_eq!(is_a_pods(5), Some(false));
        assert_eq!(is_a_pods(5 + PODS), Some(true));
        assert_eq!((is_a_pods(0), is_a_pods(PODS)), (None, None));
        assert!((share([10, 244, 1, 255], true) as usize) < SHARES);
        let wide = Cluster {
            subnet: 0x0af0_0000,
            subnet_mask: 0xfff0_0000,
            ..CLUSTER
        };
        assert!((super::share(&wide, [10, 255, 255, 255], true) as usize) < SHARES);
    }

    #[rstest]
    #[case::syn(6, S, 0, 0, Stand::Young)]
    #[case::syn_and_data_without_answer(6, S | A, 0, 5, Stand::Young)]
    #[case::half_open(6, S, S | A, 0, Stand::Answered)]
    #[case::came_in_half_open(6, S | A, S, 9, Stand::Answered)]
    #[case::established(6, S | A, S | A, 0, Stand::Lasts)]
    #[case::one_side_is_done(6, S | A | F, S | A, 0, Stand::Lasts)]
    #[case::closed(6, S | A | F, S | A | F, 0, Stand::Answered)]
    #[case::reset(6, S | A, S | A | R, 0, Stand::Answered)]
    #[case::refused(6, S, R | A, 0, Stand::Answered)]
    #[case::udp(17, A, 0, 9, Stand::Young)]
    #[case::udp_question_and_answer(17, A, A, 1, Stand::Answered)]
    #[case::udp_talk(17, A, A, 2, Stand::Lasts)]
    #[case::ping(1, A, A | S, 1, Stand::Answered)]
    #[case::gre(47, A, A, 3, Stand::Lasts)]
    fn what_lasts(
        #[case] proto: u8,
        #[case] out: u8,
        #[case] back: u8,
        #[case] seconds: u64,
        #[case] expected: Stand,
    ) {
        let seen = Seen::out(out).and(Seen::back(back));
        let length = seconds * NANOS;
        let lifetime = Times::DEFAULT.lifetime(proto, seen, length);
        let stand = |silent| Stand::of(proto, seen, length, silent, lifetime);
        assert_eq!(stand(0), expected);
        assert_eq!(stand(lifetime + 1), Stand::Over);
    }

    #[test]
    fn a_closed_connection_is_over_after_its_last_segments() {
        let seen = Seen::out(S | A | F).and(Seen::back(S | A | F));
        let lifetime = Times::DEFAULT.lifetime(6, seen, NANOS);
        assert!(lifetime > 2 * NANOS);
        assert_eq!(Stand::of(6, seen, NANOS, 2 * NANOS, lifetime), Stand::Over);
    }

    #[test]
    fn nobody_gives_a_port_to_an_equal() {
        assert!(!yields_port(5, 5, false, 9 * NANOS));
        assert!(!yields_port(10, 5, false, 9 * NANOS));
        assert!(yields_port(11, 5, false, 0));
        assert!(!yields_port(5, 5, true, NANOS));
        assert!(yields_port(5, 5, true, 2 * NANOS));
    }

    #[test]
    fn what_lasts_gives_its_port_to_its_own_pod_alone_and_no_connection_does() {
        let silent = 9 * NANOS;
        assert!(yields_lasting(17, true, silent));
        assert!(!yields_lasting(17, true, KEPT_UP));
        assert!(!yields_lasting(17, false, silent));
        assert!(!yields_lasting(6, true, silent));
    }

    #[test]
    fn half_of_the_table_is_too_much_for_one_while_somebody_counts() {
        let places = places(262_144);
        assert_eq!(places, 32_768);
        let of_one = most_of_one(places);
        assert_eq!(2 * 2 * of_one, 262_144, "two entries each");
        let lasting = |flows, placed| Lasting {
            flows,
            placed,
            most: of_one,
            at: 100,
        };
        assert!(lasting(65_536, 0).is_too_much(200));
        assert!(!lasting(65_535, 0).is_too_much(200));
        assert!(lasting(32_768, 32_768).is_too_much(200), "places count");
        assert!(!lasting(32_768, 32_767).is_too_much(200));
        assert!(!lasting(65_536, 0).is_too_much(100 + COUNTED));
        assert!(!lasting(u32::MAX - 3, 0).is_too_much(200));
        let never = Lasting {
            flows: 1 << 20,
            ..Lasting::default()
        };
        assert!(!never.is_too_much(200));
        // One pod alone may have as many as conntrack has for all by default on a machine with two cores (kube-proxy: 131,072).
        assert_eq!(most_of_one(super::places(524_288)), 131_072);
        assert_eq!(most_of_all(super::places(524_288)), 196_608);
    }
}
