//! Raw sockets for IPv4 in IPv4: the kernel writes and reads the outer header, by routing table, firewall and IPsec.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use flannel_common::header::{Ip, PROTO_IPIP};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;

use crate::node::net::sockopt;

/// One that gets all packets of the protocol that the host's firewall lets in.
pub(super) fn ipip() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain values.
    let fd = unsafe { libc::socket(libc::AF_INET, kind, PROTO_IPIP.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One that only sends, never with "don't fragment": IPsec makes packets longer, and tells nobody but this socket how long they may
/// be. A kernel ipip device tells the pod.
pub(super) fn sending() -> io::Result<OwnedFd> {
    let fd = ipip()?;
    sockopt::set_ip(&fd, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
    // Nobody reads.
    setsockopt(&fd, RcvBuf, &0)?;
    Ok(fd)
}

/// What it sends next has the time to live of the packet inside, as a kernel ipip device's.
pub(super) fn inherit(socket: &impl AsRawFd, inner: &Ip) -> io::Result<()> {
    sockopt::set_ip(socket, libc::IP_TTL, inner.ttl.max(1).into())
}
