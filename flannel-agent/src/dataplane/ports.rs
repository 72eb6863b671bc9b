//! Ports of the pod bridge: whether what the fast path does at one is all that the stack would do there.
//!
//! Past the stack a packet goes straight into the pod, or from there to the uplink. So a port that is down or
//! blocked, that shapes, or behind which there is no pod has to be known, and at once: [`Keeper`] listens for itself
//! and does not wait for the next look at everything.

mod judge;
mod keeper;

pub(crate) use keeper::{Keeper, Options};
