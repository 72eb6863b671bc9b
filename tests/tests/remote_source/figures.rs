//! What a server of five thousand clients costs: `cargo test -p flannel-tests --test remote_source -- --ignored --nocapture`.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flannel_tests::agent::binary;
use flannel_tests::process::Process;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};

use crate::support::{Net, PREFIX, call, eventually};

const CLIENTS: usize = 5000;

/// Waits for the answer to a long poll; tells when it is whole.
async fn client(
    address: SocketAddr,
    cursor: String,
    few: Arc<Semaphore>,
    all: Arc<Barrier>,
) -> Instant {
    let turn = few.acquire().await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /v1/_/leases?next={cursor} HTTP/1.1\r\nHost: server\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    // The head comes at once.
    let mut length = stream.read(&mut answer).await.unwrap();
    drop(turn);
    all.wait().await;
    while !answer[..length]
        .windows(10)
        .any(|it| it == b"\"cursor\":\"")
    {
        let read = stream.read(&mut answer[length..]).await.unwrap();
        assert!(read > 0, "the server lives");
        length += read;
    }
    Instant::now()
}

fn resident(process: &Process) -> u64 {
    let path = format!("/proc/{}/status", process.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|it| it.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn five_thousand_clients() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let net = Net::new().await;
    let address: SocketAddr = "127.0.0.1:18888".parse().unwrap();
    let program = std::env::var("FLANNEL_AGENT").unwrap_or_else(|_| binary());
    let mut command = Command::new(program);
    command
        .arg(format!("--listen={address}"))
        .arg(format!("--etcd-endpoints={}", net.etcd.url()))
        .arg(format!("--etcd-prefix={PREFIX}"));
    let folder = tempfile::tempdir().unwrap();
    let server = Process::spawn("server", command, &folder.path().join("log"));
    eventually("it listens", || async {
        TcpStream::connect(address).await.ok()
    })
    .await;
    for third in 1..250u8 {
        net.put_lease(third, third).await;
    }
    let (_, body) = call(address, "GET", "/v1/_/leases", "").await;
    let watched = flannel_agent::flannel::remote::Watched::from_json(body.as_bytes()).unwrap();
    println!(
        "{} leases, no client: {} MB",
        watched.snapshot.len(),
        resident(&server)
    );
    let few = Arc::new(Semaphore::new(100));
    let all = Arc::new(Barrier::new(CLIENTS + 1));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (few, all) = (Arc::clone(&few), Arc::clone(&all));
            tokio::spawn(client(address, watched.cursor.clone(), few, all))
        })
        .collect();
    all.wait().await;
    // With some blanks sent.
    tokio::time::sleep(Duration::from_secs(12)).await;
    println!(
        "{CLIENTS} clients: {} MB, {} watch of etcd",
        resident(&server),
        net.watchers().await
    );
    let start = Instant::now();
    net.put_lease(251, 251).await;
    let mut took = Vec::with_capacity(CLIENTS);
    for client in clients {
        took.push(client.await.unwrap().duration_since(start));
    }
    took.sort_unstable();
    println!(
        "one lease: {:?} for half of them, {:?} for all; {} MB",
        took[CLIENTS / 2],
        took[CLIENTS - 1],
        resident(&server)
    );
}
