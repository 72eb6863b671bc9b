//! What the packet tests and the end-to-end scenarios are built from.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic, to keep their backtraces"
)]

pub mod packet;
