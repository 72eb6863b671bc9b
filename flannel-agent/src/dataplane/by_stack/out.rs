//! The socket that sends: one of its own, or that on the tunnel's port.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// The socket on the tunnel's port, as long as who holds it has it: a port that is given back is nobody's.
#[derive(Debug, Clone)]
pub(crate) struct Lent(Weak<OwnedFd>);

impl Lent {
    pub(crate) fn new(held: &Arc<OwnedFd>) -> Self {
        Self(Arc::downgrade(held))
    }
}

impl PartialEq for Lent {
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for Lent {}

#[derive(Debug)]
pub(super) enum Out {
    Own(Arc<OwnedFd>),
    Lent(Lent),
}

impl Out {
    /// # Errors
    /// If it was lent, and is closed.
    pub(super) fn get(&self) -> io::Result<Arc<OwnedFd>> {
        match self {
            Self::Own(socket) => Ok(Arc::clone(socket)),
            Self::Lent(Lent(socket)) => {
                (socket.upgrade()).ok_or_else(|| io::Error::other("the tunnel's port is not ours"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_goes_with_who_lent_it() {
        let socket = || {
            Arc::new(OwnedFd::from(
                std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
            ))
        };
        let (held, other) = (socket(), socket());
        let lent = Lent::new(&held);
        assert!(lent == Lent::new(&held) && lent != Lent::new(&other));
        let out = Out::Lent(lent);
        assert!(out.get().is_ok());
        drop(held);
        assert!(out.get().is_err());
    }
}
