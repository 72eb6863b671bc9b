//! UDP over any number of flows in turn.
//!
//! The flows are real: source ports with a socket each, times destination ports. Many are warmed by a job of its
//! own ([`Traffic::Fill`]), one by the job that uses it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flannel_agent::base::clock;
use flannel_tests::wait::uninterrupted;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use super::process::Meter;
use super::tcp::transactions;
use crate::job::{Job, Side, Traffic};

/// First byte of a datagram: send it back, or count it.
const ECHO: u8 = 1;
const COUNT: u8 = 2;

/// Ports do not change from job to job, so that the flows are the same.
const CLIENT_PORT: u16 = 10_000;
const SERVER_PORT: u16 = 9_000;
/// Client ports in use at most, within the usual limits of open files; more flows need more server ports.
const SOCKETS: u32 = 10_000;

/// Datagrams under way while the flows are warmed.
const WINDOW: usize = 64;
/// A warming datagram that is not back by then is lost.
const LOST: Duration = Duration::from_millis(500);
/// How long the server waits before it looks whether the job is over.
const GLANCE: Duration = Duration::from_millis(20);
/// How long the server lets counted datagrams pile up. Were it woken for each, the context switches would be
/// a good part of what is measured, whatever the dataplane.
const BREAK: Duration = Duration::from_millis(1);
/// Enough for what a sender sends before the receiver's turn on a shared core.
const RECEIVE_BUFFER: usize = 16 << 20;

fn server_ports(flows: u32) -> u16 {
    u16::try_from(flows.div_ceil(SOCKETS)).expect("not that many flows")
}

#[derive(Debug)]
struct Flow<'a> {
    socket: &'a UdpSocket,
    to: SocketAddr,
    connected: bool,
}

/// The client's sockets, and the server's ports they send to.
#[derive(Debug)]
struct Flows {
    sockets: Vec<UdpSocket>,
    to: Vec<SocketAddr>,
    next: usize,
}

impl Flows {
    fn open(job: &Job) -> Self {
        let ports = u32::from(server_ports(job.flows));
        let to = job.ports.iter();
        let to: Vec<SocketAddr> = to
            .map(|port| SocketAddrV4::new(job.server, *port).into())
            .collect();
        let sockets = (0..job.flows / ports).map(|n| {
            let port = CLIENT_PORT + u16::try_from(n).expect("at most SOCKETS");
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
                .unwrap_or_else(|e| panic!("bind UDP port {port}: {e}"));
            socket.set_read_timeout(Some(LOST)).expect("a time-out");
            if let [only] = to[..] {
                socket.connect(only).expect("connect a UDP socket");
            }
            socket
        });
        Self {
            sockets: sockets.collect(),
            to,
            next: 0,
        }
    }

    fn len(&self) -> usize {
        self.sockets.len() * self.to.len()
    }

    fn next(&mut self) -> Flow<'_> {
        let n = self.next;
        self.next = (n + 1) % self.len();
        self.get(n)
    }

    fn get(&self, n: usize) -> Flow<'_> {
        Flow {
            socket: &self.sockets[n % self.sockets.len()],
            to: self.to[n / self.sockets.len()],
            connected: self.to.len() == 1,
        }
    }

    /// One exchange over every flow.
    fn warm(&self) {
        let all: Vec<usize> = (0..self.len()).collect();
        for window in all.chunks(WINDOW) {
            for n in window {
                self.get(*n).send(&[ECHO]);
            }
            for n in window {
                self.get(*n).receive();
            }
        }
    }

    fn warm_for(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && self.len() == 1 {
            self.warm();
        }
    }
}

impl Flow<'_> {
    fn send(&self, bytes: &[u8]) {
        // A full device queue says ENOBUFS; the receiver's count tells.
        let _ = if self.connected {
            self.socket.send(bytes)
        } else {
            self.socket.send_to(bytes, self.to)
        };
    }

    /// Whether an answer came.
    fn receive(&self) -> bool {
        match uninterrupted(|| self.socket.recv(&mut [0; 8])) {
            Ok(_) => true,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => panic!("receive an answer from {}: {e}", self.to),
        }
    }
}

