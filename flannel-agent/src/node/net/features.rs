//! Offloads of an interface, by ethtool's names.

use std::collections::BTreeMap;

use super::error::NetError;
use super::ioctl;

/// The offloads of one interface: those it has, whether they are on, whether they can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    bits: BTreeMap<String, Bit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bit {
    index: usize,
    on: bool,
    changeable: bool,
}

impl Features {
    /// Reads the offloads of `device`.
    ///
    /// # Errors
    /// If there is no such device or the kernel refuses.
    pub fn read(device: &str) -> Result<Self, NetError> {
        let action = || format!("read the offloads of {device}");
        let names = ioctl::feature_names(device).map_err(|e| NetError::io(action(), &e))?;
        let blocks =
            ioctl::features(device, names.len()).map_err(|e| NetError::io(action(), &e))?;
        let bits = names
            .into_iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty())
            .filter_map(|(index, name)| {
                let block = blocks.get(index / 32)?;
                let mask = 1 << (index % 32);
                let bit = Bit {
                    index,
                    on: block.active & mask != 0,
                    changeable: block.available & mask != 0,
                };
                Some((name, bit))
            })
            .collect();
        Ok(Self { bits })
    }

    /// Offloads that are on or off, and cannot be changed.
    #[cfg(test)]
    pub(crate) fn with<'a>(names: impl Iterator<Item = (&'a str, bool)>) -> Self {
        let bit = |index, on| Bit {
            index,
            on,
            changeable: false,
        };
        let bits = names.enumerate();
        Self {
            bits: bits
                .map(|(index, (name, on))| (name.to_owned(), bit(index, on)))
                .collect(),
        }
    }

    /// Whether an offload is on; `None` if the kernel does not know the name.
    #[must_use]
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.bits.get(name).map(|bit| bit.on)
    }

    /// Which of the wanted states do not hold and can be changed. Names that this kernel does not
    /// know are no difference: they name what a newer kernel has.
    #[must_use]
    pub fn missing(&self, wanted: &BTreeMap<String, bool>) -> BTreeMap<String, bool> {
        wanted
            .iter()
            .filter(|(name, on)| {
                self.bits
                    .get(*name)
                    .is_some_and(|bit| bit.changeable && bit.on != **on)
            })
            .map(|(name, on)| (name.clone(), *on))
            .collect()
    }

    /// Switches offloads of `device` on or off; unknown and fixed ones are left alone.
    ///
    /// # Errors
    /// If there is no such device or the kernel refuses.
    pub fn set(device: &str, wanted: &BTreeMap<String, bool>) -> Result<(), NetError> {
        let now = Self::read(device)?;
        let length = now.bits.values().map(|bit| bit.index / 32 + 1).max();
        let mut blocks = vec![(0, 0); length.unwrap_or(0)];
        for (name, on) in now.missing(wanted) {
            let Some(bit) = now.bits.get(&name) else {
                continue;
            };
            let (valid, requested) = &mut blocks[bit.index / 32];
            let mask = 1 << (bit.index % 32);
            *valid |= mask;
            if on {
                *requested |= mask;
            }
        }
        if blocks.iter().all(|(valid, _)| *valid == 0) {
            return Ok(());
        }
        ioctl::set_features(device, &blocks)
            .map_err(|e| NetError::io(format!("change the offloads of {device}"), &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(bits: &[(&str, bool, bool)]) -> Features {
        Features {
            bits: bits
                .iter()
                .enumerate()
                .map(|(index, (name, on, changeable))| {
                    let bit = Bit {
                        index,
                        on: *on,
                        changeable: *changeable,
                    };
                    ((*name).to_owned(), bit)
                })
                .collect(),
        }
    }

    #[test]
    fn unknown_and_fixed_offloads_are_never_missing() {
        let now = features(&[("rx-gro", false, true), ("rx-lro", false, false)]);
        let wanted = [("rx-gro", true), ("rx-lro", true), ("of-tomorrow", false)];
        let wanted = wanted.map(|(name, on)| (name.to_owned(), on)).into();
        assert_eq!(
            now.missing(&wanted),
            BTreeMap::from([("rx-gro".to_owned(), true)])
        );
    }

    #[test]
    fn every_network_namespace_has_a_loopback_with_offloads() {
        let lo = Features::read("lo").unwrap();
        assert_eq!(lo.is_on("tx-tcp-segmentation"), Some(true));
        assert_eq!(lo.is_on("no-such-offload"), None);
    }

    #[test]
    fn a_missing_device_is_an_error() {
        let error = Features::read("no-such-device").unwrap_err();
        assert!(error.to_string().contains("no-such-device"), "{error}");
        assert!(Features::read("a-name-longer-than-the-kernel-takes").is_err());
    }
}
