//! The maps, typed: subnets and addresses in, kernel bytes out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, IterableMap as _, Map, MapData, MapError};
use bytemuck::Pod;
use flannel_common::asked::{AGENT, Asked};
use flannel_common::flow::{Tick, tick};
use flannel_common::maps::{self, ASKED, EPOCH, MACS, PEERS, SENDERS, VTEPS, Vtep};
use flannel_common::source::{Claim, Sender, SenderKey};
use flannel_common::{Ipv4, Mac};
use ipnet::Ipv4Net;

use super::batch::Batches;
use super::bpffs::Pins;
use super::{DataplaneError, Wire, held};
use crate::base::clock;
use crate::base::mac::MacAddr;
use crate::dataplane::{Peer, PeerChanges, PeerMaps};

/// The maps that hold the leases.
pub(super) struct Maps {
    peers: LpmTrie<MapData, Ipv4, Wire<maps::Peer>>,
    vteps: HashMap<MapData, Ipv4, Wire<Vtep>>,
    macs: HashMap<MapData, Mac, Wire<Vtep>>,
    epoch: Array<MapData, u32>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            peers: take(ebpf, PEERS)?,
            vteps: take(ebpf, VTEPS)?,
            macs: take(ebpf, MACS)?,
            epoch: take(ebpf, EPOCH)?,
        })
    }

    /// Opens maps that an earlier agent pinned; the caller has checked their shape.
    pub(super) fn from_pins(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            peers: pinned(PEERS, pins)?,
            vteps: pinned(VTEPS, pins)?,
            macs: pinned(MACS, pins)?,
            epoch: pinned(EPOCH, pins)?,
        })
    }

    /// Everything they hold.
    pub(super) fn list(&self) -> Result<PeerMaps, DataplaneError> {
        let mut held = PeerMaps::default();
        for entry in self.peers.iter() {
            let (key, Wire(peer)) = entry.map_err(|e| DataplaneError::map(PEERS, "read", e))?;
            if let Some(subnet) = prefix(&key) {
                held.table.insert(subnet.trunc(), understand(&peer));
            }
        }
        let vteps = whole::<Ipv4>(VTEPS, self.vteps.map())?;
        held.vteps = vteps.map(|(ip, n)| (ip.into(), n)).collect();
        let macs = whole::<Mac>(MACS, self.macs.map())?;
        held.macs = macs.map(|(mac, n)| (MacAddr(mac), n)).collect();
        Ok(held)
    }

    /// Writes what is new before it removes what is old, as long as there is room for both.
    pub(super) fn update(&mut self, changes: &PeerChanges) -> Result<(), DataplaneError> {
        match self.put(changes) {
            Err(DataplaneError::MapFull { .. }) => {
                self.remove(changes)?;
                self.put(changes)?;
            }
            put => {
                put?;
                self.remove(changes)?;
            }
        }
        // Last: a proof made in the new epoch must rest on the new peers.
        if changes.ends_proofs {
            self.bump_epoch()
        } else {
            Ok(())
        }
    }

    /// Lets a peer send before it is sent to.
    fn put(&mut self, changes: &PeerChanges) -> Result<(), DataplaneError> {
        for (ip, leases) in &changes.put_vteps {
            let vtep = Wire(Vtep { leases: *leases });
            self.vteps
                .insert(ip.octets(), vtep, 0)
                .map_err(|e| DataplaneError::map(VTEPS, "write", e))?;
        }
        for (MacAddr(mac), leases) in &changes.put_macs {
            let vtep = Wire(Vtep { leases: *leases });
            self.macs
                .insert(mac, vtep, 0)
                .map_err(|e| DataplaneError::map(MACS, "write", e))?;
        }
        for (subnet, peer) in &changes.put {
            self.peers
                .insert(&key(*subnet), Wire(maps::Peer::from(*peer)), 0)
                .map_err(|e| DataplaneError::map(PEERS, "write", e))?;
        }
        Ok(())
    }

    fn remove(&mut self, changes: &PeerChanges) -> Result<(), DataplaneError> {
        for subnet in &changes.remove {
            gone(self.peers.remove(&key(*subnet)))
                .map_err(|e| DataplaneError::map(PEERS, "remove", e))?;
        }
        for ip in &changes.remove_vteps {
            gone(self.vteps.remove(&ip.octets()))
                .map_err(|e| DataplaneError::map(VTEPS, "remove", e))?;
        }
        for MacAddr(mac) in &changes.remove_macs {
            gone(self.macs.remove(mac)).map_err(|e| DataplaneError::map(MACS, "remove", e))?;
        }
        Ok(())
    }

    /// Ends the proof of every flow. Wraps, after more changes than a cluster sees.
    pub(super) fn bump_epoch(&mut self) -> Result<(), DataplaneError> {
        raise(&mut self.epoch)
    }
}

