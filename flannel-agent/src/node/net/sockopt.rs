//! Socket options that no crate of ours knows.

use std::io;
use std::os::fd::AsRawFd;

/// Sets an option of IPv4 (`IPPROTO_IP`) that is a number.
pub(crate) fn set_ip(
    socket: &impl AsRawFd,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, option, value)
}

/// Sets an option of any level that is a number.
pub(crate) fn set(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    const LEN: libc::socklen_t = 4;
    const { assert!(size_of::<libc::c_int>() == LEN as usize) };
    // SAFETY: the kernel reads one C int.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            LEN,
        )
    };
    match failed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
