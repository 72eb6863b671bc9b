//! Which addresses flows leave as by which device: two maps that say the same, one to choose from, one to look up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use flannel_common::maps::{LENT, OUTLETS};
use flannel_common::snat::{Choices, Lent};

use super::bpffs::Pins;
use super::maps::{gone, pinned, take};
use super::{DataplaneError, Wire};
use crate::dataplane::outlets::Sources;

/// Value of every entry of [`LENT`].
const IS_LENT: u32 = 1;
/// Key of what is lent by any device.
const ANY: u32 = 0;

pub(super) struct OutletMaps {
    choices: HashMap<MapData, u32, Wire<Choices>>,
    lent: HashMap<MapData, Wire<Lent>, u32>,
}

impl OutletMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            choices: take(ebpf, OUTLETS)?,
            lent: take(ebpf, LENT)?,
        })
    }

    /// Opens what an earlier agent pinned; the caller has checked the shapes.
    pub(super) fn pinned(pins: &Pins) -> Result<Self, DataplaneError> {
        Ok(Self {
            choices: pinned(OUTLETS, pins)?,
            lent: pinned(LENT, pins)?,
        })
    }

    /// Devices by index; with no address at all if the two maps do not say the same, so that they are written again.
    pub(super) fn list(&self) -> Result<BTreeMap<u32, Sources>, DataplaneError> {
        let mut all = self.choices()?;
        if self.lent()? != lent(&all) {
            all.values_mut().for_each(|of| *of = Sources::default());
        }
        Ok(all)
    }

    /// Nobody leaves as an address whose replies would not be looked for.
    pub(super) fn update(
        &mut self,
        put: &BTreeMap<u32, Sources>,
        remove: &BTreeSet<u32>,
    ) -> Result<(), DataplaneError> {
        let mut all = self.choices()?;
        all.retain(|index, _| !remove.contains(index));
        all.extend(put.iter().map(|(index, of)| (*index, of.clone())));
        let wanted = lent(&all);
        let held = self.lent()?;
        for key in wanted.difference(&held) {
            self.lent
                .insert(Wire(key.to_lent()), IS_LENT, 0)
                .map_err(|e| DataplaneError::map(LENT, "write", e))?;
        }
        for (index, sources) in put {
            if let Some(choices) = sources.choices() {
                self.choices
                    .insert(index, Wire(choices), 0)
                    .map_err(|e| DataplaneError::map(OUTLETS, "write", e))?;
            }
        }
        for index in remove {
            gone(self.choices.remove(index))
                .map_err(|e| DataplaneError::map(OUTLETS, "remove", e))?;
        }
        for key in held.difference(&wanted) {
            gone(self.lent.remove(&Wire(key.to_lent())))
                .map_err(|e| DataplaneError::map(LENT, "remove", e))?;
        }
        Ok(())
    }

    fn choices(&self) -> Result<BTreeMap<u32, Sources>, DataplaneError> {
        self.choices
            .iter()
            .map(|entry| {
                let (index, Wire(choices)) =
                    entry.map_err(|e| DataplaneError::map(OUTLETS, "read", e))?;
                Ok((index, Sources::read(&choices)))
            })
            .collect()
    }

    fn lent(&self) -> Result<BTreeSet<Key>, DataplaneError> {
        self.lent
            .keys()
            .map(|key| {
                let Wire(key) = key.map_err(|e| DataplaneError::map(LENT, "read", e))?;
                Ok(Key(key.ifindex, key.address.into()))
            })
            .collect()
    }
}

/// A [`Lent`] that has an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u32, Ipv4Addr);

impl Key {
    fn to_lent(self) -> Lent {
        let Self(ifindex, address) = self;
        Lent {
            ifindex,
            address: address.octets(),
        }
    }
}

/// What the second map has to say, next to the first.
fn lent(all: &BTreeMap<u32, Sources>) -> BTreeSet<Key> {
    let of = |(index, sources): (&u32, &Sources)| {
        let index = *index;
        let both = |address| [Key(index, address), Key(ANY, address)];
        sources.addresses().flat_map(both).collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_lent_by_its_device_and_by_any() {
        let [a, b] = [1, 2].map(|n| Ipv4Addr::new(192, 0, 2, n));
        let all = [(3, a), (4, a), (5, b)].map(|(index, of)| (index, Sources::only(of)));
        let expected = [Key(0, a), Key(0, b), Key(3, a), Key(4, a), Key(5, b)];
        assert_eq!(lent(&all.into()), expected.into());
    }
}
