//! The agent's dataplane against a real kernel: one node in a namespace, started, disturbed, restarted.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

mod adoption;
mod anchor;
mod carry;
mod clsact;
mod drift;
mod fast_path;
mod first_start;
mod peers;
mod pins;
mod refused;
mod replacement;
mod rescue;
mod rig;
mod room;
mod snat;
mod snat_shares;
mod snat_sweep;
