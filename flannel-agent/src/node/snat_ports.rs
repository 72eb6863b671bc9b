//! Ports that pods' flows leave under: said by the operator, or chosen so that the node keeps enough of its own.
//!
//! What is reserved for pods the kernel gives to none of the node's sockets. A node whose
//! `net.ipv4.ip_local_port_range` lies inside has nothing left to connect from: EADDRNOTAVAIL.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::node::node_sysctls::{PortSet, Reserved};

/// A range of ports; both ends count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PortRange {
    pub min: u16,
    pub max: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl PortRange {
    pub(crate) const ALL: Self = Self::of(0, u16::MAX);

    const fn of(min: u16, max: u16) -> Self {
        Self { min, max }
    }

    /// Whether this is what most nodes use.
    #[must_use]
    pub fn is_usual(self) -> bool {
        self == CHOICES[0]
    }

    fn set(self) -> PortSet {
        (self.min..=self.max).into()
    }

    pub(crate) const fn has(self, port: u16) -> bool {
        self.min <= port && port <= self.max
    }
}

/// Tried in this order. The first are the dynamic ports of RFC 6335, the second the part of the kernel's default range
/// below them; the third lies below Kubernetes' node ports (30000-32767). None touches another, so that a node's own
/// ports, wherever they lie, lose at most a third to one of them.
const CHOICES: [PortRange; 3] = [
    PortRange::of(49_152, 65_535),
    PortRange::of(32_768, 49_151),
    PortRange::of(13_616, 29_999),
];

/// As many ports as any choice takes are enough for the node, whatever share of its own that is.
const PLENTY: usize = 16_384;
/// Fewer than this, and less than half of what it would have, is too little for any node.
const SCARCE: usize = 1_024;

/// `--snat-ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChoice {
    /// One of [`CHOICES`].
    Auto,
    Fixed(PortRange),
}

impl fmt::Display for PortChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(ports) => ports.fmt(f),
        }
    }
}

impl Serialize for PortChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a choice of ports depends on.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// `net.ipv4.ip_local_port_range`.
    pub local: (u16, u16),
    pub reserved: &'a Reserved,
    /// The network's VXLAN port; 0 without a tunnel. A reply to a pod that used it would be taken for a tunnel packet.
    pub tunnel: u16,
}

impl PortChoice {
    /// The ports to use now. What is in use stays in use, as long as the node can live with it: connections live on.
    #[must_use]
    pub fn settle(self, room: &Room<'_>) -> PortRange {
        let ports = match self {
            Self::Fixed(ports) => return ports,
            Self::Auto => CHOICES,
        };
        let free: Vec<PortRange> = ports.into_iter().filter(|p| !p.has(room.tunnel)).collect();
        let is_held = |p: &&PortRange| room.reserved.held == p.set() && !room.is_scarce(&p.set());
        // Of several networks on a node each gets ports of its own.
        let alone = |p: &&PortRange| p.set().and(&room.reserved.by_networks).is_empty();
        let first = free
            .iter()
            .find(is_held)
            .or_else(|| free.iter().find(|p| alone(p) && room.is_plenty(**p)))
            .or_else(|| free.iter().find(|p| alone(p) && !room.is_scarce(&p.set())))
            .or_else(|| free.iter().max_by_key(|p| room.left(&p.set())));
        // At least two of three are without the tunnel's port.
        first.copied().unwrap_or(CHOICES[0])
    }
}

/// Below Kubernetes' node ports, whose packets kube-proxy has to see, and above those of services that everybody knows.
const MORE: PortRange = PortRange::of(1_024, 29_999);

impl PortChoice {
    /// Ports for flows that find none of [`settle`](Self::settle)'s free, of which there are but so many towards one port of one
    /// address. The node's sockets are asked for each (`flannel-ebpf/src/node_sockets.rs`), and its sockets draw none from there; so
    /// nothing is reserved. Beside another network there are none: its flows have not been asked.
    #[must_use]
    pub fn more(self, room: &Room<'_>) -> Option<PortRange> {
        if self != Self::Auto || !room.reserved.by_networks.is_empty() {
            return None;
        }
        let chosen = self.settle(room);
        let below = chosen.min.min(room.local.0).saturating_sub(1);
        let (min, max) = (MORE.min, MORE.max.min(below));
        // A reply to a tunnel's port would be taken for a tunnel packet.
        let sides = if (min..=max).contains(&room.tunnel) {
            [(min, room.tunnel - 1), (room.tunnel + 1, max)]
        } else {
            [(min, max), (1, 0)]
        };
        let sides = sides.into_iter().filter(|(min, max)| min <= max);
        let (min, max) = sides.max_by_key(|(min, max)| max - min)?;
        Some(PortRange { min, max })
    }
}

