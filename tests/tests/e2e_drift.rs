//! What somebody changes by hand is put right within 30 seconds, counted, and told by `status`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::net::SocketAddrV4;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData};
use flannel_agent::dataplane::Wire;
use flannel_agent::node::net::Netlink;
use flannel_common::Ipv4;
use flannel_common::maps::{LAYOUT_VERSION, PEERS, Peer};
use flannel_common::program::Program::OverlayCatch;
use flannel_common::reason::Reason;
use flannel_tests::agent::{command, http_get};
use flannel_tests::bpftool::count;
use flannel_tests::netns::run;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::tcp;
use serde_json::Value;

/// A look at everything, and time to do what it found.
const DRIFT: Duration = Duration::from_secs(60);

fn peers(node: &Node) -> LpmTrie<MapData, Ipv4, Wire<Peer>> {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(PEERS);
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    map.try_into().unwrap()
}

/// Repairs of one kind so far.
fn repaired(agent: &Agent, action: &str) -> u64 {
    let text = http_get(agent.node(), agent.daemon().health_port(), "/metrics").unwrap();
    let name = format!("flannel_ebpf_drift_repaired_total{{action=\"{action}\"}} ");
    let sample = text.lines().find_map(|line| line.strip_prefix(&name));
    sample.map_or(0, |value| value.parse().unwrap())
}

fn status(agent: &Agent) -> Value {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let flags = ["status", "-o", "json", &bpffs, &state];
    serde_json::from_str(&run(&mut command(node, &flags))).unwrap()
}

/// What a new pod takes is a change of what is wanted, and no repair; it is over first.
#[track_caller]
fn is_settled(agent: &Agent) {
    eventually("the pod's programs are in place", SOON, || {
        let log = agent.log();
        let attached = ["bridge_rx", "pod_rx", "pod_tx"]
            .iter()
            .all(|p| log.contains(&format!("attach {p} ")));
        attached && status(agent)["last_reconcile"]["ago_s"].as_u64() >= Some(1)
    });
    for action in ["update_peers", "attach", "set_routes"] {
        assert_eq!(
            repaired(agent, action),
            0,
            "{action}: nobody changed anything"
        );
    }
}

/// Takes a program off its hook behind the agent's back: of its link only the pin remains.
fn detach(node: &Node, program: &str) {
    let links = node.bpffs().join("flannel/coreos_com_network/links");
    let pin = std::fs::read_dir(links)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains(&format!("/{program}-")))
        .unwrap();
    node.exec(&format!("bpftool link detach pinned {}", pin.display()));
}

#[test]
fn entry_program_and_route_come_back_and_are_counted() {
    let pair = Pair::of_agents();
    let (agent, node) = (&pair.one, pair.one.node());
    is_settled(agent);

    let subnet = pair.two.subnet();
    let key = Key::new(24, subnet.base.octets());
    peers(node).remove(&key).unwrap();
    detach(node, "uplink_rx");
    node.exec(&format!("ip route del {subnet}"));

    for action in ["update_peers", "attach", "set_routes"] {
        eventually(format!("{action} is counted"), DRIFT, || {
            repaired(agent, action) >= 1
        });
    }
    assert!(peers(node).get(&key, 0).is_ok());
    pair.pod1.reaches(&pair.pod2);
    let change = &status(agent)["last_change"];
    assert!(change["actions"].as_u64() >= Some(1), "{change}");

    // A wish that changes is no drift.
    let before = repaired(agent, "update_peers");
    let third = KernelVxlan::join(pair.lab.node("three"), &pair.net);
    eventually("the third node is known", SOON, || {
        let key = Key::new(24, third.subnet().base.octets());
        peers(node).get(&key, 0).is_ok()
    });
    assert_eq!(repaired(agent, "update_peers"), before);
}

/// Without it packets arrive all the same, only slower: nothing but the agent's own look finds out.
#[test]
fn the_program_behind_the_bridge_comes_back_and_is_counted() {
    const STEP: &str = "attach bridge_rx to egress of cni0";

    let pair = Pair::of_agents();
    let agent = &pair.one;
    is_settled(agent);
    assert_eq!(agent.log().matches(STEP).count(), 1);

    detach(agent.node(), "bridge_rx");
    eventually("the repair is logged and counted", DRIFT, || {
        agent.log().matches(STEP).count() == 2 && repaired(agent, "attach") == 1
    });
    let status = status(agent);
    let hooks = status["hooks"].as_array().unwrap().iter();
    let hooks: Vec<_> = hooks.filter(|h| h["program"] == "bridge_rx").collect();
    let [hook] = hooks[..] else {
        panic!("not once: {status}");
    };
    assert_eq!(hook["device"], "cni0", "{hook}");
    assert_eq!(
        (&hook["direction"], &hook["attached"]),
        (&"Egress".into(), &true.into()),
        "{hook}"
    );
}

/// BIG TCP: with a kernel vxlan device such packets are cut up, here they would not fit.
#[test]
fn a_raised_gso_ipv4_max_size_comes_back_and_is_counted() {
    const BIG: u32 = 180_000;

    let pair = Pair::of_agents();
    let (agent, node) = (&pair.one, pair.one.node());
    is_settled(agent);
    let max = |raise: bool| {
        node.netns().block_on(async || {
            let net = Netlink::open().unwrap();
            let link = net.link("flannel.1").await.unwrap().unwrap();
            if raise {
                net.set_gso_max(link.index, BIG).await.unwrap();
            }
            link.gso_max
        })
    };
    let before = max(true);
    assert!(before.is_some_and(|max| max < BIG), "{before:?}");
    eventually("it is as it was, and counted", DRIFT, || {
        max(false) == before && repaired(agent, "set_gso_max") == 1
    });
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    server.exchange(node, to, 8 << 20);
    assert_eq!(count(agent, OverlayCatch, Reason::UnhandledTx), 0);
}
