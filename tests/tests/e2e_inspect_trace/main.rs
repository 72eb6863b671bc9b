//! `trace` tells what the programs would do with a packet, and leaves everything as it was.

#![cfg(test)]

mod large;

use std::net::Ipv4Addr;

use aya::maps::{Array, HashMap, Map, MapData};
use flannel_agent::base::clock;
use flannel_agent::dataplane::Wire;
use flannel_common::change::Change;
use flannel_common::flow::{Flow, FlowKey, Half, tick};
use flannel_common::maps::{EPOCH, FLOWS, LAYOUT_VERSION, PEER_DIRECT, PEER_VXLAN, Peer};
use flannel_common::snat::Choices;
use flannel_tests::agent::command;
use flannel_tests::netns::output;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use rstest::rstest;
use serde_json::Value;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// `flannel-agent LINE -o json` on `node`.
#[track_caller]
fn look(node: &Node, line: &str, status: i32) -> String {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let flags: Vec<&str> = line
        .split_whitespace()
        .chain(["-o", "json", bpffs.as_str()])
        .collect();
    let output = output(&mut command(node, &flags));
    assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn trace(node: &Node, line: &str, status: i32) -> Value {
    serde_json::from_str(&look(node, &format!("trace {line}"), status)).unwrap()
}

/// Program of each hop; `-` where there is none.
fn programs(trace: &Value) -> Vec<String> {
    hops(trace)
        .into_iter()
        .map(|(program, _)| program)
        .collect()
}

/// Program and reason of each hop; `-` where there is none.
fn hops(trace: &Value) -> Vec<(String, String)> {
    let word = |hop: &Value, key: &str| hop[key].as_str().unwrap_or("-").to_owned();
    let hops = trace["hops"].as_array().unwrap().iter();
    hops.map(|hop| (word(hop, "program"), word(hop, "reason")))
        .collect()
}

fn pairs(hops: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |text: &str| text.to_owned();
    hops.iter().map(|(a, b)| (own(a), own(b))).collect()
}

fn pinned(node: &Node, name: &str) -> Map {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(name);
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()
}

/// The agent puts its programs on a pod's port a moment after the pod is there, one after the other.
#[track_caller]
fn wait_for_ports(node: &Node) {
    let links = node.bpffs().join("flannel/coreos_com_network/links");
    eventually("the pod's port has both its programs", SOON, || {
        let entries = std::fs::read_dir(&links).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        let any = |start| {
            names
                .iter()
                .any(|name| name.to_string_lossy().starts_with(start))
        };
        any("pod_rx-") && any("pod_tx-")
    });
}

/// A pair whose first node lost its agent after all programs were in place: nothing changes any more unless `trace` does it.
fn left_alone(mut pair: Pair<Agent>) -> Pair<Agent> {
    wait_for_ports(pair.one.node());
    pair.one.kill();
    pair
}

/// A node with source NAT, and a pod.
fn masquerading() -> (Lab, Agent, Pod) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start_with(lab.node("one"), &net, &["--ip-masq"]);
    let pod = Pod::on(&agent, "pod");
    wait_for_ports(agent.node());
    settle(&agent);
    (lab, agent, pod)
}

/// A bridge that has no address yet may be a way out: who looks in that moment puts programs there, and takes them away again.
#[track_caller]
fn settle(agent: &Agent) {
    let links = agent
        .node()
        .bpffs()
        .join("flannel/coreos_com_network/links");
    eventually("the pods' bridge is no way out", SOON, || {
        let entries = std::fs::read_dir(&links).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<String> = names.collect();
        let mut bridges = names
            .iter()
            .filter_map(|name| name.strip_prefix("bridge_rx-"));
        let is_out = bridges.any(|index| names.contains(&format!("uplink_snat_rx-{index}")));
        let log = agent.log();
        let round = log.rsplit_once("attach pod_tx").map(|(_, after)| after);
        round.is_some_and(|after| after.contains("node brought up to date")) && !is_out
    });
}

