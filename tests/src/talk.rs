//! A conversation that stays open: one byte there, the same byte back, as often as a test wants.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use flannel_common::outside::LASTING;

use crate::host::Host;
use crate::sockopt::{reset_at_end, set_tos};
use crate::wait::{SOON, uninterrupted};
use crate::{tcp, udp};

/// A byte that is not back by then is lost, as far as somebody asks who does not know.
const PATIENCE: Duration = Duration::from_millis(500);
/// One that has to come back may take this long on a busy machine.
const TRUST: Duration = SOON;

/// Rounds until the flow to the outside of which the first has begun is worth a proof.
pub fn outlast(mut round: impl FnMut()) {
    let since = Instant::now();
    while since.elapsed() < 2 * Duration::from_nanos(LASTING) {
        round();
    }
}

/// Over one TCP connection.
#[derive(Debug)]
pub struct Tcp {
    client: TcpStream,
    server: TcpStream,
}

impl Tcp {
    /// Connects `client` to `server` by way of `to`.
    #[track_caller]
    pub fn open(server: &tcp::Server, client: &(impl Host + ?Sized), to: SocketAddrV4) -> Self {
        let client = tcp::connect(client, to).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
        let server = server.accept();
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("send at once");
        }
        Self { client, server }
    }

    /// The client's port, which tells its flow from others.
    pub fn port(&self) -> u16 {
        self.client.local_addr().expect("a bound address").port()
    }

    /// As whom the server sees the client.
    pub fn seen(&self) -> SocketAddrV4 {
        v4(self.server.peer_addr())
    }

    /// Whom the client is to itself.
    pub fn client(&self) -> SocketAddrV4 {
        v4(self.client.local_addr())
    }

    /// There and back `rounds` times.
    #[track_caller]
    pub fn rounds(&mut self, rounds: usize) {
        let mut byte = [0];
        for round in 0..rounds {
            let sent = [round.to_le_bytes()[0]];
            self.client.write_all(&sent).expect("ask");
            self.server.read_exact(&mut byte).expect("the question");
            self.server.write_all(&byte).expect("answer");
            self.client.read_exact(&mut byte).expect("the answer");
            assert_eq!(byte, sent, "round {round}");
        }
    }

    /// The server says something that nobody has asked for.
    #[track_caller]
    pub fn push(&mut self) {
        let mut byte = [0];
        self.server.write_all(&[7]).expect("push");
        self.client.read_exact(&mut byte).expect("what is pushed");
        assert_eq!(byte, [7]);
    }

    /// See [`outlast`].
    #[track_caller]
    pub fn outlast(&mut self) {
        outlast(|| self.rounds(1));
    }

    /// The client gives up: a reset.
    pub fn reset(self) {
        reset_at_end(&self.client);
    }

    /// Ends both directions in the orderly way.
    pub fn close(mut self) {
        let mut rest = Vec::new();
        self.client
            .shutdown(std::net::Shutdown::Write)
            .expect("FIN");
        self.server
            .read_to_end(&mut rest)
            .expect("the client's FIN");
        drop(self.server);
        self.client
            .read_to_end(&mut rest)
            .expect("the server's FIN");
    }
}

fn v4(address: std::io::Result<std::net::SocketAddr>) -> SocketAddrV4 {
    match address.expect("a connected socket") {
        std::net::SocketAddr::V4(address) => address,
        std::net::SocketAddr::V6(address) => panic!("{address}"),
    }
}

/// Over one pair of UDP sockets.
#[derive(Debug)]
pub struct Udp {
    client: UdpSocket,
    server: UdpSocket,
}

impl Udp {
    /// From a new socket on `client` to `server` by way of `to`.
    pub fn open(server: udp::Server, client: &(impl Host + ?Sized), to: SocketAddrV4) -> Self {
        let client = udp::Server::on(client).into_socket();
        client.connect(to).expect("choose the destination");
        let server = server.into_socket();
        let talk = Self { client, server };
        talk.wait_at_most(PATIENCE);
        talk
    }

    fn wait_at_most(&self, patience: Duration) {
        for socket in [&self.client, &self.server] {
            socket
                .set_read_timeout(Some(patience))
                .expect("set a time-out");
        }
    }

    /// Whether one datagram gets there and its answer back.
    pub fn round(&self) -> bool {
        let mut byte = [0];
        if self.client.send(&[7]).is_err() {
            return false;
        }
        match uninterrupted(|| self.server.recv_from(&mut byte)) {
            Ok((_, from)) => {
                self.server.send_to(&byte, from).expect("answer");
                uninterrupted(|| self.client.recv(&mut byte)).is_ok()
            }
            Err(e) => {
                let kinds = [
                    ErrorKind::WouldBlock,
                    ErrorKind::TimedOut,
                    ErrorKind::ConnectionRefused,
                ];
                assert!(kinds.contains(&e.kind()), "{e}");
                false
            }
        }
    }

    #[track_caller]
    pub fn rounds(&self, rounds: usize) {
        self.wait_at_most(TRUST);
        for round in 0..rounds {
            assert!(self.round(), "round {round} was lost");
        }
        self.wait_at_most(PATIENCE);
    }

    /// Each sends so many to the other, whether or not one arrives.
    pub fn both_send(&self, datagrams: usize) {
        let client = self.client.local_addr().expect("bound");
        for _ in 0..datagrams {
            // An ICMP error of an earlier one is an error of this one.
            let _ = self.client.send(&[7]);
            let _ = self.server.send_to(&[7], client);
        }
    }

    /// See [`outlast`].
    #[track_caller]
    pub fn outlast(&self) {
        self.rounds(1);
        outlast(|| self.rounds(1));
    }

    /// The client's port and the server's.
    pub fn ports(&self) -> [u16; 2] {
        [&self.client, &self.server].map(|socket| socket.local_addr().expect("bound").port())
    }

    /// What the client sends from now on carries this TOS.
    #[track_caller]
    pub fn set_tos(&self, tos: u8) {
        set_tos(&self.client, tos);
    }

    /// The server moves: another socket answers from now on.
    pub fn moved_to(self, server: udp::Server) -> Self {
        let server = server.into_socket();
        server
            .set_read_timeout(Some(PATIENCE))
            .expect("set a time-out");
        Self { server, ..self }
    }
}
