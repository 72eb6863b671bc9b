//! Our agent on a node: the built binary, started as an operator starts it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;
use crate::network::Network;
use crate::node::Node;
use crate::process::Process;
use crate::subnet_env::SubnetEnv;
use crate::tcp;
use crate::wait::{SOON, eventually};

/// The agent of one network on one node. A node may have several.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Node>,
    daemon: Daemon,
}

/// The process alone: for what happens before it is ready.
#[derive(Debug)]
pub struct Daemon {
    net: Network,
    name: String,
    subnet_file: PathBuf,
    port: u16,
    /// What runs it, see [`Agent::start_under`].
    wrapper: String,
    extra: Vec<String>,
    process: Process,
}

impl Agent {
    /// Starts it on `node` and waits until it is ready.
    #[track_caller]
    pub fn start(node: impl Into<Arc<Node>>, net: &Network) -> Self {
        Self::start_with(node, net, &[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn start_with(node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> Self {
        Self::start_under("", node, net, flags)
    }

    /// The same by way of another command, such as one that takes capabilities away; also when it is restarted.
    #[track_caller]
    pub fn start_under(
        wrapper: &str,
        node: impl Into<Arc<Node>>,
        net: &Network,
        flags: &[&str],
    ) -> Self {
        let node = node.into();
        let mut daemon = Daemon::spawn_under(wrapper, &node, net, flags);
        daemon.wait_until_ready(&node);
        Self { node, daemon }
    }

    /// The same with an agent that was built elsewhere, such as from an earlier commit.
    #[track_caller]
    pub fn start_program(
        program: &Path,
        node: impl Into<Arc<Node>>,
        net: &Network,
        flags: &[&str],
    ) -> Self {
        let node = node.into();
        let program = program.display().to_string();
        let mut daemon = Daemon::spawn_program("", &program, &node, net, flags);
        daemon.wait_until_ready(&node);
        Self { node, daemon }
    }

    /// Starts it and returns at once: it has no subnet yet.
    #[track_caller]
    pub fn spawn(node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> Self {
        let node = node.into();
        let daemon = Daemon::spawn(&node, net, flags);
        Self { node, daemon }
    }

    /// See [`Daemon::wait_until_ready`].
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        self.daemon.wait_until_ready(&self.node);
    }

    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// The node, for as long as anybody needs it.
    pub fn node_arc(&self) -> Arc<Node> {
        self.node.clone()
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.daemon.process.kill();
    }

    /// Ends it in the orderly way.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.daemon.process.terminate(SOON)
    }

    /// Ends it, and leaves the node as it is.
    #[track_caller]
    pub fn stop(mut self) -> Arc<Node> {
        if self.daemon.process.exited().is_none() {
            self.terminate();
        }
        self.node
    }

    /// Starts it again with the same flags and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.daemon = self.spawn_again();
        self.daemon.wait_until_ready(&self.node);
    }

    /// The same with other flags than before.
    #[track_caller]
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.daemon = self.spawn_next(flags);
        self.daemon.wait_until_ready(&self.node);
    }

    /// Starts another build in its place, without ending this one: an upgrade in which both overlap for a moment.
    #[track_caller]
    pub fn upgrade(&mut self, build: Build, flags: &[&str]) {
        let Daemon { wrapper, net, .. } = &self.daemon;
        self.daemon = Daemon::spawn_program(wrapper, &build.binary(), &self.node, net, flags);
        self.daemon.wait_until_ready(&self.node);
    }

    /// Starts it again with the same flags and returns at once.
    #[track_caller]
    pub fn spawn_again(&self) -> Daemon {
        let flags: Vec<&str> = self.daemon.extra.iter().map(String::as_str).collect();
        self.spawn_next(&flags)
    }

    #[track_caller]
    fn spawn_next(&self, flags: &[&str]) -> Daemon {
        let Daemon { wrapper, net, .. } = &self.daemon;
        Daemon::spawn_under(wrapper, &self.node, net, flags)
    }
}

impl Daemon {
    /// Starts the agent of `net` and returns at once. A flag given here replaces the harness's own; `--iface=` takes it away.
    #[track_caller]
    pub fn spawn(node: &Node, net: &Network, flags: &[&str]) -> Self {
        Self::spawn_under("", node, net, flags)
    }

    /// The same by way of another command, such as one that takes capabilities away.
    #[track_caller]
    pub fn spawn_under(wrapper: &str, node: &Node, net: &Network, flags: &[&str]) -> Self {
        Self::spawn_program(wrapper, &binary(), node, net, flags)
    }

