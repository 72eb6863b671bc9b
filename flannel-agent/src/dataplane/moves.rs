//! Addresses that move from one pod to another while both live: a flow that was proven by way of the old one is proven anew.
//!
//! Who sees it first is the kernel, when the new holder speaks up (gratuitous ARP, or any frame of a virtual MAC). Pods can
//! make it see that as often as they like, so proofs end for that only now and then: a flow of another pod takes the stack for a
//! moment, no more. What moves meanwhile is followed with the next renewal, as it is without an agent.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::DataplaneError;
use super::unfit::Unfit;
use crate::base::options::{FastPath, Mode};
use crate::node::net::{NeighbourEvents, NetError, Netlink, News};

/// As often as each flow is renewed anyhow.
const EVERY: Duration = Duration::from_secs(5);
/// So often without a pause.
const AT_ONCE: u32 = 4;
/// Between two portions of news: a flood of them takes a small part of a CPU.
const PAUSE: Duration = Duration::from_millis(20);
/// After a flood that was too much: all that is known had to be listed.
const RELIEF: Duration = Duration::from_secs(1);
/// Addresses, and stations, that are remembered: of so many no bridge knows the pods.
const ROOM: usize = 16384;

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Moves {
    _task: AbortOnDropHandle<()>,
}

impl Moves {
    /// Nothing is done where no flow is ever proven.
    ///
    /// # Errors
    /// If the kernel does not tell news.
    pub(crate) fn follow(
        netlink: &Netlink,
        fast_path: &FastPath,
        bpffs: &Path,
        network: &str,
    ) -> Result<Option<Self>, NetError> {
        if fast_path.mode == Mode::Off {
            return Ok(None);
        }
        let (events, before) = NeighbourEvents::open()?;
        let mut follower = Follower {
            netlink: netlink.clone(),
            bridge: fast_path.bridge.clone(),
            bpffs: bpffs.to_owned(),
            network: network.to_owned(),
            known: Known::default(),
        };
        for news in before {
            follower.known.learn(news);
        }
        Ok(Some(Self {
            _task: AbortOnDropHandle::new(tokio::spawn(follower.run(events))),
        }))
    }
}

#[derive(Debug)]
struct Follower {
    netlink: Netlink,
    bridge: String,
    bpffs: PathBuf,
    network: String,
    known: Known,
}

impl Follower {
    async fn run(mut self, mut events: NeighbourEvents) {
        let mut pace = Pace::default();
        let mut waiting = None;
        loop {
            let news = match waiting {
                None => events.next().await,
                Some(change) => tokio::select! {
                    () = pace.turn() => {
                        pace.took();
                        self.end_proofs_after(change);
                        waiting = None;
                        continue;
                    }
                    news = events.next() => news,
                },
            };
            let lost = news.contains(&News::Lost);
            match self.concerning(news).await {
                // Not for pods to bring about, so they do not make it wait either.
                Some(change @ (Change::ForwardsNothing | Change::DeviceForwardsNothing { .. })) => {
                    self.end_proofs_after(change);
                }
                change => waiting = waiting.or(change),
            }
            sleep(if lost { RELIEF } else { PAUSE }).await;
        }
    }

    fn end_proofs_after(&self, change: Change) {
        match self.end_proofs() {
            Ok(()) => tracing::info!("{}: proofs of flows end", change.words()),
            Err(error) => tracing::warn!("{}: {error}", change.words()),
        }
    }

    /// After which a proof may say what is not true any more: the first, but rather that nothing is forwarded.
    async fn concerning(&mut self, news: Vec<News>) -> Option<Change> {
        let mut changes = Vec::new();
        for news in news {
            changes.extend(self.known.learn(news));
        }
        if changes.is_empty() {
            return None;
        }
        let bridge = self.netlink.link(&self.bridge).await;
        let bridge = bridge.map(|link| link.map(|link| link.index));
        let mut concerning = Vec::new();
        for change in changes {
            let concerns = match (change, &bridge) {
                (Change::Moved { device }, Ok(bridge)) => Some(device) == *bridge,
                (Change::DeviceForwardsNothing { device }, _) => self.is_routed_from(device).await,
                // In doubt it does.
                (Change::Moved { .. }, Err(_)) | (Change::ForwardsNothing | Change::Unknown, _) => {
                    true
                }
            };
            if concerns {
                concerning.push(change);
            }
        }
        concerning.sort_by_key(Change::is_for_pods_to_bring_about);
        concerning.first().copied()
    }

    /// What comes in by a port of a bridge is forwarded as the bridge's.
    async fn is_routed_from(&self, device: u32) -> bool {
        match self.netlink.link_by_index(device).await {
            Ok(Some(link)) => link.controller.is_none(),
            Ok(None) => false,
            // In doubt it is.
            Err(_) => true,
        }
    }

    fn end_proofs(&self) -> Result<(), DataplaneError> {
        Unfit::open(&self.bpffs, &self.network)?.end_proofs()
    }
}

