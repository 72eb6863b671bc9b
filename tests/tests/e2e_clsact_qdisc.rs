//! The clsact qdisc that filters hang in: `cleanup` takes it along if an agent made it and nobody else is in it.

#![cfg(test)]

use flannel_tests::cleanup;
use flannel_tests::netns::run;
use flannel_tests::no_tcx;
use flannel_tests::prelude::*;

/// An agent that attaches by filters.
fn agent(node: Node, net: &Network) -> Agent {
    let wrapper = no_tcx::wrapper(&node);
    let agent = Agent::start_under(&wrapper, node, net, &[]);
    assert!(agent.exec("tc qdisc show dev eth0").contains("clsact"));
    assert!(
        agent
            .exec("tc filter show dev eth0 ingress")
            .contains("uplink_rx")
    );
    agent
}

/// Ends the agent and takes its network off the node. Returns what was said.
fn cleanup(mut agent: Agent) -> (std::sync::Arc<Node>, String) {
    assert!(agent.terminate().success());
    let said = run(&mut cleanup::command(&agent));
    (agent.node_arc(), said)
}

fn one_node(lab: &Lab) -> (Node, Network) {
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    (lab.node("one"), net)
}

fn is_there(node: &Node) -> bool {
    node.exec("tc qdisc show dev eth0").contains("clsact")
}

#[test]
fn what_the_agent_made_goes_with_it() {
    let lab = Lab::new();
    let (node, net) = one_node(&lab);
    let mut agent = agent(node, &net);
    // Made by an earlier process than the last.
    agent.kill();
    agent.restart();
    let (node, said) = cleanup(agent);
    assert!(
        said.contains("removed the empty clsact qdisc of eth0"),
        "{said}"
    );
    assert!(!is_there(&node));
}

#[test]
fn what_was_there_before_stays() {
    let lab = Lab::new();
    let (node, net) = one_node(&lab);
    node.exec("tc qdisc add dev eth0 clsact");
    let (node, _) = cleanup(agent(node, &net));
    assert_eq!(node.exec("tc filter show dev eth0 ingress"), "");
    assert!(is_there(&node));
}

#[test]
fn what_holds_somebody_s_filter_stays() {
    let lab = Lab::new();
    let (node, net) = one_node(&lab);
    let agent = agent(node, &net);
    let theirs = "tc filter add dev eth0 egress prio 7 protocol ip bpf da bytecode";
    let mut add = agent.command(theirs);
    // "Return 0": the classic BPF of a filter that matches nothing.
    run(add.arg("1,6 0 0 0"));
    let (node, _) = cleanup(agent);
    assert_eq!(node.exec("tc filter show dev eth0 ingress"), "");
    assert!(
        node.exec("tc filter show dev eth0 egress")
            .contains("pref 7")
    );
    assert!(is_there(&node));
}

#[test]
fn the_last_of_two_networks_takes_it_along() {
    let lab = Lab::new();
    let ([red, blue], [node, _]) = lab.red_and_blue();
    let wrapper = no_tcx::wrapper(&node);
    let [red, blue] = [red, blue].map(|net| Agent::start_under(&wrapper, node.clone(), &net, &[]));
    cleanup(red);
    assert!(is_there(&node));
    cleanup(blue);
    assert!(!is_there(&node));
}
