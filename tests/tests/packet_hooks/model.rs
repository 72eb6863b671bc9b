//! The reference: what docs/fast-path.md says of a proof. Of the code under test it takes one thing, in which place a note
//! lies.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::crossing;
use flannel_common::flow::{Direction, FlowKey};

use super::clock::{Unclear, When};
use super::frame::{Control, Frame, Tuple};
use super::path::{Link, Path};

const IN_THE_STACK: u64 = 1_000;
const LIFETIME: u64 = 15_000;
const REFRESH: u64 = 5_000;
/// Of what arrives for a pod that has not been heard by its port.
const UNANSWERED: u64 = 500;
const PATIENCE: u64 = 1_000;
const FORGOTTEN: u64 = 120_000;
const CLOSING: u64 = 15_000;
const DSCP: u8 = 0xfc;
const PROTO_TCP: u8 = 6;
/// What every route takes.
const SHORT: usize = 576;

/// A packet at a hook, as the kernel shows it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) frame: Frame,
    pub(crate) mark: u32,
    pub(crate) priority: u32,
    /// Device of the hook.
    pub(crate) device: u32,
    /// Device by which the stack received it.
    pub(crate) came_by: u32,
    pub(crate) cpu: usize,
}

#[derive(Debug, Clone)]
struct Note {
    before: Shown,
    epoch: u32,
    at: When,
    out: u32,
}

/// What was seen of one direction.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) at: When,
    pub(crate) epoch: u32,
    pub(crate) port: u32,
    pub(crate) before: Shown,
    pub(crate) after: Shown,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Half {
    pub(crate) proof: Option<Proof>,
    /// The last renewal has not come out.
    awaited: bool,
}

/// Who sent first, as far as this node has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Pod,
    Peer,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    pub(crate) out: Half,
    pub(crate) into: Half,
    pub(crate) closed: Option<When>,
    opener: Option<Opener>,
    /// Who opened was looked at since who answers was.
    answer_due: bool,
    /// To the outside: the longest packet of what proved it, and in which epoch.
    longest: Option<(u32, usize)>,
}

/// What has to become of a packet at the hook before the stack.
#[derive(Debug)]
pub(crate) enum Fate {
    Stack,
    /// Past it, as the packet of this proof.
    Fast(Proof),
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) at_bridge: bool,
    pub(crate) epoch: u32,
    pub(crate) unfit: BTreeSet<u32>,
    notes: BTreeMap<(usize, u32), Note>,
    pub(crate) flows: BTreeMap<Tuple, Flow>,
    /// Who talks to the outside, and is translated.
    pub(crate) outside: BTreeSet<Tuple>,
}

impl Model {
    pub(crate) fn new(at_bridge: bool) -> Self {
        Self {
            at_bridge,
            ..Self::default()
        }
    }

    /// At the hook before the stack.
    pub(crate) fn goes_in(
        &mut self,
        path: Path,
        shown: &Shown,
        now: When,
    ) -> Result<Fate, Unclear> {
        let frame = &shown.frame;
        if frame.is_odd() {
            return Ok(Fate::Stack);
        }
        let is_out = path.is_out;
        let tuple = frame.tuple(is_out);
        let control = frame.control();
        let both = tuple.proto == PROTO_TCP || self.at_bridge;
        // To the outside and back only what has an entry, which `uplink_tx` makes.
        let is_noted = matches!(control, Control::None | Control::Answer)
            && (path.link != Link::Outside || self.flows.contains_key(&tuple));
        // A renewal at hand is sent whatever the packet is like.
        let any_renews = path.link == Link::Tunnel && !is_out;
        if let Some(flow) = self.flows.get_mut(&tuple) {
            if control != Control::None {
                flow.control(is_out, control, shown.device, now, self.epoch)?;
            } else {
                let alike = flow.is_like(is_out, shown);
                if alike || any_renews {
                    let step = flow.step(is_out, both, now, self.epoch)?;
                    let carries =
                        path.link != Link::Outside || !is_out || flow.carries(frame.len());
                    let half = if is_out {
                        &mut flow.out
                    } else {
                        &mut flow.into
                    };
                    match (step, &half.proof) {
                        (Step::Fast, Some(proof)) if alike && carries => {
                            return Ok(Fate::Fast(proof.clone()));
                        }
                        (Step::Refresh, _) => {
                            half.awaited = true;
                        }
                        _ => {}
                    }
                }
            }
        }
        if is_noted {
            let note = Note {
                before: shown.clone(),
                epoch: self.epoch,
                at: now,
                out: 0,
            };
            self.notes.insert((shown.cpu, place(&tuple, path)), note);
        }
        Ok(Fate::Stack)
    }

