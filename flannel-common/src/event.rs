//! What the programs tell a listener about single packets.

use bytemuck::{Pod, Zeroable};

/// Bytes of the packet in an [`Event`]: tunnel headers, inner headers, and a little more. A power of two, so
/// that a mask tells the verifier how much is copied.
pub const HEAD: usize = 128;

/// One packet at the end of one program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    pub about: About,
    /// The packet as the program left it; behind [`About::caught`] bytes there is anything.
    pub head: [u8; HEAD],
}

/// What is known of the packet besides its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct About {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// The device whose hook the program is on.
    pub ifindex: u32,
    /// Length from the Ethernet header on, bytes.
    pub len: u32,
    /// Payload of each segment it stands for, bytes; 0: one packet.
    pub gso_size: u32,
    /// [`crate::program::Program`].
    pub program: u8,
    /// [`crate::reason::Reason`].
    pub reason: u8,
    /// Bytes of [`Event::head`] that are the packet's.
    pub caught: u8,
    pub pad: u8,
}

/// Who listens, and to what. All zero: nobody.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Listen {
    /// Monotonic nanoseconds up to which somebody listens, so that a listener that was killed costs nothing.
    pub until: u64,
    /// One packet in `mask` + 1 is reported; a power of two less one. Drops are all reported.
    pub mask: u32,
    /// Not 0: only drops.
    pub drops_only: u32,
}

const _: () = assert!(size_of::<Event>() == 152 && size_of::<Listen>() == 16);
// As numbers in an event.
const _: () = assert!(crate::reason::Reason::ALL.len() < 256 && HEAD < 256);
