//! Frames with the mark that netfilter gave them, which the kernel tells a socket that asks.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::node::net::sockopt;

/// Has each frame's mark come with it. A kernel before 5.19 tells none: frames go on without, rather than not at all.
pub(super) fn ask(socket: &impl AsRawFd) -> io::Result<()> {
    match sockopt::set(socket, libc::SOL_SOCKET, libc::SO_RCVMARK, 1) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            tracing::warn!(
                "GBP: this kernel tells no marks (5.19 does); packets to peers that IPsec or a rule is about go without"
            );
            Ok(())
        }
        outcome => outcome,
    }
}

/// A frame's length and mark: 0 on a socket that has not [asked](ask).
pub(super) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut control = nix::cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::empty())?;
    let mark = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::Unknown(other)
            if other.cmsg_header.cmsg_level == libc::SOL_SOCKET
                && other.cmsg_header.cmsg_type == libc::SO_MARK =>
        {
            let bytes = other.data_bytes.first_chunk();
            bytes.map(|bytes| u32::from_ne_bytes(*bytes))
        }
        _ => None,
    });
    Ok((message.bytes, mark.unwrap_or_default()))
}
