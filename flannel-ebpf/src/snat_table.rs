//! The SNAT table as a BPF map, and what of the node its decisions need.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key as Prefix;
use flannel_common::Ipv4;
use flannel_common::snat::{Claim, Cluster, Entry, Key, Node, Ports, Seen, Slot, Table};

use crate::globals::{NETWORK, NETWORK_MASK, SNAT_PORT_MAX, SNAT_PORT_MIN, SUBNET, SUBNET_MASK};
use crate::maps::{ENDING, EXEMPT, SNAT};
use crate::skb::{self, Skb};
use crate::{outlets, snat_room};

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

    #[inline(always)]
    fn random(&self) -> u32 {
        skb::random()
    }

    #[inline(always)]
    fn is_lent(&self, device: u32, address: Ipv4) -> bool {
        outlets::is_lent(device, address)
    }

    #[inline(always)]
    fn yields(&self, key: &Key, seen: Seen, length: u64, silent: u64) -> bool {
        let what = u32::from_ne_bytes([key.proto, seen.0, 0, 0]);
        snat_room::gives_up_port(u32::from_ne_bytes(key.src), what, length, silent) != 0
    }
}

/// Whether pods keep their address towards `addr`.
#[inline(always)]
pub(crate) fn is_exempt(addr: Ipv4) -> bool {
    EXEMPT.get(&Prefix::new(32, addr)).is_some()
}

#[inline(always)]
pub(crate) fn cluster() -> Cluster {
    Cluster {
        network: NETWORK.load(),
        network_mask: NETWORK_MASK.load(),
        subnet: SUBNET.load(),
        subnet_mask: SUBNET_MASK.load(),
    }
}

#[inline(always)]
pub(crate) fn ports() -> Ports {
    Ports {
        min: SNAT_PORT_MIN.load(),
        max: SNAT_PORT_MAX.load(),
    }
}

#[inline(always)]
pub(crate) fn node(skb: &Skb, local: Ipv4) -> Node {
    Node {
        local,
        device: skb.ifindex(),
        ports: ports(),
        now: skb::coarse_ns(),
    }
}
