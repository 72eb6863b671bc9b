//! Which network namespace this thread is in.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::NetError;

/// `asm-generic/socket.h`, kernel 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A number that no other network namespace has until the next boot. (Before kernel 5.14 its inode, which a
/// namespace made later may get again.)
///
/// # Errors
/// No `/proc`.
pub fn namespace() -> Result<u64, NetError> {
    cookie().or_else(|_| {
        let file = std::fs::metadata("/proc/thread-self/ns/net");
        file.map(|file| file.ino())
            .map_err(|error| NetError::io("find out the network namespace".to_owned(), &error))
    })
}

fn cookie() -> io::Result<u64> {
    let socket = any_socket()?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::from(8_u8);
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket of this thread's network namespace, for what can be asked of any.
pub(super) fn any_socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Inet, SockType::Datagram);
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_on_every_thread() {
        let here = namespace().unwrap();
        let there = std::thread::spawn(|| namespace().unwrap()).join().unwrap();
        assert_eq!(here, there);
        assert_ne!(here, 0);
    }
}