impl Room<'_> {
    /// What the node could connect from without us.
    fn own(&self) -> PortSet {
        let (low, high) = self.local;
        PortSet::from(low..=high).minus(&self.reserved.by_others)
    }

    /// How many ports the node keeps beside pods that leave under `ports`.
    fn left(&self, ports: &PortSet) -> usize {
        self.own().minus(ports).len()
    }

    fn is_plenty(&self, ports: PortRange) -> bool {
        self.left(&ports.set()) >= PLENTY.min(self.own().len().div_ceil(2))
    }

    /// Whether the node could hardly connect anywhere.
    fn is_scarce(&self, ports: &PortSet) -> bool {
        self.left(ports) < SCARCE.min(self.own().len().div_ceil(2))
    }

    /// Whether what this network has reserved has to be given back before anybody connects anywhere.
    #[must_use]
    pub fn is_stifled(&self) -> bool {
        self.is_scarce(&self.reserved.held)
    }

    /// What is wrong with a range that an operator gave, and what to do about it.
    #[must_use]
    pub fn complaint(&self, choice: PortChoice) -> Option<TooFew> {
        match choice {
            PortChoice::Fixed(ports) if self.is_scarce(&ports.set()) => Some(TooFew {
                ports,
                left: self.left(&ports.set()),
                own: self.own().len(),
                local: self.local,
                better: PortChoice::Auto.settle(self),
            }),
            _ => None,
        }
    }
}

/// A range that takes from the node what it needs itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--snat-ports={ports} leaves the node {left} of the {own} ports it connects from \
     (net.ipv4.ip_local_port_range is {} {}): give --snat-ports={better}, or leave the flag out",
    local.0, local.1
)]
pub struct TooFew {
    pub ports: PortRange,
    pub left: usize,
    pub own: usize,
    pub local: (u16, u16),
    pub better: PortRange,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const DEFAULT: &str = "49152-65535";