/// Everything that a packet would have changed, and everything that is pinned.
fn state(node: &Node) -> String {
    let stats: Value = serde_json::from_str(&look(node, "stats", 0)).unwrap();
    // The pair's own neighbour discovery goes on.
    let stats: Vec<&Value> = stats
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["reason"] != "not_ipv4" && row["reason"] != "not_unicast")
        .collect();
    let pins = output(std::process::Command::new("find").arg(node.bpffs()));
    let mut pins: Vec<String> = String::from_utf8(pins.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    pins.sort();
    let flows = bytes(node);
    format!("{stats:?}\n{flows:?}\n{}\n{pins:?}", look(node, "nat", 0))
}

/// The table of flows, byte by byte.
fn bytes(node: &Node) -> Vec<(FlowKey, Flow)> {
    let flows: HashMap<MapData, Wire<FlowKey>, Wire<Flow>> =
        pinned(node, FLOWS).try_into().unwrap();
    let entries = flows.iter().map(|entry| entry.unwrap());
    let mut entries: Vec<_> = entries.map(|(Wire(k), Wire(v))| (k, v)).collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

#[test]
fn every_way_is_shown_and_nothing_is_left_behind() {
    let pair = Pair::of_agents();
    pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
    let pair = left_alone(pair);
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());
    let before = state(node);

    let out = trace(node, &format!("{here} {there} --proto=udp --port=53"), 0);
    let expected = [
        ("pod_tx", "unverified"),
        ("-", "-"),
        ("overlay_tx", "encap"),
    ];
    assert_eq!(hops(&out), pairs(&expected), "{out}");
    assert_eq!(out["end"], "sent", "{out}");
    let wire = out["hops"][2]["becomes"].as_str().unwrap();
    let peer = pair.two.node().address();
    assert!(
        wire.contains(&format!("→ {peer}:8472, VNI 1")) && wire.contains(&format!("{there}:53")),
        "{wire}"
    );

    let back = trace(node, &format!("{there} {here} --proto=icmp"), 0);
    let expected = [
        ("uplink_rx", "decap_direct"),
        ("overlay_rx", "-"),
        ("-", "-"),
        ("bridge_rx", "-"),
        ("pod_rx", "-"),
    ];
    assert_eq!(hops(&back), pairs(&expected), "{back}");
    assert_eq!(back["end"], "delivered", "{back}");

    // What nobody leases is not the overlay's.
    let away = trace(node, &format!("{here} 10.244.255.9"), 0);
    assert_eq!(away["end"], "sent", "{away}");
    let meaning = away["hops"][1]["meaning"].as_str().unwrap();
    let words = "no lease covers 10.244.255.9 (`peers` lists them), so the node's own routes count: to eth0 by way of 172.30.0.254";
    assert!(meaning.starts_with(words), "{meaning}");
    let comes = trace(node, &format!("10.244.255.9 {here}"), 0);
    assert_eq!(comes["end"], "delivered", "{comes}");
    // Somebody leads it there all the same.
    node.exec("ip route add 10.244.255.0/24 dev flannel.1");
    let lost = trace(node, &format!("{here} 10.244.255.9"), 1);
    assert_eq!(lost["end"], "dropped", "{lost}");
    assert_eq!(
        hops(&lost).last(),
        pairs(&[("overlay_tx", "no_peer")]).last()
    );
    let advice = lost["hops"][2]["advice"].as_str().unwrap();
    assert!(advice.contains("holds a lease"), "{advice}");
    node.exec("ip route del 10.244.255.0/24 dev flannel.1");

    let outside = trace(node, &format!("198.51.100.9 {here}"), 0);
    assert_eq!(outside["end"], "delivered", "{outside}");

    assert_eq!(state(node), before);
}

#[test]
fn a_proven_flow_is_seen_to_skip_the_stack() {
    let pair = left_alone(Pair::of_agents());
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());
    prove(node, PEER_VXLAN, here, there);
    let before = bytes(node);

    let fast = trace(node, &format!("{here} {there}"), 0);
    assert_eq!(hops(&fast), pairs(&[("pod_tx", "fast_tx")]), "{fast}");
    assert_eq!(fast["end"], "sent", "{fast}");
    // A new connection on the same ports is conntrack's.
    let syn = trace(node, &format!("{here} {there} --tcp=syn"), 0);
    assert_eq!(hops(&syn)[0].1, "tcp_control", "{syn}");
    assert_eq!(bytes(node), before);
}

