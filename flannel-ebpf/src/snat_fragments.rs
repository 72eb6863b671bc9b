//! Fragments: the first has the ports and speaks for those that follow.

use flannel_common::Ipv4;
use flannel_common::header::Ip;
use flannel_common::snat::{FRAGMENT_LIFETIME, Fragment, FragmentKey, KIND_LEAVE, KIND_PAIR};

use crate::clock;
use crate::maps::FRAGMENTS;
use crate::snat_work::Work;

/// What the first fragment was told.
pub(crate) enum First {
    Translated(Ipv4),
    Left,
}

#[inline(always)]
fn key(ip: &Ip, way: u8) -> FragmentKey {
    FragmentKey {
        src: ip.src,
        dst: ip.dst,
        id: ip.id,
        proto: ip.proto,
        way,
    }
}

/// Remembers a first fragment; nothing for a whole packet.
#[inline(always)]
pub(crate) fn remember(work: &Work, way: u8, first: First) {
    let ip = &work.ip;
    if !ip.is_fragment() {
        return;
    }
    let (kind, addr) = match first {
        First::Translated(addr) => (KIND_PAIR, addr),
        First::Left => (KIND_LEAVE, ip.src),
    };
    let fragment = Fragment {
        addr,
        kind,
        pad: [0; 3],
        opened: clock::coarse_ns(),
    };
    // A failure costs the packet, as a lost fragment would.
    let _ = FRAGMENTS.insert(key(ip, way), fragment, 0);
}

/// What was remembered for a follower.
#[inline(always)]
pub(crate) fn recall(work: &Work, way: u8) -> Option<First> {
    let fragment = FRAGMENTS.get_ptr(key(&work.ip, way))?;
    // SAFETY: from a look-up in this program run, so the memory is a value of the map.
    let fragment = unsafe { *fragment };
    if clock::coarse_ns().saturating_sub(fragment.opened) > FRAGMENT_LIFETIME {
        return None;
    }
    Some(match fragment.kind {
        KIND_LEAVE => First::Left,
        _ => First::Translated(fragment.addr),
    })
}
