//! "To go back, stop the agent and start flanneld": nothing else, as when one DaemonSet replaces another. Programs and maps of
//! ours stay on the node's other devices, and nobody runs `cleanup`.

#![cfg(test)]

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use flannel_tests::agent::{command, http_get, http_status};
use flannel_tests::cleanup;
use flannel_tests::fast_path::{gets_fast, hooked};
use flannel_tests::kernel_vxlan::is_kernel_vxlan;
use flannel_tests::netns::{output, run};
use flannel_tests::network::Backend;
use flannel_tests::prelude::*;
use flannel_tests::real_flanneld::RealFlanneld;
use flannel_tests::{no_tcx, talk, tcp, udp};
use rstest::rstest;

/// A look at everything, and time to do what it found.
const DRIFT: Duration = Duration::from_secs(60);

/// What serves the node between flanneld and flanneld.
#[derive(Debug, Clone, Copy)]
enum Between {
    /// The control.
    Flanneld,
    Ours(&'static [&'static str]),
    /// On a kernel without tcx.
    OnClsact,
}

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn direct_routing() -> Network {
    vxlan().direct_routing()
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// Datagrams, large and small packets of a connection, and pings, both ways.
#[track_caller]
fn talk_to_each_other(a: &Pod, b: &Pod) {
    for (client, server) in [(a, b), (b, a)] {
        let listener = tcp::Server::on(server);
        let to = SocketAddrV4::new(server.address(), listener.port());
        listener.exchange(client, to, 1 << 20);
        udp::exchange(client, server, server.address(), 1000);
        client.ping(server.address()).succeeds();
    }
}

/// A connection between two pods that has been used long enough to be proven, wherever that is possible.
fn connection(client: &Pod, server: &Pod) -> talk::Tcp {
    let listener = tcp::Server::on(server);
    let to = SocketAddrV4::new(server.address(), listener.port());
    let mut talk = talk::Tcp::open(&listener, client, to);
    talk.rounds(20);
    talk
}

#[rstest]
#[case::flanneld(Between::Flanneld)]
#[case::ours(Between::Ours(&[]))]
#[case::without_proof(Between::Ours(&["--fast-path=always"]))]
#[case::without_fast_path(Between::Ours(&["--fast-path=off"]))]
#[case::at_the_bridge(Between::Ours(&["--pod-hook=bridge"]))]
#[case::xdp(Between::Ours(&["--xdp=on"]))]
#[case::anchor(Between::Ours(&["--gro=anchor"]))]
#[case::clsact(Between::OnClsact)]
fn flanneld_takes_the_node_over_again(
    #[case] between: Between,
    #[values(vxlan, direct_routing, host_gw)] network: fn() -> Network,
) {
    goes_back(between, network());
}

/// flanneld makes a device of its own beside ours, and `cleanup` takes ours away between the two steps.
#[rstest]
#[case::flanneld(Between::Flanneld)]
#[case::ours(Between::Ours(&[]))]
#[case::without_proof(Between::Ours(&["--fast-path=always"]))]
#[case::at_the_bridge(Between::Ours(&["--pod-hook=bridge"]))]
#[case::clsact(Between::OnClsact)]
fn flanneld_takes_the_node_over_again_with_udp(#[case] between: Between) {
    let net = Network::udp("/coreos.com/network", "10.244.0.0/16");
    goes_back(between, net);
}

/// flanneld refuses a device of another kind under its own one's name: `cleanup` comes between here as well.
#[rstest]
#[case::flanneld(Between::Flanneld)]
#[case::ours(Between::Ours(&[]))]
#[case::at_the_bridge(Between::Ours(&["--pod-hook=bridge"]))]
#[ignore = "needs ipip: cargo xtask test --kernel 6.12"]
fn flanneld_takes_the_node_over_again_with_ipip(#[case] between: Between) {
    let net = Network::ipip("/coreos.com/network", "10.244.0.0/16");
    goes_back(between, net);
}

#[track_caller]
fn goes_back(between: Between, net: Network) {
    const MASQ: &[&str] = &["--ip-masq"];
    let lab = Lab::new();
    let net = lab.network(net);
    let outside = lab.outside();
    let peer = RealFlanneld::start_with(lab.node("two"), &net, MASQ);
    let node = lab.node("one");
    // Somebody has to track connections, as kube-proxy does: or the kernel takes those that go on for new ones.
    node.exec("iptables -A FORWARD -m conntrack --ctstate ESTABLISHED");
    let first = RealFlanneld::start_with(node, &net, MASQ);
    let subnet = first.subnet();
    let (pod1, pod2) = (Pod::on(&first, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);

    let with = |wrapper: &str, node: Arc<Node>, flags: &[&str]| {
        let all = [MASQ, flags].concat();
        let mut agent = Agent::start_under(wrapper, node, &net, &all);
        let is_fast = !flags.contains(&"--fast-path=off");
        if is_fast {
            hooked(&agent);
        }
        talk_to_each_other(&pod1, &pod2);
        let mut connections = vec![connection(&pod1, &pod2), connection(&pod2, &pod1)];
        if is_fast {
            for connection in &mut connections {
                gets_fast(&[&agent], |rounds| connection.rounds(rounds));
            }
        }
        let server = tcp::Server::on(&outside);
        let mut out = talk::Tcp::open(&server, &pod1, outside.at(server.port()));
        out.outlast();
        assert!(agent.terminate().success());
        if matches!(net.backend, Backend::Udp | Backend::Ipip) {
            // Who was translated goes with who translated.
            run(&mut cleanup::command(&agent));
        } else {
            connections.push(out);
        }
        (agent.node_arc(), connections)
    };
    let (node, connections) = match between {
        Between::Flanneld => (first.stop(), Vec::new()),
        Between::Ours(flags) => with("", first.stop(), flags),
        Between::OnClsact => {
            let node = first.stop();
            let wrapper = no_tcx::wrapper(&node);
            with(&wrapper, node, &[])
        }
    };

    let back = RealFlanneld::start_with(node, &net, MASQ);
    assert_eq!(back.subnet(), subnet);
    peer.follow_leases();
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    talk_to_each_other(&pod1, &pod2);
    // Who joins now is in no map of ours.
    let late = RealFlanneld::start_with(lab.node("three"), &net, MASQ);
    back.follow_leases();
    let pod3 = Pod::on(&late, "pod3");
    pod1.reaches(&pod3);
    talk_to_each_other(&pod1, &pod3);
    // What was open is open still: between pods, and to the outside, which ours translated.
    for mut connection in connections {
        connection.rounds(20);
    }
    let seen = udp::exchange(&pod1, &outside, outside.address(), 100);
    assert_eq!(seen.ip(), back.node().address(), "by flanneld's rules");
    let server = tcp::Server::on(&outside);
    let seen = server.exchange(&pod1, outside.at(server.port()), 100_000);
    assert_eq!(seen.client.ip(), back.node().address());
}

/// Until it serves the node, started again when it ends, as systemd and kubelet do.
fn start_again_and_again(node: &Arc<Node>, net: &Network) -> RealFlanneld {
    let spawn = || RealFlanneld::spawn(node.clone(), net, &[]);
    let mut flanneld = spawn();
    eventually("flanneld is ready", Duration::from_secs(60), || {
        if flanneld.process().exited().is_some() {
            flanneld = spawn();
        }
        flanneld.log().contains("flannel is ready")
    });
    flanneld.follow_leases();
    flanneld
}

fn status(agent: &Agent) -> std::process::Command {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    command(node, &["status", &bpffs, &state])
}

fn sample(agent: &Agent, name: &str) -> u64 {
    let metrics = http_get(agent.node(), agent.daemon().health_port(), "/metrics").unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// Index and MAC of the device.
fn device(host: &impl Host) -> (String, String) {
    // "7: flannel.1: <…> … link/ether 9e:15:7d:24:d8:88 brd …"
    let text = host.exec("ip -o link show dev flannel.1");
    let mut words = text.split_whitespace();
    let index = words.next().expect("an index").to_owned();
    let mac = words.skip_while(|word| *word != "link/ether").nth(1);
    (index, mac.expect("a MAC").to_owned())
}

#[rstest]
fn a_running_agent_stands_back_for_flanneld(
    #[values(vxlan, direct_routing)] network: fn() -> Network,
) {
    let lab = Lab::new();
    let net = lab.network(network());
    let peer = RealFlanneld::start(lab.node("two"), &net);
    let mut agent = Agent::start(lab.node("one"), &net);
    let (pod1, pod2) = (Pod::on(&agent, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let subnet = agent.subnet();

    let node = agent.node_arc();
    let flanneld = start_again_and_again(&node, &net);
    assert_eq!(flanneld.subnet(), subnet);
    assert!(is_kernel_vxlan(&*node, "flannel.1"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    talk_to_each_other(&pod1, &pod2);

    // It is said, where people and programs look.
    let said = "flanneld was started on this node";
    eventually("it is logged", SOON, || agent.log().contains(said));
    let ready = || http_status(&*node, agent.daemon().health_port(), "/readyz");
    eventually("it is not ready", SOON, || ready() == Some(503));
    let status = output(&mut status(&agent));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{text}");
    assert!(
        text.contains(said) && !text.contains("on no hook"),
        "{text}"
    );
    // Peers send to the device that is there.
    let before = device(&*node);
    eventually("the lease says flanneld's MAC", SOON, || {
        let lease = lab.etcd().get(&net.lease_key(subnet)).unwrap();
        lease.contains(&before.1)
    });

    // And nobody fights: whatever the agent is told, the device stays.
    let failed = "flannel_ebpf_reconcile_failures_total ";
    let tries = sample(&agent, failed);
    node.exec("ip link add news type veth peer name other");
    let late = RealFlanneld::start(lab.node("three"), &net);
    eventually("the agent has looked again", DRIFT, || {
        sample(&agent, failed) >= tries + 2
    });
    assert_eq!(device(&*node), before);
    assert_eq!(agent.log().matches(said).count(), 1, "{}", agent.log());
    let pod3 = Pod::on(&late, "pod3");
    flanneld.follow_leases();
    pod1.reaches(&pod3);
    talk_to_each_other(&pod1, &pod3);

    // One of the two is stopped, and the other started again.
    flanneld.stop();
    agent.terminate();
    agent.restart();
    assert!(!is_kernel_vxlan(&*node, "flannel.1"));
    assert_eq!(agent.subnet(), subnet);
    pod1.reaches(&pod2);
    talk_to_each_other(&pod1, &pod3);
}
