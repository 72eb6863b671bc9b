//! Whether the ways to the peers carry the tunnel's packets whole.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Report;
use super::named::named;
use crate::node::path_mtu::Found;

/// `found` is what became of pings as long as the tunnel's longest packets, with its headers, which are `size` bytes.
pub(super) fn judge(found: &BTreeMap<Ipv4Addr, Found>, size: u32, report: &mut Report) {
    let mut sorted: BTreeMap<Found, Vec<Ipv4Addr>> = BTreeMap::new();
    for (peer, outcome) in found {
        sorted.entry(*outcome).or_default().push(*peer);
    }
    for (outcome, peers) in sorted {
        match outcome {
            // The lines of the others say for how many this is not so.
            Found::Whole if peers.len() < found.len() => {}
            Found::Whole => report.ok(format!(
                "pings of {size} bytes, as long as the longest tunnel packets, reach {0} of {0} peers whole",
                peers.len()
            )),
            // No MTU is that small: a router that does not say (RFC 1191).
            Found::Less(mtu) if mtu >= 68 => report.warning(
                format!(
                    "the way to {} carries {mtu} bytes, and tunnel packets have up to {size}: these arrive in fragments, \
                     slowly, and are lost while no agent runs there",
                    named(&peers)
                ),
                format!(
                    "raise the MTU between the nodes, or set \"MTU\":{mtu} in the Backend of the network's config and \
                     restart the agents; pods made before keep their MTU"
                ),
            ),
            Found::Less(_) | Found::OnlySmall => report.warning(
                format!(
                    "{} answers small pings, but none of {size} bytes: large tunnel packets may arrive in fragments, or not at all",
                    named(&peers)
                ),
                "look for a smaller MTU on the way (tracepath), and set \"MTU\" in the Backend of the network's config to it",
            ),
            Found::Silent => report.ok(format!(
                "{} does not answer pings: what the way there carries is unknown",
                named(&peers)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{fine, said};

    fn peer(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[test]
    fn a_narrow_way_is_named_with_its_mtu() {
        let found = BTreeMap::from([
            (peer(1), Found::Whole),
            (peer(2), Found::Less(1400)),
            (peer(3), Found::OnlySmall),
            (peer(4), Found::Silent),
        ]);
        let said = said(|report| judge(&found, 1500, report));
        let marks: Vec<Mark> = said.iter().map(|(mark, ..)| *mark).collect();
        // That one is whole is no reason for a tick.
        assert_eq!(marks, [Mark::Warning, Mark::Warning, Mark::Ok]);
        assert!(said[0].1.contains("192.0.2.2 carries 1400"), "{said:?}");
        let fix = said[0].2.as_ref().unwrap();
        assert!(fix.contains("\"MTU\":1400"), "{fix}");
    }

    #[test]
    fn of_many_peers_a_few_are_named() {
        let peers: Vec<_> = (1..=5).map(peer).collect();
        assert_eq!(named(&peers), "192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more");
        let found = peers.iter().map(|peer| (*peer, Found::Whole)).collect();
        let said = said(|report| judge(&found, 1500, report));
        assert_eq!(
            said,
            fine(
                "pings of 1500 bytes, as long as the longest tunnel packets, reach 5 of 5 peers whole"
            )
        );
    }
}
