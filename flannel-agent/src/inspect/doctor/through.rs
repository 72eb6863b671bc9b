//! Whether peers answer through the tunnel, which pings of their nodes beside it do not show.

use std::io;

use super::Report;
use super::end::Peer;
use super::named::named;

/// What became of the pings to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answers {
    /// `None`: it is reached without a tunnel.
    pub through: Option<bool>,
    /// By its node, outside of the tunnel.
    pub beside: bool,
}

impl Answers {
    pub(super) fn is_mute(self) -> bool {
        !self.beside && self.through != Some(true)
    }
}

/// What the tunnel's packets are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Carrier {
    pub name: String,
    /// VNI and port are those that Windows nodes need. These have no address that answers.
    pub may_be_windows: bool,
}

/// Peers that were asked alike, and what became of it.
struct Group {
    said: Vec<(Peer, Answers)>,
    /// So many there are, of which not all were asked.
    of: Option<usize>,
}

impl Group {
    fn those(&self, through: Option<bool>, beside: bool) -> Vec<Peer> {
        let answers = Answers { through, beside };
        let alike = self.said.iter().filter(|(_, said)| *said == answers);
        alike.map(|(peer, _)| *peer).collect()
    }

    /// "2 of 9 peers"
    fn part(&self, count: usize) -> String {
        let asked = self.said.len();
        match self.of {
            None => format!("{count} of {asked} peers"),
            Some(all) => format!("{count} of {asked} peers asked, of {all},"),
        }
    }
}

/// `all`: how many peers there are, asked or not.
pub(super) fn judge(carrier: &Carrier, all: usize, said: &[(Peer, Answers)], report: &mut Report) {
    let (tunnelled, direct): (Vec<_>, Vec<_>) =
        said.iter().partition(|(_, said)| said.through.is_some());
    let of = (said.len() < all).then_some(all);
    judge_tunnel(
        carrier,
        &Group {
            said: tunnelled,
            of,
        },
        report,
    );
    judge_direct(&Group { said: direct, of }, report);
}

fn judge_tunnel(carrier: &Carrier, group: &Group, report: &mut Report) {
    let blocked = group.those(Some(false), true);
    let mute = group.those(Some(false), false);
    let silent = [&blocked[..], &mute].concat();
    let answer = group.said.len() - silent.len();
    if answer > 0 && (silent.is_empty() || carrier.may_be_windows) {
        let others = match silent.as_slice() {
            [] => String::new(),
            silent => format!(
                "; not so {}: no trouble if they run Windows, which has no address that would",
                named(silent)
            ),
        };
        let part = group.part(answer);
        report.ok(format!("{part} answer pings through the tunnel{others}"));
        return;
    }
    let carrier = &carrier.name;
    if !blocked.is_empty() {
        report.warning(
            format!(
                "{} do not answer through the tunnel, though their nodes answer pings: {}: {carrier} is blocked between the \
                 nodes, or no agent runs there",
                group.part(blocked.len()),
                named(&blocked)
            ),
            format!(
                "let {carrier} through between the nodes, both ways (tcpdump on both shows where it ends); start the agent or \
                 flanneld there; or let its firewall take pings that come by the tunnel, if pods reach each other"
            ),
        );
    }
    if !mute.is_empty() {
        report.warning(
            format!(
                "{} answer no pings, neither through the tunnel nor beside it: {}: they are down, out of reach, or drop ICMP",
                group.part(mute.len()),
                named(&mute)
            ),
            LOOK,
        );
    }
}

fn judge_direct(group: &Group, report: &mut Report) {
    let mute = group.those(None, false);
    if group.said.is_empty() {
        return;
    }
    match mute.as_slice() {
        [] => report.ok(format!(
            "{} that are reached without a tunnel answer pings",
            group.part(group.said.len())
        )),
        mute => report.warning(
            format!(
                "{} that are reached without a tunnel answer no pings: {}: they are down, out of reach, or drop ICMP",
                group.part(mute.len()),
                named(mute)
            ),
            LOOK,
        ),
    }
}

const LOOK: &str = "look whether these nodes are up, and what is between: ip route get ADDRESS, ip neigh; the lease of a node that is gone for \
                    good can be deleted";

