//! UDP between hosts of the lab, from this process: datagrams are counted one by one.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::bytes::{assert_same, pattern};
use crate::host::Host;
use crate::wait::{self, SOON, uninterrupted};

const TIMEOUT: Duration = SOON;
/// A receiver looks again after so long without a datagram.
const SILENCE: Duration = Duration::from_millis(100);
/// Nothing so often in a row after the last was sent: no more will come. Looks and not seconds, of which a machine that stands
/// still has many in one look.
const LOOKS: u32 = 20;
const PACE: Duration = Duration::from_millis(1);
/// Bytes that wait in the receiver's socket: a busy machine may not let it run for seconds, and what then finds no
/// room would look like a loss on the way.
const ROOM: usize = 16 << 20;
/// The largest datagram that IPv4 carries fits.
const LARGEST: usize = 65_536;

/// A bound socket inside a host, on all addresses.
#[derive(Debug)]
pub struct Server {
    socket: UdpSocket,
    port: u16,
}

impl Server {
    /// Bound to a free port.
    pub fn on(host: &(impl Host + ?Sized)) -> Self {
        Self::on_port(host, 0)
    }

    pub fn on_port(host: &(impl Host + ?Sized), port: u16) -> Self {
        let socket = host
            .netns()
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
            .expect("bind a UDP socket");
        socket
            .set_read_timeout(Some(TIMEOUT))
            .expect("set a time-out");
        let port = socket.local_addr().expect("a bound address").port();
        Self { socket, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket, for what else a test does with it.
    pub fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// Sends one datagram from `client` to this server by way of `to`, and the same back; returns the
    /// client's address as the server saw it.
    ///
    /// # Panics
    /// If either does not arrive within [`SOON`], or arrives changed.
    #[track_caller]
    pub fn exchange(
        &self,
        client: &(impl Host + ?Sized),
        to: SocketAddrV4,
        bytes: usize,
    ) -> SocketAddr {
        let client = Self::on(client).socket;
        let payload = pattern(bytes);
        client
            .send_to(&payload, to)
            .unwrap_or_else(|e| panic!("{bytes} bytes to {to}: {e}"));
        let sender = receive(&self.socket, &payload, &format!("to {to}"));
        self.socket.send_to(&payload, sender).expect("answer");
        receive(&client, &payload, &format!("back from {to}"));
        sender
    }
}

#[track_caller]
fn receive(socket: &UdpSocket, expected: &[u8], way: &str) -> SocketAddr {
    let mut buffer = vec![0; LARGEST];
    let bytes = expected.len();
    let (n, sender) = uninterrupted(|| socket.recv_from(&mut buffer))
        .unwrap_or_else(|e| panic!("{bytes} bytes {way} did not arrive: {e}"));
    assert_same(expected, &buffer[..n], way);
    sender
}

/// One datagram of `bytes` from `client` to `server` at its address `to`, and back; returns the client's address
/// as the server saw it.
#[track_caller]
pub fn exchange(
    client: &(impl Host + ?Sized),
    server: &(impl Host + ?Sized),
    to: Ipv4Addr,
    bytes: usize,
) -> SocketAddr {
    let server = Server::on(server);
    server.exchange(client, SocketAddrV4::new(to, server.port), bytes)
}

/// A steady one-way flow of numbered datagrams, one each millisecond.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    /// How many were sent, once nothing is sent any more.
    ended: Arc<OnceLock<u64>>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What became of a [`Flow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub sent: u64,
    /// Numbers that did not arrive.
    pub lost: Vec<u64>,
    /// How many arrived after a later one.
    pub reordered: usize,
}

impl Flow {
    /// Starts sending from `client` to `server` by way of the server's address `to`.
    pub fn start(
        client: &(impl Host + ?Sized),
        server: &(impl Host + ?Sized),
        to: Ipv4Addr,
    ) -> Self {
        let Server { socket: tx, .. } = Server::on(client);
        let Server { socket: rx, port } = Server::on(server);
        tx.connect((to, port)).expect("choose the destination");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let mut n = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                // A full queue or a missing neighbour shows as a lost number.
                let _ = tx.send(&n.to_be_bytes());
                n += 1;
                std::thread::sleep(PACE);
            }
            n
        });
        rx.set_read_timeout(Some(SILENCE * wait::patience()))
            .expect("set a time-out");
        setsockopt(&rx, sockopt::RcvBufForce, &ROOM).expect("make room in a UDP socket");
        let ended = Arc::new(OnceLock::new());
        let over = ended.clone();
        let receiver = std::thread::spawn(move || receive_until(&rx, &over));
        Self {
            stop,
            ended,
            sender,
            receiver,
        }
    }

    /// Stops, waits until nothing more arrives, and counts.
    ///
    /// # Panics
    /// If one of its threads did.
    pub fn finish(self) -> Delivery {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender");
        // Not before: the sender may have waited for a CPU while the receiver heard nothing.
        self.ended.set(sent).expect("the only one who says so");
        let numbers = self.receiver.join().expect("the receiver");
        let mut seen = vec![false; usize::try_from(sent).expect("fits")];
        for n in &numbers {
            seen[usize::try_from(*n).expect("fits")] = true;
        }
        let lost = (0..sent).zip(&seen).filter(|(_, s)| !**s).map(|(n, _)| n);
        Delivery {
            sent,
            lost: lost.collect(),
            reordered: numbers.windows(2).filter(|w| w[0] > w[1]).count(),
        }
    }
}

/// Ends the flows, of which every datagram arrived.
#[track_caller]
pub fn assert_nothing_lost(flows: impl IntoIterator<Item = Flow>) {
    for flow in flows {
        flow.finish().assert_complete();
    }
}

/// Collects numbers until all are there that were sent by the `end`, or there is silence that began after it.
fn receive_until(socket: &UdpSocket, end: &OnceLock<u64>) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut different = HashSet::new();
    let mut buffer = [0; 8];
    let mut looks = 0;
    loop {
        let sent = end.get();
        if looks == LOOKS || sent.is_some_and(|sent| different.len() as u64 >= *sent) {
            return numbers;
        }
        match uninterrupted(|| socket.recv(&mut buffer)) {
            Ok(n) => {
                assert_eq!(n, buffer.len(), "a datagram of another length");
                numbers.push(u64::from_be_bytes(buffer));
                different.insert(u64::from_be_bytes(buffer));
                looks = 0;
            }
            Err(_) if sent.is_some() => looks += 1,
            // An outage; or the refusal of a port, which the next datagram shows to be over.
            Err(_) => {}
        }
    }
}

impl Delivery {
    /// # Panics
    /// If a datagram was lost, or none was sent.
    #[track_caller]
    pub fn assert_complete(&self) {
        assert!(self.sent > 0, "nothing was sent");
        assert!(
            self.lost.is_empty(),
            "{} of {} datagrams lost, among them {:?}; this machine's own backlogs have thrown away {} \
             packets since it booted",
            self.lost.len(),
            self.sent,
            &self.lost[..self.lost.len().min(10)],
            overrun()
        );
    }
}

/// Packets that waited for a CPU behind `net.core.netdev_max_backlog` others and were dropped, on any device: the
/// second column of `softnet_stat`. A machine that stands still for a second loses packets whoever forwards them.
fn overrun() -> u64 {
    let stat = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    stat.lines().filter_map(dropped).sum()
}
