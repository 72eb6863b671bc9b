//! The backend `alloc`: a lease and `subnet.env`, and nothing that forwards. The same with real flanneld.

#![cfg(test)]

use flannel_tests::agent::command;
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

#[rstest]
fn a_lease_and_nothing_else(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = lab.network(Network::alloc("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let look = |on: &Node| ["ip -br link", "ip route"].map(|command| on.exec(command));
    // The kernel tells of a carrier when it gets to it (`net/core/link_watch.c`).
    eventually("the uplink has its carrier", SOON, || {
        node.exec("ip -br link show dev eth0").contains(" UP ")
    });
    let before = look(&node);
    let other = r#"{"PublicIP":"172.30.0.61","PublicIPv6":null}"#;
    lab.etcd()
        .put("/coreos.com/network/subnets/10.244.9.0-24", other);
    let one = start(kind, node, &net, &[]);

    let value = lab.etcd().get(&net.lease_key(one.subnet()));
    let address = one.node().address();
    assert_eq!(
        value.unwrap(),
        format!(r#"{{"PublicIP":"{address}","PublicIPv6":null}}"#)
    );
    let env = one.subnet_env();
    let written = std::fs::read_to_string(one.subnet_file()).unwrap();
    assert_eq!((env.mtu, written), (1500, env.text()), "the uplink's MTU");
    assert_eq!(look(one.node()), before, "no device and no route");
    if let Some(agent) = one.agent() {
        let links = agent
            .node()
            .bpffs()
            .join("flannel/coreos_com_network/links");
        let pinned = std::fs::read_dir(links).map_or(0, Iterator::count);
        assert_eq!(pinned, 0, "no program");
        let folders = [
            format!("--bpffs={}", agent.node().bpffs().display()),
            format!("--state-dir={}", agent.node().state_dir().display()),
        ];
        let status = ["status", &folders[0], &folders[1]];
        let status = output(&mut command(agent.node(), &status));
        assert!(status.status.success(), "{status:?}");
    }
}
