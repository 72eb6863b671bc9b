//! Into the pair: a packet socket that speaks on `flgro.<VNI>`, and the message for packets too long.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use bytemuck::{Pod, Zeroable};
use flannel_common::Mac;
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip};
use nix::sys::socket::sockopt::Mark;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt,
    socket,
};

use super::networks::Network;
use super::partial::Unfinished;
use crate::base::checksum;
use crate::node::net::sockopt;

/// RFC 792: destination unreachable, fragmentation needed and DF set.
const TOO_LONG: [u8; 2] = [3, 4];
/// RFC 792: this much of the packet behind its header goes into the message.
const QUOTED: usize = 8;

/// What the kernel still has to do to a packet: its `struct virtio_net_hdr`, in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Offload {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Offload {
    pub(super) const NONE: Self = Self {
        flags: 0,
        gso_type: 0,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };
    /// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
    const NEEDS_CSUM: u8 = 1;
    /// `VIRTIO_NET_HDR_GSO_TCPV4`
    const GSO_TCPV4: u8 = 1;
    /// `VIRTIO_NET_HDR_GSO_ECN`: only the first segment has CWR.
    const GSO_ECN: u8 = 0x80;

    /// For TCP that its sender left to the device to cut up, and which therefore came here in one piece, whatever the MTU is.
    /// Of what size the sender's pieces were nobody tells a socket; those of `mtu` bytes pass wherever the packet goes.
    pub(super) fn cut_up(unfinished: Unfinished, packet: &[u8], mtu: u32) -> Option<Self> {
        const CWR: u8 = 0x80;
        let headers = unfinished.tcp_headers(packet)?;
        if packet.len() <= mtu as usize {
            return None;
        }
        let size = (mtu as usize)
            .checked_sub(headers)
            .filter(|size| *size > 0)?;
        let has_cwr = packet.get(unfinished.start + 13)? & CWR != 0;
        let ecn = if has_cwr { Self::GSO_ECN } else { 0 };
        Some(Self {
            flags: Self::NEEDS_CSUM,
            gso_type: Self::GSO_TCPV4 | ecn,
            hdr_len: u16::try_from(Eth::LEN + headers).ok()?,
            gso_size: u16::try_from(size).ok()?,
            csum_start: u16::try_from(Eth::LEN + unfinished.start).ok()?,
            csum_offset: u16::try_from(unfinished.offset).ok()?,
        })
    }
}

/// As what a packet arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) src_mac: Mac,
    /// netfilter's.
    pub(super) mark: u32,
}

#[derive(Debug)]
pub(super) struct Injector {
    packets: OwnedFd,
    /// What `packets` has.
    mark: Cell<u32>,
    icmp: OwnedFd,
}

impl Injector {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // No protocol: it only sends, and receives nothing.
        let packets = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        sockopt::set(&packets, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        Ok(Self {
            packets,
            mark: Cell::new(0),
            icmp: socket(
                AddressFamily::Inet,
                SockType::Raw,
                flags,
                SockProtocol::Icmp,
            )?,
        })
    }

    /// Pushes an IPv4 packet into the pair; it arrives at `flannel.<VNI>`.
    pub(super) fn send(
        &self,
        network: &Network,
        head: &Head,
        packet: &[u8],
        offload: &Offload,
    ) -> io::Result<()> {
        let eth = Eth {
            dst: network.mac,
            src: head.src_mac,
            ethertype: ETHERTYPE_IPV4,
        };
        let offload = bytemuck::bytes_of(offload);
        let frame = [offload, bytemuck::bytes_of(&eth), packet].concat();
        self.mark(head.mark)?;
        send_frame(&self.packets, network.gro_index, &frame)
    }

    /// With which mark it sends from now on.
    fn mark(&self, mark: u32) -> io::Result<()> {
        if self.mark.get() != mark {
            setsockopt(&self.packets, Mark, &mark)?;
            self.mark.set(mark);
        }
        Ok(())
    }

    /// Tells the sender of a packet that must not be fragmented how long it may be.
    pub(super) fn too_long(&self, mtu: u32, packet: &[u8]) -> io::Result<()> {
        let ip: Ip = bytemuck::pod_read_unaligned(&packet[..Ip::LEN]);
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let quoted = &packet[..packet.len().min(header + QUOTED)];
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let mut message = vec![TOO_LONG[0], TOO_LONG[1], 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend_from_slice(quoted);
        let check = checksum(&message);
        message[2..4].copy_from_slice(&check);
        let [a, b, c, d] = Ipv4Addr::from(ip.src).octets();
        let to = SockaddrIn::new(a, b, c, d, 0);
        sendto(self.icmp.as_raw_fd(), &message, &to, MsgFlags::empty())?;
        Ok(())
    }
}

fn send_frame(socket: &OwnedFd, index: u32, frame: &[u8]) -> io::Result<()> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    // SAFETY: sockaddr_ll is plain old data of integers; all zeroes is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = family;
    to.sll_ifindex = index;
    to.sll_protocol = u16::from_ne_bytes(ETHERTYPE_IPV4);
    let len = libc::socklen_t::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    // SAFETY: the socket is open; buffer and address are initialised, live across the call, and given
    // with their true lengths. The kernel only reads them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            len,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
