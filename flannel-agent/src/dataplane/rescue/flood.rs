//! Somebody sends packets that are refused, of networks that are not on this node or in somebody's name, and does not stop: the
//! kernel throws them away at the socket then, and this process does not wake up for them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use flannel_common::reason::Reason;
use tokio::time::Instant;

/// So many in [`SPAN`] are a flood. A peer that is configured otherwise sends less: nobody answers it.
const MANY: u32 = 100;
const SPAN: Duration = Duration::from_secs(1);
/// So long the socket takes no other network's packets. Then it looks again: a network may have come.
const SHUT: Duration = Duration::from_secs(10);

/// What has come in vain.
#[derive(Debug)]
pub(super) struct Flood {
    since: Instant,
    packets: u32,
    by: By,
    shut: Option<Instant>,
    told: bool,
}

/// What to do at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// Refuse what is told by this; `tell`: for the first time.
    Shut {
        tell: bool,
        by: By,
    },
}

/// By what the packets of a flood are told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// They are of other networks.
    Network,
    /// Some are of ours: only those of peers, and from where packets were delivered before, can be told from them.
    Source,
}

/// Where packets came from that were delivered.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeSet<Ipv4Addr>);

/// Few peers ever send fragments.
const MANY_HEARD: usize = 256;
/// Each is two instructions at the socket, up to 24 bytes of its options, which the kernel holds to 20 KiB (`optmem_max`, before 6.9).
const MANY_SOURCES: usize = 768;

impl Heard {
    pub(super) fn add(&mut self, source: Ipv4Addr) {
        if self.0.len() < MANY_HEARD {
            self.0.insert(source);
        }
    }

    /// Whom to let through: those, and as many peers as there is room for, the first first.
    pub(super) fn and(&self, peers: impl Iterator<Item = Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
        let mut all = self.0.clone();
        for peer in peers {
            if all.len() == MANY_SOURCES {
                break;
            }
            all.insert(peer);
        }
        all
    }
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            packets: 0,
            by: By::Network,
            shut: None,
            told: false,
        }
    }

    /// One more packet that was refused.
    pub(super) fn count(&mut self, now: Instant, reason: Reason) -> Turn {
        if now - self.since >= SPAN {
            (self.since, self.packets, self.by) = (now, 0, By::Network);
        }
        self.packets += 1;
        if reason != Reason::OtherVni {
            self.by = By::Source;
        }
        if self.packets < MANY || self.shut.is_some() {
            return Turn::Nothing;
        }
        self.shut = Some(now);
        let tell = !std::mem::replace(&mut self.told, true);
        Turn::Shut { tell, by: self.by }
    }

    /// When the socket is to be opened again.
    pub(super) fn opens(&self) -> Option<Instant> {
        self.shut.map(|at| at + SHUT)
    }

    pub(super) fn opened(&mut self, now: Instant) {
        (self.since, self.packets, self.shut) = (now, 0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_at_once_shut_the_socket_and_are_told_of_once() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        for round in 0..3 {
            for _ in 1..MANY {
                assert_eq!(flood.count(start, Reason::OtherVni), Turn::Nothing);
            }
            let tell = round == 0;
            assert_eq!(
                flood.count(start, Reason::OtherVni),
                Turn::Shut {
                    tell,
                    by: By::Network
                }
            );
            assert_eq!(
                flood.count(start, Reason::OtherVni),
                Turn::Nothing,
                "it is shut"
            );
            assert_eq!(flood.opens(), Some(start + SHUT));
            flood.opened(start);
            assert_eq!(flood.opens(), None);
        }
    }

    #[tokio::test]
    async fn a_few_are_looked_at() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        for second in 0..10 {
            let now = start + SPAN * second;
            for _ in 1..MANY {
                assert_eq!(flood.count(now, Reason::OtherVni), Turn::Nothing);
            }
        }
    }

    #[tokio::test]
    async fn of_our_networks_only_the_sources_tell_them() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        flood.count(start, Reason::UnknownVtep);
        for _ in 2..MANY {
            flood.count(start, Reason::OtherVni);
        }
        let by = By::Source;
        let turn = flood.count(start, Reason::OtherVni);
        assert_eq!(turn, Turn::Shut { tell: true, by });
    }
    #[test]
    fn who_was_heard_goes_before_peers_and_those_before_who_comes_behind_them() {
        let address = Ipv4Addr::from_bits;
        let mut heard = Heard::default();
        heard.add(address(1));
        let few = heard.and([2, 1, 3].map(address).into_iter());
        assert_eq!(few, [1, 2, 3].map(address).into());
        let many = heard.and((100..10_000).map(address));
        assert_eq!(many.len(), MANY_SOURCES);
        assert!(many.contains(&address(1)) && many.contains(&address(100)));
        assert!(!many.contains(&address(9_999)));
    }
}
