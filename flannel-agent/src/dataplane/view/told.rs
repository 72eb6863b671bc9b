//! What the live programs were told at their load: their `.rodata`, decoded.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use flannel_common::flow::Setting;
use flannel_common::{globals, source};
use ipnet::Ipv4Net;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use serde::Serialize;

use crate::base::mac::MacAddr;
use crate::base::options;
use crate::dataplane::Loaded;
use crate::dataplane::embedded::EMBEDDED;
use crate::dataplane::rodata::constants;
use crate::flannel::backend::Wire;
use crate::node::snat_ports::PortRange;

/// Constants of the node; see [`flannel_common::globals`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// `None`: no tunnel.
    pub wire: Option<Wire>,
    pub vni: u32,
    pub port: u16,
    /// VXLAN headers carry netfilter's mark.
    pub gbp: bool,
    pub uplink_index: u32,
    pub uplink_ip: Ipv4Addr,
    /// Where peers send to.
    pub public_ip: Ipv4Addr,
    pub flannel_index: u32,
    pub gro_index: u32,
    pub vtep_mac: MacAddr,
    pub network: Ipv4Net,
    pub subnet: Ipv4Net,
    pub overlay_mtu: u32,
    pub gro: options::Gro,
    pub source_check: &'static str,
    pub fast_path: options::Mode,
    pub pod_hook: options::Hook,
    /// Ports that pods' flows leave under; `None`: source NAT is off.
    pub snat_ports: Option<PortRange>,
}

impl Told {
    /// By what the programs judge the entries of `fl_flows`.
    #[must_use]
    pub const fn setting(&self) -> Setting {
        Setting {
            fast_path: self.fast_path.value(),
            pod_hook: self.pod_hook.value(),
        }
    }

    /// What a load of this process told its programs, as it would be read from them.
    pub(in crate::dataplane) fn of_loaded(loaded: &Loaded) -> Option<Self> {
        let Loaded {
            globals: node,
            index,
            gro_index,
        } = loaded;
        Some(Self {
            wire: wire(node.wire, node.vni),
            vni: node.vni,
            port: node.port,
            gbp: node.gbp,
            uplink_index: node.uplink_index,
            uplink_ip: node.uplink_ip,
            public_ip: node.public_ip,
            flannel_index: *index,
            gro_index: *gro_index,
            vtep_mac: node.vtep_mac,
            network: node.network.trunc(),
            subnet: node.subnet.trunc(),
            overlay_mtu: node.overlay_mtu,
            gro: gro(node.gro.pair_mtu(node.overlay_mtu), node.anchor),
            source_check: source_check(node.source_check.value()),
            fast_path: options::Mode::of_value(node.fast_path)?,
            pod_hook: options::Hook::of_value(node.pod_hook)?,
            snat_ports: node.snat_ports,
        })
    }

    /// The constants of the program that uses the maps `ids`; `None` if it comes from another build, whose
    /// constants lie elsewhere.
    pub(super) fn of_program(ids: &[u32]) -> io::Result<Option<Self>> {
        let bytes = constants(ids)?;
        Ok(bytes.and_then(|bytes| Layout::of(EMBEDDED)?.decode(&bytes)))
    }
}

fn wire(value: u8, vni: u32) -> Option<Wire> {
    match (value, vni) {
        (globals::WIRE_VXLAN, 0) => None,
        (value, vni) => Wire::of_value(value, vni),
    }
}

const fn gro(pair_mtu: u32, anchor: u8) -> options::Gro {
    match (pair_mtu, anchor) {
        (0, globals::ANCHOR_NONE) => options::Gro::None,
        (0, _) => options::Gro::Anchor,
        _ => options::Gro::Pair,
    }
}

const fn source_check(value: u8) -> &'static str {
    match value {
        source::CHECK_OFF => "off",
        source::CHECK_LEASE => "lease",
        _ => "strict",
    }
}

