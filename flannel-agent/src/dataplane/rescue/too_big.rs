//! What routers say of tunnel packets that do not fit, where those must not be fragmented: of IPv4 in IPv4, which has "don't fragment"
//! of the packet inside. A kernel ipip device passes it on (RFC 2003, section 4); here the agent does.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use bytemuck::pod_read_unaligned;
use flannel_common::header::{Ip, PROTO_IPIP};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::node::net::sockopt;

/// Of a message as much is looked at as it may quote.
const LONGEST: usize = 576;
const ICMP: usize = 8;
/// RFC 792: destination unreachable, fragmentation needed and DF set.
const TYPE: u8 = 3;
const CODE: u8 = 4;
/// No way carries less (RFC 791).
const LEAST: u32 = 68;

/// A socket for such messages.
#[derive(Debug)]
pub(super) struct TooBig(AsyncFd<OwnedFd>);

/// A packet of ours that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit<'a> {
    pub(super) outer: Ip,
    /// Its beginning.
    pub(super) packet: &'a [u8],
    /// How long it may be.
    pub(super) mtu: u32,
}

impl TooBig {
    pub(super) fn open() -> io::Result<Self> {
        /// `linux/icmp.h`: an option of the level `SOL_RAW`, with a bit for each type that is of no interest.
        const ICMP_FILTER: libc::c_int = 1;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(
            AddressFamily::Inet,
            SockType::Raw,
            flags,
            SockProtocol::Icmp,
        )?;
        sockopt::set(&fd, libc::IPPROTO_RAW, ICMP_FILTER, !(1 << TYPE))?;
        // SAFETY: an `OwnedFd` is open, and the same one, for as long as it is owned; it is not handed out.
        let fd = unsafe { AsyncFd::register(fd) };
        Ok(Self(fd.map_err(io::Error::from)?))
    }

    /// The next message, headers included.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        let receive = |fd: &OwnedFd| {
            let mut message = vec![0; LONGEST];
            let len = recv(fd.as_raw_fd(), &mut message, MsgFlags::empty())?;
            message.truncate(len);
            Ok(message)
        };
        self.0.async_io(Interest::READABLE, receive).await
    }
}

impl<'a> Misfit<'a> {
    /// `None` for what is about something else, or quotes too little.
    pub(super) fn of(message: &'a [u8]) -> Option<Self> {
        let (_, icmp) = split(message)?;
        let (head, quoted) = icmp.split_first_chunk::<ICMP>()?;
        let (outer, packet) = split(quoted)?;
        let (_, data) = split(packet)?;
        let mtu = u32::from(u16::from_be_bytes([head[6], head[7]]));
        let mtu = mtu.saturating_sub(flannel_common::ipip::OVERHEAD.into());
        let is = head[..2] == [TYPE, CODE]
            && outer.proto == PROTO_IPIP
            && data.len() >= ICMP
            && mtu >= LEAST;
        is.then_some(Self { outer, packet, mtu })
    }
}

/// A header, and what follows it.
fn split(packet: &[u8]) -> Option<(Ip, &[u8])> {
    let ip: Ip = pod_read_unaligned(packet.get(..Ip::LEN)?);
    let len = usize::from(ip.version_ihl & 0xf) * 4;
    let rest = packet.get(len..).filter(|_| ip.is_ipv4())?;
    Some((ip, rest))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    /// As a router says it of a packet of `proto`.
    fn message(proto: IpNumber, mtu: u16, quotes: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 2, 7], 63).udp(1000, 2000);
        builder.write(&mut packet, &[7; 100]).unwrap();
        let len = packet.len().try_into().unwrap();
        let outer = Ipv4Header::new(len, 63, proto, [192, 0, 2, 1], [192, 0, 2, 2]).unwrap();
        let mut quoted = [&outer.to_bytes()[..], &packet].concat();
        quoted.truncate(quotes);
        let len = (8 + quoted.len()).try_into().unwrap();
        let ip = Ipv4Header::new(len, 64, IpNumber::ICMP, [192, 0, 2, 254], [192, 0, 2, 1]);
        let [high, low] = mtu.to_be_bytes();
        let head = [3, 4, 0, 0, 0, 0, high, low];
        [&ip.unwrap().to_bytes()[..], &head, &quoted].concat()
    }

    #[test]
    fn what_a_router_says_is_about_the_packet_inside() {
        let message = message(IpNumber::IPV4, 1400, 548);
        let told = Misfit::of(&message).unwrap();
        assert_eq!((told.outer.dst, told.mtu), ([192, 0, 2, 2], 1380));
        assert_eq!(told.packet.len(), 128);
        assert_eq!(told.packet[12..20], [10, 244, 1, 5, 10, 244, 2, 7]);
    }

    #[test]
    fn other_messages_are_none() {
        let is = |message: &[u8]| Misfit::of(message).is_some();
        let whole = message(IpNumber::IPV4, 1400, 48);
        assert!(is(&whole), "as much as it takes");
        for len in 0..whole.len() {
            assert!(!is(&whole[..len]), "{len}");
        }
        assert!(!is(&message(IpNumber::UDP, 1400, 548)));
        assert!(!is(&message(IpNumber::IPV4, 0, 548)), "an old router");
        let mut other = message(IpNumber::IPV4, 1400, 548);
        other[21] = 1;
        assert!(!is(&other));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Misfit::of(&bytes);
        }
    }
}
