//! Programs on hooks: wanted, live, and left over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flannel_common::program::Program;
use serde::{Serialize, Serializer};

use super::Loaded;
use crate::node::net::Direction;

/// One program at one hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Attachment {
    #[serde(serialize_with = "program_name")]
    pub program: Program,
    pub device: String,
    pub direction: Direction,
}

impl Attachment {
    pub(crate) fn ingress(program: Program, device: &str) -> Self {
        Self {
            program,
            device: device.to_owned(),
            direction: Direction::Ingress,
        }
    }

    pub(crate) fn egress(program: Program, device: &str) -> Self {
        Self {
            direction: Direction::Egress,
            ..Self::ingress(program, device)
        }
    }

    /// Of use only with a program at the driver.
    #[must_use]
    pub const fn is_for_xdp(&self) -> bool {
        matches!(self.program, Program::XdpRx | Program::UplinkXdp)
    }
}

fn program_name<S: Serializer>(program: &Program, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(program.name())
}

/// Where a network's programs shall be, and how its own are told from others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// Name in pin folders and aliases.
    pub(crate) network: &'a str,
    /// In the handles of clsact filters.
    pub(crate) tag: u32,
    pub(crate) attachments: &'a [Attachment],
}

/// Programs: those of this process, and what is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Programs {
    /// Loaded by this process; `None` right after the start.
    pub loaded: Option<Loaded>,
    /// Wanted hooks where a program of ours is live, and whether it is this process's.
    pub attached: BTreeMap<Attachment, Generation>,
    /// Steps of source NAT that can be jumped to.
    #[serde(serialize_with = "by_name")]
    pub steps: BTreeMap<Program, Generation>,
    /// Ours, attached where nothing of ours belongs (any more).
    pub stale: BTreeSet<Stale>,
    /// The uplink's driver was asked for XDP, as it is now, and refused.
    pub xdp_refused: bool,
    /// Maps of this layout version are pinned.
    pub has_maps: bool,
    /// Pin folders of other layout versions, and whether their translated connections mean here what they mean there.
    pub old_layouts: BTreeMap<String, bool>,
}

fn by_name<S: Serializer>(
    steps: &BTreeMap<Program, Generation>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(steps.iter().map(|(step, is)| (step.name(), is)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Generation {
    /// Loaded by this process.
    Current,
    /// Left by an earlier agent, or from before the constants changed.
    Earlier,
    /// Behind somebody else's program that may end the hook's chain before it.
    Hidden,
}

/// An attachment to remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Stale {
    /// File name of a pinned link.
    Pin(String),
    /// A clsact filter of ours.
    Filter {
        device: String,
        direction: Direction,
        handle: u32,
    },
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(pin) => f.write_str(pin),
            Self::Filter {
                device,
                direction,
                handle,
            } => write!(f, "the filter {handle:#x} at {direction} of {device}"),
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            device,
            direction,
        } = self;
        if program.is_xdp() {
            return write!(f, "{} to the driver of {device}", program.name());
        }
        write!(f, "{} to {direction} of {device}", program.name())
    }
}
