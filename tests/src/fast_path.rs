//! Flows between pods that are to skip the stack, and what all tests of that wait for.

use std::net::SocketAddrV4;
use std::time::Duration;

use flannel_common::maps::{EPOCH, FLOWS};
use flannel_common::program::Program::{self, DirectRx, OverlayRx, PodTx, UplinkRx, XdpRx};
use flannel_common::reason::Reason;
use serde_json::Value;

use crate::agent::Agent;
use crate::bpftool::{count, dump};
use crate::host::Host as _;
use crate::lab::{Lab, Options};
use crate::member::Member as _;
use crate::metrics::sample;
use crate::network::Network;
use crate::node::Node;
use crate::pair::{Kind, Pair};
use crate::pod::Pod;
use crate::wait::{SOON, eventually};
use crate::with_daemon::{AnyDaemon, start};
use crate::{talk, tcp, udp};

/// A proof ends 15 s after its last renewal; the rest is for a busy machine.
pub const RULE_REACHES: Duration = Duration::from_secs(30);

/// How often the agent has compared the node with what is wanted.
const PASSES: &str = "flannel_ebpf_reconcile_duration_seconds_count";

/// Two nodes of ours with a pod each, on whose ports the programs already sit.
pub fn agents(options: Options, flags: &[&str]) -> Pair<Agent> {
    let vxlan = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    agents_of(vxlan, options, flags)
}

/// The same with another network.
pub fn agents_of(net: Network, options: Options, flags: &[&str]) -> Pair<Agent> {
    let lab = Lab::with(options);
    let net = lab.network(net);
    let one = Agent::start_with(lab.node("one"), &net, flags);
    let two = Agent::start_with(lab.node("two"), &net, flags);
    let pair = Pair::of(lab, net, one, two);
    if !flags.contains(&"--fast-path=off") {
        hooked(&pair.one);
        hooked(&pair.two);
    }
    pair
}

/// Two nodes of ours, or of the control, which has no fast path; `flags` are for ours alone.
pub fn pair_of(kind: Kind, net: Network, options: Options, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::with(options);
    let net = lab.network(net);
    let flags = if kind == Kind::Ours { flags } else { &[] };
    let [one, two] = ["one", "two"].map(|name| start(kind, lab.node(name), &net, flags));
    let pair = Pair::of(lab, net, one, two);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    pair
}

/// [`hooked`], where there is something to be hooked.
#[track_caller]
pub fn hooked_if_ours(daemon: &AnyDaemon) {
    if let Some(agent) = daemon.agent() {
        hooked(agent);
    }
}

/// [`sent`] and [`received`] of ours; the control counts nothing.
pub fn fast(daemon: &AnyDaemon) -> Option<(u64, u64)> {
    daemon.agent().map(|agent| (sent(agent), received(agent)))
}

/// Ours has sent and received more than `packets` past the stack since `before`.
#[track_caller]
pub fn was_fast(daemon: &AnyDaemon, before: Option<(u64, u64)>, packets: u64) {
    if let (Some(before), Some(after)) = (before, fast(daemon)) {
        assert!(
            after.0 > before.0 + packets && after.1 > before.1 + packets,
            "{before:?} to {after:?}"
        );
    }
}

/// Waits until the agent has looked at everything once more, and done what it found, because of what this makes it see. Whatever
/// it would do at ports and devices that are there by now, it has done.
#[track_caller]
pub fn looked_again(agent: &Agent) {
    let passes = || sample::<u64>(agent, PASSES).unwrap_or(0);
    let before = passes();
    agent.exec("ip link add nudge type veth peer name nudged");
    // The first may have begun before.
    eventually("the agent looks again", SOON, || passes() > before);
    let before = passes();
    agent.exec("ip link del nudge");
    eventually("and again", SOON, || passes() > before);
}

/// Waits until the programs sit where pods' packets pass: the agent learns of a new pod a moment later, and what it does then
/// may end with the end of all proofs.
#[track_caller]
pub fn hooked(agent: &Agent) {
    let what = format!("programs at the pods of {}", agent.node().name());
    eventually(what, SOON, || {
        let log = agent.log();
        let last = ["attach pod_rx", "attach pod_tx"].map(|line| log.rfind(line));
        let [Some(rx), Some(tx)] = last else {
            return false;
        };
        log[rx.max(tx)..].contains("node brought up to date")
    });
}

