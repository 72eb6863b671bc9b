//! TCP: bulk, request and response, connect-request-close.

use std::io::{ErrorKind, Read as _, Write as _};
use std::iter;
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use flannel_tests::wait::uninterrupted;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{ReceiveTimeout, TcpCongestion};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::process::{Meter, let_the_reader_go_first};
use crate::job::{Job, Side, Traffic};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long `accept` waits before it looks whether the job is over.
const GLANCE_MS: i64 = 20;
const CHUNK: usize = 128 << 10;

/// The usual congestion control, whatever this machine prefers; accepted connections inherit it.
const CONGESTION: &str = "cubic";

pub(crate) fn listen() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("listen");
    setsockopt(&listener, TcpCongestion, &CONGESTION.into()).expect("choose cubic");
    setsockopt(&listener, ReceiveTimeout, &TimeVal::milliseconds(GLANCE_MS)).expect("a time-out");
    listener
}

fn connect(job: &Job) -> TcpStream {
    let to = SocketAddrV4::new(job.server, job.ports[0]);
    let stream = TcpStream::connect(to).unwrap_or_else(|e| panic!("connect to {to}: {e}"));
    prepare(&stream);
    stream
}

fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    stream.set_write_timeout(Some(TIMEOUT)).expect("a time-out");
}

/// One thread a connection, each sending until the time is over.
pub(crate) fn send_streams(job: &Job, connections: u32) -> Side {
    let meter = Meter::start();
    let until = Instant::now() + job.warm_up + job.time;
    let send = || {
        let_the_reader_go_first();
        let mut stream = connect(job);
        setsockopt(&stream, TcpCongestion, &CONGESTION.into()).expect("choose cubic");
        let chunk = vec![0x5a; CHUNK];
        while Instant::now() < until {
            stream.write_all(&chunk).expect("send");
        }
        stream.shutdown(Shutdown::Write).expect("end the stream");
        // The server closes when it has read everything.
        let _ = uninterrupted(|| stream.read(&mut [0]));
    };
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(send);
        }
    });
    Side {
        cpu: meter.with_softirq(),
        ..Side::default()
    }
}

pub(crate) fn request(job: &Job) -> Side {
    let mut stream = connect(job);
    transactions(job, || exchange(&mut stream))
}

pub(crate) fn connect_request_close(job: &Job) -> Side {
    transactions(job, || exchange(&mut connect(job)))
}

pub(crate) fn connect_close(job: &Job) -> Side {
    transactions(job, || drop(connect(job)))
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(&[1]).expect("send a request");
    stream.read_exact(&mut [0]).expect("receive the answer");
}

/// Repeats `transact` for the warm-up, and then counted.
pub(crate) fn transactions(job: &Job, mut transact: impl FnMut()) -> Side {
    let warm = Instant::now() + job.warm_up;
    while Instant::now() < warm {
        transact();
    }
    let (start, meter) = (Instant::now(), Meter::start());
    let mut count = 0;
    loop {
        transact();
        count += 1;
        let took = start.elapsed();
        if took >= job.time {
            return Side {
                count,
                seconds: took.as_secs_f64(),
                cpu: meter.with_softirq(),
                ..Side::default()
            };
        }
    }
}

pub(crate) fn serve(listener: &TcpListener, job: &Job, stop: &AtomicBool) -> Side {
    let meter = Meter::start();
    let side = match job.traffic {
        Traffic::TcpStream(_) => {
            let received = Received::new(job.warm_up);
            serve_each(listener, stop, |stream| received.read(stream));
            received.side()
        }
        Traffic::TcpRr => Side {
            count: serve_each(listener, stop, answer).iter().sum(),
            ..Side::default()
        },
        Traffic::TcpConnect => Side {
            count: iter::from_fn(|| accept(listener, stop)).map(|_| 1).sum(),
            ..Side::default()
        },
        _ => Side {
            count: iter::from_fn(|| accept(listener, stop)).map(answer).sum(),
            ..Side::default()
        },
    };
    Side {
        cpu: meter.own(),
        ..side
    }
}

fn serve_each<T: Send>(
    listener: &TcpListener,
    stop: &AtomicBool,
    serve: impl Fn(TcpStream) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let serve = &serve;
        let mut threads = Vec::new();
        while let Some(stream) = accept(listener, stop) {
            threads.push(scope.spawn(move || serve(stream)));
        }
        threads
            .into_iter()
            .map(|t| t.join().expect("a connection's thread"))
            .collect()
    })
}

/// `None` when the job is over.
fn accept(listener: &TcpListener, stop: &AtomicBool) -> Option<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                prepare(&stream);
                return Some(stream);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
            }
            Err(e) => panic!("accept: {e}"),
        }
    }
}

/// Sends every byte back, until the client closes. Returns how many.
fn answer(mut stream: TcpStream) -> u64 {
    let mut byte = [0];
    let mut count = 0;
    while uninterrupted(|| stream.read(&mut byte)).expect("receive a request") > 0 {
        stream.write_all(&byte).expect("answer");
        count += 1;
    }
    count
}

/// What arrived over all connections: in total, and between the end of the warm-up and the last byte.
#[derive(Debug)]
struct Received {
    warm_up: Duration,
    start: OnceLock<Instant>,
    bytes: AtomicU64,
    counted: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Received {
    fn new(warm_up: Duration) -> Self {
        Self {
            warm_up,
            start: OnceLock::new(),
            bytes: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// Reads one connection to its end.
    fn read(&self, mut stream: TcpStream) {
        let from = *self.start.get_or_init(Instant::now) + self.warm_up;
        let mut buffer = vec![0; 2 * CHUNK];
        let (mut bytes, mut counted, mut last) = (0, 0, None);
        loop {
            let got = uninterrupted(|| stream.read(&mut buffer)).expect("receive") as u64;
            if got == 0 {
                break;
            }
            bytes += got;
            let now = Instant::now();
            if now >= from {
                counted += got;
                last = Some(now);
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counted.fetch_add(counted, Ordering::Relaxed);
        let mut latest = self.last.lock().expect("no thread panicked");
        *latest = latest.max(last);
    }

    fn side(self) -> Side {
        let from = self.start.into_inner().map(|start| start + self.warm_up);
        let last = self.last.into_inner().expect("no thread panicked");
        let time = from.zip(last).map(|(from, last)| last - from);
        #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
        let counted = self.counted.into_inner() as f64;
        Side {
            bytes: self.bytes.into_inner(),
            bytes_per_second: time.map_or(0.0, |time| counted / time.as_secs_f64()),
            ..Side::default()
        }
    }
}
