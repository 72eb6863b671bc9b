//! A server that tells every client as whom it came, and gives back what it was sent: who gets another's answer, notices.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::host::Host;
use crate::talk::outlast;
use crate::wait::uninterrupted;

/// What is asked and answered over TCP: 16 bytes, and the answer's six of address and port behind it.
const QUESTION: usize = 16;
const ANSWER: usize = QUESTION + 6;
const POLL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

/// UDP and TCP on one port, until dropped.
#[derive(Debug)]
pub struct Mirror {
    port: u16,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Mirror {
    /// On all addresses of `host`.
    pub fn on(host: &(impl Host + ?Sized), port: u16) -> Self {
        let any = (Ipv4Addr::UNSPECIFIED, port);
        let (udp, tcp) = host
            .netns()
            .enter(|| (UdpSocket::bind(any), TcpListener::bind(any)));
        let (udp, tcp) = (udp.expect("bind UDP"), tcp.expect("listen"));
        udp.set_read_timeout(Some(POLL)).expect("set a time-out");
        tcp.set_nonblocking(true).expect("switch blocking off");
        let end = Arc::new(AtomicBool::new(false));
        let (stop_udp, stop_tcp) = (Arc::clone(&end), Arc::clone(&end));
        let threads = vec![
            std::thread::spawn(move || reflect_datagrams(&udp, &stop_udp)),
            std::thread::spawn(move || reflect_streams(&tcp, &stop_tcp)),
        ];
        Self { port, end, threads }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A client's socket of either kind.
#[derive(Debug)]
pub enum Client {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Client {
    /// A UDP socket on `host`, bound to `port` (0: any), that talks to `to` only.
    pub fn udp(host: &(impl Host + ?Sized), port: u16, to: SocketAddrV4) -> Self {
        Self::bound(host, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), to)
    }

    /// The same, bound to an address as well.
    pub fn bound(host: &(impl Host + ?Sized), from: SocketAddrV4, to: SocketAddrV4) -> Self {
        let socket = host.netns().enter(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            io::Result::Ok(socket)
        });
        Self::Udp(socket.unwrap_or_else(|e| panic!("UDP from {from} to {to}: {e}")))
    }

    /// A TCP connection from `host` to `to`.
    ///
    /// # Errors
    /// When it is refused, or not there within 5 s.
    pub fn tcp(host: &(impl Host + ?Sized), to: SocketAddrV4) -> io::Result<Self> {
        let stream = host.netns().enter(|| {
            let stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        })?;
        Ok(Self::Tcp(stream))
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        let address = match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(stream) => stream.local_addr(),
        };
        address.expect("a bound address").port()
    }

    /// Asks, and returns as whom the server saw it.
    ///
    /// # Errors
    /// If there is no answer within 5 s.
    ///
    /// # Panics
    /// If the answer is to another's question.
    #[track_caller]
    pub fn try_ask(&mut self, number: u64) -> io::Result<SocketAddrV4> {
        let mut question = [0; QUESTION];
        question[..8].copy_from_slice(&number.to_be_bytes());
        question[8..].copy_from_slice(&(!number).to_be_bytes());
        let mut answer = [0; ANSWER];
        match self {
            Self::Udp(socket) => {
                socket.send(&question)?;
                let len = uninterrupted(|| socket.recv(&mut answer))?;
                assert_eq!(len, ANSWER, "an answer of another length");
            }
            Self::Tcp(stream) => {
                stream.write_all(&question)?;
                stream.read_exact(&mut answer)?;
            }
        }
        assert_eq!(
            answer[..QUESTION],
            question,
            "the answer to another's question"
        );
        Ok(decode(&answer))
    }

    /// Asks number 0 for as long as [`outlast`] says.
    #[track_caller]
    pub fn outlast(&mut self) {
        self.ask(0);
        outlast(|| {
            self.ask(0);
        });
    }

    /// The same where an answer must come.
    #[track_caller]
    pub fn ask(&mut self, number: u64) -> SocketAddrV4 {
        match self.try_ask(number) {
            Ok(seen) => seen,
            Err(error) => panic!("no answer to {number} from port {}: {error}", self.port()),
        }
    }
}

/// Whom the answer names: the bytes behind the question.
pub fn decode(answer: &[u8; ANSWER]) -> SocketAddrV4 {
    let at = |n: usize| answer[QUESTION + n];
    let port = u16::from_be_bytes([at(4), at(5)]);
    SocketAddrV4::new(Ipv4Addr::new(at(0), at(1), at(2), at(3)), port)
}

/// The answer to `question` from `client`.
pub fn encode(question: &[u8; QUESTION], client: SocketAddr) -> [u8; ANSWER] {
    let SocketAddr::V4(client) = client else {
        panic!("an IPv6 client");
    };
    let mut answer = [0; ANSWER];
    answer[..QUESTION].copy_from_slice(question);
    answer[QUESTION..QUESTION + 4].copy_from_slice(&client.ip().octets());
    answer[QUESTION + 4..].copy_from_slice(&client.port().to_be_bytes());
    answer
}

fn reflect_datagrams(socket: &UdpSocket, end: &AtomicBool) {
    let mut question = [0; QUESTION];
    while !end.load(Ordering::Relaxed) {
        if let Ok((QUESTION, client)) = uninterrupted(|| socket.recv_from(&mut question)) {
            // A client that is gone does not mind.
            let _ = socket.send_to(&encode(&question, client), client);
        }
    }
}

fn reflect_streams(listener: &TcpListener, end: &AtomicBool) {
    std::thread::scope(|scope| {
        while !end.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, client)) => {
                    scope.spawn(move || reflect_stream(stream, client, end));
                }
                Err(_) => std::thread::sleep(POLL / 10),
            }
        }
    });
}

fn reflect_stream(mut stream: TcpStream, client: SocketAddr, end: &AtomicBool) {
    let mut question = [0; QUESTION];
    let ready = stream.set_nonblocking(false).and(stream.set_nodelay(true));
    ready
        .and(stream.set_read_timeout(Some(POLL)))
        .expect("set up a stream");
    let mut filled = 0;
    while !end.load(Ordering::Relaxed) {
        match uninterrupted(|| stream.read(&mut question[filled..])) {
            Ok(0) => return,
            Ok(n) => filled += n,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return,
        }
        if filled == QUESTION {
            filled = 0;
            if stream.write_all(&encode(&question, client)).is_err() {
                return;
            }
        }
    }
}
