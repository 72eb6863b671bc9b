//! Whole packets from the programs: one perf buffer per CPU.

use std::fmt;

use aya::maps::perf::{PerfBufferError, PerfEvent, PerfEventArrayBuffer};
use aya::maps::{MapData, PerfEventArray};
use aya::util::online_cpus;
use bytemuck::pod_read_unaligned;
use flannel_common::event::{About, LONGEST};
use flannel_common::maps::CAPTURE;

use super::view::{View, ViewError};

/// Of 4 KiB: room for a thousand full-size packets per CPU.
const PAGES: usize = 512;

/// A packet at the end of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) about: About,
    /// The front of it, or all.
    pub(crate) bytes: Vec<u8>,
}

/// The buffers. The kernel takes them out of the map when this is dropped.
pub(crate) struct Captured {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    snap: u32,
    lost: u64,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured").finish_non_exhaustive()
    }
}

/// Why there are no buffers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error("cannot count the CPUs: {0}")]
    Cpus(std::io::Error),
    #[error("cannot make a buffer for packets (perf_event_open): {0}; it takes CAP_PERFMON")]
    Buffer(#[from] PerfBufferError),
}

impl Captured {
    /// `snap`: as in the [`Filter`](flannel_common::event::Filter).
    pub(crate) fn open(view: &View, snap: u32) -> Result<Self, CaptureError> {
        let mut map: PerfEventArray<MapData> = view.typed(CAPTURE)?;
        let cpus = online_cpus().map_err(|(_, error)| CaptureError::Cpus(error))?;
        let buffers = cpus.into_iter().map(|cpu| map.open(cpu, Some(PAGES)));
        Ok(Self {
            buffers: buffers.collect::<Result<_, _>>()?,
            snap: snap.min(LONGEST),
            lost: 0,
        })
    }

    /// Whatever came since the last time, CPU by CPU.
    pub(crate) fn take(&mut self, into: &mut Vec<Packet>) {
        let snap = self.snap;
        for buffer in &mut self.buffers {
            self.lost += buffer.fold(0, |lost, event| match event {
                PerfEvent::Sample { head, tail } => {
                    into.extend(packet(&[head, tail].concat(), snap));
                    lost
                }
                PerfEvent::Lost { count } => lost + count,
            });
        }
    }

    /// Packets that found no room.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

/// The kernel pads what it hands out.
fn packet(sample: &[u8], snap: u32) -> Option<Packet> {
    let (about, bytes) = sample.split_at_checked(size_of::<About>())?;
    let about: About = pod_read_unaligned(about);
    let caught = usize::try_from(about.len.min(snap)).ok()?;
    Some(Packet {
        about,
        bytes: bytes.get(..caught)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable as _, bytes_of};

    use super::*;

    #[test]
    fn padding_is_no_part_of_the_packet() {
        let sample = |len: u32, bytes: &[u8]| {
            let about = About {
                len,
                ..About::zeroed()
            };
            [bytes_of(&about), bytes].concat()
        };
        let caught = |len, snap| packet(&sample(len, &[7; 8]), snap).map(|p| p.bytes.len());
        assert_eq!(caught(5, 64), Some(5));
        assert_eq!(caught(1500, 6), Some(6));
        assert_eq!(caught(1500, 64), None, "the kernel never does that");
        assert_eq!(packet(&[0; 23], 64), None);
    }
}
