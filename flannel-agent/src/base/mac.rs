//! The VTEP's MAC address: which one to use, so that peers need not learn a new one after a restart or reboot.

use std::fmt;
use std::str::FromStr;

use flannel_common::Mac;
use rand::RngExt;

/// An Ethernet address in its usual text form, `c6:d2:32:6f:8f:44`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub Mac);

impl MacAddr {
    /// A random address with the local bit set and the multicast bit clear (IEEE 802 §8.2).
    #[must_use]
    pub fn random_local() -> Self {
        let mut octets: Mac = rand::rng().random();
        octets[0] = octets[0] & !MULTICAST | LOCAL;
        Self(octets)
    }

    /// Whether a device can have this address: not a multicast one, and not all zeros.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & MULTICAST == 0 && self.0 != [0; 6]
    }
}

const MULTICAST: u8 = 0b01;
const LOCAL: u8 = 0b10;

/// The MAC for `flannel.<VNI>`: that of the existing device, else the one our lease already
/// publishes (what peers send to, also after a reboot), else a random one.
#[must_use]
pub fn choose(device: Option<MacAddr>, lease: Option<MacAddr>) -> MacAddr {
    device
        .filter(|mac| mac.is_unicast())
        .or(lease.filter(|mac| mac.is_unicast()))
        .unwrap_or_else(MacAddr::random_local)
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<Mac> for MacAddr {
    fn from(octets: Mac) -> Self {
        Self(octets)
    }
}

/// Text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no MAC address: write six bytes like c6:d2:32:6f:8f:44")]
pub struct MacError(String);

impl FromStr for MacAddr {
    type Err = MacError;

    /// Accepts colons and dashes, and either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacError(text.to_owned());
        let mut octets = Mac::default();
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(error)?;
            // from_str_radix alone would take a sign.
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(error());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEVICE: MacAddr = MacAddr([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
    const LEASE: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 1]);

    #[test]
    fn ma1_random_mac_is_local_and_unicast() {
        for _ in 0..1000 {
            let mac = MacAddr::random_local();
            assert_eq!(mac.0[0] & 0b11, LOCAL, "{mac}");
            assert!(mac.is_unicast());
        }
        assert_ne!(MacAddr::random_local(), MacAddr::random_local());
    }

    #[test]
    fn the_device_comes_before_the_lease_before_chance() {
        assert_eq!(choose(Some(DEVICE), Some(LEASE)), DEVICE);
        assert_eq!(choose(None, Some(LEASE)), LEASE);
        assert!(choose(None, None).is_unicast());
    }

    #[test]
    fn an_address_no_device_can_have_is_passed_over() {
        let multicast = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(choose(Some(multicast), Some(LEASE)), LEASE);
        assert!(choose(None, Some(MacAddr([0; 6]))).is_unicast());
    }

    #[test]
    fn prints_and_reads() {
        assert_eq!(DEVICE.to_string(), "c6:d2:32:6f:8f:44");
        for text in ["c6:d2:32:6f:8f:44", "C6-D2-32-6F-8F-44"] {
            assert_eq!(text.parse(), Ok(DEVICE));
        }
        for text in [
            "",
            "c6:d2:32:6f:8f",
            "c6:d2:32:6f:8f:44:55",
            "c6:d2:32:6f:8f:+4",
            "c6:d2:32:6f:8f:4",
            "c6:d2:32:6f:8f:4g",
        ] {
            let error = text.parse::<MacAddr>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn fz_mac_never_panics(text in ".{0,40}") {
            let _ = text.parse::<MacAddr>();
        }

        #[test]
        fn every_mac_reads_back(octets in any::<Mac>()) {
            prop_assert_eq!(MacAddr(octets).to_string().parse(), Ok(MacAddr(octets)));
        }
    }
}
