//! The pinned objects, read only: what forwards, with or without an agent.

mod error;
pub(super) mod here;
mod hooks;
mod snat_flows;
mod snat_shares;
#[cfg(test)]
mod tests;
mod told;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use flannel_common::Ipv4;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::maps::{
    self, EPOCH, FLOWS, LAYOUT_VERSION, LOST, PEERS, SENDERS, SNAT, STATS, VTEPS,
};
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat;
use flannel_common::source::{Sender, SenderKey};
use flannel_common::stats::{Count, Counters};
use ipnet::Ipv4Net;

use super::batch::Batches;
use super::bpffs::{FOLDER, Pins};
use super::maps::prefix;
use super::{Wire, held};
pub use error::ViewError;
use error::{unreadable, unreadable_io};
pub use hooks::{Hook, HooksError, Mode};
pub(crate) use hooks::{in_order, program};
pub use snat_flows::SnatFlow;
pub use snat_shares::SnatShare;
pub use told::Told;
pub(super) use told::{constants_by_name, forget_own};

/// The maps this version knows, in the order in which they are shown.
pub const MAPS: [&str; 6] = [PEERS, VTEPS, FLOWS, SNAT, EPOCH, STATS];

/// One network's pinned objects, or the maps of it that an agent of this process has open.
#[derive(Debug, Clone)]
pub struct View {
    network: String,
    pins: Pins,
}

/// What the kernel says of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapFacts {
    pub id: u32,
    pub kind: String,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
}

/// Packets and bytes by program and reason, without zeroes.
pub type Sums = BTreeMap<Program, BTreeMap<Reason, Count>>;

/// Names of the networks that have a folder below `bpffs`, this version's layout or not.
///
/// # Errors
/// If the folder may not be read.
pub fn networks(bpffs: &Path) -> Result<Vec<String>, ViewError> {
    folder_names(&bpffs.join(FOLDER))
}

impl View {
    /// Opens `network`, or the only one there is.
    ///
    /// # Errors
    /// Nothing pinned, several networks to choose from, another layout, or no right to look.
    pub fn open(bpffs: &Path, network: Option<&str>) -> Result<Self, ViewError> {
        let folder = bpffs.join(FOLDER);
        let mut found = networks(bpffs)?;
        let network = match network.map(crate::node::mark::network_name) {
            Some(wanted) if found.contains(&wanted) => wanted,
            Some(wanted) if held::has(Pins::of(bpffs, &wanted).root()) => wanted,
            _ if found.is_empty() => return Err(ViewError::Nothing(folder)),
            Some(wanted) => {
                return Err(ViewError::NoSuchNetwork {
                    wanted,
                    folder,
                    found,
                });
            }
            None if found.len() > 1 => return Err(ViewError::Several(found)),
            None => found.swap_remove(0),
        };
        let pins = Pins::of(bpffs, &network);
        if held::has(pins.root()) {
            return Ok(Self { network, pins });
        }
        let root = pins.root();
        let layouts: Vec<_> = folder_names(root)?
            .into_iter()
            .filter(|name| name.starts_with('v'))
            .collect();
        let ours = format!("v{LAYOUT_VERSION}");
        if layouts.is_empty() {
            return Err(ViewError::Nothing(root.to_owned()));
        }
        if !layouts.contains(&ours) {
            return Err(ViewError::OtherLayout {
                folder: root.to_owned(),
                found: layouts,
            });
        }
        Ok(Self { network, pins })
    }

    pub(super) fn root(&self) -> &Path {
        self.pins.root()
    }

    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Whether an agent looks after the network.
    ///
    /// # Errors
    /// If the network's folder may not be read.
    pub fn agent_runs(&self) -> Result<bool, ViewError> {
        super::alive::is_held(self.root()).map_err(|error| unreadable_io(self.root(), error))
    }

    /// The processes that look after the network.
    pub(crate) fn agents(&self) -> Vec<u32> {
        super::alive::holders(self.root())
    }

    /// Path of a map's pin.
    #[must_use]
    pub fn map_path(&self, name: &str) -> PathBuf {
        self.pins.map(name)
    }

    /// Path of a link's pin.
    #[must_use]
    pub fn link_path(&self, pin: &str) -> PathBuf {
        self.pins.link(pin)
    }

