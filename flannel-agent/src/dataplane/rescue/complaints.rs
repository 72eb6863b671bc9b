//! What is said about packets that come in fragments: where from, how large, what to do. Seldom.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::socket::Datagram;

/// About one peer.
const AGAIN: Duration = Duration::from_hours(1);
/// More peers have the same trouble, and it is said of these.
const PEERS: usize = 16;

/// Of whom something was said, and when.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<Ipv4Addr, Instant>);

impl Complaints {
    /// A packet of a peer was delivered.
    pub(super) fn hear(&mut self, datagram: &Datagram) {
        let Some(bytes) = datagram.fragment else {
            return;
        };
        let from = datagram.source;
        if self.is_news(from, Instant::now()) {
            tracing::warn!(
                "tunnel packets from {from} arrive in fragments of {bytes} bytes: a link on the way carries no more. They take \
                 this agent's socket, slowly, and are lost while no agent runs; raise the MTU between the nodes, or set \
                 \"MTU\" in the Backend of the network's config (`flannel-agent doctor` says to what)"
            );
        }
    }

    fn is_news(&mut self, from: Ipv4Addr, now: Instant) -> bool {
        let recent = |at: &Instant| now.duration_since(*at) < AGAIN;
        self.0.retain(|_, at| recent(at));
        let news = !self.0.contains_key(&from) && self.0.len() < PEERS;
        if news {
            self.0.insert(from, now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_an_hour_per_peer_and_of_a_few() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let peer = |last| Ipv4Addr::new(192, 0, 2, last);
        assert!(complaints.is_news(peer(1), now));
        assert!(!complaints.is_news(peer(1), now + AGAIN / 2));
        assert!(complaints.is_news(peer(2), now));
        assert!(complaints.is_news(peer(1), now + AGAIN));
        let said = (3..=200).filter(|last| complaints.is_news(peer(*last), now + AGAIN));
        assert_eq!(said.count(), PEERS - 1);
    }
}
