//! Bulk of services: translated, so never fast, and yet large packets reach the pod's port whole.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::program::Program::BridgeRx;
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{agents, epoch, looked_again, pinned, proven, received, sent, to};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::netns::run;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, tcp};
use rstest::rstest;
use serde_json::Value;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BYTES: usize = 4 << 20;

/// A service that is answered by a pod of the second node; the first one translates.
fn serve(pair: &Pair<Agent>, server: &tcp::Server, br_netfilter: bool) -> Service {
    let service = Service::new(CLUSTER_IP, 80, vec![to(&pair.pod2, server.port())]);
    for agent in [&pair.one, &pair.two] {
        agent.node().br_netfilter(br_netfilter);
        service.install(agent.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(agent, Iptables::Nft);
    }
    service
}

fn past_the_bridge(agent: &Agent) -> u64 {
    count(agent, BridgeRx, Reason::PastBridge)
}

/// Asks until `agent` has sent large packets past its bridge. Every byte is compared.
#[track_caller]
fn goes_past_the_bridge(agent: &Agent, exchange: impl Fn()) {
    let before = past_the_bridge(agent);
    eventually("large packets past the bridge", SOON, || {
        exchange();
        past_the_bridge(agent) > before + 20
    });
}

#[rstest]
fn a_service_s_bulk_reaches_the_port_whole(#[values(true, false)] br_netfilter: bool) {
    let pair = agents(Options::default(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    let service = serve(&pair, &server, br_netfilter);
    let large = format!("tcp and src host {CLUSTER_IP} and greater 4000");
    let at_port = Capture::start(pair.one.node(), pair.pod1.port(), &large);
    goes_past_the_bridge(&pair.one, || {
        server.exchange(&pair.pod1, service.address(), BYTES);
    });
    at_port.packets(20);
    // They have taken netfilter's whole way, on which they were translated.
    assert_eq!((sent(&pair.one), received(&pair.one)), (0, 0));
    assert_eq!(proven(&pair.one), <[serde_json::Value; 0]>::default());
}

/// An address of the pod's own node that leads to the pod: what comes in is translated there, too.
#[test]
fn so_does_what_the_pod_s_node_translates() {
    let pair = agents(Options::default(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    let [a, b, c, _] = pair.two.subnet().base.octets();
    let address = Ipv4Addr::new(a, b, c, 250);
    let to_pod = format!(
        "-A PREROUTING -d {address}/32 -j DNAT --to-destination {}",
        pair.pod2.address()
    );
    let lines = ["*nat".to_owned(), to_pod, "COMMIT".to_owned()];
    Iptables::Nft.restore(pair.two.node(), &lines);
    let to = SocketAddrV4::new(address, server.port());
    goes_past_the_bridge(&pair.two, || {
        server.exchange(&pair.pod1, to, BYTES);
    });
    assert_eq!(received(&pair.two), 0);
}

/// The same address behind another port: the successor gets everything that is for it.
#[test]
fn a_pod_with_the_address_of_another_gets_its_packets() {
    let mut pair = agents(Options::default(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    let service = serve(&pair, &server, true);
    for name in ["again", "and-again"] {
        goes_past_the_bridge(&pair.one, || {
            server.exchange(&pair.pod1, service.address(), BYTES);
        });
        let address = pair.pod1.address();
        let networks = pair.one.node().folder().join("var/lib/cni/networks");
        let last = networks.join("cbr-cni0/last_reserved_ip.0");
        pair = Pair {
            pod1: {
                pair.pod1.delete(&pair.one);
                // What makes host-local go on to the next address.
                std::fs::remove_file(&last).unwrap();
                Pod::on(&pair.one, name)
            },
            ..pair
        };
        assert_eq!(pair.pod1.address(), address);
        server.exchange(&pair.pod1, service.address(), BYTES);
    }
    goes_past_the_bridge(&pair.one, || {
        server.exchange(&pair.pod1, service.address(), BYTES);
    });
}

/// The pod's entry as `flannel-agent flows` shows it.
fn shown(agent: &Agent, pod: &Pod) -> Option<Value> {
    let bpffs = format!("--bpffs={}", agent.node().bpffs().display());
    let text = run(&mut command(agent.node(), &["flows", "-o", "json", &bpffs]));
    let mut rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let local = format!("{}:0", pod.address());
    rows.find(|row: &Value| row["proto"] == "any" && row["local"] == local.as_str())
}

/// What it says of a port that was noted longer ago than `bridge_rx` takes it for the bridge's choice.
#[track_caller]
fn shown_after_a_second(agent: &Agent, pod: &Pod, exchange: impl Fn()) -> (Value, Value) {
    // What the agent sees late may end all proofs, and says nothing of this one.
    eventually_some("no proof is ended meanwhile", 4 * SOON, || {
        let before = epoch(agent);
        eventually("the port is listed as fast", SOON, || {
            exchange();
            shown(agent, pod).is_some_and(|row| row["rx"]["state"] == "fast" && row["live"] == true)
        });
        let mut said = (Value::Null, Value::Null);
        eventually("it was noted more than a second ago", SOON, || {
            let row = shown(agent, pod).unwrap();
            said = (row["rx"]["state"].clone(), row["live"].clone());
            row["rx"]["verified_ms_ago"].as_u64() > Some(1_100)
        });
        (epoch(agent) == before).then_some(said)
    })
}

#[test]
fn a_port_is_listed_as_fast_while_packets_go_past_the_bridge() {
    let pair = agents(Options::default(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    let service = serve(&pair, &server, true);
    let said = shown_after_a_second(&pair.one, &pair.pod1, || {
        server.exchange(&pair.pod1, service.address(), BYTES);
    });
    assert_eq!(said, ("expired".into(), false.into()));
}

/// Where no proof is asked for, the port counts until the agent sees it go.
#[test]
fn without_proof_it_stays_so() {
    let pair = agents(Options::default(), &["--fast-path=always"]);
    let server = tcp::Server::on(&pair.pod2);
    let said = shown_after_a_second(&pair.one, &pair.pod1, || {
        server.exchange(&pair.pod1, to(&pair.pod2, server.port()), BYTES);
    });
    assert_eq!(said, ("fast".into(), true.into()));
}

/// `off` promises every packet to the stack, and the bridge is part of it.
#[rstest]
#[case::off("--fast-path=off")]
#[case::at_the_bridge("--pod-hook=bridge")]
fn otherwise_there_is_no_such_program(#[case] flag: &str) {
    let pair = agents(Options::default(), &[flag]);
    let server = tcp::Server::on(&pair.pod2);
    let service = serve(&pair, &server, true);
    looked_again(&pair.one);
    assert_eq!(pinned(&pair.one, BridgeRx), <[String; 0]>::default());
    server.exchange(&pair.pod1, service.address(), BYTES);
    assert!(!pair.one.log().contains("bridge_rx"));
    assert_eq!(past_the_bridge(&pair.one), 0);
}
