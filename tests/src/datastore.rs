//! The lab's etcd, in the switch's namespace, so that nodes reach it over the underlay.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::netns::Netns;
use crate::network::{Network, Subnet};
use crate::process::Process;
use crate::wait::eventually;

const UP: Duration = Duration::from_secs(30);

/// One etcd and its client.
#[derive(Debug)]
pub struct Datastore {
    netns: Arc<Netns>,
    url: String,
    folder: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Datastore {
    /// Starts etcd on `address` inside `netns` and waits until it answers.
    pub fn start(netns: Arc<Netns>, address: Ipv4Addr, folder: &Path) -> Self {
        let store = Self {
            netns,
            url: format!("http://{address}:2379"),
            folder: folder.join("etcd"),
            process: Mutex::new(None),
        };
        store.launch();
        store.wait_until_up();
        store
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `kill -9`; the data stays.
    pub fn kill(&self) {
        *self.process.lock().expect("no panic holds it") = None;
    }

    /// Starts it again with the data it had.
    pub fn restart(&self) {
        self.kill();
        self.launch();
        self.wait_until_up();
    }

    /// Answers nobody, and lets nobody know that it does not, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.lock().expect("no panic holds it");
        process.as_ref().expect("etcd runs").signal(signal);
    }

    /// A copy of the data as it is now, taken while etcd is down.
    pub fn backup(&self) -> PathBuf {
        self.kill();
        let backup = self.folder.with_extension("backup");
        crate::netns::run(Command::new("cp").arg("-a").args([&self.folder, &backup]));
        self.restart();
        backup
    }

    /// Starts it with the data of a [`Self::backup`]: what was written since is forgotten, revisions too.
    pub fn restore(&self, backup: &Path) {
        self.kill();
        std::fs::remove_dir_all(&self.folder).expect("remove the data of etcd");
        std::fs::rename(backup, &self.folder).expect("put the backup in its place");
        self.restart();
    }

    fn launch(&self) {
        let mut command = self.netns.command("etcd");
        command
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--listen-client-urls", &self.url])
            .args(["--advertise-client-urls", &self.url])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
            // A cluster of one elects itself: no reason to wait a second for others.
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            .args(["--logger", "zap", "--log-level", "warn"]);
        let log = self.folder.with_extension("log");
        let process = Process::spawn("etcd", command, &log);
        *self.process.lock().expect("no panic holds it") = Some(process);
    }

    fn wait_until_up(&self) {
        eventually("etcd answers", UP, || {
            self.try_ctl(&["get", "up", "--command-timeout=1s"])
        });
    }

    /// Runs etcdctl and returns what it printed.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        crate::netns::run(&mut self.client(args))
    }

    fn try_ctl(&self, args: &[&str]) -> bool {
        crate::netns::output(&mut self.client(args))
            .status
            .success()
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = self.netns.command("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url])
            .args(args);
        command
    }

    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", key, "--", value]);
    }

    #[track_caller]
    pub fn delete(&self, key: &str) {
        self.ctl(&["del", key]);
    }

    /// The value of one key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        let text = self.ctl(&["get", "--print-value-only", key]);
        (!text.is_empty()).then(|| text.trim_end_matches('\n').to_owned())
    }

    /// Every lease of a network.
    #[track_caller]
    pub fn leases(&self, net: &Network) -> Vec<(Subnet, serde_json::Value)> {
        parse_leases(&self.ctl(&["get", "--prefix", &format!("{}/subnets/", net.prefix)]))
    }
}

/// Reads what `etcdctl get` prints: a line with the key, a line with the value.
pub(crate) fn parse_leases(text: &str) -> Vec<(Subnet, serde_json::Value)> {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .chunks_exact(2)
        .filter_map(|pair| {
            let subnet = Subnet::from_key(pair[0])?;
            Some((subnet, serde_json::from_str(pair[1]).ok()?))
        })
        .collect()
}