pub(crate) fn fill(job: &Job) -> Side {
    Flows::open(job).warm();
    Side::default()
}

pub(crate) fn request(job: &Job) -> Side {
    let mut flows = Flows::open(job);
    flows.warm_for(job.warm_up);
    let job = Job {
        warm_up: Duration::ZERO,
        ..job.clone()
    };
    transactions(&job, || {
        let flow = flows.next();
        flow.send(&[ECHO]);
        assert!(flow.receive(), "no answer from {}", flow.to);
    })
}

/// As fast as it can.
pub(crate) fn send(job: &Job, bytes: u16) -> Side {
    /// Datagrams between two looks at the clock.
    const BATCH: u64 = 16;
    let mut flows = Flows::open(job);
    flows.warm_for(job.warm_up);
    let datagram = vec![COUNT; usize::from(bytes)];
    let mut count = 0;
    let (first, start, meter) = (shared_clock(), Instant::now(), Meter::start());
    while start.elapsed() < job.time {
        for _ in 0..BATCH {
            flows.next().send(&datagram);
        }
        count += BATCH;
    }
    Side {
        count,
        first,
        cpu: meter.with_softirq(),
        ..Side::default()
    }
}

pub(crate) fn bind(job: &Job) -> Vec<UdpSocket> {
    let sockets = (SERVER_PORT..).take(usize::from(server_ports(job.flows)));
    let sockets = sockets.map(|port| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
            .unwrap_or_else(|e| panic!("bind UDP port {port}: {e}"));
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).expect("a large receive buffer");
        socket.set_read_timeout(Some(GLANCE)).expect("a time-out");
        socket
    });
    sockets.collect()
}

pub(crate) fn ports(sockets: &[UdpSocket]) -> Vec<u16> {
    let port = |s: &UdpSocket| s.local_addr().expect("a bound address").port();
    sockets.iter().map(port).collect()
}

/// One thread a socket.
pub(crate) fn serve(job: &Job, sockets: &[UdpSocket], stop: &AtomicBool) -> Side {
    let start = &OnceLock::new();
    let one_way = matches!(job.traffic, Traffic::UdpOneWay(_));
    if !one_way {
        start.get_or_init(Meter::start);
    }
    let side = thread::scope(|scope| {
        let serve = |socket| scope.spawn(move || receive(socket, stop, start));
        let threads: Vec<_> = sockets.iter().map(serve).collect();
        let sides = threads.into_iter().map(|t| t.join().expect("a thread"));
        sides.fold(Received::default(), |sum, side| Received {
            counted: sum.counted + side.counted,
            echoed: sum.echoed + side.echoed,
            last: sum.last.max(side.last),
        })
    });
    Side {
        count: if one_way { side.counted } else { side.echoed },
        last: side.last,
        cpu: start.get().map_or(0.0, |meter| meter.own()),
        ..Side::default()
    }
}

#[derive(Debug, Default)]
struct Received {
    counted: u64,
    echoed: u64,
    last: f64,
}

/// Until the job is over and nothing waits any more. `start` is set by the first datagram that counts.
fn receive(socket: &UdpSocket, stop: &AtomicBool, start: &OnceLock<Meter>) -> Received {
    let mut received = Received::default();
    let mut buffer = [0; 2048];
    let mut fresh = false;
    loop {
        match uninterrupted(|| socket.recv_from(&mut buffer)) {
            Ok((_, from)) if buffer[0] == ECHO => {
                received.echoed += 1;
                let _ = socket.send_to(&[ECHO], from);
            }
            Ok(_) => {
                if received.counted == 0 {
                    start.get_or_init(Meter::start);
                    socket.set_nonblocking(true).expect("no waiting");
                }
                received.counted += 1;
                fresh = true;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if fresh {
                    received.last = shared_clock();
                    fresh = false;
                }
                if stop.load(Ordering::Relaxed) {
                    return received;
                }
                if received.counted > 0 {
                    thread::sleep(BREAK);
                }
            }
            Err(e) => panic!("receive: {e}"),
        }
    }
}

/// The same for both sides, which are processes of one machine: seconds since it was started.
#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds matter: exact for centuries"
)]
fn shared_clock() -> f64 {
    (clock() / 1_000) as f64 * 1e-6
}
