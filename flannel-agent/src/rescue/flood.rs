//! Somebody sends packets of networks that are not on this node, and does not stop: the kernel throws them away at the
//! socket then, and this process does not wake up for them.

use std::time::Duration;

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
    shut: Option<Instant>,
    told: bool,
}

/// What to do at the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Nothing,
    /// Refuse what is of other networks; `tell`: for the first time.
    Shut {
        tell: bool,
    },
}

impl Flood {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            packets: 0,
            shut: None,
            told: false,
        }
    }

    /// One more packet of no network.
    pub(super) fn count(&mut self, now: Instant) -> Turn {
        if now - self.since >= SPAN {
            (self.since, self.packets) = (now, 0);
        }
        self.packets += 1;
        if self.packets < MANY || self.shut.is_some() {
            return Turn::Nothing;
        }
        self.shut = Some(now);
        let tell = !std::mem::replace(&mut self.told, true);
        Turn::Shut { tell }
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
                assert_eq!(flood.count(start), Turn::Nothing);
            }
            let tell = round == 0;
            assert_eq!(flood.count(start), Turn::Shut { tell });
            assert_eq!(flood.count(start), Turn::Nothing, "it is shut");
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
                assert_eq!(flood.count(now), Turn::Nothing);
            }
        }
    }
}
