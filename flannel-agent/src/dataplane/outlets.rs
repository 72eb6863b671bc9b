//! The addresses of a device that flows leave as: which of them, the programs decide by the next hop, as MASQUERADE does.

use std::fmt;
use std::net::Ipv4Addr;

use flannel_common::Mac;
use flannel_common::snat::{Choice, Choices, MAX_CHOICES};
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::node::net::Address;

/// Those of one device, in the kernel's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Sources {
    all: Vec<Source>,
    /// See [`Choices::tracked`].
    #[serde(skip)]
    tracked: bool,
    /// See [`Choices::mac`].
    #[serde(skip)]
    mac: Mac,
}

/// An address, and whom a next hop has to be among so that it is chosen, unless it is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Source {
    pub address: Ipv4Addr,
    /// Without host bits.
    pub link: Ipv4Net,
}

impl Sources {
    /// `None` if none of them can be lent.
    ///
    /// The kernel looks through the primary addresses of global scope (`inet_select_addr`), be they deprecated or not.
    /// Those it can never come to are left out, so that there is room for many addresses of services (`/32`).
    pub(crate) fn of<'a>(held: impl IntoIterator<Item = &'a Address>) -> Option<Self> {
        let mut all: Vec<Source> = Vec::new();
        for address in held {
            let source = Source::from(address);
            let counts = all.is_empty() || all.len() < MAX_CHOICES && source.has_neighbours();
            let hidden = all
                .iter()
                .any(|earlier| earlier.link.contains(&source.link));
            if is_lent(address) && counts && !hidden {
                all.push(source);
            }
        }
        (!all.is_empty()).then_some(Self::untracked(all))
    }

    /// Of one that borrows its only address from another device.
    #[must_use]
    pub fn only(address: Ipv4Addr) -> Self {
        let link = address.into();
        Self::untracked(vec![Source { address, link }])
    }

    const fn untracked(all: Vec<Source>) -> Self {
        Self {
            all,
            tracked: false,
            mac: [0; 6],
        }
    }

    /// Of a device with this MAC, if it has one.
    #[must_use]
    pub(crate) fn with_mac(self, mac: Option<Mac>) -> Self {
        let mac = mac.unwrap_or_default();
        Self { mac, ..self }
    }

    /// Of a device that is a bridge or on one, if `tracked`.
    #[must_use]
    pub(crate) fn tracked(self, tracked: bool) -> Self {
        Self { tracked, ..self }
    }

    /// See [`Choices::mac`].
    pub(crate) const fn mac(&self) -> Mac {
        self.mac
    }

    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.all.iter().map(|source| source.address)
    }

    /// As the programs read them; `None` if there are none.
    pub(crate) fn choices(&self) -> Option<Choices> {
        let (first, others) = self.all.split_first()?;
        let others = others.iter().map(Source::choice);
        let choices = Choices::new(first.choice(), others);
        Some(choices.tracked(self.tracked).with_mac(self.mac))
    }

    /// What [`Sources::choices`] wrote; nothing for anything else.
    pub(crate) fn read(choices: &Choices) -> Self {
        let read: Option<Vec<Source>> = choices.distinct().map(Source::read).collect();
        Self {
            all: read.unwrap_or_default(),
            tracked: choices.tracked != 0,
            mac: choices.mac,
        }
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, source) in self.all.iter().enumerate() {
            match nth {
                0 => write!(f, "{}", source.address)?,
                _ => write!(f, ", {} to {}", source.address, source.link)?,
            }
        }
        if self.tracked {
            f.write_str(", by a bridge")?;
        }
        Ok(())
    }
}

/// Whether the kernel would have a packet leave as it.
pub(crate) fn is_lent(address: &Address) -> bool {
    address.global && !address.secondary
}

impl From<&Address> for Source {
    fn from(address: &Address) -> Self {
        Self {
            address: address.ip(),
            link: address.link.trunc(),
        }
    }
}

