//! Another `--etcd-prefix` from one start to the next: the node's tunnel goes over to the other network.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::network::Backend;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{talk, tcp};
use rstest::rstest;

const CIDR: &str = "10.244.0.0/16";
const OTHER: &str = "/other/network";

fn network(prefix: &str, backend: Backend) -> Network {
    Network {
        backend,
        ..Network::vxlan(prefix, CIDR)
    }
}

#[rstest]
fn the_tunnel_of_a_network_whose_prefix_has_changed_goes_on(
    #[values(Backend::Vxlan, Backend::Udp)] backend: Backend,
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let lab = Lab::new();
    let net = lab.network(network("/coreos.com/network", backend));
    let mut pair = Pair::of_daemons_in(lab, net, mix, &["--ip-masq"]);
    pair.pod1.reaches(&pair.pod2);
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    let mut talk = talk::Tcp::open(&server, &pair.pod1, to);
    talk.rounds(20);

    let before = [pair.one.subnet(), pair.two.subnet()];
    pair.lab.network(network(OTHER, backend));
    let other = format!("--etcd-prefix={OTHER}");
    for daemon in [&mut pair.one, &mut pair.two] {
        assert!(daemon.terminate().success());
        if let Some(agent) = daemon.agent() {
            let (verdict, plan) = planned(agent, &other);
            assert!(
                plan.contains("(coreos_com_network) left"),
                "{verdict}: {plan}"
            );
            assert!(!plan.contains("create"), "what is there is used: {plan}");
        }
        daemon.restart_with(&["--ip-masq", &other]);
    }
    assert_eq!([pair.one.subnet(), pair.two.subnet()], before);
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    talk.rounds(20);

    for agent in [&pair.one, &pair.two].into_iter().filter_map(|d| d.agent()) {
        let links = agent.exec("ip -details link show");
        assert!(
            links.contains("alias flannel-ebpf:other_network"),
            "{links}"
        );
        assert!(!links.contains("coreos_com_network"), "{links}");
        let pins = agent.node().bpffs().join("flannel");
        assert!(pins.join("other_network").exists());
        assert!(!pins.join("coreos_com_network").exists());
        let mut ledgers = 0;
        for file in std::fs::read_dir(agent.node().state_dir()).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap();
            if name.starts_with("sysctls-") && name.ends_with(".json") {
                let text = std::fs::read_to_string(&file).unwrap();
                assert!(text.contains("other_network"), "{text}");
                assert!(!text.contains("coreos_com_network"), "{text}");
                ledgers += 1;
            }
        }
        assert_eq!(ledgers, 1);
    }
}

/// What `plan` says, and how it ends.
fn planned(agent: &Agent, prefix: &str) -> (String, String) {
    let node = agent.node();
    let flags = [
        "plan".to_owned(),
        prefix.to_owned(),
        "--ip-masq".to_owned(),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", Member::subnet_file(agent).display()),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let output = flannel_tests::agent::command(node, &flags)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (format!("{} {errors}", output.status), text)
}

/// Two networks with one VNI on one node are a mistake: the second one touches nothing of the first, which lives, and may have its pins
/// where the second does not see them.
#[rstest]
#[case::seen(false, "coreos_com_network, whose agent runs")]
#[case::in_another_bpffs(true, "coreos_com_network, which has nothing pinned below --bpffs")]
fn the_tunnel_of_a_network_that_is_looked_after_is_left_alone(
    #[case] elsewhere: bool,
    #[case] why: &str,
) {
    let lab = Lab::new();
    let net = lab.network(network("/coreos.com/network", Backend::Vxlan));
    let one = Agent::start(lab.node("one"), &net);
    lab.network(network(OTHER, Backend::Vxlan));
    let node = one.node();
    let folder = lab.folder();
    let bpffs = match elsewhere {
        true => folder.join("bpf"),
        false => node.bpffs(),
    };
    std::fs::create_dir_all(&bpffs).unwrap();
    let flags = [
        format!("--etcd-prefix={OTHER}"),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--bpffs={}", bpffs.display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", folder.join("other.env").display()),
        "--iface=eth0".to_owned(),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let output = flannel_tests::agent::command(node, &flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(why), "{errors}");
    let links = one.exec("ip -details link show");
    assert!(!links.contains("other_network"), "{links}");
}
