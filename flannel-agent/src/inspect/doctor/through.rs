//! Whether peers answer through the tunnel, which pings of their nodes beside it do not show.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Patient, Report};
use crate::node::ping::{Ping, Pinger};

/// Of those with the same trouble.
const NAMED: usize = 3;
/// Every way carries it (RFC 791).
pub(super) const SIZE: u32 = 68;

/// Behind the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub subnet: Ipv4Net,
    pub node: Ipv4Addr,
}

impl Peer {
    pub(super) const fn new(subnet: Ipv4Net, node: Ipv4Addr) -> Self {
        Self { subnet, node }
    }
}

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

/// This node's end of the tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    index: u32,
    /// The first address of its subnet.
    address: Ipv4Addr,
}

impl End {
    /// `None`: the device has lost its address; the agent gives it anew.
    pub(super) fn of_device(patient: &Patient<'_>, index: u32) -> Option<Self> {
        let mut addresses = patient.addresses.iter();
        let address = addresses.find(|it| it.index == index && it.net.prefix_len() == 32)?;
        let address = address.ip();
        Some(Self { index, address })
    }

    /// Whether each answers.
    pub(super) fn ask(&self, peers: &[Peer]) -> io::Result<Vec<bool>> {
        let pings: Vec<Ping> = peers.iter().flat_map(asked).collect();
        let answers = Pinger::by_device(self.address, self.index)?.ask(&pings)?;
        let each = answers.chunks(ADDRESSES);
        Ok(each.map(|said| said.iter().any(Option::is_some)).collect())
    }
}

const ADDRESSES: usize = 2;

/// The first address of its subnet, which the tunnel's device has, flanneld's as well as ours; and the bridge's, if it has one: where that
/// came before the tunnel's device, kernels before 5.14 take the first address for the bridge's broadcast, and answer nothing.
fn asked(peer: &Peer) -> [Ping; ADDRESSES] {
    let first = peer.subnet.network().to_bits();
    [first, first + 1].map(|address| Ping {
        to: Ipv4Addr::from_bits(address),
        size: SIZE,
    })
}

/// `carrier` is what the tunnel's packets are in; `all`, how many peers there are, asked or not.
pub(super) fn judge(carrier: &str, all: usize, said: &[(Peer, Answers)], report: &mut Report) {
    let (tunnelled, direct): (Vec<_>, Vec<_>) =
        said.iter().partition(|(_, said)| said.through.is_some());
    let of = |group: &[(Peer, Answers)]| match said.len() < all {
        true => format!("{} peers asked, of {all},", group.len()),
        false => format!("{} peers", group.len()),
    };
    let those = |group: &[(Peer, Answers)], answers: Answers| -> Vec<Peer> {
        let alike = group.iter().filter(|(_, said)| *said == answers);
        alike.map(|(peer, _)| *peer).collect()
    };
    let answers = |through, beside| Answers { through, beside };
    let blocked = those(&tunnelled, answers(Some(false), true));
    let mute = those(&tunnelled, answers(Some(false), false));
    if !tunnelled.is_empty() && blocked.is_empty() && mute.is_empty() {
        let (count, of) = (tunnelled.len(), of(&tunnelled));
        report.ok(format!("{count} of {of} answer pings through the tunnel"));
    }
    if !blocked.is_empty() {
        report.warning(
            format!(
                "{} of {} do not answer through the tunnel, though their nodes answer pings: {}: {carrier} is blocked \
                 between the nodes, or no agent runs there",
                blocked.len(),
                of(&tunnelled),
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
                "{} of {} answer no pings, neither through the tunnel nor beside it: {}: they are down, out of reach, or \
                 drop ICMP",
                mute.len(),
                of(&tunnelled),
                named(&mute)
            ),
            LOOK,
        );
    }
    let silent = those(&direct, answers(None, false));
    if !silent.is_empty() {
        report.warning(
            format!(
                "{} of {} that are reached without a tunnel answer no pings: {}: they are down, out of reach, or drop ICMP",
                silent.len(),
                of(&direct),
                named(&silent)
            ),
            LOOK,
        );
    } else if !direct.is_empty() {
        let (count, of) = (direct.len(), of(&direct));
        report.ok(format!(
            "{count} of {of} that are reached without a tunnel answer pings"
        ));
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

fn named(peers: &[Peer]) -> String {
    let name = |peer: &Peer| format!("{} at {}", peer.subnet, peer.node);
    let first: Vec<String> = peers.iter().take(NAMED).map(name).collect();
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
        said(|report| judge("UDP port 8472", all, &peers, report))
    }

    #[test]
    fn both_addresses_that_a_peer_may_answer_from_are_asked() {
        let to = asked(&peer(7)).map(|ping| ping.to.to_string());
        assert_eq!(to, ["10.244.7.0", "10.244.7.1"]);
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
}
