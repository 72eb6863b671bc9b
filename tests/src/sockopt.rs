//! Socket options that the standard library does not have.

use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, RawFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;

use crate::packet_socket::len_of;

/// Its datagrams are never fragmented; what is too long for the path is an error instead.
#[track_caller]
pub fn whole_only(socket: &UdpSocket) {
    let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
    set(socket.as_raw_fd(), level, name, libc::IP_PMTUDISC_DO).expect("IP_MTU_DISCOVER");
}

/// Its datagrams say that they have no checksum.
#[track_caller]
pub fn without_checksum(socket: &UdpSocket) {
    let (level, name) = (libc::SOL_SOCKET, libc::SO_NO_CHECK);
    set(socket.as_raw_fd(), level, name, 1).expect("SO_NO_CHECK");
}

/// The TOS byte of its datagrams.
#[track_caller]
pub fn set_tos(socket: &UdpSocket, tos: u8) {
    set(
        socket.as_raw_fd(),
        libc::IPPROTO_IP,
        libc::IP_TOS,
        tos.into(),
    )
    .expect("IP_TOS");
}

/// Its end is a reset, and the kernel forgets the connection at once.
#[track_caller]
pub fn reset_at_end(stream: &TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, Linger, &at_once).expect("SO_LINGER");
}

/// What is sent at once leaves as datagrams of `bytes` each, cut up as late as possible (UDP GSO).
#[track_caller]
pub fn segmented(socket: &UdpSocket, bytes: u16) {
    let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
    set(socket.as_raw_fd(), level, name, bytes.into()).expect("UDP_SEGMENT");
}

fn set(fd: RawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option is an int, which lives through the call and whose size is passed.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            len_of::<libc::c_int>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
