//! Packet tests: one program, its own maps, one packet in; verdict, packet and counters out.

mod build;
pub mod cpu;
mod events;
mod fixture;
pub mod flows;
pub mod line;
mod node;
mod orders;
pub mod outside;
mod peers;
mod shares;
mod snat;
mod tables;
pub mod way;
pub mod world;

pub use build::{Inner, at, forwarded, outer, patched, vxlan};
pub use fixture::{Fixture, Outcome, Run};
pub use node::Node;

/// TC actions as the programs return them (`linux/pkt_cls.h`).
pub const UNSPEC: i32 = -1;
pub const SHOT: i32 = 2;
pub const REDIRECT: i32 = 7;
/// XDP actions (`linux/bpf.h`).
pub const XDP_DROP: i32 = 1;
pub const XDP_PASS: i32 = 2;
