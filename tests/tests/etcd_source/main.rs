//! The lease source against a real etcd. Case names (AL, ER, WA) are those of flannel's own unit tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers fail by panicking: that is where the backtrace comes from"
)]

mod acquire;
mod config;
mod follow;
mod keep;
mod reach;
mod support;
mod tls;
