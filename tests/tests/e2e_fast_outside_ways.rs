//! The way to the outside changes under a running fast flow, or is one that no look-up tells.

#![cfg(test)]

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use flannel_common::maps::{FLOWS, LAYOUT_VERSION, PEER_OUTSIDE, STEPS};
use flannel_common::program::Program::OutsideTx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::{count, dump};
use flannel_tests::fast_path::{RULE_REACHES, hooked, hooked_if_ours, looked_again, sent};
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::Stage;
use flannel_tests::{netns, talk, udp};
use rstest::rstest;

const PORT: u16 = 7000;

fn stage() -> Stage {
    stage_with(&[])
}

/// Ours, or the control, which takes each packet's way anew.
fn stage_on(kind: Kind) -> Stage<AnyDaemon> {
    let stage = Stage::on(kind);
    hooked_if_ours(&stage.node);
    stage
}

/// Packets of ours past the stack; the control counts none.
fn sent_by(stage: &Stage<AnyDaemon>) -> Option<u64> {
    stage.node.agent().map(sent)
}

/// Ours has sent more than `packets` past the stack since `before`.
#[track_caller]
fn was_fast(stage: &Stage<AnyDaemon>, before: Option<u64>, packets: u64) {
    if let (Some(before), Some(after)) = (before, sent_by(stage)) {
        assert!(after > before + packets, "{before} to {after}");
    }
}

/// Makes a change of the ways, and waits until ours has noticed.
#[track_caller]
fn noticed(stage: &Stage<AnyDaemon>, change: &str) {
    let before = stage.node.agent().map(ended);
    stage.node.exec(change);
    if let (Some(agent), Some(before)) = (stage.node.agent(), before) {
        eventually("the agent ends all proofs", SOON, || ended(agent) > before);
    }
}

fn stage_with(flags: &[&str]) -> Stage {
    let stage = Stage::with(flags);
    hooked(&stage.node);
    stage
}

/// Next hops of the flows that leave the cluster.
fn next_hops(agent: &Agent) -> Vec<Ipv4Addr> {
    let mut flows = dump(agent, FLOWS);
    flows.retain(|flow| flow["value"]["peer"]["kind"] == PEER_OUTSIDE);
    let byte = |value: &serde_json::Value| {
        // bpftool prints bytes as numbers or as hexadecimal strings, by its version.
        value.as_u64().map_or_else(
            || u8::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap(),
            |byte| byte.try_into().unwrap(),
        )
    };
    flows
        .iter()
        .map(|flow| {
            let bytes = flow["value"]["peer"]["next_hop"].as_array().unwrap();
            let octets: Vec<u8> = bytes.iter().map(byte).collect();
            Ipv4Addr::from(<[u8; 4]>::try_from(octets).unwrap())
        })
        .collect()
}

/// How often the agent ended all proofs.
fn ended(agent: &Agent) -> usize {
    let log = agent.log();
    log.matches("end the proofs of all flows").count()
}

#[rstest]
#[case::the_default_route("route replace default via")]
#[case::a_better_one("route add 198.51.100.0/24 via")]
fn a_fast_flow_follows_the_gateway(
    #[case] change: &str,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = stage_on(kind);
    let other = stage.lab.other_gateway();
    let talk = stage.lasting_udp();
    talk.rounds(50);
    was_fast(&stage, Some(0), 30);

    noticed(&stage, &format!("ip {change} {}", other.address));
    talk.rounds(20);
    if let Some(agent) = stage.node.agent() {
        assert_eq!(next_hops(agent), [other.address]);
    }
    let fast = sent_by(&stage);
    let filter = format!(
        "udp and ether dst {} and dst host {}",
        other.mac,
        stage.outside.address()
    );
    let there = Capture::start(stage.node.node(), Node::UPLINK, &filter);
    talk.rounds(50);
    was_fast(&stage, fast, 40);
    // Of a burst tcpdump sees what its buffer holds.
    there.packets(10);
}

