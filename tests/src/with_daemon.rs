//! Members that a program runs for: ours or real flanneld, ended and started again by one text.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use crate::agent::Agent;
use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;
use crate::network::Network;
use crate::node::Node;
use crate::pair::Kind;
use crate::real_flanneld::RealFlanneld;

/// A member whose daemon a test can end and start again.
pub trait WithDaemon: Member {
    /// The node, for as long as anybody needs it.
    fn node_arc(&self) -> Arc<Node>;

    /// Waits until it has a subnet and forwards.
    fn wait_until_ready(&mut self);

    /// What it has logged since its last start.
    fn log(&self) -> String;

    /// `kill -9`.
    fn kill(&mut self);

    /// Ends it in the orderly way.
    fn terminate(&mut self) -> ExitStatus;

    /// Starts it again with the same flags and waits until it is ready.
    fn restart(&mut self);

    /// The same with other flags than before.
    fn restart_with(&mut self, flags: &[&str]);

    /// Ours, which can also be asked what it counted; not so the control.
    fn agent(&self) -> Option<&Agent> {
        None
    }
}

/// A member of either kind that has a daemon.
pub type AnyDaemon = Box<dyn WithDaemon>;

/// Starts the daemon of `kind` on `node` and waits until it is ready.
///
/// # Panics
/// For a kind without a daemon.
#[track_caller]
pub fn start(kind: Kind, node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> AnyDaemon {
    let mut daemon = spawn(kind, node, net, flags);
    daemon.wait_until_ready();
    daemon
}

/// The same without waiting: it has no subnet yet.
///
/// # Panics
/// For a kind without a daemon.
#[track_caller]
pub fn spawn(kind: Kind, node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> AnyDaemon {
    match kind {
        Kind::Ours => Box::new(Agent::spawn(node, net, flags)),
        Kind::Flanneld => Box::new(RealFlanneld::spawn(node, net, flags)),
        Kind::Kernel => panic!("the kernel way has no daemon"),
    }
}

impl WithDaemon for Agent {
    fn node_arc(&self) -> Arc<Node> {
        self.node_arc()
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        self.wait_until_ready();
    }

    fn log(&self) -> String {
        self.log()
    }

    fn kill(&mut self) {
        self.kill();
    }

    #[track_caller]
    fn terminate(&mut self) -> ExitStatus {
        self.terminate()
    }

    #[track_caller]
    fn restart(&mut self) {
        self.restart();
    }

    #[track_caller]
    fn restart_with(&mut self, flags: &[&str]) {
        self.restart_with(flags);
    }

    fn agent(&self) -> Option<&Agent> {
        Some(self)
    }
}

impl Member for AnyDaemon {
    fn node(&self) -> &Node {
        (**self).node()
    }

    fn net(&self) -> &Network {
        (**self).net()
    }

    fn subnet_file(&self) -> PathBuf {
        (**self).subnet_file()
    }

    fn follow_leases(&self) {
        (**self).follow_leases();
    }

    fn settle(&self, port: &str) {
        (**self).settle(port);
    }
}

impl Host for AnyDaemon {
    fn netns(&self) -> &Netns {
        self.node().netns()
    }
}