    fn ports(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    fn reserved(held: &str, by_networks: &str, by_others: &str) -> Reserved {
        Reserved {
            held: ports(held),
            by_networks: ports(by_networks),
            by_others: ports(by_others).union(&ports(by_networks)),
        }
    }

    fn auto(local: (u16, u16), reserved: &Reserved, tunnel: u16) -> String {
        let room = Room {
            local,
            reserved,
            tunnel,
        };
        PortChoice::Auto.settle(&room).to_string()
    }

    #[rstest]
    #[case::the_kernels_default((32_768, 60_999), DEFAULT)]
    #[case::wide((1_024, 65_535), DEFAULT)]
    #[case::fairly_wide((20_000, 65_535), DEFAULT)]
    #[case::below((10_000, 40_000), DEFAULT)]
    #[case::the_dynamic_ports((49_152, 65_535), "32768-49151")]
    #[case::high((50_000, 65_000), "32768-49151")]
    #[case::a_bit_lower((40_000, 65_535), "32768-49151")]
    #[case::few((61_000, 61_100), "32768-49151")]
    #[case::one((61_000, 61_000), "32768-49151")]
    #[case::few_and_low((33_000, 33_100), DEFAULT)]
    #[case::across_the_border((49_000, 49_300), DEFAULT)]
    #[case::the_middle((42_000, 57_000), "32768-49151")]
    fn the_node_keeps_enough(#[case] local: (u16, u16), #[case] chosen: &str) {
        assert_eq!(auto(local, &Reserved::default(), 8472), chosen);
    }

    #[rstest]
    #[case::what_is_in_use_stays(reserved("32768-49151", "", ""), 8472, "32768-49151")]
    #[case::not_if_it_was_an_operators(reserved("50000-50999", "", ""), 8472, DEFAULT)]
    #[case::nor_with_the_tunnels_port(reserved(DEFAULT, "", ""), 50_000, "13616-29999")]
    #[case::other_networks_have_their_own(reserved("", DEFAULT, ""), 8472, "13616-29999")]
    #[case::what_two_share_they_go_on_sharing(reserved(DEFAULT, DEFAULT, ""), 8472, DEFAULT)]
    #[case::a_fourth_network_shares(
        reserved("", "13616-29999,32768-65535", ""),
        8472,
        "13616-29999"
    )]
    #[case::others_reservations_cost_nothing(reserved("", "", "49152-65535"), 8472, DEFAULT)]
    #[case::others_reservations_count(reserved("", "", "32768-49151"), 8472, "32768-49151")]
    fn among_others(#[case] reserved: Reserved, #[case] tunnel: u16, #[case] chosen: &str) {
        assert_eq!(auto((32_768, 60_999), &reserved, tunnel), chosen);
    }

    #[rstest]
    #[case::around_the_tunnels((32_768, 60_999), 8_472, "", Some("8473-29999"))]
    #[case::without_a_tunnel((32_768, 60_999), 0, "", Some("1024-29999"))]
    #[case::below_the_nodes_own((10_000, 65_535), 8_472, "", Some("1024-8471"))]
    #[case::the_node_has_all((1_024, 65_535), 8_472, "", None)]
    #[case::another_network((32_768, 60_999), 8_472, "32768-49151", None)]
    fn more_are_those_that_nobody_draws(
        #[case] local: (u16, u16),
        #[case] tunnel: u16,
        #[case] networks: &str,
        #[case] more: Option<&str>,
    ) {
        let reserved = reserved("", networks, "");
        let room = Room {
            local,
            reserved: &reserved,
            tunnel,
        };
        let found = PortChoice::Auto.more(&room).map(|it| it.to_string());
        assert_eq!(found.as_deref(), more);
        let fixed = PortChoice::Fixed(PortRange::of(50_000, 50_001));
        assert_eq!(fixed.more(&room), None);
    }

    #[test]
    fn what_is_in_use_goes_when_the_node_cannot_live_with_it() {
        let held = reserved(DEFAULT, "", "");
        assert_eq!(auto((40_000, 65_535), &held, 8472), DEFAULT, "9152 left");
        assert_eq!(
            auto((48_900, 65_535), &held, 8472),
            "32768-49151",
            "252 left"
        );
    }

    #[test]
    fn an_operators_choice_counts_and_is_judged() {
        let fixed = PortChoice::Fixed(PortRange::of(49_152, 65_535));
        let reserved = Reserved::default();
        let complaint = |local| {
            let room = Room {
                local,
                reserved: &reserved,
                tunnel: 8472,
            };
            assert_eq!(fixed.settle(&room).to_string(), DEFAULT);
            room.complaint(fixed).map(|c| c.to_string())
        };
        assert_eq!(complaint((32_768, 60_999)), None);
        assert_eq!(complaint((48_000, 65_535)), None, "1152 left");
        assert_eq!(
            complaint((49_152, 65_535)).unwrap(),
            "--snat-ports=49152-65535 leaves the node 0 of the 16384 ports it connects from \
             (net.ipv4.ip_local_port_range is 49152 65535): give --snat-ports=32768-49151, or leave the flag out"
        );
        assert_eq!(complaint((49_142, 49_155)), None, "10 of 14");
        assert!(complaint((49_150, 49_155)).is_some(), "2 of 6");
        assert_eq!(complaint((1, 1)), None);
    }

    proptest! {
        #[test]
        fn whatever_the_node_connects_from_it_keeps_half_or_plenty(low: u16, high: u16, tunnel in 1..10_000_u16) {
            let (local, reserved) = ((low.min(high), low.max(high)), Reserved::default());
            let room = Room { local, reserved: &reserved, tunnel };
            let chosen = PortChoice::Auto.settle(&room);
            prop_assert!(!room.is_scarce(&chosen.set()));
            prop_assert!(room.is_plenty(chosen));
            prop_assert!(!chosen.has(tunnel));
            // And is content with what it chose.
            let reserved = Reserved { held: chosen.set(), ..Reserved::default() };
            prop_assert_eq!(PortChoice::Auto.settle(&Room { reserved: &reserved, ..room }), chosen);
        }
    }
}
