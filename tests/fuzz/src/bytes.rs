//! Taking shared header types from the front of the input.

/// The next `T`, or `None` at the end of the input.
pub(crate) fn take<T: bytemuck::Pod>(input: &mut &[u8]) -> Option<T> {
    let (head, rest) = input.split_at_checked(size_of::<T>())?;
    *input = rest;
    Some(bytemuck::pod_read_unaligned(head))
}
