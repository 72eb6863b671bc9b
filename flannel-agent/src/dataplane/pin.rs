//! Descriptors of what is pinned, be it a map or a link: aya's own are used up by pinning, also when that fails, and with the last
//! descriptor of a link its program leaves the hook.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_cmd;

use super::syscall::{address, bpf, zeroed};

/// Opens what is pinned there.
pub(super) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = address(path.as_ptr());
    // SAFETY: `pathname` leads to a string that ends with a zero and lives through the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins what a descriptor is of.
pub(super) fn pin(fd: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = address(path.as_ptr());
    attr.__bindgen_anon_4.bpf_fd = fd.as_raw_fd().cast_unsigned();
    // SAFETY: `pathname` leads to a string that ends with a zero and lives through the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}
