//! Listening to the programs: the word that switches it on, what is listened to, and a ring buffer.

use std::fmt;
use std::fs::File;

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use bytemuck::pod_read_unaligned;
use flannel_common::event::{DROPS_ONLY, Event, Filter, Listen, WHOLE};
use flannel_common::maps::{EVENTS, FILTER, LISTEN, LOST};
use nix::fcntl::{Flock, FlockArg};

use super::teller::Teller;
use super::view::{View, ViewError};
use super::{DataplaneError, Wire};
use crate::base::clock;

/// Seconds for which one call of [`Events::listen`] lasts.
const LASTS: u64 = 3;

/// The only listener of a network. Dropping it ends the reports.
pub(crate) struct Events {
    ring: RingBuf<MapData>,
    listen: Array<MapData, Wire<Listen>>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    _teller: Teller,
    _turn: Flock<File>,
}

/// How packets are listened to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    /// Of packets that are not dropped one in so many, a power of two.
    pub(crate) one_in: u32,
    pub(crate) drops_only: bool,
    /// Into [`super::captured::Captured`] instead of the ring buffer.
    pub(crate) whole: bool,
}

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    #[error("another monitor or capture listens to this network: only one can")]
    Busy,
    #[error(
        "the programs on this node are an earlier version's, which tell nobody: restart the agent"
    )]
    Earlier,
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("cannot write {LISTEN} or {FILTER}: {0}")]
    Switch(#[from] aya::maps::MapError),
}

impl Events {
    /// Takes the ring buffer; what an earlier listener left in it is thrown away.
    pub(crate) fn open(view: &View, filter: &Filter) -> Result<Self, EventsError> {
        let ring = view.typed(EVENTS)?;
        if !Teller::is_known(view) {
            return Err(EventsError::Earlier);
        }
        let path = view.root();
        let folder = File::open(path).map_err(|error| ViewError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        // The kernel lets go of it when the process ends, however it ends.
        let turn = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
        let turn = turn.map_err(|_| EventsError::Busy)?;
        let mut wanted: Array<MapData, Wire<Filter>> = view.typed(FILTER)?;
        wanted.set(0, Wire(*filter), 0)?;
        let mut events = Self {
            ring,
            listen: view.typed(LISTEN)?,
            lost: view.typed(LOST)?,
            lost_before: 0,
            _teller: Teller::start(view)?,
            _turn: turn,
        };
        while events.next().is_some() {}
        events.lost_before = events.lost_ever()?;
        Ok(events)
    }

    /// Switches reports on for some seconds.
    pub(crate) fn listen(&mut self, wish: Wish) -> Result<(), EventsError> {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let listen = Listen {
            until: clock() + LASTS * 1_000_000_000,
            mask: wish.one_in.saturating_sub(1),
            flags: flag(wish.drops_only, DROPS_ONLY) | flag(wish.whole, WHOLE),
        };
        Ok(self.listen.set(0, Wire(listen), 0)?)
    }

    /// The oldest event that was not taken yet.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if item.len() == size_of::<Event>() {
                return Some(pod_read_unaligned(&item));
            }
        }
    }

    /// Events that found no room since [`Self::open`].
    pub(crate) fn lost(&self) -> Result<u64, EventsError> {
        Ok(self.lost_ever()?.saturating_sub(self.lost_before))
    }

    fn lost_ever(&self) -> Result<u64, EventsError> {
        Ok(self.lost.get(&0, 0)?.iter().sum())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let nobody = Listen {
            until: 0,
            mask: 0,
            flags: 0,
        };
        // If it fails, reports end by themselves in seconds.
        let _ = self.listen.set(0, Wire(nobody), 0);
    }
}
