//! bpf(2) by hand, for what aya has no call for.

use std::io;

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// What the command returns: a descriptor, or 0.
///
/// # Safety
/// Every pointer in `attr` that the command uses must lead to as many bytes, alive through the call, as the kernel
/// reads or writes there.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is of the size that is given; where it leads to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            &raw mut *attr,
            size_of::<bpf_attr>(),
        )
    };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn zeroed() -> bpf_attr {
    // SAFETY: every member is plain data, for which zeroes are a value; the kernel wants unused fields so.
    unsafe { std::mem::zeroed() }
}

pub(super) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
