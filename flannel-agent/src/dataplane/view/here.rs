//! What the agents of this process told their programs. Nobody here has to ask the kernel, which shows programs by their numbers to
//! those with CAP_SYS_ADMIN alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Told;
use crate::node::mark;

/// By BPF file system and network.
type Key = (PathBuf, String);

static HERE: Mutex<BTreeMap<Key, Weak<Told>>> = Mutex::new(BTreeMap::new());

/// Says it for as long as what is returned is kept.
pub(in crate::dataplane) fn tell(bpffs: &Path, network: &str, told: Told) -> Arc<Told> {
    let told = Arc::new(told);
    let mut here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    here.retain(|_, told| told.strong_count() > 0);
    here.insert(key(bpffs, network), Arc::downgrade(&told));
    told
}

/// What the programs of a network were told, if that is an agent's of this process.
pub(in crate::dataplane) fn told(bpffs: &Path, network: &str) -> Option<Told> {
    let here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let told = here.get(&key(bpffs, network))?.upgrade()?;
    Some(Told::clone(&told))
}

fn key(bpffs: &Path, network: &str) -> Key {
    (bpffs.to_owned(), mark::network_name(network))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::base::mac::MacAddr;
    use crate::base::options::{Gro, SourceCheck};
    use crate::dataplane::{Globals, Loaded};
    use crate::node::snat_ports::PortRange;

    fn told_with(port: u16) -> Told {
        let range = PortRange {
            min: 49_152,
            max: 65_535,
        };
        let globals = Globals {
            uplink_index: 2,
            uplink_ip: Ipv4Addr::new(192, 0, 2, 1),
            public_ip: Ipv4Addr::new(198, 51, 100, 1),
            uplink_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            vtep_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            wire: flannel_common::globals::WIRE_VXLAN,
            vni: 7,
            port,
            gbp: true,
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.3.0/24".parse().unwrap(),
            local_ports: (32_768, 60_999),
            source_check: SourceCheck::Lease,
            overlay_mtu: 1_450,
            gro: Gro::Pair,
            anchor: flannel_common::globals::ANCHOR_NONE,
            fast_path: flannel_common::globals::FAST_PATH_OFF,
            pod_hook: 0,
            snat_ports: Some(range),
            snat_more: None,
            snat_keep: false,
        };
        let loaded = Loaded {
            globals,
            index: 5,
            gro_index: 6,
        };
        Told::of_loaded(&loaded).unwrap()
    }

    #[test]
    fn it_is_known_for_as_long_as_the_programs_are_and_the_last_load_counts() {
        let bpffs = Path::new("/here/is/a/test");
        let before = tell(bpffs, "/coreos.com/network", told_with(8472));
        let now = tell(bpffs, "/coreos.com/network", told_with(4789));
        drop(before);
        assert_eq!(told(bpffs, "/coreos.com/network"), Some(told_with(4789)));
        let name = mark::network_name("/coreos.com/network");
        assert_eq!(
            told(bpffs, &name),
            Some(told_with(4789)),
            "by its mark, too"
        );
        assert_eq!(told(bpffs, "/other"), None);
        assert_eq!(told(Path::new("/elsewhere"), &name), None);
        drop(now);
        assert_eq!(told(bpffs, &name), None);
    }
}
