//! The UDP socket: datagrams with their sender and TOS byte.

use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::sockopt::{IpRecvTos, ReusePort};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recvmsg,
    setsockopt, socket,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// No UDP payload is longer.
pub(super) const LONGEST: usize = 65_535;

#[derive(Debug)]
pub(super) struct Socket {
    udp: UdpSocket,
}

/// What came with a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram {
    pub(super) len: usize,
    pub(super) source: Ipv4Addr,
    pub(super) tos: u8,
}

impl Socket {
    /// Takes the port on all addresses. Never with `UDP_GRO`: the kernel would merge tunnel packets of
    /// other VNIs into datagrams that nobody can take apart.
    pub(super) fn bind(port: u16) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        // An agent for another network may have the port, too.
        setsockopt(&fd, ReusePort, &true)?;
        setsockopt(&fd, IpRecvTos, &true)?;
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        let udp = UdpSocket::from_std(fd.into())?;
        Ok(Self { udp })
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let receive = || receive(&self.udp, buffer);
        self.udp.async_io(Interest::READABLE, receive).await
    }
}

fn receive(udp: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(u8);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(
        udp.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let tos = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4Tos(tos) => Some(tos),
        _ => None,
    });
    let source = message.address.map(|address| address.ip());
    Ok(Datagram {
        len: message.bytes,
        source: source.unwrap_or(Ipv4Addr::UNSPECIFIED),
        tos: tos.unwrap_or_default(),
    })
}
