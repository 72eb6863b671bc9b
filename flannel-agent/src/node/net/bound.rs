//! How long the kernel has for an answer on a socket that blocks: one that is lost must not hold up a thread for ever.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::LONGEST;

/// Limits the waits of a socket: [`received`] then ends.
pub(super) fn limit(socket: &impl AsFd) -> io::Result<()> {
    let wait = TimeVal::milliseconds(i64::try_from(LONGEST.as_millis()).unwrap_or(i64::MAX));
    Ok(setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &wait)?)
}

/// What such a socket receives.
pub(super) fn received<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            // A time-out makes the call end also when the process was stopped and goes on (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Errno::ETIMEDOUT.into());
            }
            received => return received,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn a_socket_that_blocks_has_a_limit() {
        let (socket, _other) = UnixDatagram::pair().unwrap();
        limit(&socket).unwrap();
        let set = getsockopt(&socket, sockopt::ReceiveTimeout).unwrap();
        assert_eq!(set.num_seconds().cast_unsigned(), LONGEST.as_secs());
        socket.set_nonblocking(true).unwrap();
        let late = received(|| socket.recv(&mut [0]));
        assert_eq!(
            late.unwrap_err().raw_os_error(),
            Some(Errno::ETIMEDOUT as i32)
        );
        let mut calls = 0;
        let stopped = received(|| {
            calls += 1;
            match calls {
                1 => Err(io::ErrorKind::Interrupted.into()),
                _ => Ok(calls),
            }
        });
        assert_eq!(stopped.unwrap(), 2);
    }
}