/// However often something moves, proofs end for it a few times at once, and then once in a while: what moves by mistake moves
/// back.
#[derive(Debug, Default)]
struct Pace {
    /// When there are as many turns at once again.
    full: Option<Instant>,
}

impl Pace {
    /// Waits until there is one.
    async fn turn(&self) {
        let due = self
            .full
            .and_then(|full| full.checked_sub(EVERY * (AT_ONCE - 1)));
        if let Some(due) = due {
            sleep_until(due).await;
        }
    }

    fn took(&mut self) {
        let now = Instant::now();
        self.full = Some(self.full.map_or(now, |full| full.max(now)) + EVERY);
    }
}

/// What is not as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// An address or a station, at that device.
    Moved { device: u32 },
    /// No packet is to be forwarded.
    ForwardsNothing,
    /// None that comes in there.
    DeviceForwardsNothing { device: u32 },
    /// Nobody knows.
    Unknown,
}

impl Change {
    const fn is_for_pods_to_bring_about(&self) -> bool {
        matches!(self, Self::Moved { .. } | Self::Unknown)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Moved { .. } => "an address of pods has another holder",
            Self::ForwardsNothing => "net.ipv4.ip_forward was set to 0",
            Self::DeviceForwardsNothing { .. } => {
                "net.ipv4.conf.DEVICE.forwarding of a device is 0"
            }
            Self::Unknown => "the kernel learnt more of its neighbours than was heard",
        }
    }
}

/// What the kernel said so far. It is not forgotten with the kernel's own entry: the next one may be another.
#[derive(Debug, Default)]
struct Known {
    neighbours: HashMap<(u32, Ipv4Addr), [u8; 6]>,
    stations: HashMap<(u32, [u8; 6]), u32>,
}

impl Known {
    /// `Some`: it is not as it was said before.
    fn learn(&mut self, news: News) -> Option<Change> {
        match news {
            News::Neighbour {
                device,
                address,
                station,
            } => is_another(&mut self.neighbours, (device, address), station)
                .then_some(Change::Moved { device }),
            News::Station {
                bridge,
                station,
                port,
            } => is_another(&mut self.stations, (bridge, station), port)
                .then_some(Change::Moved { device: bridge }),
            News::ForwardsNothing => Some(Change::ForwardsNothing),
            News::DeviceForwardsNothing { device } => {
                Some(Change::DeviceForwardsNothing { device })
            }
            News::Lost => None,
            News::Unknown => Some(Change::Unknown),
        }
    }
}

fn is_another<K: Eq + Hash, V: PartialEq>(known: &mut HashMap<K, V>, key: K, value: V) -> bool {
    if known.len() >= ROOM && !known.contains_key(&key) {
        known.clear();
    }
    let is_same = known.get(&key).map(|known| *known == value);
    known.insert(key, value);
    is_same == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 9);

    const fn neighbour(station: u8) -> News {
        News::Neighbour {
            device: 5,
            address: ADDRESS,
            station: [2, 0, 0, 0, 0, station],
        }
    }

    const fn station(port: u32) -> News {
        News::Station {
            bridge: 5,
            station: [2, 0, 0, 0, 0, 1],
            port,
        }
    }

    #[test]
    fn an_address_or_a_station_that_moves() {
        let mut known = Known::default();
        for (first, second) in [(neighbour(1), neighbour(2)), (station(7), station(8))] {
            assert_eq!(known.learn(first), None, "new");
            assert_eq!(known.learn(first), None, "used again");
            assert_eq!(known.learn(second), Some(Change::Moved { device: 5 }));
            assert_eq!(known.learn(second), None);
            assert_eq!(
                known.learn(first),
                Some(Change::Moved { device: 5 }),
                "and back"
            );
        }
        assert_eq!(known.learn(News::Lost), None, "a list follows");
        assert_eq!(known.learn(News::Unknown), Some(Change::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn who_moves_an_address_without_end_ends_proofs_now_and_then() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        for _ in 0..AT_ONCE {
            pace.turn().await;
            pace.took();
        }
        assert!(begun.elapsed() < EVERY, "the first ones at once");
        for _ in 0..4 {
            pace.turn().await;
            pace.took();
        }
        assert!(begun.elapsed() >= 4 * EVERY);
        sleep(EVERY * AT_ONCE).await;
        let begun = Instant::now();
        for _ in 0..AT_ONCE {
            pace.turn().await;
            pace.took();
        }
        assert!(begun.elapsed() < EVERY, "and again after quiet times");
    }

    #[test]
    fn who_invents_stations_takes_no_more_room_than_there_is() {
        let mut known = Known::default();
        for n in 0..100_000_u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let news = News::Station {
                bridge: 5,
                station: [2, 0, 0, a, b, c],
                port: 7,
            };
            assert_eq!(known.learn(news), None);
            assert!(known.stations.len() <= ROOM);
        }
    }
}