/// By key, how many leases name it. Thousands are read in a few calls: a change of leases waits meanwhile.
fn whole<K: Pod>(
    name: &'static str,
    map: &MapData,
) -> Result<impl Iterator<Item = (K, u32)>, DataplaneError> {
    let unreadable = |error| DataplaneError::map(name, "read", MapError::IoError(error));
    let batches = Batches::<K, Vtep>::of(map).map_err(unreadable)?;
    let entries = batches.collect::<std::io::Result<Vec<_>>>();
    let entries = entries.map_err(unreadable)?.into_iter().flatten();
    Ok(entries.map(|(key, vtep)| (key, vtep.leases)))
}

/// See [`Maps::bump_epoch`]. Two at once are two: what the one has changed must not be proven by what was true before the other.
pub(super) fn raise(epoch: &mut Array<MapData, u32>) -> Result<(), DataplaneError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let now = epoch
        .get(&0, 0)
        .map_err(|e| DataplaneError::map(EPOCH, "read", e))?;
    epoch
        .set(0, now.wrapping_add(1), 0)
        .map_err(|e| DataplaneError::map(EPOCH, "write", e))
}

/// Who may send into a network: its maps, read one entry at a time.
#[derive(Debug)]
pub(crate) struct Sources {
    maps: Maps,
    senders: HashMap<MapData, Wire<SenderKey>, Wire<Sender>>,
    asked: HashMap<MapData, Ipv4, Wire<Asked>>,
}

impl Sources {
    /// Opens the maps of a network of this node, whichever agent keeps them.
    pub(crate) fn open(bpffs: &Path, network: &str) -> Result<Self, DataplaneError> {
        let pins = Pins::of(bpffs, network);
        Ok(Self {
            maps: Maps::from_pins(&pins)?,
            senders: pinned(SENDERS, &pins)?,
            asked: pinned(ASKED, &pins)?,
        })
    }

    /// Whether any lease names this outer address.
    pub(crate) fn has_address(&self, outer: Ipv4) -> bool {
        self.maps.vteps.get(&outer, 0).is_ok()
    }

