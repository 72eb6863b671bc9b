//! Whether the ways to the peers carry the tunnel's packets whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use flannel_common::maps::{PEER_STACK, PEER_VXLAN};

use super::Report;
use crate::dataplane::view::{Told, View};
use crate::flannel::backend::Wire;
use crate::node::path_mtu::{Found, probe};

/// More are a sample.
const ASKED: usize = 256;
/// Of those with the same trouble.
const NAMED: usize = 3;

pub(super) fn check(view: &View, told: &Told, report: &mut Report) {
    let Ok(peers) = view.peers() else {
        return;
    };
    let tunnelled = peers
        .values()
        .filter(|peer| matches!(peer.kind, PEER_VXLAN | PEER_STACK));
    let addresses: BTreeSet<Ipv4Addr> = tunnelled.map(|peer| peer.public_ip.into()).collect();
    let asked: Vec<Ipv4Addr> = addresses.into_iter().take(ASKED).collect();
    if asked.is_empty() {
        return;
    }
    let size = told.overlay_mtu + told.wire.map_or(0, Wire::overhead);
    judge(probe(&asked, size), size, report);
}

fn judge(found: io::Result<BTreeMap<Ipv4Addr, Found>>, size: u32, report: &mut Report) {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let what = format!("cannot ping the peers with {size} bytes: {error}");
            report.warning(what, "run this as root");
            return;
        }
    };
    let mut sorted: BTreeMap<Found, Vec<Ipv4Addr>> = BTreeMap::new();
    for (peer, outcome) in &found {
        sorted.entry(*outcome).or_default().push(*peer);
    }
    for (outcome, peers) in sorted {
        match outcome {
            Found::Whole => report.ok(format!(
                "tunnel packets of {size} bytes reach {} of {} peers whole",
                peers.len(),
                found.len()
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

fn named(peers: &[Ipv4Addr]) -> String {
    let first: Vec<String> = peers.iter().take(NAMED).map(ToString::to_string).collect();
    let first = first.join(", ");
    match peers.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
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
        let said = said(|report| judge(Ok(found), 1500, report));
        let marks: Vec<Mark> = said.iter().map(|(mark, ..)| *mark).collect();
        assert_eq!(marks, [Mark::Ok, Mark::Warning, Mark::Warning, Mark::Ok]);
        assert!(said[0].1.contains("1 of 4 peers"), "{said:?}");
        assert!(said[1].1.contains("192.0.2.2 carries 1400"), "{said:?}");
        let fix = said[1].2.as_ref().unwrap();
        assert!(fix.contains("\"MTU\":1400"), "{fix}");
    }

    #[test]
    fn of_many_peers_a_few_are_named() {
        let peers: Vec<_> = (1..=5).map(peer).collect();
        assert_eq!(named(&peers), "192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more");
        let found = peers.iter().map(|peer| (*peer, Found::Whole)).collect();
        let said = said(|report| judge(Ok(found), 1500, report));
        assert_eq!(
            said,
            fine("tunnel packets of 1500 bytes reach 5 of 5 peers whole")
        );
    }
}
