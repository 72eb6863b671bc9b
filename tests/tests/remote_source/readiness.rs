//! When a server says that it can answer.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use flannel_tests::agent::binary;
use flannel_tests::free_port::free_port;
use flannel_tests::gate::Gate;
use flannel_tests::process::Process;

use crate::support::{Net, PREFIX, call, eventually_within};

/// After a minute of silence it is not ready any more.
const LONG: Duration = Duration::from_mins(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_ready_once_etcd_has_answered_and_not_while_that_is_silent() {
    let net = Net::new().await;
    let gate = Gate::to(net.etcd.address()).await;
    gate.close();
    let folder = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let (port, health) = (free_port(), free_port());
    let mut command = Command::new(binary());
    command
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(format!("--etcd-endpoints={}", gate.url()))
        .arg(format!("--etcd-prefix={PREFIX}"))
        .args([
            "--healthz-ip=127.0.0.1".to_owned(),
            format!("--healthz-port={health}"),
        ]);
    let _server = Process::spawn("server", command, &folder.path().join("log"));
    let health = ([127, 0, 0, 1], health).into();
    let says = |status: u16, words: &'static str| async move {
        let said = || async {
            tokio::net::TcpStream::connect(health).await.ok()?;
            let (now, text) = call(health, "GET", "/readyz", "").await;
            (now == status && text.contains(words)).then_some(())
        };
        eventually_within(LONG, words, said).await;
    };
    says(503, "no etcd endpoint answers").await;
    let mut buffer = [0; 4096];
    let told = manager.recv(&mut buffer);
    assert!(told.is_err(), "systemd was told before etcd has answered");

    gate.open();
    says(200, "").await;
    let ready = || async {
        let mut buffer = [0; 4096];
        let read = manager.recv(&mut buffer).ok()?;
        buffer[..read].starts_with(b"READY=1").then_some(())
    };
    eventually_within(LONG, "systemd is told", ready).await;

    gate.close();
    says(503, "no etcd endpoint answers").await;
    gate.open();
    says(200, "").await;
}
