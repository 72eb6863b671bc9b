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

use crate::net::sockopt;

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
    /// Bytes of the largest IPv4 packet that it came in, if it came in several.
    pub(super) fragment: Option<u32>,
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
        // With each datagram, how large its largest fragment was. Only the log wants it: not on kernels before 4.13.
        let _ = sockopt::set_ip(&fd, libc::IP_RECVFRAGSIZE, 1);
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
    let mut control = nix::cmsg_space!(u8, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(
        udp.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let (mut tos, mut fragment) = (None, None);
    for told in message.cmsgs()? {
        match told {
            ControlMessageOwned::Ipv4Tos(value) => tos = Some(value),
            ControlMessageOwned::Unknown(other)
                if other.cmsg_header.cmsg_level == libc::IPPROTO_IP
                    && other.cmsg_header.cmsg_type == libc::IP_RECVFRAGSIZE =>
            {
                let bytes = other.data_bytes.first_chunk();
                fragment = bytes.map(|bytes| u32::from_ne_bytes(*bytes));
            }
            _ => {}
        }
    }
    let source = message.address.map(|address| address.ip());
    Ok(Datagram {
        len: message.bytes,
        source: source.unwrap_or(Ipv4Addr::UNSPECIFIED),
        tos: tos.unwrap_or_default(),
        fragment,
    })
}