/// Where the agent holds a program on a device, by the names of the pinned links, `PROGRAM-INDEX`: those of this program.
pub fn pinned(agent: &Agent, program: Program) -> Vec<String> {
    // A bpffs takes no dots.
    let network = agent
        .net()
        .prefix
        .trim_matches('/')
        .replace(['/', '.'], "_");
    let links = agent.node().bpffs().join("flannel").join(network);
    let entries = std::fs::read_dir(links.join("links")).expect("pinned links");
    let names = entries.map(|entry| entry.expect("a name").file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8"));
    let of = |name: &String| {
        name.rsplit_once('-')
            .is_some_and(|(of, _)| of == program.name())
    };
    names.filter(of).collect()
}

/// Packets that went from a pod to the wire past the stack.
pub fn sent(agent: &Agent) -> u64 {
    count(agent, PodTx, Reason::FastTx)
}

/// Packets that went from the wire to a pod past the stack, by whatever way.
pub fn received(agent: &Agent) -> u64 {
    [
        (UplinkRx, Reason::FastRx),
        (DirectRx, Reason::FastRx),
        (OverlayRx, Reason::FastRxGro),
        (XdpRx, Reason::FastRxXdp),
    ]
    .into_iter()
    .map(|(program, reason)| count(agent, program, reason))
    .sum()
}

/// What ends every proof when it is raised.
pub fn epoch(agent: &Agent) -> u64 {
    let entries = dump(agent, EPOCH);
    entries[0]["value"].as_u64().expect("a number")
}

/// Flows of which a direction is proven.
pub fn proven(agent: &Agent) -> Vec<Value> {
    let is_proven = |entry: &Value| {
        ["tx", "rx"]
            .iter()
            .any(|half| entry["value"][half]["verified"] != 0)
    };
    // Protocol 0 is a pod's port, and no flow.
    let is_flow = |entry: &Value| entry["key"]["proto"] != 0;
    let flows = dump(agent, FLOWS).into_iter();
    flows.filter(is_flow).filter(is_proven).collect()
}

/// The same of TCP alone.
pub fn proven_tcp(agent: &Agent) -> Vec<Value> {
    let mut flows = proven(agent);
    flows.retain(|flow| flow["key"]["proto"] == 6);
    flows
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

/// Those of both nodes that are ours.
pub fn ours(pair: &Pair<AnyDaemon>) -> Vec<&Agent> {
    [&pair.one, &pair.two]
        .into_iter()
        .filter_map(|daemon| daemon.agent())
        .collect()
}

/// Talks so many rounds at a time until most of them went past the stack of each of these nodes, out and in: what a test then
/// changes, it changes under a fast flow. Of none, as of the control, they are talked once.
#[track_caller]
pub fn gets_fast(agents: &[&Agent], mut rounds: impl FnMut(usize)) {
    const ROUNDS: usize = 50;
    const MOST: u64 = 40;
    let counts = || agents.iter().map(|agent| (sent(agent), received(agent)));
    eventually("the flow is fast", SOON, || {
        let before: Vec<_> = counts().collect();
        rounds(ROUNDS);
        let both = |(before, after): (&(u64, u64), (u64, u64))| {
            after.0 >= before.0 + MOST && after.1 >= before.1 + MOST
        };
        before.iter().zip(counts()).all(both)
    });
}

/// Datagrams from pod 1 to pod 2 and back, past the stack of each node that is ours.
#[track_caller]
pub fn fast_udp(pair: &Pair<AnyDaemon>) -> talk::Udp {
    fast_udp_of(&ours(pair), &pair.pod1, &pair.pod2)
}

/// The same past the stack of these.
#[track_caller]
pub fn fast_udp_of(agents: &[&Agent], client: &Pod, server: &Pod) -> talk::Udp {
    let talk = talk_udp(client, server);
    gets_fast(agents, |rounds| talk.rounds(rounds));
    talk
}

/// Talks 200 rounds over TCP and over UDP, most of whose packets go past the stack on both nodes; `received` counts those
/// that come in. Returns the connection.
#[track_caller]
pub fn fast_both_ways(pair: &Pair<Agent>, received: impl Fn(&Agent) -> u64) -> talk::Tcp {
    let mut tcp = talk_tcp(&pair.pod1, &pair.pod2);
    tcp.rounds(200);
    talk_udp(&pair.pod1, &pair.pod2).rounds(200);
    for agent in [&pair.one, &pair.two] {
        let (out, inwards) = (sent(agent), received(agent));
        assert!(
            out > 300 && inwards > 300,
            "of 400 each way {out} and {inwards} were fast"
        );
    }
    tcp
}

/// Kills the agent of one node under running flows and starts it again: they stay fast meanwhile, and nothing is lost.
#[track_caller]
pub fn goes_on_without_its_agent(pair: &mut Pair<Agent>) {
    let flow = udp::Flow::start(&pair.pod1, &pair.pod2, pair.pod2.address());
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    pair.one.kill();
    let before = sent(&pair.one);
    talk.rounds(200);
    assert!(sent(&pair.one) > before, "without an agent as with one");
    pair.one.restart();
    talk.rounds(200);
    flow.finish().assert_complete();
    talk.close();
}

/// Conntrack on `node` knows the connection from `port` as established, and has seen nothing invalid of any.
#[track_caller]
pub fn conntrack_is_content(node: &Node, port: u16) {
    let list = node.exec(&format!("conntrack -L -p tcp --sport {port}"));
    assert!(
        list.contains("ESTABLISHED") && list.contains("[ASSURED]"),
        "{list}"
    );
    let statistics = node.exec("conntrack -S");
    let invalid = |line: &str| line.contains("invalid=") && !line.contains("invalid=0");
    assert!(!statistics.lines().any(invalid), "{statistics}");
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