/// What could not be asked.
pub(super) fn unasked(error: &io::Error, report: &mut Report) {
    report.warning(
        format!("cannot ping the peers through the tunnel: {error}"),
        "run this as root, in the node's network namespace; the agent gives its device an address within 30 s",
    );
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;
    use crate::inspect::doctor::Mark;
    use crate::inspect::doctor::tests::{Said, fine, said};

    const WELL: Answers = Answers {
        through: Some(true),
        beside: true,
    };
    const NO_PINGS_BESIDE: Answers = Answers {
        beside: false,
        ..WELL
    };
    const BLOCKED: Answers = Answers {
        through: Some(false),
        beside: true,
    };
    const MUTE: Answers = Answers {
        through: Some(false),
        beside: false,
    };
    const DIRECT: Answers = Answers {
        through: None,
        beside: true,
    };
    const MUTE_DIRECT: Answers = Answers {
        beside: false,
        ..DIRECT
    };

    fn peer(number: u8) -> Peer {
        let subnet = Ipv4Net::new_assert([10, 244, number, 0].into(), 24);
        Peer::new(subnet, [192, 0, 2, number].into())
    }

    fn about(all: usize, answers: &[Answers]) -> Said {
        let peers = (1..).map(peer).zip(answers.iter().copied());
        let peers: Vec<_> = peers.collect();
        let carrier = Carrier {
            name: "UDP port 8472".to_owned(),
            may_be_windows: false,
        };
        said(|report| judge(&carrier, all, &peers, report))
    }

    #[test]
    fn a_tick_says_what_was_proven() {
        assert_eq!(about(0, &[]), Said::new());
        let both = "2 of 2 peers answer pings through the tunnel";
        assert_eq!(about(2, &[WELL, NO_PINGS_BESIDE]), fine(both));
        let some = "2 of 2 peers asked, of 900, answer pings through the tunnel";
        assert_eq!(about(900, &[WELL, WELL]), fine(some));
        let direct = "1 of 1 peers that are reached without a tunnel answer pings";
        assert_eq!(about(1, &[DIRECT]), fine(direct));
    }

    #[test]
    fn there_is_no_tick_for_a_part() {
        for odd in [BLOCKED, MUTE] {
            let said = about(3, &[WELL, odd, WELL]);
            assert_eq!((said.len(), said[0].0), (1, Mark::Warning), "{said:?}");
            let what = &said[0].1;
            assert!(what.starts_with("1 of 3 peers "), "{what}");
            assert!(what.contains("10.244.2.0/24 at 192.0.2.2"), "{what}");
        }
        let said = about(2, &[DIRECT, MUTE_DIRECT]);
        assert_eq!((said.len(), said[0].0), (1, Mark::Warning), "{said:?}");
    }

    #[test]
    fn a_blocked_tunnel_is_told_from_a_node_that_is_down() {
        let said = about(2, &[BLOCKED, MUTE]);
        let (_, blocked, fix) = &said[0];
        assert!(
            blocked.contains("UDP port 8472 is blocked between the nodes"),
            "{blocked}"
        );
        let fix = fix.as_deref().unwrap();
        assert!(fix.contains("let UDP port 8472 through"), "{fix}");
        let (_, mute, _) = &said[1];
        assert!(mute.contains("10.244.2.0/24 at 192.0.2.2"), "{mute}");
        assert!(!mute.contains("UDP port"), "{mute}");
    }

    #[test]
    fn of_many_peers_a_few_are_named() {
        let said = about(5, &[BLOCKED; 5]);
        let what = &said[0].1;
        assert!(
            what.contains("10.244.3.0/24 at 192.0.2.3 and 2 more:"),
            "{what}"
        );
    }

    #[test]
    fn windows_nodes_are_no_trouble_where_others_answer() {
        let carrier = Carrier {
            name: "UDP port 4789".to_owned(),
            may_be_windows: true,
        };
        let about = |answers: &[Answers]| {
            let peers: Vec<_> = (1..).map(peer).zip(answers.iter().copied()).collect();
            said(|report| judge(&carrier, peers.len(), &peers, report))
        };
        let well = "1 of 3 peers answer pings through the tunnel; not so 10.244.2.0/24 at 192.0.2.2, 10.244.3.0/24 at 192.0.2.3: no \
                    trouble if they run Windows, which has no address that would";
        assert_eq!(about(&[WELL, BLOCKED, MUTE]), fine(well));
        let none = about(&[BLOCKED, MUTE]);
        assert_eq!((none.len(), none[0].0), (2, Mark::Warning), "{none:?}");
    }
}
