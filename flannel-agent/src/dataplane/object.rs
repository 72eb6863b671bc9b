//! The compiled programs: the built-in object or a file, its constants, its maps.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use flannel_common::maps::{CAPTURE, FLOWS, FRAGMENTS, SNAT, YOUNG};
use flannel_common::snat;
use flannel_common::vxlan::{Constant, Template};
use flannel_common::{Ipv4, Mac, cidr, globals, ipip, udp};

use super::bpffs::Pins;
use super::definition::{Definition, ReplacedMap, Shape, UNUSED_ENTRIES};
use super::embedded::EMBEDDED;
use super::loader::loader;
use super::{DataplaneError, Options};
use crate::dataplane::Loaded;
use crate::node::snat_ports::PortRange;

/// An object file in memory.
#[derive(Debug)]
pub(super) struct Object {
    bytes: Cow<'static, [u8]>,
    maps: Vec<Definition>,
}

impl Object {
    /// Reads the object that `options` name, or takes the one built into the agent.
    pub(super) fn read(options: &Options) -> Result<Self, DataplaneError> {
        let bytes = Self::read_bytes(options.ebpf_object.as_deref())?;
        let parsed = aya_obj::Object::parse(&bytes)
            .map_err(|error| DataplaneError::Object(error.to_string()))?;
        // As aya makes a perf event array for which the object names no size.
        let cpus = nr_cpus().map_err(|(_, error)| DataplaneError::Object(error.to_string()))?;
        let maps = parsed
            .maps
            .iter()
            // .rodata belongs to one load of the programs, not to the node.
            .filter(|(name, _)| !name.starts_with('.'))
            .map(|(name, map)| Definition {
                name: name.clone(),
                shape: Shape {
                    kind: map.map_type(),
                    key_size: map.key_size(),
                    value_size: map.value_size(),
                    max_entries: match name.as_str() {
                        FLOWS => options.flow_entries,
                        CAPTURE => u32::try_from(cpus).unwrap_or(u32::MAX),
                        SNAT => options.snat_entries.unwrap_or(UNUSED_ENTRIES),
                        YOUNG => snat::places(options.snat_entries.unwrap_or(UNUSED_ENTRIES)),
                        // No memory for a table that nobody fills.
                        FRAGMENTS if options.snat_entries.is_none() => UNUSED_ENTRIES,
                        _ => map.max_entries(),
                    },
                    flags: map.map_flags(),
                },
            })
            .collect();
        Ok(Self { bytes, maps })
    }

