//! Every packet that comes in by a device, whoever it is for.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::wait::uninterrupted;

/// Room for what arrives while the reader does not get a CPU.
const BUFFER: usize = 256 << 20;
/// How long a read waits.
const PATIENCE: Duration = Duration::from_millis(20);

/// A packet socket on one device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// On `device` of the calling thread's namespace.
    ///
    /// # Errors
    /// Without root, or if there is no such device.
    pub fn on(device: &str) -> io::Result<Self> {
        // Of no protocol at first: it would see other devices' packets until it is bound to this one.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None::<SockProtocol>,
        )?;
        setsockopt(&fd, RcvBufForce, &BUFFER)?;
        let patience = TimeVal::new(0, PATIENCE.subsec_micros().into());
        setsockopt(&fd, ReceiveTimeout, &patience)?;
        let mut address = nowhere();
        address.sll_family = narrow(libc::AF_PACKET);
        address.sll_protocol = narrow(libc::ETH_P_ALL).to_be();
        address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
        // SAFETY: the address lives through the call and its true size is passed.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                len_of::<libc::sockaddr_ll>(),
            )
        };
        match bound {
            0 => Ok(Self(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The next packet, as much of it as fits: its length. `None` for one that goes out.
    ///
    /// # Errors
    /// If none came for some milliseconds.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut from = nowhere();
        // An interruption is no silence: who ends at that would miss what waits.
        let len = uninterrupted(|| {
            let mut from_len = len_of::<libc::sockaddr_ll>();
            // SAFETY: buffer and address live through the call, and their true sizes are passed.
            let len = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            usize::try_from(len).map_err(|_| io::Error::last_os_error())
        })?;
        Ok((from.sll_pkttype != libc::PACKET_OUTGOING).then_some(len))
    }

    /// Sends a frame out of the device, as it is.
    ///
    /// # Errors
    /// If the device takes none.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::sys::socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Packets since the last call that did not fit into the buffer.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn lost(&self) -> io::Result<u32> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut len = len_of::<libc::tpacket_stats>();
        // SAFETY: the kernel writes at most `len` bytes to a live struct of that size.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        match result {
            0 => Ok(stats.tp_drops),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn nowhere() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn narrow(constant: libc::c_int) -> u16 {
    u16::try_from(constant).expect("constants of 16 bits")
}

/// As system calls want it.
pub(crate) fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("small")
}
