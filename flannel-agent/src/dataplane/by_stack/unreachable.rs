//! What flannel's udp proxy says to who sends to nobody. It writes that to its device, where the kernel drops it: a packet that comes in
//! with an address of the node's own (`fib_validate_source`). Sent by a socket it arrives.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use flannel_common::udp::{self, Quoted};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// Tells the sender of `packet`, in the name of the device with the address `from`. Whether there was anything to say.
pub(super) fn answer(from: Ipv4Addr, packet: &[u8]) -> io::Result<bool> {
    let Some((to, message)) = message(from, packet) else {
        return Ok(false);
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // One that only sends, headers included. Rare enough to be opened each time.
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?;
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
    Ok(true)
}

fn message(from: Ipv4Addr, packet: &[u8]) -> Option<(SockaddrIn, Vec<u8>)> {
    let quoted = packet.get(..size_of::<Quoted>())?;
    let quoted: Quoted = bytemuck::pod_read_unaligned(quoted);
    let answer = udp::net_unreachable(from.octets(), &quoted)?;
    let [a, b, c, d] = quoted.ip.src;
    let message = [bytemuck::bytes_of(&answer), bytemuck::bytes_of(&quoted)].concat();
    Some((SockaddrIn::new(a, b, c, d, 0), message))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn the_sender_gets_his_header_and_eight_bytes_back() {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 9, 9], 63).udp(1000, 2000);
        builder.write(&mut packet, b"hello").unwrap();
        let (to, message) = message([10, 244, 1, 0].into(), &packet).unwrap();
        assert_eq!(to, SockaddrIn::new(10, 244, 1, 5, 0));
        assert_eq!(message.len(), 56);
        assert_eq!(message[8], 8, "time to live");
        assert_eq!(message[12..16], [10, 244, 1, 0]);
        assert_eq!(message[20..22], [3, 0], "net unreachable");
        assert_eq!(message[28..], packet[..28]);
        assert_eq!(super::message([10, 244, 1, 0].into(), &packet[..27]), None);
    }
}
