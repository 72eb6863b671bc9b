//! What a client may cost that means no good, or knows no better.

use std::process::Command;

use flannel_agent::flannel::remote::Watched;
use flannel_tests::agent::binary;
use flannel_tests::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{CONFIG, Net, PREFIX, Served, call, eventually, options};

async fn connected(server: &Served, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(said.as_bytes()).await.unwrap();
    stream
}

/// Everything up to the end of the connection, however it ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn questions_in_one_go_are_answered_in_their_order() {
    let net = Net::new().await;
    net.put_lease(2, 2).await;
    let server = net.server().await;
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let put = "PUT /v1/_/leases/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
    let all = get("/v1/_/config", "")
        + &get("/v1/_/leases", "")
        + put
        + &get("/v1/_/leases", "")
        + &get("/v1/_/reservations", "Connection: close\r\n")
        + &get("/v1/_/config", "");
    let said = rest(connected(&server, &all).await).await;
    let heads: Vec<&str> = said.matches("HTTP/1.1 ").collect();
    assert_eq!(heads.len(), 5, "{said}");
    let places = [
        said.find(CONFIG),
        said.find("\"snapshot\""),
        said.find("no subnet"),
        said.rfind("\"snapshot\""),
        said.rfind("[{\"Subnet\":\"10.3.2.0/24\",\"PublicIP\""),
    ];
    assert!(
        places.is_sorted() && places[0].is_some(),
        "{places:?} in {said}"
    );
    assert!(places[1] < places[3], "{said}");
}

