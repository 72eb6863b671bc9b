//! Packets as bytes, out of a host's stack.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::host::Host;

/// Sends IPv4 packets, headers included, one after the other; the host's routes decide where to.
///
/// # Panics
/// If the kernel refuses one.
#[track_caller]
pub fn send(host: &(impl Host + ?Sized), packets: &[Vec<u8>]) {
    host.netns().enter(|| {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )
        .expect("a raw socket");
        for packet in packets {
            let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
            let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
            sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).expect("send a packet");
        }
    });
}
