//! One direction of a flow, in words.

use flannel_common::crossing::Change;
use flannel_common::flow::{Direction, Flow, FlowKey, Step};
use flannel_common::globals::FAST_PATH_OFF;
use serde::Serialize;

use super::now::Now;

/// One direction.
#[derive(Debug, PartialEq, Serialize)]
pub(in crate::inspect) struct Way {
    pub(super) state: &'static str,
    /// Milliseconds since the stack last let a packet through.
    pub(super) verified_ms_ago: Option<u64>,
    /// The pod's port, once proven.
    pub(super) port_ifindex: Option<u32>,
    /// What the stack does to packets besides forwarding them.
    pub(super) change: Option<String>,
}

impl Way {
    pub(super) fn new(key: &FlowKey, flow: &Flow, direction: Direction, now: Now) -> Self {
        let half = match direction {
            Direction::Tx => &flow.tx,
            Direction::Rx => &flow.rx,
        };
        let alone = flow.decide(direction, now.tick, now.epoch, false);
        let state = match flow.step(key, direction, now.tick, now.epoch, now.setting) {
            Step::Fast | Step::Refresh => "fast",
            Step::Behind => "renewing",
            Step::Stack if half.verified == 0 => "-",
            Step::Stack if half.epoch != now.epoch => "old epoch",
            Step::Stack if now.setting.fast_path == FAST_PATH_OFF => "off",
            // Of TCP, the other direction may be what is missing.
            Step::Stack if alone != Step::Stack && !key.is_pod() => "one-way",
            Step::Stack => "expired",
        };
        // Wraps after 52 days, as the programs' own arithmetic.
        let ticks = u64::from(now.tick.wrapping_sub(half.verified));
        Self {
            state,
            verified_ms_ago: (half.verified != 0).then_some((ticks << 20) / 1_000_000),
            port_ifindex: (half.port != 0).then_some(half.port),
            change: change(&half.change),
        }
    }

    pub(super) fn text(&self) -> String {
        match self.verified_ms_ago {
            Some(ms) => format!("{} {}.{} s", self.state, ms / 1000, ms % 1000 / 100),
            None => self.state.to_owned(),
        }
    }
}

/// What is not plain forwarding, in words.
fn change(change: &Change) -> Option<String> {
    let mut words = Vec::new();
    if change.tos != change.tos_in {
        words.push(format!(
            "DSCP {} to {}",
            change.tos_in >> 2,
            change.tos >> 2
        ));
    }
    if change.mark != change.mark_in {
        words.push(format!("mark {:#x}", change.mark));
    }
    if change.priority != 0 {
        words.push(format!(
            "class {:x}:{:x}",
            change.priority >> 16,
            change.priority & 0xffff
        ));
    }
    (!words.is_empty()).then(|| words.join(", "))
}
