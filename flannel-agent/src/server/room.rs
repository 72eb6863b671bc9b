//! How many connections a server has at a time: the rest is refused, and goes to the next server.
//!
//! Whoever has not asked anything yet (by TLS: not shown what it is asked for) is let in for as long as nobody else comes: those who
//! connect and do nothing keep no node out. Nor does who has many connections: when all places are taken, the address that has most
//! gives one to an address that has fewer.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Files that are no clients': etcd's connections, health, the log.
const OTHERS: u64 = 64;
/// Refusals are named once in that time.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// So many that are gone are remembered, besides as many as there are.
const GONE: usize = 64;

/// Places for connections.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    most: usize,
    /// In the order in which they came; some are gone.
    seats: VecDeque<Weak<Seat>>,
    /// The same of those who had not settled when they came.
    newcomers: VecDeque<Weak<Seat>>,
    parties: Arc<Parties>,
    said: Option<Instant>,
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Parties(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Guest(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    party: IpAddr,
    /// `None`: somebody else has it now.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    settled: AtomicBool,
    given_up: CancellationToken,
    parties: Arc<Parties>,
}

impl Seat {
    fn give_up(&self) -> Option<OwnedSemaphorePermit> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place.take()?;
        self.given_up.cancel();
        Some(place)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut parties = self.parties.counts();
        if let Some(count) = parties.get_mut(&self.party) {
            *count -= 1;
            if *count == 0 {
                parties.remove(&self.party);
            }
        }
    }
}

impl Parties {
    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has most, if that is more than `party` would have with one more.
    fn largest_beside(&self, party: IpAddr) -> Option<IpAddr> {
        let counts = self.counts();
        let (largest, count) = counts.iter().max_by_key(|(_, count)| **count)?;
        let own = counts.get(&party).copied().unwrap_or(0);
        (*count > own + 1).then_some(*largest)
    }
}

/// Whose a connection is. Who has an IPv6 address has all of its /64.
fn party(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => {
            let link = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(link).into()
        }
        v4 => v4,
    }
}

impl Guest {
    /// From here on it is no newcomer.
    pub(super) fn settle(&self) {
        self.0.settled.store(true, Ordering::Relaxed);
    }

