//! What a packet that came out behind the stack proves.

use super::opener::{PEER, POD};
use super::{Direction, Flow};
use crate::change::Change;
use crate::tick::Tick;

/// A packet came out behind the stack: what that says of its flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The epoch in which it went in.
    pub epoch: u32,
    /// The pod's port.
    pub port: u32,
    pub change: Change,
    /// Who sent first, if this is the first that is seen of the flow: a value of [`Flow::opener`].
    pub opener: u32,
}

impl Proof {
    /// Of a flow to the outside: only such are entered that a pod has opened, though the first packet that is proven may be an answer.
    #[inline(always)]
    #[must_use]
    pub const fn of_outside(self) -> Self {
        Self {
            opener: POD as u32,
            ..self
        }
    }
}

impl Flow {
    /// Whether a packet that came out behind the stack proves the direction now. While what a pod sends by one port is
    /// proven, nobody else's packets are: a pod that makes frames in another's name cannot take the flow over. Nor is what comes out
    /// of another port, where the bridge sends what is for the pod whose MAC somebody else's frame had last.
    #[inline(always)]
    pub const fn may_pass(&self, now: Tick, proof: &Proof) -> bool {
        let is_taken = self.tx.port != proof.port && self.tx.holds(now, proof.epoch);
        !self.is_closing(now) && !is_taken
    }

    /// A packet came out behind the stack. Returns whether that proves the direction.
    /// The caller has written the action before, for another CPU may act on the proof at once.
    pub const fn note_passed(&mut self, direction: Direction, now: Tick, proof: &Proof) -> bool {
        let may = self.may_pass(now, proof);
        if may {
            self.prove(direction, now, proof);
        }
        may
    }

    /// The same of one that [may](Self::may_pass).
    #[inline(always)]
    pub const fn prove(&mut self, direction: Direction, now: Tick, proof: &Proof) {
        self.note_opener(now, proof.opener);
        self.note_proof(direction, now, proof);
    }

    /// What a proof says but for who opened the flow.
    #[inline(always)]
    pub const fn note_proof(&mut self, direction: Direction, now: Tick, proof: &Proof) {
        let opener = match direction {
            Direction::Tx => POD,
            Direction::Rx => PEER,
        };
        // 1 if they are the same; a branch would be two ways on from here to the verifier.
        let differs = self.opener ^ opener;
        self.answer_due = 1 - ((differs | differs.wrapping_neg()) >> 7);
        match direction {
            // The bridge may have sent packets for the pod to all its ports, and there was but another one.
            Direction::Tx if self.rx.port != proof.port => self.note_flooded(),
            Direction::Tx => {}
            // Whoever delivered it need not be whom programs may believe in this epoch.
            Direction::Rx if self.rx.epoch != proof.epoch => self.rx_peer = [0; 4],
            Direction::Rx => {}
        }
        let half = self.half_mut(direction);
        half.port = proof.port;
        half.change = proof.change;
        half.epoch = proof.epoch;
        half.verified = now;
        half.probed = 0;
    }

    /// The same packet came out of a second port: the bridge does not know the MAC, and sends to all. Two ports are none.
    #[inline(always)]
    pub const fn note_flooded(&mut self) {
        self.rx.verified = 0;
        self.rx.port = 0;
    }
}
