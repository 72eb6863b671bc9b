//! How many connections a server has at a time: the rest is refused, and goes to the next server.
//!
//! Whoever has not said anything yet (by TLS: not shown what it is asked for) is let in for as long as nobody else comes: those who
//! connect and do nothing keep no node out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Files that are no clients': etcd's connections, health, the log.
const OTHERS: u64 = 64;
/// Refusals are named once in that time.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// Places for connections.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    most: usize,
    /// In the order in which they came; some are none any more.
    newcomers: VecDeque<Weak<Seat>>,
    said: Option<Instant>,
}

/// A connection that may have to give its place to another.
#[derive(Debug)]
pub(super) struct Newcomer(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    /// `None`: it is no newcomer's any more.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    given_up: CancellationToken,
}

impl Seat {
    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.take()
    }
}

impl Newcomer {
    /// What `proof` gives, with the place for as long as that is kept; `None`: somebody else has it now.
    pub(super) async fn settle<T>(
        self,
        proof: impl Future<Output = T>,
    ) -> Option<(T, OwnedSemaphorePermit)> {
        let proven = self.0.given_up.run_until_cancelled(proof).await?;
        Some((proven, self.0.take()?))
    }
}

impl Room {
    /// `files`: how many this process may have open.
    pub(super) fn new(wanted: usize, files: Option<u64>) -> Self {
        let room = files.map_or(u64::MAX, |files| files.saturating_sub(OTHERS).max(1));
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        if room < wanted {
            tracing::warn!(
                "this process may have {room} connections, and not --remote-connections={wanted}: raise LimitNOFILE="
            );
        }
        let most = wanted.min(room).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(most)),
            most,
            newcomers: VecDeque::new(),
            said: None,
        }
    }

    /// A place, if need be that of the newcomer who is there longest; `None`: there is none.
    pub(super) fn enter(&mut self, peer: SocketAddr) -> Option<Newcomer> {
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = free.or_else(|| self.of_the_oldest());
        if place.is_none() && self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(
                %peer,
                "there are {} connections, which is all that --remote-connections allows: others are refused",
                self.most
            );
        }
        let seat = Arc::new(Seat {
            place: Mutex::new(Some(place?)),
            given_up: CancellationToken::new(),
        });
        self.forget_the_settled();
        self.newcomers.push_back(Arc::downgrade(&seat));
        Some(Newcomer(seat))
    }

    fn of_the_oldest(&mut self) -> Option<OwnedSemaphorePermit> {
        while let Some(oldest) = self.newcomers.pop_front() {
            let Some(seat) = oldest.upgrade() else {
                continue;
            };
            if let Some(place) = seat.take() {
                seat.given_up.cancel();
                return Some(place);
            }
        }
        None
    }

    /// Those in front: nobody is a newcomer for long.
    fn forget_the_settled(&mut self) {
        while let Some(oldest) = self.newcomers.front() {
            if oldest.strong_count() > 0 {
                return;
            }
            self.newcomers.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settled(room: &mut Room, peer: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let settled = room.enter(peer)?.settle(async {}).await;
        settled.map(|((), place)| place)
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_holder_is_gone() {
        let peer = "192.0.2.1:1".parse().unwrap();
        let mut room = Room::new(2, None);
        let first = settled(&mut room, peer).await;
        let _second = settled(&mut room, peer).await.unwrap();
        assert!(first.is_some() && room.enter(peer).is_none());
        drop(first);
        assert!(room.enter(peer).is_some());
    }

    #[tokio::test]
    async fn who_says_nothing_gives_way_and_who_has_settled_does_not() {
        let peer = "192.0.2.1:1".parse().unwrap();
        let mut room = Room::new(2, None);
        let settled = settled(&mut room, peer).await.unwrap();
        let silent = room.enter(peer).unwrap();
        let other = room.enter(peer).unwrap();
        let never = std::future::pending::<()>();
        assert!(silent.settle(never).await.is_none());
        let (said, place) = other.settle(async { 1 }).await.unwrap();
        assert_eq!(said, 1);
        assert!(room.enter(peer).is_none(), "two have settled");
        drop((place, settled));
        assert_eq!(room.places.available_permits(), 2);
    }

    #[test]
    fn some_files_are_kept_for_others_than_clients() {
        assert_eq!(Room::new(20_000, Some(1024)).most, 960);
        assert_eq!(Room::new(20_000, Some(524_288)).most, 20_000);
        assert_eq!(Room::new(usize::MAX, None).most, Semaphore::MAX_PERMITS);
    }
}
