//! Map keys and values on their way to the kernel.

/// A shared type as aya wants it. `flannel-common` proves with bytemuck that its types have no padding;
/// this carries the proof over, so that no other `unsafe impl` is needed.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire<T>(pub T);

// SAFETY: bytemuck::Pod promises that every bit pattern is valid and that there is no padding, which is
// what aya asks for; `transparent` gives the wrapper the same layout.
unsafe impl<T: bytemuck::Pod> aya::Pod for Wire<T> {}