    /// What is done on the connection; `None`: somebody else has the place now.
    pub(super) async fn stay<T>(&self, done: impl Future<Output = T>) -> Option<T> {
        self.0.given_up.run_until_cancelled(done).await
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
            seats: VecDeque::new(),
            newcomers: VecDeque::new(),
            parties: Arc::default(),
            said: None,
        }
    }

    /// A place, if need be that of the newcomer who is there longest, or of who has many; `None`: there is none.
    pub(super) fn enter(&mut self, peer: SocketAddr) -> Option<Guest> {
        let party = party(peer);
        let free = Arc::clone(&self.places).try_acquire_owned().ok();
        let place = free
            .or_else(|| self.of_the_oldest())
            .or_else(|| self.of_the_largest(party));
        if place.is_none() && self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(
                %peer,
                "there are {} connections, which is all that --remote-connections allows: others are refused",
                self.most
            );
        }
        let seat = Arc::new(Seat {
            party,
            place: Mutex::new(Some(place?)),
            settled: AtomicBool::new(false),
            given_up: CancellationToken::new(),
            parties: Arc::clone(&self.parties),
        });
        *self.parties.counts().entry(party).or_default() += 1;
        self.forget();
        self.newcomers.push_back(Arc::downgrade(&seat));
        self.seats.push_back(Arc::downgrade(&seat));
        Some(Guest(seat))
    }

    fn of_the_oldest(&mut self) -> Option<OwnedSemaphorePermit> {
        while let Some(oldest) = self.newcomers.pop_front() {
            let seat = oldest.upgrade();
            let newcomer = seat.filter(|seat| !seat.settled.load(Ordering::Relaxed));
            if let Some(place) = newcomer.and_then(|seat| seat.give_up()) {
                return Some(place);
            }
        }
        None
    }

    fn of_the_largest(&self, party: IpAddr) -> Option<OwnedSemaphorePermit> {
        let largest = self.parties.largest_beside(party)?;
        let mut seats = self.seats.iter().filter_map(Weak::upgrade);
        seats.find_map(|seat| {
            let is_its = seat.party == largest;
            is_its.then(|| seat.give_up()).flatten()
        })
    }

    /// Those who are gone, and newcomers in front who are none any more: nobody is one for long.
    fn forget(&mut self) {
        while let Some(oldest) = self.newcomers.front() {
            let seat = oldest.upgrade();
            if seat.is_some_and(|seat| !seat.settled.load(Ordering::Relaxed)) {
                break;
            }
            self.newcomers.pop_front();
        }
        let taken = self.most - self.places.available_permits();
        if self.seats.len() > 2 * taken + GONE {
            self.seats.retain(|seat| seat.strong_count() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(room: &mut Room, peer: &str) -> Option<Guest> {
        let guest = room.enter(peer.parse().unwrap())?;
        guest.settle();
        Some(guest)
    }

    /// Whether it still has its place.
    async fn stays(guest: &Guest) -> bool {
        guest.stay(async {}).await.is_some()
    }

    const ONE: &str = "192.0.2.1:1";

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let mut room = Room::new(2, None);
        let first = settled(&mut room, ONE);
        let _second = settled(&mut room, ONE).unwrap();
        assert!(first.is_some() && settled(&mut room, ONE).is_none());
        drop(first);
        assert!(settled(&mut room, ONE).is_some());
    }

    #[tokio::test]
    async fn who_says_nothing_gives_way_and_who_has_settled_does_not() {
        let mut room = Room::new(2, None);
        let first = settled(&mut room, ONE).unwrap();
        let silent = room.enter(ONE.parse().unwrap()).unwrap();
        let other = room.enter(ONE.parse().unwrap()).unwrap();
        assert!(silent.stay(std::future::pending::<()>()).await.is_none());
        assert_eq!(other.stay(async { 1 }).await, Some(1));
        other.settle();
        assert!(
            room.enter(ONE.parse().unwrap()).is_none(),
            "two have settled"
        );
        drop((first, silent, other));
        assert_eq!(room.places.available_permits(), 2);
        assert!(room.parties.counts().is_empty());
    }

    #[tokio::test]
    async fn who_has_most_gives_way_to_who_has_fewer() {
        let mut room = Room::new(4, None);
        let many = [(); 3].map(|()| settled(&mut room, ONE).unwrap());
        let other = settled(&mut room, "192.0.2.2:1").unwrap();
        let third = settled(&mut room, "192.0.2.3:1").unwrap();
        assert!(!stays(&many[0]).await, "the oldest goes");
        for guest in [&many[1], &many[2], &other, &third] {
            assert!(stays(guest).await);
        }
        let [gone, many @ ..] = many;
        drop(gone);
        assert!(settled(&mut room, ONE).is_none(), "it has most");
        let second = settled(&mut room, "192.0.2.2:1");
        assert!(second.is_none(), "each would have two");
        assert!(settled(&mut room, "[2001:db8::1]:1").is_some());
        drop(many);
    }

    #[test]
    fn who_has_an_ipv6_address_has_many() {
        let of = |text: &str| party(text.parse().unwrap()).to_string();
        assert_eq!(of("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
        assert_eq!(of("[::ffff:192.0.2.1]:1"), "192.0.2.1");
    }

    #[test]
    fn those_who_are_gone_are_not_remembered_for_long() {
        let mut room = Room::new(2, None);
        for _ in 0..1000 {
            drop(settled(&mut room, ONE).unwrap());
        }
        assert!(room.seats.len() <= GONE + 3 && room.newcomers.len() <= 1);
    }

    #[test]
    fn some_files_are_kept_for_others_than_clients() {
        assert_eq!(Room::new(20_000, Some(1024)).most, 960);
        assert_eq!(Room::new(20_000, Some(524_288)).most, 20_000);
        assert_eq!(Room::new(usize::MAX, None).most, Semaphore::MAX_PERMITS);
    }
}
