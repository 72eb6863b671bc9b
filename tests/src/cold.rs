//! Nodes that have forgotten their neighbours, and the first packet after that.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;

use crate::host::Host;
use crate::node::Node;
use crate::pod::Pod;
use crate::{tcp, udp};

/// What is sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Ping,
    Datagram,
    /// In six fragments, which all wait for the neighbour.
    LongDatagram,
    Connection,
}

/// A machine that stands still for a second has a SYN sent again that was not lost. One that is lost because nobody knows the
/// neighbour is lost each time.
const TRIES: usize = 3;

impl First {
    /// One of it from `client` to `server`, and the answer, each time after `forget`, by which nodes get cold.
    ///
    /// # Panics
    /// If either does not arrive, or not the first time.
    #[track_caller]
    pub fn reaches(self, forget: impl Fn(), client: &impl Host, server: &Pod) {
        self.reaches_at(forget, client, server, server.address());
    }

    /// The same for anybody at this address.
    ///
    /// # Panics
    /// As above.
    #[track_caller]
    pub fn reaches_at(
        self,
        forget: impl Fn(),
        client: &impl Host,
        server: &impl Host,
        address: Ipv4Addr,
    ) {
        let goes_at_once = (0..TRIES).any(|_| {
            forget();
            self.reaches_at_once(client, server, address)
        });
        assert!(goes_at_once, "the handshake took two tries");
    }

    /// Whether nothing had to be sent again; what nobody sends again arrives.
    #[track_caller]
    fn reaches_at_once(self, client: &impl Host, server: &impl Host, address: Ipv4Addr) -> bool {
        match self {
            Self::Ping => {
                client.ping(address).count(1).succeeds();
            }
            Self::Datagram => drop(udp::exchange(client, server, address, 100)),
            Self::LongDatagram => drop(udp::exchange(client, server, address, 8192)),
            Self::Connection => {
                let listener = tcp::Server::on(server);
                let to = SocketAddrV4::new(address, listener.port());
                let stream = tcp::connect(client, to).expect("connect");
                drop(listener.accept());
                return retransmitted(&stream) == 0;
            }
        }
        true
    }
}

/// Segments that a connection has sent again.
fn retransmitted(stream: &std::net::TcpStream) -> u32 {
    // SAFETY: all-zero bytes are a tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = crate::packet_socket::len_of::<libc::tcp_info>();
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

/// Empties every neighbour table of `host`: it has not talked to anybody for long. What is permanent stays: it is flannel's.
#[track_caller]
pub fn forget_everybody(host: &(impl Host + ?Sized)) {
    host.exec("ip neigh flush all");
}

/// Empties the neighbour table of the uplink, as for a node that has not sent there for long.
#[track_caller]
pub fn forget_neighbours(node: &Node) {
    // Entries that somebody still holds stay as failed ones, which is as cold.
    node.exec(&format!("ip neigh flush dev {}", Node::UPLINK));
}