/// Proven just now, at a port.
fn proof(node: &Node, port: u32) -> Half {
    let epoch: Array<MapData, u32> = pinned(node, EPOCH).try_into().unwrap();
    let epoch = epoch.get(&0, 0).unwrap();
    let now = tick(clock());
    Half {
        verified: now,
        probed: 0,
        epoch,
        port,
        // As `trace` sends them.
        change: Change {
            ttl_in: 64,
            ..Change::NONE
        },
    }
}

fn enter(node: &Node, key: FlowKey, flow: Flow) {
    let mut flows: HashMap<MapData, Wire<FlowKey>, Wire<Flow>> =
        pinned(node, FLOWS).try_into().unwrap();
    flows.insert(Wire(key), Wire(flow), 0).unwrap();
}

/// Enters a flow whose both directions were proven just now, to a peer that is reached in this way.
fn prove(node: &Node, kind: u8, local: Ipv4Addr, remote: Ipv4Addr) {
    let half = proof(node, 7);
    let key = FlowKey {
        local: local.octets(),
        remote: remote.octets(),
        local_port: 40_000_u16.to_be_bytes(),
        remote_port: 80_u16.to_be_bytes(),
        proto: 6,
        pad: [0; 3],
    };
    let peer = [172, 30, 0, 12];
    let flow = Flow {
        tx: half,
        rx: half,
        peer: Peer {
            public_ip: peer,
            next_hop: peer,
            vtep_mac: [2, 0, 0, 0, 0, 2],
            kind,
            narrow: 0,
        },
        ..Flow::EMPTY
    };
    enter(node, key, flow);
}

#[test]
fn what_leaves_as_the_node_is_shown_and_takes_no_port() {
    let (_lab, agent, pod) = masquerading();
    let node = agent.node();
    let before = state(node);
    let out = trace(
        node,
        &format!("{} 198.51.100.2 --sport=50123", pod.address()),
        0,
    );
    assert_eq!(out["end"], "sent", "{out}");
    let last = hops(&out).pop().unwrap();
    assert_eq!(last, pairs(&[("uplink_tx", "snat")])[0], "{out}");
    let wire = out["hops"].as_array().unwrap().last().unwrap()["becomes"].as_str();
    let us = node.address();
    assert!(leaves_as(wire.unwrap(), us, "198.51.100.2:80"), "{out}");
    assert_eq!(state(node), before);
}

/// Whether a packet as `trace` writes it has this source, and a port of those that pods leave under.
fn leaves_as(packet: &str, source: Ipv4Addr, to: &str) -> bool {
    let rest = packet.strip_prefix(&format!("tcp {source}:"));
    let (port, rest) = rest
        .and_then(|rest| rest.split_once(" → "))
        .unwrap_or_default();
    // `--snat-ports=auto` where the kernel's own ports are the usual ones.
    let ours = |port: u16| port >= 49_152;
    port.parse().is_ok_and(ours) && rest.starts_with(to)
}

fn host_gw() -> Pair<Agent> {
    let lab = Lab::new();
    let net = lab.network(Network::host_gw("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    Pair::of(lab, net, one, two)
}

/// With udp the far end of the pair encapsulates.
#[rstest]
#[case::udp(Network::udp(PREFIX, CIDR), &["pod_tx", "-", "overlay_tx", "overlay_catch"], "udp tunnel")]
#[case::ipip(Network::ipip(PREFIX, CIDR), &["pod_tx", "-", "overlay_tx"], "ipip tunnel")]
fn other_tunnels_are_shown(#[case] net: Network, #[case] way: &[&str], #[case] tunnel: &str) {
    let lab = Lab::new();
    let net = lab.network(net);
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let pair = left_alone(Pair::of(lab, net, one, two));
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());

    let out = trace(node, &format!("{here} {there} --proto=udp --port=53"), 0);
    assert_eq!(programs(&out), way, "{out}");
    assert_eq!(out["end"], "sent", "{out}");
    let last = out["hops"].as_array().unwrap().last().unwrap();
    let wire = last["becomes"].as_str().unwrap();
    assert!(wire.starts_with(tunnel), "{wire}");

    let back = trace(node, &format!("{there} {here} --proto=udp"), 0);
    assert_eq!(programs(&back)[..2], ["uplink_rx", "overlay_rx"], "{back}");
    assert_eq!(back["end"], "delivered", "{back}");
}

#[test]
fn without_a_tunnel_a_packet_goes_by_the_uplink_as_it_is() {
    let pair = left_alone(host_gw());
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());
    let before = state(node);

    let out = trace(node, &format!("{here} {there} --port=53"), 0);
    assert_eq!(programs(&out), ["pod_tx", "-", "direct_tx"], "{out}");
    assert_eq!(out["end"], "sent", "{out}");
    assert!(!out.to_string().contains("vxlan"), "{out}");

    let back = trace(node, &format!("{there} {here} --proto=udp"), 0);
    assert_eq!(programs(&back), ["direct_rx", "-", "pod_rx"], "{back}");
    assert_eq!(back["end"], "delivered", "{back}");
    assert_eq!(state(node), before);
}