    #[track_caller]
    fn spawn_program(
        wrapper: &str,
        program: &str,
        node: &Node,
        net: &Network,
        flags: &[&str],
    ) -> Self {
        let network = net.prefix.trim_matches('/').replace('/', "_");
        let name = format!("flannel-agent-{network}");
        let subnet_file = node.folder().join("run").join(&name).join("subnet.env");
        let port = node.port();
        let mut command = node.command(&format!("{wrapper} {program}"));
        command.env("NODE_NAME", node.name());
        command.env("WIREGUARD_KEY_FILE", node.key_file());
        // A variable: builds of before do not know the flag.
        command.env("FLANNELD_SNAPSHOT_DIR", node.snapshot_dir());
        for (flag, value) in [
            ("--etcd-endpoints", node.etcd()),
            ("--etcd-prefix", &net.prefix),
            ("--iface", Node::UPLINK),
            ("--subnet-file", &subnet_file.display().to_string()),
            ("--bpffs", &node.bpffs().display().to_string()),
            ("--state-dir", &node.state_dir().display().to_string()),
            ("--healthz-ip", "127.0.0.1"),
            ("--healthz-port", &port.to_string()),
        ] {
            if !flags.iter().any(|f| f.starts_with(&format!("{flag}="))) {
                command.arg(format!("{flag}={value}"));
            }
        }
        command.args(flags.iter().filter(|flag| **flag != "--iface="));
        Self {
            net: net.clone(),
            process: node.spawn(&name, command),
            name,
            subnet_file,
            port,
            wrapper: wrapper.to_owned(),
            extra: flags.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    /// Waits for `/readyz` and `subnet.env`.
    ///
    /// # Panics
    /// If it ends instead, or takes too long.
    #[track_caller]
    pub fn wait_until_ready(&mut self, node: &Node) {
        let what = format!("{} on {} is ready", self.name, node.name());
        eventually(what, Duration::from_secs(30), || {
            if let Some(status) = self.process.exited() {
                panic!("{} on {} ended: {status}", self.name, node.name());
            }
            http_status(node, self.port, "/readyz") == Some(200) && self.subnet_file.exists()
        });
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn subnet_file(&self) -> &Path {
        &self.subnet_file
    }

    /// Port of `/healthz`, `/readyz` and `/metrics` on the node's loopback.
    pub fn health_port(&self) -> u16 {
        self.port
    }

    pub fn subnet_env(&self) -> Option<SubnetEnv> {
        SubnetEnv::read(&self.subnet_file)
    }
}

impl Member for Agent {
    fn node(&self) -> &Node {
        &self.node
    }

    fn net(&self) -> &Network {
        &self.daemon.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.daemon.subnet_file.clone()
    }

    fn follow_leases(&self) {}

    /// A device that gets its first clsact qdisc stands still for a moment and loses what is sent then (`qdisc_graft`
    /// deactivates it).
    fn settle(&self, port: &str) {
        let off = |flag: &String| flag == "--fast-path=off" || flag == "--pod-hook=bridge";
        if !self.log().contains("attaching clsact filters") || self.daemon.extra.iter().any(off) {
            return;
        }
        eventually(format!("filters at {port}"), SOON, || {
            self.exec(&format!("tc qdisc show dev {port}"))
                .contains("clsact")
        });
    }
}

impl Host for Agent {
    fn netns(&self) -> &Netns {
        self.node.netns()
    }
}

/// Status of a GET from inside the node; `None` while nobody listens.
pub fn http_status(host: &(impl Host + ?Sized), port: u16, path: &str) -> Option<u16> {
    // "HTTP/1.1 200 OK"
    http_get(host, port, path)?.split(' ').nth(1)?.parse().ok()
}

/// The answer to a GET from inside the node, with its headers; `None` while nobody listens.
pub fn http_get(host: &(impl Host + ?Sized), port: u16, path: &str) -> Option<String> {
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut stream = tcp::connect(host, to).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Which of the two builds of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    This,
    /// The same with another version of the maps' layout.
    NextLayout,
}

impl Build {
    fn binary(self) -> String {
        match self {
            Self::This => binary(),
            Self::NextLayout => built("flannel-agent-next-layout"),
        }
    }
}

/// The agent that was built beside this test: `target/<profile>/flannel-agent`.
///
/// # Panics
/// If it has not been built.
pub fn binary() -> String {
    built("flannel-agent")
}

fn built(name: &str) -> String {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(|deps| deps.parent());
    let agent = profile.expect("target/<profile>/deps").join(name);
    assert!(
        agent.exists(),
        "{} is missing: run `cargo xtask test` with the name of this test, which builds it",
        agent.display()
    );
    agent.to_str().expect("a path in UTF-8").to_owned()
}

/// A command that runs the agent with `flags` and nothing else, inside `host`.
pub fn command(host: &(impl Host + ?Sized), flags: &[&str]) -> Command {
    let mut command = host.netns().command(&binary());
    command.args(flags);
    command
}
