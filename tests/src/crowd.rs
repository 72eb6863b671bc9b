//! Thousands of TCP connections at once, all open until the end.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::host::Host;
use crate::mirror::{decode, encode};
use crate::process::Process;
use crate::wait::{SOON, eventually};

/// Connections that are being opened at the same time: a listener's backlog is short.
const AT_ONCE: usize = 200;
/// What the server says when it does.
const LISTENING: &str = "listening";

/// Clients on several hosts, and the server they all talk to.
#[derive(Debug)]
pub struct Crowd {
    runtime: Runtime,
    members: Vec<Member>,
    _server: Process,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    number: u64,
    seen: SocketAddrV4,
}

impl Crowd {
    /// Runs `program` (see [`serve`]) on `server`, where `to` is, with its output in the folder `log`; opens `each`
    /// connections from each of `clients`.
    ///
    /// # Panics
    /// If one cannot be opened, or hears another's answer.
    pub fn gather(
        (server, program, log): (&impl Host, &str, &Path),
        to: SocketAddrV4,
        clients: &[&impl Host],
        each: usize,
    ) -> Self {
        allow_files();
        let runtime = runtime();
        let mut command = server.netns().command(program);
        command.arg(to.port().to_string());
        let log = log.join("reflect.log");
        let server = Process::spawn("reflect", command, &log);
        eventually("the server listens", SOON, || {
            server.log().contains(LISTENING)
        });
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let mut joins = Vec::new();
        for (number, socket) in (0..).zip(open_sockets(clients, each)) {
            let gate = Arc::clone(&gate);
            joins.push(runtime.spawn(async move {
                let _turn = gate.acquire().await.expect("never closed");
                let socket = TcpSocket::from_std_stream(socket);
                let mut stream = socket
                    .connect(to.into())
                    .await
                    .unwrap_or_else(|e| panic!("connection {number}: {e}"));
                let seen = ask(&mut stream, number).await;
                Member {
                    stream,
                    number,
                    seen,
                }
            }));
        }
        let members = runtime.block_on(async {
            let mut members = Vec::new();
            for join in joins {
                members.push(join.await.expect("a member of the crowd"));
            }
            members
        });
        Self {
            runtime,
            members,
            _server: server,
        }
    }

    /// As whom the server saw each.
    pub fn seen(&self) -> Vec<SocketAddrV4> {
        self.members.iter().map(|member| member.seen).collect()
    }

    /// Asks again on every connection.
    ///
    /// # Panics
    /// If one is dead, hears another's answer, or is seen as somebody else than before.
    pub fn all_still_talk(mut self) {
        self.runtime.block_on(async {
            for member in &mut self.members {
                let seen = ask(&mut member.stream, member.number).await;
                assert_eq!(seen, member.seen, "connection {}", member.number);
            }
        });
        // Drop every connection at once; nobody waits for their ends.
        self.runtime.shutdown_background();
    }
}

/// Unconnected sockets: each belongs to the namespace of the thread that made it, whoever uses it.
fn open_sockets(clients: &[&impl Host], each: usize) -> Vec<std::net::TcpStream> {
    let mut sockets = Vec::new();
    for client in clients {
        sockets.extend(client.netns().enter(|| {
            (0..each)
                .map(|_| {
                    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None);
                    std::net::TcpStream::from(socket.expect("a socket"))
                })
                .collect::<Vec<_>>()
        }));
    }
    sockets
}

async fn ask(stream: &mut TcpStream, number: u64) -> SocketAddrV4 {
    let mut question = [0; 16];
    question[..8].copy_from_slice(&number.to_be_bytes());
    question[8..].copy_from_slice(&(!number).to_be_bytes());
    let mut answer = [0; 22];
    stream
        .write_all(&question)
        .await
        .unwrap_or_else(|e| panic!("question on connection {number}: {e}"));
    stream
        .read_exact(&mut answer)
        .await
        .unwrap_or_else(|e| panic!("answer on connection {number}: {e}"));
    assert_eq!(
        answer[..16],
        question,
        "another's answer on connection {number}"
    );
    decode(&answer)
}

/// The server's program: reflects what is asked on the port that is its only argument, until it is killed.
///
/// # Panics
/// If it cannot listen.
pub fn serve() {
    allow_files();
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.expect("a port as the only argument");
    let runtime = runtime();
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        let listener = listener.expect("listen");
        println!("{LISTENING} on port {port}");
        loop {
            let (stream, client) = listener.accept().await.expect("accept");
            tokio::spawn(reflect(stream, client));
        }
    });
}

async fn reflect(mut stream: TcpStream, client: SocketAddr) {
    let mut question = [0; 16];
    while stream.read_exact(&mut question).await.is_ok() {
        let answer = encode(&question, client);
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// As many open files as are allowed at all.
fn allow_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit of open files");
}
