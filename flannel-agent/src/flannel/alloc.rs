//! Choosing a free subnet.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rand::{Rng, seq::IndexedRandom};

use crate::flannel::config::NetworkConfig;

/// flannel chooses among this many, so that nodes which start together seldom want the same one.
const CANDIDATES: usize = 100;

/// One of the first hundred subnets from `SubnetMin` to `SubnetMax` that overlap none of `taken`,
/// each with the same chance; `None` when all are taken.
pub fn pick(
    config: &NetworkConfig,
    taken: impl IntoIterator<Item = Ipv4Net>,
    rng: &mut impl Rng,
) -> Option<Ipv4Net> {
    let candidates: Vec<_> = free(config, taken).take(CANDIDATES).collect();
    candidates.choose(rng).copied()
}

/// The subnets that `config` would lease and that overlap none of `taken`, in ascending order.
fn free(
    config: &NetworkConfig,
    taken: impl IntoIterator<Item = Ipv4Net>,
) -> impl Iterator<Item = Ipv4Net> {
    let mut taken: Vec<_> = taken
        .into_iter()
        .map(|net| (net.network().to_bits(), net.broadcast().to_bits()))
        .collect();
    taken.sort_unstable();
    let mut taken = taken.into_iter().peekable();

    let len = config.subnet_len;
    let last_offset = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let max = config.subnet_max.to_bits();
    // None once the end of the address space is passed.
    let mut next = Some(config.subnet_min.to_bits());
    std::iter::from_fn(move || {
        loop {
            let first = next.filter(|first| *first <= max)?;
            let last = first | last_offset;
            // Prefixes nest or are disjoint, so the one that ends before `first` never matters again.
            while taken.next_if(|(_, end)| *end < first).is_some() {}
            match taken.peek() {
                Some((start, end)) if *start <= last => {
                    next = (end | last_offset).checked_add(1);
                }
                _ => {
                    next = last.checked_add(1);
                    return Ipv4Net::new(Ipv4Addr::from_bits(first), len).ok();
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn config(network: &str, more: &str) -> NetworkConfig {
        NetworkConfig::parse(&format!(
            r#"{{"Network":"{network}"{more},"Backend":{{"Type":"vxlan"}}}}"#
        ))
        .unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn al1_picks_a_free_subnet_in_range() {
        let config = config(
            "10.3.0.0/16",
            r#","SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.0""#,
        );
        let taken = nets(&["10.3.5.0/24", "10.3.7.0/24"]);
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let subnet = pick(&config, taken.clone(), &mut StdRng::seed_from_u64(seed)).unwrap();
            seen.insert(subnet);
        }
        assert_eq!(
            seen,
            BTreeSet::from_iter(nets(&["10.3.6.0/24", "10.3.8.0/24"]))
        );
    }

    #[test]
    fn al_chooses_among_the_first_hundred_only() {
        let config = config("10.0.0.0/8", "");
        let mut seen = BTreeSet::new();
        for seed in 0..4000 {
            seen.insert(pick(&config, [], &mut StdRng::seed_from_u64(seed)).unwrap());
        }
        assert_eq!(seen, free(&config, []).take(100).collect());
    }

    #[test]
    fn al_leases_of_other_lengths_block_what_they_overlap() {
        let config = config("10.3.0.0/21", "");
        let taken = nets(&["10.3.2.0/23", "10.3.5.64/30"]);
        let left: Vec<_> = free(&config, taken).collect();
        assert_eq!(
            left,
            nets(&["10.3.1.0/24", "10.3.4.0/24", "10.3.6.0/24", "10.3.7.0/24"])
        );
    }

    #[test]
    fn al_none_when_all_are_taken() {
        let config = config("10.3.0.0/16", "");
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(pick(&config, nets(&["10.0.0.0/8"]), &mut rng), None);
        assert_eq!(pick(&config, nets(&["0.0.0.0/0"]), &mut rng), None);
    }

    #[test]
    fn al_ends_at_the_end_of_the_address_space() {
        let config = config("255.255.0.0/16", "");
        assert_eq!(free(&config, []).count(), 255);
        assert_eq!(free(&config, nets(&["255.255.255.0/24"])).count(), 254);
    }

    proptest! {
        #[test]
        fn free_is_what_overlaps_nothing(
            taken in proptest::collection::vec((any::<u16>(), 14u8..=32), 0..12), len in 18u8..=24,
        ) {
            let config = config("10.3.0.0/16", &format!(r#","SubnetLen":{len}"#));
            let taken: Vec<_> = taken
                .into_iter()
                .map(|(low, len)| {
                    Ipv4Net::new((0x0a03_0000 | u32::from(low)).into(), len).unwrap().trunc()
                })
                .collect();
            let overlaps = |subnet: &Ipv4Net| {
                taken.iter().any(|net| net.contains(subnet) || subnet.contains(net))
            };
            let expected: Vec<_> = config
                .network
                .subnets(len)
                .unwrap()
                .skip(1)
                .filter(|subnet| !overlaps(subnet))
                .collect();
            prop_assert_eq!(free(&config, taken.clone()).collect::<Vec<_>>(), expected);
        }
    }
}