    pub(crate) fn age_notes(&mut self, millis: i64) {
        for note in self.notes.values_mut() {
            note.at = note.at.earlier(millis);
        }
    }

    /// At the hook behind it. True if that proves something.
    pub(crate) fn comes_out(
        &mut self,
        path: Path,
        shown: &Shown,
        now: When,
    ) -> Result<bool, Unclear> {
        let tuple = shown.frame.tuple(path.is_out);
        if path.link == Link::Outside && path.is_out {
            if shown.frame.is_odd() || shown.frame.control() != Control::None {
                return Ok(false);
            }
            // Whoever translated it before has another tuple.
            if !self.flows.contains_key(&tuple) && self.outside.contains(&tuple) {
                self.flows.insert(tuple, Flow::default());
                return Ok(false);
            }
        }
        let Some(note) = self.notes.get_mut(&(shown.cpu, place(&tuple, path))) else {
            return Ok(false);
        };
        if !note.before.frame.is_before(&shown.frame) || !now.is_within(IN_THE_STACK, note.at)? {
            return Ok(false);
        }
        let port = if path.is_out {
            note.before.device
        } else {
            let is_to_group = shown.frame.dst_mac()[0] & 1 != 0;
            if shown.came_by != note.before.device
                || is_to_group
                || self.unfit.contains(&note.before.device)
            {
                return Ok(false);
            }
            let first = std::mem::replace(&mut note.out, shown.device);
            if first != 0 && first != shown.device {
                if let Some(flow) = self.flows.get_mut(&tuple) {
                    flow.into.proof = None;
                }
                return Ok(false);
            }
            shown.device
        };
        let is_by_tunnel = path.link == Link::Tunnel && path.is_out;
        let is_unfit = self.unfit.contains(&port)
            || is_by_tunnel && self.unfit.contains(&shown.device)
            || path
                .neighbour()
                .is_some_and(|mac| mac != shown.frame.dst_mac());
        if is_unfit {
            return Ok(false);
        }
        let flow = self.flows.entry(tuple).or_default();
        let proof = Proof {
            at: now,
            epoch: note.epoch,
            port,
            before: note.before.clone(),
            after: shown.clone(),
        };
        let epoch = proof.epoch;
        let is_proven = flow.proves(path.is_out, path.link == Link::Outside, proof, now)?;
        if is_proven && path.is_out {
            flow.passed(epoch, shown.frame.len());
        }
        Ok(is_proven)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fast,
    Refresh,
    Stack,
}

impl Half {
    fn is_forgotten(&self, now: When) -> Result<bool, Unclear> {
        match &self.proof {
            Some(proof) => Ok(!now.is_within(FORGOTTEN, proof.at)?),
            None => Ok(true),
        }
    }

    fn holds(&self, now: When, epoch: u32) -> Result<bool, Unclear> {
        match &self.proof {
            Some(proof) if proof.epoch == epoch => now.is_within(LIFETIME, proof.at),
            _ => Ok(false),
        }
    }
}

impl Flow {
    fn step(&self, out: bool, both: bool, now: When, epoch: u32) -> Result<Step, Unclear> {
        let (half, other) = match out {
            true => (&self.out, &self.into),
            false => (&self.into, &self.out),
        };
        let is_proven = half.holds(now, epoch)? && (!both || other.holds(now, epoch)?);
        if self.is_closing(now)? || !is_proven {
            return Ok(Step::Stack);
        }
        let Some(proof) = &half.proof else {
            return Ok(Step::Stack);
        };
        if half.awaited {
            return Ok(Step::Stack);
        }
        let answers = match out {
            true => self.opener == Some(Opener::Peer),
            false => self.opener == Some(Opener::Pod),
        };
        let lasts = match out || self.out.holds(now, epoch)? {
            true => REFRESH,
            false => UNANSWERED,
        };
        let is_early = now.is_within(lasts, proof.at)?;
        let speaks = match &other.proof {
            _ if other.awaited => true,
            Some(proof) => now.is_within(REFRESH + PATIENCE, proof.at)?,
            None => false,
        };
        let is_right_behind = match &other.proof {
            Some(proof) => self.answer_due && now.is_within(PATIENCE, proof.at)?,
            None => false,
        };
        let waits = answers && !is_right_behind && speaks && other.holds(now, epoch)?;
        Ok(match is_early || waits {
            true => Step::Fast,
            false => Step::Refresh,
        })
    }