#[test]
fn a_rule_that_comes_ends_all_proofs() {
    let stage = stage();
    // A new pod ends them as well, once its bridge is seen for what it is.
    looked_again(&stage.node);
    let before = ended(&stage.node);
    // A look alone ends none.
    looked_again(&stage.node);
    assert_eq!(ended(&stage.node), before);
    stage
        .node
        .exec("ip rule add from 203.0.113.0/24 table main");
    eventually("the agent ends all proofs", SOON, || {
        ended(&stage.node) > before
    });
}

/// Addresses of services come and go by the thousand on a node of IPVS; that is no other way out.
#[test]
fn an_address_of_the_node_alone_ends_none() {
    let stage = stage();
    let steady = stage.lasting_udp();
    steady.rounds(20);
    looked_again(&stage.node);
    let before = ended(&stage.node);
    stage.node.exec("ip addr add 10.96.0.10/32 dev lo");
    // Announcements are told in their order: it has seen the address by then.
    looked_again(&stage.node);
    assert_eq!(ended(&stage.node), before);
    stage.node.exec("ip route add blackhole 203.0.113.0/24");
    eventually("a route does", SOON, || ended(&stage.node) > before);
}

/// Without the agent the next renewal finds out.
#[rstest]
fn without_an_agent_a_flow_follows_with_its_next_renewal(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let mut stage = stage_on(kind);
    let other = stage.lab.other_gateway();
    let talk = stage.lasting_udp();
    talk.rounds(50);
    stage.node.kill();
    stage
        .node
        .exec(&format!("ip route replace default via {}", other.address));
    eventually("the flow takes the new way", RULE_REACHES, || {
        let follows = |agent| next_hops(agent) == [other.address];
        talk.round() && stage.node.agent().is_none_or(follows)
    });
    let before = sent_by(&stage);
    talk.rounds(50);
    was_fast(&stage, before, 30);
}

/// A rule that the look-up sees is obeyed; of marks it knows nothing, and the flow stays on the stack.
#[rstest]
#[case::by_source("from 10.244.0.0/16", true)]
#[case::by_mark("fwmark 7", false)]
fn rules_choose_the_way(
    #[case] selector: &str,
    #[case] fast: bool,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = stage_on(kind);
    let other = stage.lab.other_gateway();
    let node = stage.node.node();
    node.exec(&format!(
        "ip route add default via {} table 100",
        other.address
    ));
    node.exec("iptables-nft -t mangle -A PREROUTING -i cni0 -j MARK --set-mark 7");
    noticed(&stage, &format!("ip rule add {selector} table 100"));
    let filter = format!(
        "udp and dst host {} and not ether dst {}",
        stage.outside.address(),
        other.mac
    );
    let astray = Capture::start(node, Node::UPLINK, &filter);
    let before = sent_by(&stage);
    stage.lasting_udp().rounds(100);
    astray.saw_nothing();
    if fast {
        was_fast(&stage, before, 80);
    } else if let Some(agent) = stage.node.agent() {
        assert_eq!(sent_by(&stage), before);
        assert!(count(agent, OutsideTx, Reason::Unverified) > 0);
    }
}

/// Packets that fit the device but not the route.
#[rstest]
fn nothing_longer_than_the_stack_lets_out(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = stage_on(kind);
    stage
        .node
        .exec("ip route add 198.51.100.0/24 via 172.30.0.254 mtu 1000");
    let server = udp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let too_long = Capture::start(stage.node.node(), Node::UPLINK, "udp and greater 1015");
    let (client, server) = (
        udp::Server::on(&stage.pod).into_socket(),
        server.into_socket(),
    );
    client.connect(to).unwrap();
    let mut buffer = [0; 2000];
    let mut send = || {
        client.send(&[7; 900]).unwrap();
        assert_eq!(uninterrupted(|| server.recv(&mut buffer)).unwrap(), 900);
    };
    send();
    talk::outlast(&mut send);
    (0..50).for_each(|_| send());
    was_fast(&stage, Some(0), 30);
    server
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    eventually("1200 bytes arrive in pieces", SOON, || {
        // The first learns of the path's MTU.
        client.send(&[7; 1200]).is_ok()
            && uninterrupted(|| server.recv(&mut buffer)).is_ok_and(|len| len == 1200)
    });
    too_long.saw_nothing();
}