#[tokio::test]
async fn a_connection_goes_on_behind_an_answer_that_was_waited_for() {
    let net = Net::new().await;
    let server = net.server().await;
    let cursor = server.snapshot().await.cursor;
    let wait = format!("GET /v1/_/leases?next={cursor} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut stream = connected(&server, &wait).await;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut said).await.unwrap(), 0);
    }
    // More than is read ahead, before there is an answer.
    let padding = "x".repeat(200);
    let next = format!(
        "GET /v1/_/config HTTP/1.1\r\nHost: x\r\nX: {padding}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(next.as_bytes()).await.unwrap();
    net.put_lease(2, 2).await;
    let said = rest(stream).await;
    let (first, second) = said.split_once("\r\n0\r\n\r\n").unwrap();
    assert!(first.contains("10.3.2.0/24"), "{said}");
    assert!(second.starts_with("HTTP/1.1 200"), "{said}");
    assert!(second.ends_with(CONFIG), "{said}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let net = Net::new().await;
    let server = net.server().await;
    let one = format!("X: {}\r\n", "x".repeat(10_000));
    for more in [one, "X: x\r\n".repeat(200)] {
        let ask = format!("GET /v1/_/config HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        let said = rest(connected(&server, &ask).await).await;
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_refused_until_another_ends() {
    let net = Net::new().await;
    let mut options = options("127.0.0.1:0");
    options.connections = 2;
    let server = Served::start(&net.options(), options).await;
    let cursor = server.snapshot().await.cursor;
    let wait = format!("GET /v1/_/leases?next={cursor} HTTP/1.1\r\nHost: x\r\n\r\n");
    let waiting = || async {
        let mut stream = connected(&server, &wait).await;
        // It is refused as long as the one before it has not quite ended.
        let head = stream.read(&mut [0; 12]).await;
        head.is_ok_and(|read| read > 0).then_some(stream)
    };
    let _one = eventually("one waits", waiting).await;
    let other = eventually("another waits", waiting).await;
    let ask = "GET /v1/_/config HTTP/1.0\r\n\r\n";
    eventually("one is refused", || async {
        let said = rest(connected(&server, ask).await).await;
        said.is_empty().then_some(())
    })
    .await;
    drop(other);
    eventually("there is a place again", || async {
        let said = rest(connected(&server, ask).await).await;
        said.ends_with(CONFIG).then_some(())
    })
    .await;
}

/// The first of them have to go, and no node finds the door shut.
#[tokio::test]
async fn who_connects_and_says_nothing_keeps_nobody_out() {
    let net = Net::new().await;
    let mut options = options("127.0.0.1:0");
    options.connections = 2;
    let server = Served::start(&net.options(), options).await;
    let mut silent = Vec::new();
    // A byte is not much more.
    for said in ["", "G", "GET /", "", "G"] {
        silent.push(connected(&server, said).await);
        // The server, which is on the same thread, hears of it.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    let said = rest(connected(&server, "GET /v1/_/config HTTP/1.0\r\n\r\n").await).await;
    assert!(said.ends_with(CONFIG), "{said}");
    for stream in silent.drain(..4) {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test]
async fn who_has_all_places_from_one_address_keeps_no_other_out() {
    let net = Net::new().await;
    let mut options = options("127.0.0.1:0");
    options.connections = 3;
    let server = Served::start(&net.options(), options).await;
    let cursor = server.snapshot().await.cursor;
    let wait = format!("GET /v1/_/leases?next={cursor} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut waiting = Vec::new();
    while waiting.len() < 3 {
        let mut stream = connected(&server, &wait).await;
        // It is refused as long as the one of the snapshot has not quite ended.
        let head = stream.read(&mut [0; 12]).await;
        if head.is_ok_and(|read| read > 0) {
            waiting.push(stream);
        }
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(server.address).await.unwrap();
    let ask = "GET /v1/_/config HTTP/1.0\r\n\r\n";
    other.write_all(ask.as_bytes()).await.unwrap();
    let said = rest(other).await;
    assert!(said.ends_with(CONFIG), "{said}");
    // The one that waited longest has had to go.
    rest(waiting.remove(0)).await;
}

#[tokio::test]
async fn who_reads_no_answer_costs_next_to_nothing() {
    let net = Net::new().await;
    let padding = "x".repeat(4000);
    for third in 1..=200u8 {
        let value = format!(r#"{{"PublicIP":"192.0.2.9","BackendData":{{"x":"{padding}"}}}}"#);
        for half in [0, 128] {
            net.put(&format!("subnets/10.3.{third}.{half}-25"), &value)
                .await;
        }
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let process = server_at(&net, &listener, &folder.path().join("log"), &[]);
    let ask = || call(address, "GET", "/v1/_/leases", "");
    assert_eq!(ask().await.0, 200);
    let before = resident(&process);
    let mut silent = Vec::new();
    for round in 1..=4u8 {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = b"GET /v1/_/leases HTTP/1.1\r\nHost: server\r\n\r\n";
            stream.write_all(head).await.unwrap();
            // The head, so that the server has got to the answer.
            stream.read_exact(&mut [0; 12]).await.unwrap();
            silent.push(stream);
        }
        // The next ones are given another answer.
        net.put_lease(220 + round, round).await;
        let (status, text) = ask().await;
        assert_eq!((status, text.len() > 1_500_000), (200, true));
    }
    // 200 answers of 1.6 MB each, if each client had its own.
    let more = resident(&process).saturating_sub(before);
    assert!(more < 100 << 10, "{more} KiB");
}

/// Changes since a cursor are a text for each cursor: those who ask for them and read nothing are cut off when they have too much.
#[tokio::test]
async fn who_reads_no_changes_is_cut_off_before_the_memory_is_gone() {
    let net = Net::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let process = server_at(&net, &listener, &folder.path().join("log"), &[]);
    let cursor = || async {
        let (status, text) = call(address, "GET", "/v1/_/leases", "").await;
        assert_eq!(status, 200, "{text}");
        Watched::from_json(text.as_bytes()).unwrap().cursor
    };
    net.put_lease(1, 1).await;
    let first = cursor().await;
    net.put_lease(2, 2).await;
    let second = eventually("another cursor", || async {
        let now = cursor().await;
        (now != first).then_some(now)
    })
    .await;
    let padding = "x".repeat(30_000);
    for third in 10..=250u8 {
        let value = format!(r#"{{"PublicIP":"192.0.2.9","BackendData":{{"x":"{padding}"}}}}"#);
        let key = format!("subnets/10.3.{third}.0-24");
        net.put(&key, &value).await;
    }
    let last = "10.3.250.0/24";
    eventually("all is known", || async {
        let (_, text) = call(address, "GET", "/v1/_/leases", "").await;
        text.contains(last).then_some(())
    })
    .await;
    // 7 MB each, and the one is not the other.
    let wait = |cursor: &str| format!("GET /v1/_/leases?next={cursor} HTTP/1.0\r\n\r\n");
    let ask = |cursor: &str| {
        let head = wait(cursor);
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
            stream
        }
    };
    let whole = rest(ask(&first).await).await;
    let is_long = whole.len() > 6_000_000;
    assert!(is_long && whole.contains(last), "{} bytes", whole.len());
    let before = resident(&process);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(ask(&first).await);
        silent.push(ask(&second).await);
    }
    // 1.4 GB, if each had its own; what was freed the allocator may keep.
    let more = resident(&process).saturating_sub(before);
    assert!(more < 400 << 10, "{more} KiB");
    // Whoever reads is served all the same, and those who came last still may.
    assert!(rest(ask(&first).await).await.contains(last));
    let newest = rest(silent.pop().unwrap()).await;
    assert!(
        newest.contains(last) && newest.len() > 6_000_000,
        "{} bytes",
        newest.len()
    );
    let oldest = rest(silent.swap_remove(0)).await;
    assert!(!oldest.contains(last), "{} bytes", oldest.len());
    let said = process.log();
    assert_eq!(said.matches("of answers unread").count(), 1, "{said}");
}

/// A server that has the socket already, so that nobody else gets its port.
pub(crate) fn server_at(
    net: &Net,
    listener: &std::net::TcpListener,
    log: &std::path::Path,
    flags: &[String],
) -> Process {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let script = format!(
        "exec 3<&{}; export LISTEN_PID=$$ LISTEN_FDS=1; exec {} --listen=fd:// --etcd-endpoints={} \
         --etcd-prefix={PREFIX} {}",
        listener.as_raw_fd(),
        binary(),
        net.etcd.url(),
        flags.join(" "),
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]);
    Process::spawn("server", command, log)
}

/// Memory in KiB.
fn resident(process: &Process) -> u64 {
    let path = format!("/proc/{}/status", process.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
