//! One agent that serves several networks, and what the control has in its place: a flanneld for each.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use crate::agent::{Daemon, command, http_get, http_status};
use crate::member::{AnyMember, Member};
use crate::netns::output;
use crate::network::Network;
use crate::node::Node;
use crate::pair::Kind;
use crate::real_flanneld::RealFlanneld;
use crate::wait::{SOON, eventually};

/// A daemon with `--networks` or `--watch-networks`.
#[derive(Debug)]
pub struct Several {
    node: Arc<Node>,
    /// Only its prefix means anything.
    all: Network,
    flags: Vec<String>,
    daemon: Daemon,
}

impl Several {
    /// Starts it for the networks under `prefix` and returns at once.
    #[track_caller]
    pub fn spawn(node: &Arc<Node>, prefix: &str, flags: &[&str]) -> Self {
        let all = Network::vxlan(prefix, "0.0.0.0/0");
        let own = [
            format!("--subnet-dir={}", subnet_dir(node).display()),
            "--pod-bridge=br-{network}".to_owned(),
        ];
        let given = flags.iter().map(|flag| (*flag).to_owned());
        let flags: Vec<String> = own.into_iter().chain(given).collect();
        Self {
            node: node.clone(),
            daemon: spawn(node, &all, &flags),
            all,
            flags,
        }
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Status and text of a page of its health endpoints; `None` while nobody listens.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        let status = http_status(&*self.node, self.daemon.health_port(), path)?;
        let answer = http_get(&*self.node, self.daemon.health_port(), path)?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.to_owned()))
    }

    /// Waits until it serves the network of this name.
    #[track_caller]
    pub fn serves(&mut self, name: &str) {
        let what = format!("the agent on {} serves {name}", self.node.name());
        eventually(what, SOON, || {
            if let Some(status) = self.daemon.process().exited() {
                panic!("it ended: {status}");
            }
            let ready = self.page(&format!("/readyz/{name}"));
            ready.is_some_and(|(status, _)| status == 200)
        });
    }

    /// Its part in one of the networks.
    pub fn part(&self, net: &Network) -> Part {
        Part {
            node: self.node.clone(),
            net: net.clone(),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.daemon.process().kill();
    }

    /// Ends it in the orderly way.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.daemon.process().terminate(SOON)
    }

    /// Starts it again with the same flags and returns at once.
    pub fn restart(&mut self) {
        self.daemon = spawn(&self.node, &self.all, &self.flags);
    }
}

fn spawn(node: &Node, all: &Network, flags: &[String]) -> Daemon {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Daemon::spawn(node, all, &flags)
}

fn subnet_dir(node: &Node) -> PathBuf {
    node.folder().join("run/networks")
}

/// A node's part in one of several networks.
#[derive(Debug)]
pub struct Part {
    node: Arc<Node>,
    net: Network,
}

impl Member for Part {
    fn node(&self) -> &Node {
        &self.node
    }

    fn net(&self) -> &Network {
        &self.net
    }

    fn subnet_file(&self) -> PathBuf {
        subnet_dir(&self.node).join(format!("{}.env", name(&self.net)))
    }

    fn follow_leases(&self) {}
}

/// The last part of its prefix.
fn name(net: &Network) -> &str {
    net.prefix.rsplit('/').next().expect("the name behind it")
}

/// Has the node take part in each of the networks of `prefix`: by one agent of ours, or by a flanneld for each.
///
/// # Panics
/// For a kind without a daemon.
pub fn serve(
    kind: Kind,
    node: &Arc<Node>,
    prefix: &str,
    nets: &[&Network],
) -> (Option<Several>, Vec<AnyMember>) {
    match kind {
        Kind::Ours => {
            let names: Vec<&str> = nets.iter().map(|net| name(net)).collect();
            let flag = format!("--networks={}", names.join(","));
            let mut several = Several::spawn(node, prefix, &[&flag]);
            names.iter().for_each(|name| several.serves(name));
            let part = |net: &&Network| Box::new(several.part(net)) as AnyMember;
            let parts = nets.iter().map(part).collect();
            (Some(several), parts)
        }
        Kind::Flanneld => {
            let start =
                |net: &&Network| Box::new(RealFlanneld::start(node.clone(), net)) as AnyMember;
            (None, nets.iter().map(start).collect())
        }
        Kind::Kernel => panic!("the kernel way has no daemon"),
    }
}

impl Several {
    /// What another command of ours prints, run with the same flags; and its exit status.
    pub fn ask(&self, words: &[&str]) -> (Option<i32>, String) {
        let node = &self.node;
        let folders = [
            format!("--bpffs={}", node.bpffs().display()),
            format!("--state-dir={}", node.state_dir().display()),
            format!("--snapshot-dir={}", node.snapshot_dir().display()),
            format!("--etcd-prefix={}", self.all.prefix),
            format!("--etcd-endpoints={}", node.etcd()),
            format!("--iface={}", Node::UPLINK),
        ];
        let flags = folders.iter().chain(&self.flags).map(String::as_str);
        // The command's own are behind it, and where a flag is there twice the later one counts.
        let verbs = words.iter().take_while(|word| !word.starts_with('-'));
        let (verbs, rest) = words.split_at(verbs.count());
        let all: Vec<&str> = verbs
            .iter()
            .copied()
            .chain(flags)
            .chain(rest.iter().copied())
            .collect();
        let output = output(&mut command(&**node, &all));
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }
}
