//! Which subnet to ask for, given all leases: flannel's order, as a pure function.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rand::Rng;

use super::store::Entry;
use crate::flannel::alloc;
use crate::flannel::config::NetworkConfig;

/// The next step towards a lease.
#[derive(Debug)]
pub(super) enum Plan<'a> {
    /// Ours already, and still fits the configuration.
    Take(&'a Entry),
    /// Ours, but no longer fits the configuration.
    Delete(&'a Entry),
    /// Free.
    Create(Ipv4Net),
    OutOfSubnets,
}

/// flannel's order: the lease with our PublicIP, then the subnet of the previous run, then chance.
pub(super) fn plan<'a>(
    config: &NetworkConfig,
    public_ip: Ipv4Addr,
    previous: Option<Ipv4Net>,
    entries: &'a [Entry],
    rng: &mut impl Rng,
) -> Plan<'a> {
    let ours = || entries.iter().filter(|entry| entry.names(public_ip));
    let best = ours()
        .filter(|entry| entry.fits(config))
        .min_by_key(|entry| (entry.etcd_lease.is_some(), Some(entry.key.v4) != previous));
    if let Some(entry) = best {
        return Plan::Take(entry);
    }
    // A reservation is the operator's; only they remove it.
    if let Some(entry) = ours().find(|entry| entry.etcd_lease.is_some()) {
        return Plan::Delete(entry);
    }
    let taken = || entries.iter().map(|entry| entry.key.v4);
    let free = |subnet: &Ipv4Net| !taken().any(|net| net.contains(subnet) || subnet.contains(&net));
    previous
        .filter(|subnet| config.admits(*subnet))
        .filter(free)
        .or_else(|| alloc::pick(config, taken(), rng))
        .map_or(Plan::OutOfSubnets, Plan::Create)
}

impl Entry {
    /// Whether this is the lease of the node with this PublicIP.
    pub(super) fn names(&self, public_ip: Ipv4Addr) -> bool {
        self.attrs
            .as_ref()
            .is_ok_and(|attrs| attrs.public_ip == public_ip)
    }

    /// A dual-stack key does not fit: the network is IPv4 only.
    fn fits(&self, config: &NetworkConfig) -> bool {
        self.key.v6.is_none() && config.admits(self.key.v4)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::flannel::lease::LeaseAttrs;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const OTHER: &str = "192.0.2.2";

    fn config() -> NetworkConfig {
        NetworkConfig::parse(
            r#"{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0","Backend":{"Type":"vxlan"}}"#,
        )
        .unwrap()
    }

    /// A key, a PublicIP and whether an etcd lease will end it.
    fn entry((key, public_ip, ends): (&str, &str, bool)) -> Entry {
        let json = format!(r#"{{"PublicIP":"{public_ip}"}}"#);
        Entry {
            key: key.parse().unwrap(),
            attrs: LeaseAttrs::from_json(json.as_bytes()),
            created: 1,
            mod_revision: 1,
            etcd_lease: ends.then_some(1),
        }
    }

    /// What is planned, in words.
    fn planned(previous: Option<&str>, entries: &[(&str, &str, bool)]) -> String {
        let entries: Vec<_> = entries.iter().copied().map(entry).collect();
        let previous = previous.map(|subnet| subnet.parse().unwrap());
        let mut rng = StdRng::seed_from_u64(1);
        match plan(&config(), OURS, previous, &entries, &mut rng) {
            Plan::Take(entry) => format!("take {}", entry.key),
            Plan::Delete(entry) => format!("delete {}", entry.key),
            Plan::Create(subnet) => format!("create {subnet}"),
            Plan::OutOfSubnets => "out of subnets".to_owned(),
        }
    }

    #[test]
    fn al1_the_lease_with_our_public_ip_is_taken() {
        let leases = [
            ("10.3.5.0-24", OTHER, true),
            ("10.3.7.0-24", "192.0.2.1", true),
        ];
        assert_eq!(planned(Some("10.3.6.0/24"), &leases), "take 10.3.7.0-24");
    }

    #[test]
    fn al2_the_previous_subnet_is_taken_when_free_and_in_range() {
        assert_eq!(planned(Some("10.3.7.0/24"), &[]), "create 10.3.7.0/24");
        let others = [
            ("10.3.6.0-24", OTHER, true),
            ("10.3.7.0-24", OTHER, true),
            ("10.3.8.0-24", OTHER, true),
        ];
        for outside in ["10.3.7.0/24", "10.9.0.0/24", "10.3.5.0/25", "10.3.9.0/24"] {
            assert_eq!(planned(Some(outside), &others), "create 10.3.5.0/24");
        }
    }

    #[test]
    fn al3_a_lease_that_no_longer_fits_is_given_up() {
        for key in ["10.9.1.0-24", "10.3.5.0-25", "10.3.5.0-24&fd00:1::-64"] {
            let leases = [(key, "192.0.2.1", true)];
            assert_eq!(planned(None, &leases), format!("delete {key}"));
        }
    }

    #[test]
    fn a_reservation_comes_first_and_is_never_deleted() {
        let leases = [
            ("10.3.6.0-24", "192.0.2.1", true),
            ("10.3.7.0-24", "192.0.2.1", false),
        ];
        assert_eq!(planned(Some("10.3.6.0/24"), &leases), "take 10.3.7.0-24");
        let misfit = [("10.9.1.0-24", "192.0.2.1", false)];
        assert_eq!(planned(Some("10.3.6.0/24"), &misfit), "create 10.3.6.0/24");
    }

    #[test]
    fn of_several_leases_the_previous_subnet_is_preferred() {
        let leases = [
            ("10.3.6.0-24", "192.0.2.1", true),
            ("10.3.7.0-24", "192.0.2.1", true),
        ];
        assert_eq!(planned(Some("10.3.7.0/24"), &leases), "take 10.3.7.0-24");
        assert_eq!(planned(None, &leases), "take 10.3.6.0-24");
    }

    #[test]
    fn a_lease_with_an_unreadable_value_still_takes_its_subnet() {
        let leases = [
            ("10.3.5.0-24", "nonsense", true),
            ("10.3.6.0-23", OTHER, true),
            ("10.3.8.0-24", OTHER, true),
        ];
        assert_eq!(planned(Some("10.3.5.0/24"), &leases), "out of subnets");
    }
}