    /// The outer addresses that leases name: those first whose packets all take the stack.
    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        let entries = self.maps.vteps.iter().filter_map(Result::ok);
        let mut all: Vec<_> = entries
            .map(|(outer, Wire(vtep))| (vtep.leases & maps::BY_STACK == 0, Ipv4Addr::from(outer)))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, outer)| outer).collect()
    }

    /// Whether any lease names this VTEP MAC.
    pub(crate) fn has_mac(&self, mac: Mac) -> bool {
        self.maps.macs.get(&mac, 0).is_ok()
    }

    /// Notes whose packet it was, as the programs do.
    pub(crate) fn note(&mut self, key: &SenderKey, claim: &Claim) {
        let known = self.senders.get(&Wire(*key), 0);
        let packets = known.map_or(0, |Wire(sender)| sender.packets);
        let sender = Wire(Sender::of(claim, packets + 1, clock()));
        // Without it somebody is not named, that is all.
        let _ = self.senders.insert(Wire(*key), sender, 0);
    }

    /// A packet from there has passed the stack. To say so again and again would cost more than the packet.
    pub(crate) fn heard(&mut self, outer: Ipv4) {
        const NEWS: Tick = 200;
        let now = tick(clock());
        if let Ok(Wire(asked)) = self.asked.get(&outer, 0)
            && (asked.seen == 0
                || now.wrapping_sub(asked.seen) > NEWS
                || asked.received.wrapping_sub(asked.seen) <= NEWS)
        {
            let seen = Wire(Asked { seen: now, ..asked });
            // Without it the next one says so.
            let _ = self.asked.insert(outer, seen, 0);
        }
    }

    /// Says that somebody is there who hears.
    pub(crate) fn is_here(&mut self) {
        let here = Asked {
            seen: tick(clock()),
            ..Asked::default()
        };
        let _ = self.asked.insert(AGENT, Wire(here), 0);
    }

    /// From which outer addresses the stack lets nothing through: those of `before` too, until something is heard.
    pub(crate) fn refused(&self, before: &BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        let now = tick(clock());
        let entries = self.asked.iter().filter_map(Result::ok);
        let all: BTreeMap<Ipv4Addr, Asked> = entries
            .map(|(outer, Wire(asked))| (outer.into(), asked))
            .collect();
        let is_still = |outer: &Ipv4Addr| all.get(outer).is_some_and(|asked| !asked.is_heard(now));
        let new = all.iter().filter(|(_, asked)| asked.is_refused(now));
        let new = new.map(|(outer, _)| *outer);
        before.iter().copied().filter(is_still).chain(new).collect()
    }

    /// Length of the prefixes that are leased: one for all in a network.
    pub(crate) fn subnet_len(&self) -> Option<u8> {
        let key = self.maps.peers.keys().next()?.ok()?;
        u8::try_from(key.prefix_len()).ok()
    }

    /// The lease that covers an inner address.
    pub(crate) fn owner(&self, inner: Ipv4) -> Option<maps::Peer> {
        let Wire(peer) = self.maps.peers.get(&Key::new(32, inner), 0).ok()?;
        Some(peer)
    }
}

/// A map out of a loaded object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DataplaneError> {
    let map = ebpf.take_map(name);
    typed(name, map.ok_or_else(|| DataplaneError::no_map(name))?)
}

/// A map that an agent pinned, or one of this process has open.
pub(super) fn pinned<T: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    pins: &Pins,
) -> Result<T, DataplaneError> {
    let map = held::open(name, pins).and_then(Map::from_map_data);
    typed(name, map.map_err(|e| DataplaneError::map(name, "open", e))?)
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    name: &'static str,
    map: Map,
) -> Result<T, DataplaneError> {
    T::try_from(map).map_err(|e| DataplaneError::map(name, "open", e))
}

pub(super) fn key(subnet: Ipv4Net) -> Key<Ipv4> {
    Key::new(subnet.prefix_len().into(), subnet.network().octets())
}

/// The reverse of [`key`]. No key of the kernel's is longer than an address.
pub(super) fn prefix(key: &Key<Ipv4>) -> Option<Ipv4Net> {
    let len = u8::try_from(key.prefix_len()).ok()?;
    Ipv4Net::new(key.data().into(), len).ok()
}

fn understand(peer: &maps::Peer) -> Option<Peer> {
    let (direct, by_stack) = match peer.kind {
        maps::PEER_VXLAN => (false, false),
        maps::PEER_DIRECT => (true, false),
        maps::PEER_STACK => (false, true),
        _ => return None,
    };
    Some(Peer {
        public_ip: Ipv4Addr::from(peer.public_ip),
        next_hop: Ipv4Addr::from(peer.next_hop),
        vtep_mac: MacAddr(peer.vtep_mac),
        direct,
        by_stack,
        mtu: (peer.narrow > 0).then(|| maps::narrowed(peer.narrow)),
    })
}

/// A removal of what is not there has succeeded.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// Whether there was no such key.
pub(super) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(e) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
