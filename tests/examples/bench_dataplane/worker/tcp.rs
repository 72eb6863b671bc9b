//! TCP: bulk, request and response, connect-request-close.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{ReceiveTimeout, TcpCongestion};
use nix::sys::time::{TimeVal, TimeValLike as _};

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
    let until = Instant::now() + job.warm_up + job.time;
    let send = || {
        let mut stream = connect(job);
        setsockopt(&stream, TcpCongestion, &CONGESTION.into()).expect("choose cubic");
        let chunk = vec![0x5a; CHUNK];
        while Instant::now() < until {
            stream.write_all(&chunk).expect("send");
        }
        stream.shutdown(Shutdown::Write).expect("end the stream");
        // The server closes when it has read everything.
        let _ = stream.read(&mut [0]);
    };
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(send);
        }
    });
    Side::default()
}

pub(crate) fn request(job: &Job) -> Side {
    let mut stream = connect(job);
    transactions(job, || exchange(&mut stream))
}

pub(crate) fn connect_request_close(job: &Job) -> Side {
    transactions(job, || exchange(&mut connect(job)))
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
    let start = Instant::now();
    let mut count = 0;
    loop {
        transact();
        count += 1;
        let took = start.elapsed();
        if took >= job.time {
            return Side {
                count,
                seconds: took.as_secs_f64(),
                ..Side::default()
            };
        }
    }
}

pub(crate) fn serve(listener: &TcpListener, job: &Job, stop: &AtomicBool) -> Side {
    match job.traffic {
        Traffic::TcpStream(_) => {
            let sides = serve_each(listener, stop, |stream| receive(stream, job.warm_up));
            Side {
                bytes: sides.iter().map(|s| s.bytes).sum(),
                bytes_per_second: sides.iter().map(|s| s.bytes_per_second).sum(),
                ..Side::default()
            }
        }
        Traffic::TcpRr => {
            serve_each(listener, stop, answer);
            Side::default()
        }
        _ => {
            while let Some(stream) = accept(listener, stop) {
                answer(stream);
            }
            Side::default()
        }
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

/// Sends every byte back, until the client closes.
fn answer(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read(&mut byte).expect("receive a request") > 0 {
        stream.write_all(&byte).expect("answer");
    }
}

/// Reads to the end. The rate is that from the end of the warm-up to the last byte.
fn receive(mut stream: TcpStream, warm_up: Duration) -> Side {
    let mut buffer = vec![0; 2 * CHUNK];
    let (mut bytes, mut base) = (0, None);
    let start = Instant::now();
    let mut last = start;
    loop {
        let got = stream.read(&mut buffer).expect("receive");
        if got == 0 {
            break;
        }
        bytes += got as u64;
        last = Instant::now();
        if base.is_none() && last - start >= warm_up {
            base = Some((last, bytes));
        }
    }
    let (from, already) = base.unwrap_or((start, 0));
    #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
    let counted = (bytes - already) as f64;
    Side {
        bytes,
        bytes_per_second: counted / (last - from).as_secs_f64().max(f64::EPSILON),
        ..Side::default()
    }
}