    /// Whether a packet is like the one that proved it: by the same port, with the same mark and DSCP.
    fn is_like(&self, out: bool, shown: &Shown) -> bool {
        let half = if out { &self.out } else { &self.into };
        half.proof.as_ref().is_some_and(|proof| {
            let before = &proof.before;
            (!out || proof.port == shown.device)
                && before.mark == shown.mark
                && before.frame.ttl() == shown.frame.ttl()
                && (before.frame.tos() ^ shown.frame.tos()) & DSCP == 0
        })
    }

    fn carries(&self, len: usize) -> bool {
        self.longest.is_some_and(|(_, longest)| len <= longest)
    }

    /// In another epoch a route may be another.
    fn passed(&mut self, epoch: u32, len: usize) {
        let known = self.longest.filter(|(of, _)| *of == epoch);
        let longest = known.map_or(SHORT, |(_, longest)| longest).max(len);
        self.longest = Some((epoch, longest));
    }

    fn is_closing(&self, now: When) -> Result<bool, Unclear> {
        match self.closed {
            Some(at) => now.is_within(CLOSING, at),
            None => Ok(false),
        }
    }

    fn control(
        &mut self,
        out: bool,
        control: Control,
        port: u32,
        now: When,
        epoch: u32,
    ) -> Result<(), Unclear> {
        let is_others = match &self.out.proof {
            Some(proof) => out && proof.port != port && self.out.holds(now, epoch)?,
            None => false,
        };
        if is_others {
            return Ok(());
        }
        self.out.proof = None;
        self.into.proof = None;
        self.closed = (control == Control::Close).then_some(now);
        Ok(())
    }

    fn proves(
        &mut self,
        out: bool,
        is_to_outside: bool,
        proof: Proof,
        now: When,
    ) -> Result<bool, Unclear> {
        let is_taken = match &self.out.proof {
            Some(old) => old.port != proof.port && self.out.holds(now, proof.epoch)?,
            None => false,
        };
        if is_taken || self.is_closing(now)? {
            return Ok(false);
        }
        let sender = if out { Opener::Pod } else { Opener::Peer };
        let is_first = self.out.proof.is_none() && self.into.proof.is_none();
        if self.out.is_forgotten(now)? && self.into.is_forgotten(now)? {
            let receiver = if out { Opener::Peer } else { Opener::Pod };
            let frame = &proof.before.frame;
            let opener = match frame.control() {
                _ if is_to_outside => Some(Opener::Pod),
                _ if frame.tuple(out).proto != PROTO_TCP => Some(sender),
                Control::Answer => Some(receiver),
                _ => None,
            };
            if is_first || opener.is_some() {
                self.opener = opener;
            }
        }
        self.answer_due = self.opener == Some(sender);
        if out
            && self
                .into
                .proof
                .as_ref()
                .is_some_and(|into| into.port != proof.port)
        {
            self.into.proof = None;
        }
        let half = if out { &mut self.out } else { &mut self.into };
        half.proof = Some(proof);
        half.awaited = false;
        Ok(true)
    }
}

fn place(tuple: &Tuple, path: Path) -> u32 {
    let direction = match path.is_out {
        true => Direction::Tx,
        false => Direction::Rx,
    };
    crossing::place(&tuple.key(), direction)
}

impl Tuple {
    /// As the table has it.
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey {
            local: self.local.0,
            remote: self.remote.0,
            local_port: self.local.1,
            remote_port: self.remote.1,
            proto: self.proto,
            pad: [0; 3],
        }
    }
}
