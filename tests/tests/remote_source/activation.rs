//! A socket that systemd opened: clients may connect before the server runs, and while it is restarted.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;

use flannel_tests::agent::binary;
use flannel_tests::process::Process;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::support::{CONFIG, Net, PREFIX, call};

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_is_taken_over() {
    let net = Net::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let number = listener.as_raw_fd();
    let folder = tempfile::tempdir().unwrap();
    for listen in ["fd://", "fd://3"] {
        // systemd's way: sockets from 3 on, and the number of the process that they are for.
        let script = format!(
            "exec 3<&{number}; export LISTEN_PID=$$ LISTEN_FDS=1; exec {} --listen={listen} \
             --etcd-endpoints={} --etcd-prefix={PREFIX}",
            binary(),
            net.etcd.url(),
        );
        let mut command = Command::new("bash");
        command.args(["-c", &script]);
        let log = folder.path().join("log");
        // Asked before there is anybody to answer.
        let asked = tokio::spawn(call(address, "GET", "/v1/_/config", ""));
        let mut server = Process::spawn("server", command, &log);
        assert_eq!(asked.await.unwrap(), (200, CONFIG.to_owned()));
        server.terminate(flannel_tests::wait::SOON);
    }
}
