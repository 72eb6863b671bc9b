//! A TCP handshake of which no segment was lost: sent and arrived are counted at both ends. One that was sent again without need,
//! because the first was late on a machine that stood still, arrives as well; one that had to be sent again lacks its first.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::host::Host;
use crate::packet_socket::len_of;
use crate::tcp;
use crate::wait::{SOON, eventually};

const TCP: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Headers with every option that there is.
const LONGEST: usize = 120;

/// Connects `client` with a server of its own on `server`, at this address of it.
///
/// # Panics
/// If it cannot, or a segment of the handshake has not arrived.
#[track_caller]
pub fn loses_nothing(client: &impl Host, server: &impl Host, address: Ipv4Addr) {
    let listener = tcp::Server::on(server);
    let port = listener.port();
    let asked = Arrivals::at(server, move |syn| syn.to == port && !syn.answers);
    let answered = Arrivals::at(client, move |syn| syn.from == port && syn.answers);
    let to = SocketAddrV4::new(address, port);
    let connecting = tcp::connect(client, to).expect("connect");
    let accepted = listener.accept();
    // What is late comes.
    let state = Cell::default();
    let all = || {
        let sent = [&connecting, &accepted].map(|end| 1 + retransmitted(end));
        let arrived = [asked.count(), answered.count()];
        state.set((sent, arrived));
        sent == arrived
    };
    let what = std::fmt::from_fn(|f| {
        let (sent, arrived) = state.get();
        write!(
            f,
            "SYN and its answer: sent {sent:?} times, arrived {arrived:?} times"
        )
    });
    eventually(what, SOON, all);
}

/// A segment that begins a connection.
#[derive(Debug, Clone, Copy)]
struct Syn {
    from: u16,
    to: u16,
    answers: bool,
}

impl Syn {
    /// None if the packet is another.
    fn read(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 15) * 4;
        let tcp = packet.get(header..).filter(|_| packet[9] == TCP)?;
        let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let flags = *tcp.get(13)?;
        (flags & SYN != 0).then_some(Self {
            from: port(0)?,
            to: port(2)?,
            answers: flags & ACK != 0,
        })
    }
}

/// Counts what a host's IP layer gets, once each, by whatever device it comes.
struct Arrivals<F> {
    socket: OwnedFd,
    is_wanted: F,
    seen: Cell<u32>,
}

impl<F: Fn(Syn) -> bool> Arrivals<F> {
    fn at(host: &impl Host, is_wanted: F) -> Self {
        let open = || {
            socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthIp,
            )
        };
        Self {
            socket: host.netns().enter(open).expect("a packet socket"),
            is_wanted,
            seen: Cell::new(0),
        }
    }

    /// So far.
    fn count(&self) -> u32 {
        let mut packet = [0; LONGEST];
        loop {
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(len) => {
                    if Syn::read(&packet[..len]).is_some_and(&self.is_wanted) {
                        self.seen.set(self.seen.get() + 1);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return self.seen.get(),
                Err(error) => panic!("a packet socket: {error}"),
            }
        }
    }
}

/// Segments that this end has sent again. A server's began before it was accepted, and count.
fn retransmitted(stream: &TcpStream) -> u32 {
    // SAFETY: all-zero bytes are a tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = len_of::<libc::tcp_info>();
    // SAFETY: the kernel writes at most `len` bytes, which `info` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "TCP_INFO");
    info.tcpi_total_retrans
}