    /// What the kernel says of a map; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn facts(&self, name: &str) -> Result<Option<MapFacts>, ViewError> {
        let info = held::open(name, &self.pins).and_then(|map| map.info());
        match info {
            Ok(info) => Ok(Some(MapFacts {
                id: info.id(),
                kind: info
                    .map_type()
                    .map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}")),
                key_size: info.key_size(),
                value_size: info.value_size(),
                max_entries: info.max_entries(),
            })),
            Err(error) => match self.failed(name, error) {
                ViewError::NotPinned(_) => Ok(None),
                error => Err(error),
            },
        }
    }

    /// The peers by subnet.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn peers(&self) -> Result<BTreeMap<Ipv4Net, maps::Peer>, ViewError> {
        let map: LpmTrie<MapData, Ipv4, Wire<maps::Peer>> = self.typed(PEERS)?;
        let mut peers = BTreeMap::new();
        for entry in map.iter() {
            let (key, Wire(peer)) = entry.map_err(|e| self.failed(PEERS, e))?;
            if let Some(subnet) = prefix(&key) {
                peers.insert(subnet, peer);
            }
        }
        Ok(peers)
    }

    /// Number of leases by outer address.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn vteps(&self) -> Result<BTreeMap<Ipv4Addr, u32>, ViewError> {
        let map: HashMap<MapData, Ipv4, Wire<maps::Vtep>> = self.typed(VTEPS)?;
        map.iter()
            .map(|entry| {
                let (ip, Wire(vtep)) = entry.map_err(|e| self.failed(VTEPS, e))?;
                Ok((ip.into(), vtep.leases & !maps::BY_STACK))
            })
            .collect()
    }

    /// Tunnel packets that do not come from where a lease says.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn senders(&self) -> Result<Vec<(SenderKey, Sender)>, ViewError> {
        let map: HashMap<MapData, Wire<SenderKey>, Wire<Sender>> = self.typed(SENDERS)?;
        map.iter()
            .map(|entry| {
                let (Wire(key), Wire(sender)) = entry.map_err(|e| self.failed(SENDERS, e))?;
                Ok((key, sender))
            })
            .collect()
    }

    /// The epoch in which proofs count.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn epoch(&self) -> Result<u32, ViewError> {
        let map: Array<MapData, u32> = self.typed(EPOCH)?;
        map.get(&0, 0).map_err(|e| self.failed(EPOCH, e))
    }

    /// What the programs counted, summed over the CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn stats(&self) -> Result<Sums, ViewError> {
        let map: PerCpuArray<MapData, Wire<Counters>> = self.typed(STATS)?;
        let mut all = Sums::new();
        for program in Program::ALL {
            let by_cpu = map
                .get(&(program as u32), 0)
                .map_err(|e| self.failed(STATS, e))?;
            let sums = sum(&by_cpu.iter().map(|Wire(counters)| counters));
            all.insert(program, sums);
        }
        Ok(all)
    }

    /// Events that found no room in the ring buffer, ever.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn events_lost(&self) -> Result<u64, ViewError> {
        let map: PerCpuArray<MapData, u64> = self.typed(LOST)?;
        let by_cpu = map.get(&0, 0).map_err(|e| self.failed(LOST, e))?;
        Ok(by_cpu.iter().sum())
    }

    /// Shows every flow to `look`, a few thousand in memory at a time. The table is not frozen: what is
    /// entered meanwhile may be missing. No entry counts as used by being looked at.
    ///
    /// # Errors
    /// If the map cannot be read, or what `look` returns.
    pub fn flows<E: From<ViewError>>(
        &self,
        mut look: impl FnMut(&FlowKey, &Flow) -> Result<(), E>,
    ) -> Result<(), E> {
        let map = self.data(FLOWS)?;
        let path = self.map_path(FLOWS);
        let batches =
            Batches::<FlowKey, Flow>::of(&map).map_err(|error| unreadable_io(&path, error))?;
        for batch in batches {
            for (key, flow) in batch.map_err(|error| unreadable_io(&path, error))? {
                look(&key, &flow)?;
            }
        }
        Ok(())
    }

    /// Number of entries, counted; arrays are always full.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn entries(&self, name: &str) -> Result<usize, ViewError> {
        match name {
            PEERS => Ok(self.peers()?.len()),
            VTEPS => Ok(self.vteps()?.len()),
            FLOWS => {
                let mut count = 0;
                self.flows(|_, _| {
                    count += 1;
                    Ok::<_, ViewError>(())
                })?;
                Ok(count)
            }
            SNAT => {
                let mut count = 0;
                self.snat_entries(|_, _| {
                    count += 1;
                    Ok::<_, ViewError>(())
                })?;
                Ok(count)
            }
            _ => {
                let facts = self.facts(name)?;
                Ok(facts.map_or(0, |facts| facts.max_entries as usize))
            }
        }
    }

    /// Outer address of the node whose subnet holds `pod`.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub(crate) fn peer_of(&self, pod: Ipv4Addr) -> Result<Option<Ipv4Addr>, ViewError> {
        let map: LpmTrie<MapData, Ipv4, Wire<maps::Peer>> = self.typed(PEERS)?;
        match map.get(&Key::new(32, pod.octets()), 0) {
            Ok(Wire(peer)) => Ok(Some(peer.public_ip.into())),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.failed(PEERS, error)),
        }
    }

    /// One flow of the fast path; not counted as used.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub(crate) fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, ViewError> {
        self.entry(FLOWS, key)
    }

    /// One half of a translation; not counted as used.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub(crate) fn snat_entry(&self, key: &snat::Key) -> Result<Option<snat::Entry>, ViewError> {
        self.entry(SNAT, key)
    }

    fn entry<K: bytemuck::Pod, V: bytemuck::Pod>(
        &self,
        name: &'static str,
        key: &K,
    ) -> Result<Option<V>, ViewError> {
        let map: HashMap<MapData, Wire<K>, Wire<V>> = self.typed(name)?;
        match map.get(&Wire(*key), 0) {
            Ok(Wire(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    fn data(&self, name: &'static str) -> Result<MapData, ViewError> {
        held::open(name, &self.pins).map_err(|e| self.failed(name, e))
    }

    pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
        &self,
        name: &'static str,
    ) -> Result<T, ViewError> {
        let map = Map::from_map_data(self.data(name)?).map_err(|e| self.failed(name, e))?;
        T::try_from(map).map_err(|e| self.failed(name, e))
    }

    fn failed(&self, name: &str, error: MapError) -> ViewError {
        unreadable(&self.map_path(name), error)
    }
}

fn sum<'a>(by_cpu: &(impl Iterator<Item = &'a Counters> + Clone)) -> BTreeMap<Reason, Count> {
    let total = |reason: Reason| {
        by_cpu.clone().fold(Count::default(), |sum, counters| {
            let count = counters.get(reason);
            Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
            }
        })
    };
    Reason::ALL
        .iter()
        .map(|reason| (*reason, total(*reason)))
        .filter(|(_, count)| count.packets > 0)
        .collect()
}

/// Sorted; a folder that is not there is empty.
fn folder_names(folder: &Path) -> Result<Vec<String>, ViewError> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(unreadable_io(folder, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| unreadable_io(folder, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
