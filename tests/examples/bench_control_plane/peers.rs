//! An agent's map of peers, read as any program on the node could.

use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{self, Peer};
use flannel_common::{Ipv4, Mac};
use flannel_tests::network::Subnet;

pub(crate) struct Peers(LpmTrie<MapData, Ipv4, Wire<Peer>>);

impl Peers {
    /// `None` while the agent has not pinned it.
    pub(crate) fn open(bpffs: &Path) -> Option<Self> {
        let data = MapData::from_pin(find(bpffs)?).ok()?;
        let map = Map::LpmTrie(data);
        Some(Self(LpmTrie::try_from(map).expect("a trie of peers")))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.keys().filter(Result::is_ok).count()
    }

    pub(crate) fn mac(&self, subnet: Subnet) -> Option<Mac> {
        let key = Key::new(u32::from(subnet.len), subnet.base.octets());
        self.0.get(&key, 0).ok().map(|peer| peer.0.vtep_mac)
    }
}

/// Below `<bpffs>/flannel/<network>/<version>/`.
fn find(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find(&path)
        } else {
            path.ends_with(maps::PEERS).then_some(path)
        }
    })
}
