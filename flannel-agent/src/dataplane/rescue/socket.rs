//! The socket: datagrams, or packets in IPv4, with their sender and TOS byte.

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{IpRecvTos, Ipv4PacketInfo, ReusePort};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recvmsg,
    setsockopt, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dataplane::raw;
use crate::node::net::sockopt;

/// No packet is longer.
pub(super) const LONGEST: usize = 65_535;

#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
    is_raw: bool,
}

/// What came with a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datagram {
    /// Where in the buffer the payload begins, and where it ends.
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) source: Ipv4Addr,
    /// To which of this node's addresses it was sent.
    pub(super) destination: Ipv4Addr,
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
        let socket = Self::told_all(fd, false)?;
        let any = SockaddrIn::new(0, 0, 0, 0, port);
        bind(socket.fd.as_raw_fd(), &any)?;
        Ok(socket)
    }

    /// The same socket, for who sends from its port; it has to go with this one, for the kernel gives each that has the port its share.
    pub(super) fn sender(&self) -> io::Result<OwnedFd> {
        let fd = self.fd.get_ref().try_clone()?;
        // As the programs send: no DF, and no checksum.
        sockopt::set_ip(&fd, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        sockopt::set(&fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
        Ok(fd)
    }

    /// Of all packets in IPv4.
    pub(super) fn raw() -> io::Result<Self> {
        Self::told_all(raw::ipip()?, true)
    }

    fn told_all(fd: OwnedFd, is_raw: bool) -> io::Result<Self> {
        setsockopt(&fd, IpRecvTos, &true)?;
        setsockopt(&fd, Ipv4PacketInfo, &true)?;
        // With each datagram, how large its largest fragment was. Only the log wants it: not on kernels before 4.13.
        let _ = sockopt::set_ip(&fd, libc::IP_RECVFRAGSIZE, 1);
        // SAFETY: an `OwnedFd` is open, and the same one, for as long as it is owned; it is not handed out.
        let fd = unsafe { AsyncFd::register(fd) };
        Ok(Self {
            fd: fd.map_err(io::Error::from)?,
            is_raw,
        })
    }

    /// Has the kernel throw away what is not of these networks, and from one of these sources.
    pub(super) fn only(
        &self,
        vnis: Option<&BTreeSet<u32>>,
        sources: Option<&BTreeSet<Ipv4Addr>>,
    ) -> io::Result<()> {
        let mut filter = filter(vnis, sources)?;
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).map_err(io::Error::other)?,
            filter: filter.as_mut_ptr(),
        };
        self.set(libc::SO_ATTACH_FILTER, &program)
    }

    /// Takes everything again.
    pub(super) fn all(&self) -> io::Result<()> {
        self.set(libc::SO_DETACH_FILTER, &0)
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: the socket is open; the kernel reads `len` bytes of a value that lives across the call, and copies the
        // instructions to which a `sock_fprog` leads, as many as that says.
        let done = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let receive = |fd: &OwnedFd| receive(fd, buffer);
        let mut datagram = self.fd.async_io(Interest::READABLE, receive).await?;
        if self.is_raw {
            datagram.at = header(&buffer[..datagram.len]);
        }
        Ok(datagram)
    }
}

/// Classic BPF, `vnis` for packets that have one: it begins at the UDP header, and a load behind the end refuses the packet.
fn filter(
    vnis: Option<&BTreeSet<u32>>,
    sources: Option<&BTreeSet<Ipv4Addr>>,
) -> io::Result<Vec<libc::sock_filter>> {
    /// Behind the UDP header and the flags.
    const VNI: u32 = 8 + 4;
    /// The source in the IPv4 header, which the kernel still knows (`SKF_NET_OFF`).
    const SOURCE: u32 = libc::SKF_NET_OFF.cast_unsigned() + 12;
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const SHIFT_RIGHT: u32 = libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

    let instruction = |code: u32, value| -> io::Result<libc::sock_filter> {
        Ok(libc::sock_filter {
            code: u16::try_from(code).map_err(io::Error::other)?,
            jt: 0,
            jf: 0,
            k: value,
        })
    };
    let mut filter = Vec::new();
    if let Some(sources) = sources {
        filter.push(instruction(LOAD_WORD, SOURCE)?);
        for source in sources {
            // Goes on with the VNI, or with the next source.
            filter.push(libc::sock_filter {
                jf: 1,
                ..instruction(IF_EQUAL, source.to_bits())?
            });
            filter.push(instruction(libc::BPF_JMP | libc::BPF_JA, 0)?);
        }
        let end = filter.len() + 1;
        for (at, jump) in filter.iter_mut().enumerate().skip(2).step_by(2) {
            jump.k = u32::try_from(end - at - 1).map_err(io::Error::other)?;
        }
        filter.push(instruction(RETURN, 0)?);
    }
    let Some(vnis) = vnis else {
        filter.push(instruction(RETURN, u32::MAX)?);
        return Ok(filter);
    };
    filter.push(instruction(LOAD_WORD, VNI)?);
    // The VNI is in the upper three bytes.
    filter.push(instruction(SHIFT_RIGHT, 8)?);
    for vni in vnis {
        // Takes it, or goes on behind that.
        filter.push(libc::sock_filter {
            jf: 1,
            ..instruction(IF_EQUAL, *vni)?
        });
        filter.push(instruction(RETURN, u32::MAX)?);
    }
    filter.push(instruction(RETURN, 0)?);
    Ok(filter)
}

/// Bytes of the outer header, which a raw socket is told as well.
fn header(packet: &[u8]) -> usize {
    let words = packet.first().map_or(0, |first| first & 0xf);
    (usize::from(words) * 4).min(packet.len())
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = nix::cmsg_space!(u8, libc::c_int, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(
        fd.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let (mut tos, mut fragment, mut destination) = (None, None, None);
    for told in message.cmsgs()? {
        match told {
            ControlMessageOwned::Ipv4Tos(value) => tos = Some(value),
            // The header's address, in network order.
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                destination = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()));
            }
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
        at: 0,
        len: message.bytes,
        source: source.unwrap_or(Ipv4Addr::UNSPECIFIED),
        destination: destination.unwrap_or(Ipv4Addr::UNSPECIFIED),
        tos: tos.unwrap_or_default(),
        fragment,
    })
}