#[test]
fn a_proven_flow_without_a_tunnel_skips_the_stack() {
    let pair = left_alone(host_gw());
    let node = pair.one.node();
    let (here, there) = (pair.pod1.address(), pair.pod2.address());
    prove(node, PEER_DIRECT, here, there);
    let fast = trace(node, &format!("{here} {there}"), 0);
    assert_eq!(hops(&fast)[0], pairs(&[("pod_tx", "fast_tx")])[0], "{fast}");
    assert_eq!(fast["end"], "sent", "{fast}");
    assert!(!fast.to_string().contains("stack routes"), "{fast}");
}

#[test]
fn a_device_besides_the_uplink_translates_to_its_own_address() {
    let (_lab, agent, pod) = masquerading();
    let node = agent.node();
    node.ip_batch(&[
        "link add side type veth peer name far-side".to_owned(),
        "addr add 203.0.113.1/24 dev side".to_owned(),
        "link set far-side up".to_owned(),
        "link set side up".to_owned(),
    ]);
    let outlets = || {
        let map: HashMap<MapData, u32, [u8; size_of::<Choices>()]> =
            pinned(node, flannel_common::maps::OUTLETS)
                .try_into()
                .unwrap();
        map.keys().count()
    };
    let log = || agent.log();
    eventually("the device has its programs", SOON, || {
        outlets() == 2
            && log().contains("uplink_tx to egress of side")
            && log().contains("uplink_snat_rx to ingress of side")
    });
    let out = trace(
        node,
        &format!("{} 203.0.113.9 --sport=50123", pod.address()),
        0,
    );
    let last = out["hops"].as_array().unwrap().last().unwrap();
    assert_eq!(last["place"], "side (egress)", "{out}");
    assert_eq!(
        hops(&out).pop().unwrap(),
        pairs(&[("uplink_tx", "snat")])[0],
        "{out}"
    );
    let becomes = last["becomes"].as_str().unwrap();
    assert!(
        leaves_as(becomes, Ipv4Addr::new(203, 0, 113, 1), "203.0.113.9:80"),
        "{out}"
    );
    assert_eq!(out["end"], "sent", "{out}");

    let back = trace(node, "203.0.113.9 203.0.113.1 --port=50123", 0);
    assert_eq!(back["hops"][0]["place"], "side (ingress)", "{back}");
    assert_eq!(back["end"], "delivered", "{back}");
}

#[test]
fn the_driver_s_program_is_named_and_the_way_behind_it_is_shown() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start_with(lab.node("one"), &net, &["--xdp=on"]);
    let two = Agent::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    let node = pair.one.node();
    wait_for_ports(node);
    let back = trace(
        node,
        &format!("{} {}", pair.pod2.address(), pair.pod1.address()),
        0,
    );
    let driver = &back["hops"][0];
    assert_eq!(driver["program"], "uplink_xdp", "{back}");
    assert_eq!(
        (&driver["place"], &driver["decision"]),
        (&"eth0 (driver)".into(), &"not run".into())
    );
    assert!(programs(&back).contains(&"uplink_rx".to_owned()), "{back}");
    assert_eq!(back["end"], "delivered", "{back}");
}
