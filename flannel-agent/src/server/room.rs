//! How many connections a server has at a time: the rest is refused, and goes to the next server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files that are no clients': etcd's connections, health, the log.
const OTHERS: u64 = 64;
/// Refusals are named once in that time.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// Places for connections.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    most: usize,
    said: Option<Instant>,
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
            said: None,
        }
    }

    /// A place for as long as it is kept; `None`: there is none.
    pub(super) fn enter(&mut self, peer: SocketAddr) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none() && self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(
                %peer,
                "there are {} connections, which is all that --remote-connections allows: others are refused",
                self.most
            );
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let peer = "192.0.2.1:1".parse().unwrap();
        let mut room = Room::new(2, None);
        let first = room.enter(peer);
        let _second = room.enter(peer).unwrap();
        assert!(first.is_some() && room.enter(peer).is_none());
        drop(first);
        assert!(room.enter(peer).is_some());
    }

    #[test]
    fn some_files_are_kept_for_others_than_clients() {
        assert_eq!(Room::new(20_000, Some(1024)).most, 960);
        assert_eq!(Room::new(20_000, Some(524_288)).most, 20_000);
        assert_eq!(Room::new(usize::MAX, None).most, Semaphore::MAX_PERMITS);
    }
}
