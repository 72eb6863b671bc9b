//! An etcd of its own on loopback, for tests of the lease source that need no network of nodes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::free_port::free_port;
use crate::process::Process;
use crate::wait::eventually;

const UP: Duration = Duration::from_secs(30);

/// One etcd with an empty data folder; killed and removed on drop.
#[derive(Debug)]
pub struct Etcd {
    process: Option<Process>,
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<ServerTls>,
    signs_tokens: bool,
    /// Part of the cluster's id.
    token: String,
}

/// PEM files by which etcd serves https.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// When given, clients must show a certificate that this one signed.
    pub client_ca_file: Option<PathBuf>,
}

impl Etcd {
    /// Starts etcd and waits until it takes connections.
    pub fn start() -> Self {
        Self::start_with(None, false)
    }

    /// One whose logins are JSON Web Tokens, which are of one revision of users and roles.
    pub fn start_signing_tokens() -> Self {
        Self::start_with(None, true)
    }

    pub fn start_tls(tls: ServerTls) -> Self {
        Self::start_with(Some(tls), false)
    }

    fn start_with(tls: Option<ServerTls>, signs_tokens: bool) -> Self {
        let mut etcd = Self {
            process: None,
            folder: TempDir::with_prefix("flannel-etcd-").expect("create a folder for etcd"),
            client_port: free_port(),
            peer_port: free_port(),
            tls,
            signs_tokens,
            token: "etcd-cluster".to_owned(),
        };
        etcd.launch();
        etcd
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Where clients connect, without a scheme.
    pub fn address(&self) -> (Ipv4Addr, u16) {
        (Ipv4Addr::LOCALHOST, self.client_port)
    }

    /// `kill -9`; the data stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again with the data it had.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    /// Starts it again without any data, as a backup of an empty cluster would.
    pub fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.data()).expect("remove the data of etcd");
        self.launch();
    }

    /// The same under another name for the cluster, as operators restore a backup.
    pub fn restart_as_another(&mut self) {
        self.token.push_str("-restored");
        self.restart_empty();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn launch(&mut self) {
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &self.url()])
            .args(["--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(["--initial-cluster-token", &self.token])
            // A cluster of one elects itself: no reason to wait a second for others.
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            .args(["--logger", "zap", "--log-level", "warn"]);
        if let Some(tls) = &self.tls {
            command
                .arg("--cert-file")
                .arg(&tls.cert_file)
                .arg("--key-file")
                .arg(&tls.key_file);
            if let Some(ca) = &tls.client_ca_file {
                command
                    .arg("--client-cert-auth")
                    .arg("--trusted-ca-file")
                    .arg(ca);
            }
        }
        if self.signs_tokens {
            let secret = self.folder.path().join("secret");
            std::fs::write(&secret, "known to etcd alone").expect("write the secret of etcd");
            let secret = secret.display();
            command.arg(format!(
                "--auth-token=jwt,sign-method=HS256,priv-key={secret},ttl=1h"
            ));
        }
        let log = self.folder.path().join("log");
        self.process = Some(Process::spawn("etcd", command, &log));
        // etcd opens its client port only once it has a leader.
        eventually("etcd takes connections", UP, || {
            std::net::TcpStream::connect(self.address()).is_ok()
        });
    }
}
