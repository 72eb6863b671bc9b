//! Packet tests: one program, its own maps, one packet in; verdict, packet and counters out.

mod build;
pub mod cpu;
mod events;
mod fixture;
pub mod flows;
pub mod line;
mod orders;
pub mod outside;
mod shares;
mod snat;
pub mod way;
pub mod world;

pub use build::{Inner, at, forwarded, outer, patched, vxlan};
pub use fixture::{Fixture, Node, Outcome, Run};

/// TC actions as the programs return them (`linux/pkt_cls.h`).
pub const UNSPEC: i32 = -1;
pub const SHOT: i32 = 2;
pub const REDIRECT: i32 = 7;
/// XDP actions (`linux/bpf.h`).
pub const XDP_DROP: i32 = 1;
pub const XDP_PASS: i32 = 2;
