//! Packets as bytes, out of a host's stack.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::host::Host;
use crate::wait::uninterrupted;

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

/// A socket for packets of one IP protocol, whatever it is; the kernel makes the IPv4 header.
#[derive(Debug)]
pub struct RawIp(UdpSocket);

impl RawIp {
    #[track_caller]
    pub fn open(host: &(impl Host + ?Sized), protocol: u8) -> Self {
        let open = || {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            // SAFETY: plain numbers.
            unsafe { libc::socket(libc::AF_INET, kind, protocol.into()) }
        };
        let fd = host.netns().enter(open);
        assert!(fd >= 0, "a raw socket: {}", std::io::Error::last_os_error());
        // SAFETY: just opened, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Of what std has for UDP only calls are used that any datagram socket of IPv4 knows.
        let socket = UdpSocket::from(fd);
        let patience = Some(Duration::from_secs(5));
        socket.set_read_timeout(patience).expect("set a time-out");
        Self(socket)
    }

    #[track_caller]
    pub fn send(&self, payload: &[u8], to: Ipv4Addr) {
        self.0
            .send_to(payload, (to, 0))
            .unwrap_or_else(|e| panic!("{} bytes to {to}: {e}", payload.len()));
    }

    /// The next packet without its IPv4 header, or the failure of a test.
    #[track_caller]
    pub fn receive(&self) -> Vec<u8> {
        let mut packet = vec![0; 65_536];
        let len = uninterrupted(|| self.0.recv(&mut packet)).expect("a packet within 5 s");
        let header = usize::from(packet[0] & 0xf) * 4;
        packet[header..len].to_vec()
    }
}