impl Source {
    fn has_neighbours(&self) -> bool {
        self.link != Ipv4Net::from(self.address)
    }

    fn choice(&self) -> Choice {
        Choice {
            address: self.address.octets(),
            link: self.link.network().octets(),
            mask: self.link.netmask().octets(),
        }
    }

    fn read(choice: &Choice) -> Option<Self> {
        let link = Ipv4Net::with_netmask(choice.link.into(), choice.mask.into()).ok()?;
        Some(Self {
            address: choice.address.into(),
            link,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::address;

    fn sources(all: &[&str]) -> Sources {
        let all: Vec<Address> = all.iter().map(|net| address(3, net)).collect();
        Sources::of(&all).unwrap()
    }

    fn addresses(sources: &Sources) -> Vec<String> {
        sources.addresses().map(|a| a.to_string()).collect()
    }

    #[test]
    fn what_the_kernel_can_choose() {
        let all = sources(&["192.0.2.11/24", "198.51.100.11/24"]);
        assert_eq!(addresses(&all), ["192.0.2.11", "198.51.100.11"]);
        assert_eq!(
            all.to_string(),
            "192.0.2.11, 198.51.100.11 to 198.51.100.0/24"
        );
    }

    #[test]
    fn what_it_never_comes_to_is_left_out() {
        let all = sources(&["192.0.2.11/24", "192.0.2.200/32", "192.0.2.129/25"]);
        assert_eq!(addresses(&all), ["192.0.2.11"]);
        let first = sources(&["192.0.2.11/32", "192.0.2.129/25", "192.0.2.12/24"]);
        assert_eq!(
            addresses(&first),
            ["192.0.2.11", "192.0.2.129", "192.0.2.12"]
        );
        let many: Vec<String> = (0..40).map(|n| format!("10.0.{n}.1/24")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(addresses(&sources(&many)).len(), MAX_CHOICES);
    }

    /// `deprecated` is for sockets of the node.
    #[test]
    fn secondary_and_local_ones_are_not_lent_but_deprecated_ones() {
        let local = Address {
            global: false,
            ..address(3, "169.254.0.1/16")
        };
        let secondary = Address {
            secondary: true,
            ..address(3, "192.0.2.2/24")
        };
        assert_eq!(Sources::of([&local, &secondary]), None);
        let deprecated = Address {
            deprecated: true,
            ..address(3, "192.0.2.1/24")
        };
        let all = [local, secondary, deprecated, address(3, "198.51.100.1/24")];
        let lent = Sources::of(&all).unwrap();
        assert_eq!(addresses(&lent), ["192.0.2.1", "198.51.100.1"]);
    }

    #[test]
    fn the_other_side_of_a_point_to_point_link_is_its_neighbour() {
        let mut peer = address(3, "198.51.100.1/32");
        peer.link = "203.0.113.9/32".parse().unwrap();
        let all = Sources::of([&address(3, "192.0.2.1/24"), &peer]).unwrap();
        let choices = all.choices().unwrap();
        assert_eq!(choices.towards([203, 0, 113, 9]), [198, 51, 100, 1]);
        assert_eq!(choices.towards([198, 51, 100, 2]), [192, 0, 2, 1]);
    }

    #[test]
    fn what_was_written_is_read() {
        for all in [
            sources(&["192.0.2.11/24"]),
            sources(&["192.0.2.11/32", "198.51.100.11/24", "203.0.113.1/30"]),
            Sources::only(Ipv4Addr::LOCALHOST),
        ] {
            assert_eq!(Sources::read(&all.choices().unwrap()), all);
        }
        let mut broken = sources(&["192.0.2.11/24"]).choices().unwrap();
        broken.all[0].mask = [255, 0, 255, 0];
        assert_eq!(Sources::read(&broken), Sources::default());
        assert_eq!(Sources::default().choices(), None);
    }
}