    /// The object file alone; `None`: the one built into the agent.
    pub(super) fn read_bytes(path: Option<&Path>) -> Result<Cow<'static, [u8]>, DataplaneError> {
        let Some(path) = path else {
            return Ok(Cow::Borrowed(EMBEDDED));
        };
        let read = std::fs::read(path).map_err(|error| DataplaneError::ReadObject {
            path: path.to_owned(),
            error,
        });
        Ok(Cow::Owned(read?))
    }

    /// Opens the pinned maps (or creates and pins them) and prepares the programs with `told` as their
    /// constants.
    pub(super) fn load(&self, told: &Loaded, pins: &Pins) -> Result<Ebpf, DataplaneError> {
        self.set_table_aside(pins)?;
        for map in &self.maps {
            map.discard_if_other(&pins.map(&map.name))?;
        }
        let constants = Constants::from(told);
        let mut loader: EbpfLoader<'_> = loader();
        constants.set(&mut loader);
        let places = self.entries(YOUNG);
        let secret: [u64; 2] = rand::random();
        loader
            .override_global(globals::SNAT_PLACES, &places, true)
            .override_global(globals::SNAT_SECRET, &secret, true);
        let paths: Vec<(&str, PathBuf)> = self
            .maps
            .iter()
            .map(|map| (map.name.as_str(), pins.map(&map.name)))
            .collect();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        for map in &self.maps {
            loader.map_max_entries(&map.name, map.shape.max_entries);
        }
        loader
            .load(&self.bytes)
            .map_err(|error| DataplaneError::Maps(Box::new(error)))
    }

    /// Moves the table of translated connections out of the way of one of another size. The programs on the hooks go on with it, also if
    /// nothing comes of its successor, so it stays pinned until what it knows is carried over. One that is of the right size after all
    /// comes back.
    pub(super) fn set_table_aside(&self, pins: &Pins) -> Result<(), DataplaneError> {
        let Some(map) = self.maps.iter().find(|map| map.name == SNAT) else {
            return Ok(());
        };
        let found = map.pinned(&pins.map(SNAT))?;
        if found.is_some_and(|found| map.is_resized_snat(&found)) {
            pins.set_aside(SNAT)?;
        } else if found.is_some() {
            return Ok(());
        }
        for folder in pins.set_asides()? {
            if map.pinned(&pins.map_of(&folder, SNAT))? == Some(map.shape) {
                return pins.take_back(&folder, SNAT);
            }
        }
        Ok(())
    }

    /// Size of a map.
    fn entries(&self, name: &str) -> u32 {
        let map = self.maps.iter().find(|map| map.name == name);
        map.map_or(0, |map| map.shape.max_entries)
    }

    pub(super) fn map_names(&self) -> impl Iterator<Item = &str> {
        self.maps.iter().map(|map| map.name.as_str())
    }

    /// Whether every map of this object is pinned.
    pub(super) fn is_pinned(&self, pins: &Pins) -> bool {
        self.maps.iter().all(|map| pins.map(&map.name).exists())
    }

    /// The programs with `told` as their constants, and maps that nobody else sees. Only large enough to look
    /// at a few packets.
    pub(super) fn load_alone(&self, told: &Loaded) -> Result<Ebpf, DataplaneError> {
        let constants = Constants::from(told);
        let mut loader: EbpfLoader<'_> = loader();
        constants.set(&mut loader);
        let places = self.entries(YOUNG);
        let secret: [u64; 2] = rand::random();
        loader
            .override_global(globals::SNAT_PLACES, &places, true)
            .override_global(globals::SNAT_SECRET, &secret, true);
        for map in &self.maps {
            // Of a ring buffer it is bytes.
            if [FLOWS, SNAT, FRAGMENTS, YOUNG].contains(&map.name.as_str()) {
                loader.map_max_entries(&map.name, UNUSED_ENTRIES);
            }
        }
        loader
            .load(&self.bytes)
            .map_err(|error| DataplaneError::Maps(Box::new(error)))
    }

    pub(super) fn has_all_pins(&self, pins: &Pins) -> Result<bool, DataplaneError> {
        let names: Vec<&str> = self.map_names().collect();
        self.has_usable_pins(&names, pins)
    }

    /// Pinned maps of another shape than the object wants.
    pub(super) fn replaced_maps(&self, pins: &Pins) -> Result<Vec<ReplacedMap>, DataplaneError> {
        let mut replaced = Vec::new();
        for map in &self.maps {
            let found = map.pinned(&pins.map(&map.name))?;
            if let Some(found) = found.filter(|found| *found != map.shape) {
                replaced.push(ReplacedMap {
                    name: map.name.clone(),
                    resized: map
                        .is_resized(&found)
                        .then_some((found.max_entries, map.shape.max_entries)),
                    carried: map.is_resized_snat(&found),
                });
            }
        }
        Ok(replaced)
    }

    /// Whether all of these maps are pinned, and this object can use them.
    pub(super) fn has_usable_pins(
        &self,
        names: &[&str],
        pins: &Pins,
    ) -> Result<bool, DataplaneError> {
        for name in names {
            let Some(map) = self.maps.iter().find(|map| map.name == *name) else {
                return Ok(false);
            };
            if map.pinned(&pins.map(name))? != Some(map.shape) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The values of [`flannel_common::globals`], in the types that the programs read.
#[derive(Debug)]
struct Constants {
    uplink_ifindex: u32,
    uplink_ip: Ipv4,
    public_ip: Ipv4,
    uplink_mac: Mac,
    flannel_ifindex: u32,
    gro_ifindex: u32,
    outer_template: [u64; 7],
    vtep_mac: Mac,
    wire: u8,
    vni: u32,
    vxlan_port: u16,
    gbp: u8,
    network: u32,
    network_mask: u32,
    subnet: u32,
    subnet_mask: u32,
    port_min: u16,
    port_max: u16,
    source_check: u8,
    overlay_mtu: u32,
    pair_mtu: u32,
    bulk_len: u32,
    anchor: u8,
    fast_path: u8,
    pod_hook: u8,
    show_gap: u32,
    snat_port_min: u16,
    snat_port_max: u16,
    snat_more_min: u16,
    snat_more_max: u16,
    snat_keep: u8,
    snat_both_min: u16,
    snat_both_max: u16,
}

impl From<&Loaded> for Constants {
    fn from(told: &Loaded) -> Self {
        let Loaded {
            globals: node,
            index,
            gro_index,
        } = told;
        let local = node.uplink_ip.octets();
        let template = match node.wire {
            globals::WIRE_UDP => udp::template(local, node.port),
            globals::WIRE_IPIP => ipip::template(local),
            _ => Template::new(&Constant {
                local,
                port: node.port,
                vni: node.vni,
                vtep_mac: node.vtep_mac.0,
            }),
        };
        let both = match node.snat_keep {
            true => Some(PortRange::ALL),
            false => node.snat_ports,
        };
        Self {
            uplink_ifindex: node.uplink_index,
            uplink_ip: node.uplink_ip.octets(),
            public_ip: node.public_ip.octets(),
            uplink_mac: node.uplink_mac.0,
            flannel_ifindex: *index,
            gro_ifindex: *gro_index,
            outer_template: template.0,
            vtep_mac: node.vtep_mac.0,
            wire: node.wire,
            vni: node.vni,
            vxlan_port: node.port,
            gbp: node.gbp.into(),
            network: node.network.network().to_bits(),
            network_mask: cidr::mask(node.network.prefix_len()),
            subnet: node.subnet.network().to_bits(),
            subnet_mask: cidr::mask(node.subnet.prefix_len()),
            port_min: node.local_ports.0,
            port_max: node.local_ports.1,
            source_check: node.source_check.value(),
            overlay_mtu: node.overlay_mtu,
            pair_mtu: node.gro.pair_mtu(node.overlay_mtu),
            bulk_len: node.gro.bulk_len(node.overlay_mtu),
            anchor: node.anchor,
            fast_path: node.fast_path,
            pod_hook: node.pod_hook,
            // On the bridge itself it has seen them.
            show_gap: match node.pod_hook {
                globals::POD_HOOK_PORT => globals::SHOW_EACH,
                _ => 0,
            },
            snat_port_min: node.snat_ports.map_or(0, |ports| ports.min),
            snat_port_max: node.snat_ports.map_or(0, |ports| ports.max),
            snat_more_min: node.snat_more.map_or(0, |ports| ports.min),
            snat_keep: node.snat_keep.into(),
            snat_both_min: both.map_or(0, |ports| ports.min),
            snat_both_max: both.map_or(0, |ports| ports.max),
            snat_more_max: node.snat_more.map_or(0, |ports| ports.max),
        }
    }
}

impl Constants {
    fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global(globals::UPLINK_IFINDEX, &self.uplink_ifindex, true)
            .override_global(globals::UPLINK_IP, &self.uplink_ip, true)
            .override_global(globals::PUBLIC_IP, &self.public_ip, true)
            .override_global(globals::UPLINK_MAC, &self.uplink_mac, true)
            .override_global(globals::FLANNEL_IFINDEX, &self.flannel_ifindex, true)
            .override_global(globals::GRO_IFINDEX, &self.gro_ifindex, true)
            .override_global(globals::OUTER_TEMPLATE, &self.outer_template, true)
            .override_global(globals::VTEP_MAC, &self.vtep_mac, true)
            .override_global(globals::WIRE, &self.wire, true)
            .override_global(globals::VNI, &self.vni, true)
            .override_global(globals::VXLAN_PORT, &self.vxlan_port, true)
            .override_global(globals::GBP, &self.gbp, true)
            .override_global(globals::NETWORK, &self.network, true)
            .override_global(globals::NETWORK_MASK, &self.network_mask, true)
            .override_global(globals::SUBNET, &self.subnet, true)
            .override_global(globals::SUBNET_MASK, &self.subnet_mask, true)
            .override_global(globals::PORT_MIN, &self.port_min, true)
            .override_global(globals::PORT_MAX, &self.port_max, true)
            .override_global(globals::SOURCE_CHECK, &self.source_check, true)
            .override_global(globals::OVERLAY_MTU, &self.overlay_mtu, true)
            .override_global(globals::PAIR_MTU, &self.pair_mtu, true)
            .override_global(globals::BULK_LEN, &self.bulk_len, true)
            .override_global(globals::ANCHOR, &self.anchor, true)
            .override_global(globals::FAST_PATH, &self.fast_path, true)
            .override_global(globals::POD_HOOK, &self.pod_hook, true)
            .override_global(globals::SHOW_GAP, &self.show_gap, true)
            .override_global(globals::SNAT_PORT_MIN, &self.snat_port_min, true)
            .override_global(globals::SNAT_PORT_MAX, &self.snat_port_max, true)
            .override_global(globals::SNAT_MORE_MIN, &self.snat_more_min, true)
            .override_global(globals::SNAT_MORE_MAX, &self.snat_more_max, true)
            .override_global(globals::SNAT_KEEP, &self.snat_keep, true)
            .override_global(globals::SNAT_BOTH_MIN, &self.snat_both_min, true)
            .override_global(globals::SNAT_BOTH_MAX, &self.snat_both_max, true);
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::maps;

    use super::*;

    fn options(object: Option<&Path>, snat_entries: Option<u32>) -> Options {
        Options {
            bpffs: PathBuf::new(),
            network: String::new(),
            ebpf_object: object.map(Path::to_owned),
            state_dir: PathBuf::new(),
            attach: super::super::AttachMode::Auto,
            flow_entries: 8192,
            snat_entries,
        }
    }

    #[test]
    fn tables_of_source_nat_take_memory_only_when_it_is_on() {
        let size = |snat_entries, name| {
            let object = Object::read(&options(None, snat_entries)).unwrap();
            let map = object.maps.iter().find(|m| m.name == name).unwrap();
            map.shape.max_entries
        };
        assert_eq!(size(None, SNAT), UNUSED_ENTRIES);
        assert_eq!(size(None, FRAGMENTS), UNUSED_ENTRIES);
        assert_eq!(size(Some(50_000), SNAT), 50_000);
        assert_eq!(size(Some(50_000), FRAGMENTS), 16_384);
        assert_eq!(size(None, YOUNG), 128);
        assert_eq!(size(Some(50_000), YOUNG), 6_250);
    }

    #[test]
    fn the_embedded_object_defines_our_maps() {
        let object = Object::read(&options(None, None)).unwrap();
        for name in [maps::PEERS, maps::STATS, maps::VTEPS, maps::MACS] {
            assert!(object.maps.iter().any(|m| m.name == name), "{name}");
        }
        // What is not ours to pin, and what bpffs would not take.
        assert!(object.maps.iter().all(|m| m.name.starts_with("fl_")));
    }

    #[test]
    fn a_file_that_is_no_object_is_an_error_with_the_way_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not an ELF file").unwrap();
        let error = Object::read(&options(Some(file.path()), None))
            .unwrap_err()
            .to_string();
        assert!(error.contains("xtask build-ebpf"), "{error}");
        let missing = Path::new("/no/such/object");
        let error = Object::read(&options(Some(missing), None)).unwrap_err();
        assert!(error.to_string().contains("/no/such/object"), "{error}");
    }
}
