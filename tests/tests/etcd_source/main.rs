//! The lease source against a real etcd. Case names (AL, ER, WA) are those of flannel's own unit tests.

#![cfg(test)]

mod acquire;
mod config;
mod follow;
mod keep;
mod lost_answers;
mod networks;
mod reach;
mod refused;
mod support;
mod tls;
