//! A server (`--listen`) and its clients: each waits in a long poll, and one lease changes. `FLANNEL_AGENT` names another build of
//! the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use flannel_tests::agent::binary;
use flannel_tests::prelude::*;
use flannel_tests::process::Process;
use flannel_tests::wait::{SOON, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::measure::peak_memory;

const PORT: u16 = 8888;
/// Clients that connect at the same time: a listener's backlog is short.
const AT_ONCE: usize = 100;
/// Changes, one after the other.
const ROUNDS: u8 = 5;
/// Before a change: long enough for a blank to each client, since most have had some.
const QUIET: Duration = Duration::from_secs(11);
/// The end of an answer in chunks.
const END: &[u8] = b"0\r\n\r\n";

/// What it took.
#[derive(Debug)]
pub(crate) struct Served {
    /// From the moment a lease is sent to etcd until the last client has heard of it.
    pub(crate) told: Vec<Duration>,
    /// The most memory the server ever had resident, in bytes.
    pub(crate) memory: u64,
    /// The same before the first client came.
    pub(crate) memory_before: u64,
}

/// Runs a server beside `node`'s etcd with so many clients.
pub(crate) fn serve(node: &Node, cluster: &Cluster<'_>, clients: usize) -> Served {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the number of files is known");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a soft limit may be raised");
    let folder = TempDir::new().expect("a folder for the log");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let program = std::env::var("FLANNEL_AGENT").unwrap_or_else(|_| binary());
    let mut command = node.netns().command(&program);
    command
        .arg(format!("--listen={address}"))
        .arg(format!("--etcd-endpoints={}", node.etcd()));
    let server = Process::spawn("server", command, &folder.path().join("log"));
    let snapshot = node.netns().enter(|| {
        eventually("the server listens", SOON, || {
            std::net::TcpStream::connect(address).is_ok()
        });
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(snapshot(address))
    });
    let memory_before = peak_memory(&server);
    let (waiting, wait) = mpsc::channel();
    let (hearing, heard) = mpsc::channel();
    let crowd = Crowd {
        address,
        few: Semaphore::new(AT_ONCE),
        all: Barrier::new(clients + 1),
        last: Mutex::new(None),
    };
    let told = std::thread::scope(|scope| {
        scope.spawn(|| {
            node.netns().enter(|| {
                let runtime = Builder::new_current_thread().enable_all().build();
                let gathered = gather(crowd, clients, &snapshot, waiting, hearing);
                runtime.expect("a runtime").block_on(gathered);
            });
        });
        cluster.rewriting(move |rewrite| {
            (1..=ROUNDS)
                .map(|generation| {
                    wait.recv().expect("the clients wait");
                    sleep(QUIET);
                    let began = Instant::now();
                    rewrite(u32::from(generation), generation);
                    let last: Instant = heard.recv().expect("all clients hear of it");
                    last.duration_since(began)
                })
                .collect()
        })
    });
    Served {
        told,
        memory: peak_memory(&server),
        memory_before,
    }
}

struct Crowd {
    address: SocketAddr,
    few: Semaphore,
    all: Barrier,
    /// When the last one heard.
    last: Mutex<Option<Instant>>,
}

/// The cursor of now, once the server knows all leases.
async fn snapshot(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server lives");
    let answer = ask(&mut stream, "").await;
    cursor(&read(&mut stream, answer).await)
}

async fn gather(
    crowd: Crowd,
    clients: usize,
    cursor: &str,
    waiting: mpsc::Sender<()>,
    hearing: mpsc::Sender<Instant>,
) {
    let crowd = Arc::new(crowd);
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(follow(Arc::clone(&crowd), cursor.to_owned()));
    }
    for _ in 0..ROUNDS {
        crowd.all.wait().await;
        waiting.send(()).expect("somebody changes the lease");
        crowd.all.wait().await;
        let last = crowd.last.lock().expect("nobody panicked").take();
        hearing.send(last.expect("all heard")).expect("he listens");
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no client failed");
    }
}

async fn follow(crowd: Arc<Crowd>, mut next: String) {
    let turn = crowd.few.acquire().await.expect("it is never closed");
    let stream = TcpStream::connect(crowd.address).await;
    let mut stream = stream.expect("the server takes all");
    let mut answer = ask(&mut stream, &next).await;
    drop(turn);
    for round in 1..=ROUNDS {
        crowd.all.wait().await;
        let whole = read(&mut stream, answer).await;
        *crowd.last.lock().expect("nobody panicked") = Some(Instant::now());
        next = cursor(&whole);
        crowd.all.wait().await;
        if round == ROUNDS {
            return;
        }
        answer = ask(&mut stream, &next).await;
    }
}

/// Asks what comes behind the cursor. The head, which comes at once, and what else is there of the answer.
async fn ask(stream: &mut TcpStream, next: &str) -> Vec<u8> {
    let ask = format!("GET /v1/_/leases?next={next} HTTP/1.1\r\nHost: server\r\n\r\n");
    let asked = stream.write_all(ask.as_bytes()).await;
    asked.expect("the server lives");
    let mut answer = Vec::with_capacity(1024);
    while !answer.windows(4).any(|it| it == b"\r\n\r\n") {
        let read = stream.read_buf(&mut answer).await;
        assert_ne!(read.expect("the server lives"), 0, "no head");
    }
    answer
}

async fn read(stream: &mut TcpStream, mut answer: Vec<u8>) -> Vec<u8> {
    while !answer.ends_with(END) {
        let read = stream.read_buf(&mut answer).await;
        assert_ne!(read.expect("the server lives"), 0, "no end");
    }
    answer
}

fn cursor(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let (_, behind) = text
        .rsplit_once(r#""cursor":""#)
        .expect("each answer has one");
    behind.split('"').next().unwrap_or_default().to_owned()
}
