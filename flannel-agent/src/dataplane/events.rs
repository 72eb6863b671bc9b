//! Listening to the programs: a ring buffer, and the word that switches it on.

use std::fmt;
use std::fs::File;

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use bytemuck::pod_read_unaligned;
use flannel_common::event::{Event, Listen};
use flannel_common::maps::{EVENTS, LISTEN, LOST};
use nix::fcntl::{Flock, FlockArg};

use super::Wire;
use super::view::{View, ViewError};

/// Seconds for which one call of [`Events::listen`] lasts.
const LASTS: u64 = 3;

/// The only listener of a network. Dropping it ends the reports.
pub(crate) struct Events {
    ring: RingBuf<MapData>,
    listen: Array<MapData, Wire<Listen>>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
    _turn: Flock<File>,
}

/// Why nobody can listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EventsError {
    #[error("another monitor listens to this network: only one can")]
    Busy,
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("cannot change {LISTEN}: {0}")]
    Switch(#[from] aya::maps::MapError),
}

impl Events {
    /// Takes the ring buffer; what an earlier listener left in it is thrown away.
    pub(crate) fn open(view: &View) -> Result<Self, EventsError> {
        let ring = view.typed(EVENTS)?;
        let path = view.root();
        let folder = File::open(path).map_err(|error| ViewError::Unreadable {
            path: path.to_owned(),
            error,
        })?;
        // The kernel lets go of it when the process ends, however it ends.
        let turn = Flock::lock(folder, FlockArg::LockExclusiveNonblock);
        let mut events = Self {
            ring,
            listen: view.typed(LISTEN)?,
            lost: view.typed(LOST)?,
            lost_before: 0,
            _turn: turn.map_err(|_| EventsError::Busy)?,
        };
        while events.next().is_some() {}
        events.lost_before = events.lost_ever()?;
        Ok(events)
    }

    /// Switches reports on for some seconds: all drops, and unless `drops_only` one other packet in
    /// `one_in`, a power of two.
    pub(crate) fn listen(&mut self, one_in: u32, drops_only: bool) -> Result<(), EventsError> {
        let listen = Listen {
            until: super::clock() + LASTS * 1_000_000_000,
            mask: one_in.saturating_sub(1),
            drops_only: drops_only.into(),
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
            drops_only: 0,
        };
        // If it fails, reports end by themselves in seconds.
        let _ = self.listen.set(0, Wire(nobody), 0);
    }
}
