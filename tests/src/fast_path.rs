//! Flows between pods that are to skip the stack, and what all tests of that wait for.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::agent::Agent;
use crate::host::Host as _;
use crate::member::Member as _;
use crate::node::Node;
use crate::pod::Pod;
use crate::talk;
use crate::tcp;
use crate::udp;
use crate::wait::{SOON, eventually};

/// A proof ends 15 s after its last renewal; the rest is for a busy machine.
pub const RULE_REACHES: Duration = Duration::from_secs(30);

/// Waits until the programs sit where pods' packets pass: the agent learns of a new pod a moment later.
pub fn hooked(agent: &Agent) {
    let what = format!("programs at the pods of {}", agent.node().name());
    eventually(what, SOON, || agent.log().contains("attach pod_tx"));
}

/// A port of a pod.
pub fn to(pod: &Pod, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(pod.address(), port)
}

/// A connection from pod to pod.
pub fn talk_tcp(client: &Pod, server: &Pod) -> talk::Tcp {
    let listener = tcp::Server::on(server);
    talk::Tcp::open(&listener, client, to(server, listener.port()))
}

/// Datagrams from pod to pod and back.
pub fn talk_udp(client: &Pod, server: &Pod) -> talk::Udp {
    let socket = udp::Server::on(server);
    let to = to(server, socket.port());
    talk::Udp::open(socket, client, to)
}

/// Drops packets from `client` to `server` by a rule on `node`, until their flow has stopped, and takes the rule back, until
/// it goes on. Before the proof ends, the rule takes only the packets that were to renew it.
#[track_caller]
pub fn obeys_a_drop_rule(talk: &talk::Udp, node: &Node, client: &Pod, server: &Pod) {
    let (from, to) = (client.address(), server.address());
    let rule = format!("FORWARD -s {from} -d {to} -j DROP");
    node.exec(&format!("iptables-nft -I {rule}"));
    eventually("the rule stops the flow", RULE_REACHES, || {
        (0..3).all(|_| !talk.round())
    });
    node.exec(&format!("iptables-nft -D {rule}"));
    eventually("the flow goes on", SOON, || talk.round());
}
