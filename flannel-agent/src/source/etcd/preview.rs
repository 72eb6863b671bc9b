//! What acquiring a lease would do, without doing it.

use ipnet::Ipv4Net;

use super::error::EtcdError;
use super::plan::{Plan, plan};
use super::store::{Entry, Store};
use super::table::Table;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};

/// The lease this node would have, and everybody else's.
#[derive(Debug)]
pub struct LeasePreview {
    pub subnet: Ipv4Net,
    /// Leases of ours that do not fit the network's configuration any more.
    pub given_up: Vec<Ipv4Net>,
    pub change: LeaseChange,
    pub others: Leases,
}

/// What would be written to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseChange {
    None,
    /// The subnet is chosen by chance: the next look may name another.
    Take,
    /// The lease is ours and says something else; `None`: nobody can read it.
    Rewrite(Option<Box<LeaseAttrs>>),
}

pub(super) async fn preview(
    store: &Store,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<Ipv4Net>,
) -> Result<LeasePreview, EtcdError> {
    preview_of(store.list().await?.entries, config, attrs, previous)
}

/// The same where these are all leases.
pub(in crate::source) fn preview_of(
    mut entries: Vec<Entry>,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<Ipv4Net>,
) -> Result<LeasePreview, EtcdError> {
    let (subnet, given_up, change) = choose(config, attrs, previous, &mut entries)?;
    let mut table = Table::new(subnet);
    table.replace(entries);
    Ok(LeasePreview {
        subnet,
        given_up,
        change,
        others: table.others().into(),
    })
}

fn choose(
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    mut previous: Option<Ipv4Net>,
    entries: &mut Vec<Entry>,
) -> Result<(Ipv4Net, Vec<Ipv4Net>, LeaseChange), EtcdError> {
    let mut given_up = Vec::new();
    loop {
        let step = plan(config, attrs.public_ip, previous, entries, &mut rand::rng());
        let gone = match step {
            Plan::Take(entry) => {
                let change = match &entry.attrs {
                    Ok(held) if held == attrs => LeaseChange::None,
                    held => LeaseChange::Rewrite(held.as_ref().ok().cloned().map(Box::new)),
                };
                return Ok((entry.key.v4, given_up, change));
            }
            Plan::Create(subnet) => return Ok((subnet, given_up, LeaseChange::Take)),
            Plan::Delete(entry) => entry.key,
            Plan::OutOfSubnets => {
                return Err(EtcdError::out_of_subnets(config));
            }
        };
        // As acquiring does: its IPv4 part may fit still.
        given_up.push(gone.v4);
        previous = previous.or(Some(gone.v4));
        entries.retain(|entry| entry.key != gone);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn config() -> NetworkConfig {
        NetworkConfig::parse(r#"{"Network":"10.3.0.0/16","Backend":{"Type":"host-gw"}}"#).unwrap()
    }

    fn entry(key: &str, attrs: LeaseAttrs) -> Entry {
        Entry {
            key: key.parse().unwrap(),
            attrs: Ok(attrs),
            created: 1,
            mod_revision: 1,
            etcd_lease: Some(1),
        }
    }

    fn chosen(entries: &mut Vec<Entry>) -> (String, Vec<Ipv4Net>, LeaseChange) {
        let previous = "10.3.9.0/24".parse().ok();
        let wanted = LeaseAttrs::host_gw(OURS);
        let (subnet, given_up, change) = choose(&config(), &wanted, previous, entries).unwrap();
        (subnet.to_string(), given_up, change)
    }

    #[test]
    fn a_lease_that_fits_stays() {
        let mut entries = vec![entry("10.3.7.0-24", LeaseAttrs::host_gw(OURS))];
        let expected = ("10.3.7.0/24".to_owned(), vec![], LeaseChange::None);
        assert_eq!(chosen(&mut entries), expected);
    }

    #[test]
    fn a_lease_that_says_something_else_is_rewritten() {
        let old = LeaseAttrs {
            backend_type: "vxlan".to_owned(),
            ..LeaseAttrs::host_gw(OURS)
        };
        let (subnet, _, change) = chosen(&mut vec![entry("10.3.7.0-24", old.clone())]);
        assert_eq!(subnet, "10.3.7.0/24");
        assert_eq!(change, LeaseChange::Rewrite(Some(Box::new(old))));
    }

    #[test]
    fn what_does_not_fit_is_given_up_and_the_previous_subnet_taken() {
        let mut entries = vec![entry("10.9.7.0-24", LeaseAttrs::host_gw(OURS))];
        let (subnet, given_up, change) = chosen(&mut entries);
        assert_eq!(
            (subnet.as_str(), change),
            ("10.3.9.0/24", LeaseChange::Take)
        );
        assert_eq!(given_up, ["10.9.7.0/24".parse::<Ipv4Net>().unwrap()]);
    }
}