/// The constants of a program as they lie in its `.rodata`, by name; `None` if they are another build's.
pub(in crate::dataplane) fn constants_by_name(rodata: &[u8]) -> Option<BTreeMap<String, &[u8]>> {
    let layout = Layout::of(EMBEDDED)?;
    if rodata.len() as u64 != layout.size {
        return None;
    }
    // LLVM puts tables and strings beside them, which have no such name.
    let is_constant = |name: &str| {
        name.bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    layout
        .symbols
        .iter()
        .filter(|(name, (_, size))| !name.is_empty() && *size > 0 && is_constant(name))
        .map(|(name, (offset, size))| {
            let start = usize::try_from(*offset).ok()?;
            let end = start.checked_add(usize::try_from(*size).ok()?)?;
            Some((name.clone(), rodata.get(start..end)?))
        })
        .collect()
}

/// Takes out what says nothing about the node: what is drawn anew for each load, and what a copy of the programs that no packet reaches is not
/// told. Of another build's constants nobody knows where that is.
pub(in crate::dataplane) fn forget_own(rodata: &mut [u8]) {
    static LAYOUT: LazyLock<Option<Layout>> = LazyLock::new(|| Layout::of(EMBEDDED));
    let Some(layout) = LAYOUT.as_ref().filter(|it| it.size == rodata.len() as u64) else {
        return;
    };
    for name in [globals::SNAT_SECRET, globals::SHOW_GAP] {
        if let Some((offset, size)) = layout.symbols.get(name)
            && let (Ok(start), Ok(end)) = (usize::try_from(*offset), usize::try_from(offset + size))
            && let Some(own) = rodata.get_mut(start..end)
        {
            own.fill(0);
        }
    }
}

/// Where the constants lie in `.rodata`.
struct Layout {
    size: u64,
    /// Offset and size by name.
    symbols: BTreeMap<String, (u64, u64)>,
}

impl Layout {
    fn of(object: &[u8]) -> Option<Self> {
        let file = object::File::parse(object).ok()?;
        let rodata = file.section_by_name(".rodata")?;
        let symbols = file
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(rodata.index()))
            .filter_map(|symbol| {
                let name = symbol.name().ok()?.to_owned();
                Some((name, (symbol.address(), symbol.size())))
            })
            .collect();
        Some(Self {
            size: rodata.size(),
            symbols,
        })
    }

    fn decode(&self, rodata: &[u8]) -> Option<Told> {
        if rodata.len() as u64 != self.size {
            return None;
        }
        let subnet = |address, mask| {
            let address = Ipv4Addr::from_bits(u32::from_ne_bytes(self.get(rodata, address)?));
            let mask = Ipv4Addr::from_bits(u32::from_ne_bytes(self.get(rodata, mask)?));
            Ipv4Net::with_netmask(address, mask).ok()
        };
        let u32 = |name| Some(u32::from_ne_bytes(self.get(rodata, name)?));
        let u8 = |name| self.get::<1>(rodata, name).map(|[value]| value);
        let u16 = |name| Some(u16::from_ne_bytes(self.get(rodata, name)?));
        let ports = PortRange {
            min: u16(globals::SNAT_PORT_MIN)?,
            max: u16(globals::SNAT_PORT_MAX)?,
        };
        Some(Told {
            snat_ports: (ports.max > 0).then_some(ports),
            wire: wire(u8(globals::WIRE)?, u32(globals::VNI)?),
            vni: u32(globals::VNI)?,
            port: u16::from_ne_bytes(self.get(rodata, globals::VXLAN_PORT)?),
            gbp: u8(globals::GBP)? != 0,
            uplink_index: u32(globals::UPLINK_IFINDEX)?,
            uplink_ip: self.get::<4>(rodata, globals::UPLINK_IP)?.into(),
            public_ip: self.get::<4>(rodata, globals::PUBLIC_IP)?.into(),
            flannel_index: u32(globals::FLANNEL_IFINDEX)?,
            gro_index: u32(globals::GRO_IFINDEX)?,
            vtep_mac: MacAddr(self.get(rodata, globals::VTEP_MAC)?),
            network: subnet(globals::NETWORK, globals::NETWORK_MASK)?,
            subnet: subnet(globals::SUBNET, globals::SUBNET_MASK)?,
            overlay_mtu: u32(globals::OVERLAY_MTU)?,
            gro: gro(u32(globals::PAIR_MTU)?, u8(globals::ANCHOR)?),
            source_check: source_check(u8(globals::SOURCE_CHECK)?),
            fast_path: options::Mode::of_value(u8(globals::FAST_PATH)?)?,
            pod_hook: options::Hook::of_value(u8(globals::POD_HOOK)?)?,
        })
    }

    fn get<const N: usize>(&self, rodata: &[u8], name: &str) -> Option<[u8; N]> {
        let (offset, size) = self.symbols.get(name)?;
        if *size != N as u64 {
            return None;
        }
        let start = usize::try_from(*offset).ok()?;
        rodata.get(start..start + N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.rodata` of the embedded object with some constants set.
    fn rodata(layout: &Layout, values: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(layout.size).unwrap()];
        for (name, value) in values {
            let start = usize::try_from(layout.symbols[*name].0).unwrap();
            bytes[start..start + value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[test]
    fn constants_are_found_by_their_names() {
        let layout = Layout::of(EMBEDDED).unwrap();
        let bits = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().to_bits().to_ne_bytes();
        let bytes = rodata(
            &layout,
            &[
                (globals::VNI, &77_u32.to_ne_bytes()),
                (globals::VXLAN_PORT, &8472_u16.to_ne_bytes()),
                (globals::GBP, &[1]),
                (globals::UPLINK_IP, &[192, 0, 2, 7]),
                (globals::NETWORK, &bits("10.244.0.0")),
                (globals::NETWORK_MASK, &bits("255.255.0.0")),
                (globals::SUBNET, &bits("10.244.3.0")),
                (globals::SUBNET_MASK, &bits("255.255.255.0")),
                (globals::SOURCE_CHECK, &[1]),
                (globals::PAIR_MTU, &0_u32.to_ne_bytes()),
                (globals::FAST_PATH, &[globals::FAST_PATH_ALWAYS]),
                (globals::POD_HOOK, &[globals::POD_HOOK_BRIDGE]),
                (globals::SNAT_PORT_MIN, &50_000_u16.to_ne_bytes()),
                (globals::SNAT_PORT_MAX, &60_000_u16.to_ne_bytes()),
            ],
        );
        let told = layout.decode(&bytes).unwrap();
        assert_eq!((told.vni, told.port, told.gbp), (77, 8472, true));
        assert_eq!(told.uplink_ip, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(told.network.to_string(), "10.244.0.0/16");
        assert_eq!(told.subnet.to_string(), "10.244.3.0/24");
        assert_eq!(told.source_check, "lease");
        assert_eq!(told.gro, options::Gro::None);
        let fast_path = (told.fast_path, told.pod_hook);
        assert_eq!(fast_path, (options::Mode::Always, options::Hook::Bridge));
        let values = (told.setting().fast_path, told.setting().pod_hook);
        assert_eq!(
            values,
            (globals::FAST_PATH_ALWAYS, globals::POD_HOOK_BRIDGE)
        );
        // As `status` shows it.
        let shown = serde_json::to_value(&told).unwrap();
        assert_eq!(
            (&shown["fast_path"], &shown["pod_hook"]),
            (&"always".into(), &"bridge".into())
        );
        assert_eq!(told.snat_ports.unwrap().to_string(), "50000-60000");
        let off = layout
            .decode(&rodata(
                &layout,
                &[
                    (globals::NETWORK_MASK, &bits("255.255.0.0")),
                    (globals::SUBNET_MASK, &bits("255.255.255.0")),
                ],
            ))
            .unwrap();
        assert_eq!((off.snat_ports, off.gbp), (None, false));
    }

    #[test]
    fn constants_of_another_build_are_not_misread() {
        let layout = Layout::of(EMBEDDED).unwrap();
        let mut bytes = rodata(&layout, &[]);
        bytes.push(0);
        assert_eq!(layout.decode(&bytes), None);
    }
}