/// As with the kernel's MASQUERADE: UDP goes on as a new flow, TCP ends; nothing leaves under another address.
#[test]
fn an_address_that_changes_under_fast_flows() {
    let stage = stage();
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let (mut udp, mut tcp) = (
        Client::udp(&stage.pod, 0, to),
        Client::tcp(&stage.pod, to).unwrap(),
    );
    udp.outlast();
    tcp.outlast();
    for number in 0..50 {
        assert_eq!(*udp.ask(number).ip(), stage.address());
        tcp.ask(number);
    }
    assert!(sent(&stage.node) > 60);
    let new = Ipv4Addr::new(172, 30, 0, 99);
    let (uplink, node) = (Node::UPLINK, stage.node.node());
    // As systemd has it; else the second address goes with the first.
    node.sysctl("net.ipv4.conf.all.promote_secondaries", 1);
    node.ip_batch(&[
        format!("addr add {new}/24 dev {uplink}"),
        format!("addr del {}/24 dev {uplink}", stage.address()),
        format!("route replace default via 172.30.0.254 dev {uplink}"),
    ]);
    let mut number = 50;
    eventually("the flow leaves under the new address", SOON, || {
        number += 1;
        udp.try_ask(number).is_ok_and(|seen| *seen.ip() == new)
    });
    udp.outlast();
    let before = sent(&stage.node);
    for _ in 0..50 {
        number += 1;
        assert_eq!(*udp.ask(number).ip(), new);
    }
    assert!(sent(&stage.node) > before + 40, "and is fast again");
    assert!(
        tcp.try_ask(number).is_err(),
        "the server knows no such connection"
    );
}

/// The default route moves to another card, which then is the uplink, or is not.
#[rstest]
#[case::that_is_preferred(&["--iface=lan1", "--iface=eth0"], true)]
#[case::that_is_not(&["--iface=eth0"], false)]
fn a_fast_flow_follows_to_another_card(#[case] flags: &[&str], #[case] fast: bool) {
    let stage = stage_with(flags);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut udp = Client::udp(&stage.pod, 0, to);
    udp.outlast();
    for number in 0..50 {
        udp.ask(number);
    }
    assert!(sent(&stage.node) > 30);
    let new = Ipv4Addr::new(172, 30, 0, 91);
    let node = stage.node.node();
    node.ip_batch(&[
        "link add lan1 link eth0 type macvlan mode bridge".to_owned(),
        format!("addr add {new}/24 dev lan1 noprefixroute"),
        "link set lan1 up".to_owned(),
    ]);
    eventually("lan1 translates", SOON, || {
        stage
            .node
            .log()
            .contains("attach uplink_tx to egress of lan1")
    });
    node.exec("ip route replace default via 172.30.0.254 dev lan1 onlink");
    let mut number = 50;
    eventually("the flow leaves by the new card", RULE_REACHES, || {
        number += 1;
        udp.try_ask(number).is_ok_and(|seen| *seen.ip() == new)
    });
    udp.outlast();
    let before = sent(&stage.node);
    let mut ask = || {
        number += 1;
        assert_eq!(*udp.ask(number).ip(), new);
    };
    if fast {
        eventually("the flow is fast again", SOON, || {
            ask();
            sent(&stage.node) > before
        });
    } else {
        (0..50).for_each(|_| ask());
        assert_eq!(sent(&stage.node), before, "only by the uplink");
    }
}

/// By hand and without an agent that would mend it: proofs end, and packets are translated as before.
#[test]
fn without_the_step_that_proves_flows_take_the_stack() {
    let mut stage = stage();
    let talk = stage.lasting_udp();
    talk.rounds(50);
    assert!(sent(&stage.node) > 30);
    stage.node.kill();
    let steps = format!(
        "{}/flannel/coreos_com_network/v{LAYOUT_VERSION}/maps/{STEPS}",
        stage.node.node().bpffs().display()
    );
    let key = OutsideTx.step().to_string();
    netns::run(Command::new("bpftool").args([
        "map", "delete", "pinned", &steps, "key", &key, "0", "0", "0",
    ]));
    eventually("the proof ends", RULE_REACHES, || {
        let before = sent(&stage.node);
        talk.rounds(5);
        sent(&stage.node) == before
    });
    talk.rounds(50);
}
